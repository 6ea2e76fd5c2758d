"""Candidates: what a row may look like, and what is said about rows that are wrong."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from reward_benchmark.candidates import (
    CandidateSelection,
    candidates_from_row,
    open_candidates,
    read_candidates,
)
from reward_benchmark.errors import DatasetError

ROW = {"prompt": "p", "candidates": ["a", "b"]}
MESSAGES = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize("prompt", ["prompt", "instruction"])
@pytest.mark.parametrize("candidates", ["candidates", "completions", "outputs", "output"])
def test_columns_may_have_several_names(prompt: str, candidates: str):
    row = candidates_from_row({prompt: "p", candidates: ["a", "b"]}, 7)
    group = row.group
    assert (group.prompt, group.completions, group.num_chosen) == ("p", ("a", "b"), 0)
    assert (group.subset, group.id, group.row) == ("all", 7, 7)
    assert row.gold is None


def test_subset_and_id_are_read():
    for column in ("subset", "dataset"):
        assert candidates_from_row({**ROW, column: "s", "id": "x"}, 1).group.key == ("s", "x")


def test_one_output_is_one_candidate():
    assert candidates_from_row({"instruction": "p", "output": "a"}, 1).group.completions == ("a",)


def test_a_prompt_without_candidates_is_a_row_like_any_other():
    assert candidates_from_row({"prompt": "p", "candidates": []}, 1).group.completions == ()


def test_the_last_message_of_instruction_data_is_its_one_candidate():
    group = candidates_from_row({"messages": MESSAGES}, 1).group
    assert (group.prompt, group.completions) == (MESSAGES[:1], ("a",))


def test_messages_beside_candidates_are_their_prompt():
    group = candidates_from_row({"messages": MESSAGES, "candidates": ["b"]}, 1).group
    assert (group.prompt, group.completions) == (MESSAGES, ("b",))


def test_a_prompt_of_messages_is_one_text_for_alpaca_eval():
    def instruction(prompt: Any) -> str:
        return candidates_from_row({"prompt": prompt, "candidates": ["b"]}, 1).instruction

    assert instruction("p") == instruction(MESSAGES[:1]) == "p"
    assert instruction(MESSAGES) == "user: p\n\nassistant: a"


def test_gold_values_may_be_partly_or_wholly_unknown():
    assert candidates_from_row({**ROW, "gold": [1, None]}, 1).gold == (1.0, None)
    assert candidates_from_row({**ROW, "gold": None}, 1).gold == (None, None)
    assert candidates_from_row({**ROW, "value": [0.5, -1]}, 1, "value").gold == (0.5, -1.0)
    assert candidates_from_row({**ROW, "value": [0.5, -1]}, 1).gold is None


@pytest.mark.parametrize(
    ("row", "gold", "message"),
    [
        ({"prompt": "p"}, None, "column 'candidates' is missing; its columns are ['prompt']"),
        ({"candidates": ["a"]}, None, "column 'prompt' is missing"),
        ({**ROW, "candidates": ["a", 1]}, None, "'candidates' must be a list of texts, not"),
        ({"prompt": "p", "output": 3}, None, "'output' must be a list of texts, not 3"),
        ({"messages": MESSAGES[:1]}, None, "'messages' must end with an answer of the assistant"),
        (
            {"messages": MESSAGES[:1] * 2},
            None,
            "'messages' must end with an answer of the assistant",
        ),
        ({"messages": MESSAGES[1:]}, None, "'messages' must end with an answer of the assistant"),
        ({"messages": []}, None, "'messages' must be a list of messages"),
        ({**ROW, "gold": [1]}, None, "'gold' has 1 values for 2 candidates"),
        ({**ROW, "gold": [1, "2"]}, None, "'gold' must be a list of nulls and numbers from"),
        ({**ROW, "gold": [1, float("nan")]}, None, "'gold' must be a list of nulls and numbers"),
        ({**ROW, "gold": [1, True]}, None, "'gold' must be a list of nulls and numbers"),
        ({**ROW, "gold": [1, 2]}, "pref", "column 'pref' is missing; its columns are ['prompt',"),
        ([], None, "not an object"),
    ],
)
def test_a_row_that_is_wrong_says_what_is_wrong(row: Any, gold: str | None, message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        candidates_from_row(row, 1, gold)


def test_a_file_is_the_same_dataset_in_every_format(tmp_path: Path):
    rows = [{**ROW, "id": i, "gold": [0.5, None]} for i in range(3)]
    lines, parquet = tmp_path / "rows.jsonl", tmp_path / "rows.parquet"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), parquet)
    one, other = open_candidates(str(lines)), open_candidates(str(parquet))
    assert one.scan() == other.scan()
    assert [*read_candidates(one)] == [*read_candidates(other)]
    assert [row.gold for row in read_candidates(one)] == [(0.5, None)] * 3


def test_a_wrong_row_is_named_by_its_place(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(ROW) + "\n" + json.dumps({**ROW, "gold": [1]}) + "\n")
    with pytest.raises(DatasetError, match=r"rows\.jsonl, line 2: column 'gold' has 1 values"):
        open_candidates(str(file)).scan()


@pytest.mark.parametrize("name", ["rows.csv", "folder/rows.csv", "nothing", "a/b/c:train"])
def test_what_is_no_dataset_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "rows.csv").write_text("prompt,candidates\n")
    for each in (name, str(tmp_path / name)):
        with pytest.raises(
            DatasetError, match=r"neither a file \(\.jsonl, .* nor a folder or a hub"
        ):
            open_candidates(each)


def test_the_hub_is_asked_for_what_looks_like_one_of_its_ids():
    with pytest.raises(DatasetError, match=r"owner/name:train.*HF_HUB_OFFLINE is set"):
        open_candidates("owner/name:train")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder laid out as the hub has a dataset of two splits."""
    data = tmp_path / "repository" / "data"
    data.mkdir(parents=True)
    for split, count in {"train": 3, "test": 2}.items():
        rows = [
            {"prompt": MESSAGES[:1], "outputs": ["a", "b" * i], "id": i, "gold": [0.5, None]}
            for i in range(count)
        ]
        table = pyarrow.Table.from_pylist(rows)
        pyarrow.parquet.write_table(table, data / f"{split}-00000-of-00001.parquet")
    return data.parent


def test_a_split_of_a_hub_dataset_is_what_its_file_is(repository: Path):
    hub = open_candidates(f"{repository}:train")
    file = open_candidates(str(repository / "data" / "train-00000-of-00001.parquet"))
    assert hub.scan() == file.scan()
    assert [*read_candidates(hub)] == [*read_candidates(file)]
    assert [row.gold for row in read_candidates(hub)] == [(0.5, None)] * 3
    assert hub.location == f"{repository}:train"
    assert [group.prompt for group in hub] == [MESSAGES[:1]] * 3


def test_a_split_is_named_only_where_there_are_several(repository: Path):
    with pytest.raises(DatasetError, match="has the splits"):
        open_candidates(str(repository))
    (repository / "data" / "test-00000-of-00001.parquet").unlink()
    assert len([*open_candidates(str(repository))]) == 3


def test_the_first_candidates_are_cut_with_their_known_values():
    row = candidates_from_row({**ROW, "candidates": ["a", "b", "c"], "gold": [1, None, 3]}, 1)
    for count in (1, 2, 3, 4):
        cut = row.first(count)
        assert cut.group.completions == ("a", "b", "c")[:count]
        assert cut.gold == (1.0, None, 3.0)[:count]
        assert cut.group.key == row.group.key
    assert row.first(None) == row
    assert candidates_from_row(ROW, 1).first(1).gold is None


def test_a_selection_cuts_what_is_scored_but_not_what_the_dataset_is(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    rows = [{**ROW, "candidates": list("abcd")[: i + 1], "subset": "xy"[i % 2]} for i in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = open_candidates(str(file))
    selection = CandidateSelection(frozenset({"y"}), 2, best_of=3)
    assert [group.completions for group in selection.groups(dataset)] == [
        ("a", "b"),
        ("a", "b", "c"),
    ]
    assert selection.count(dataset.scan()) == 2
    assert [len(group.completions) for group in dataset] == [1, 2, 3, 4]


def test_the_real_file_has_11_known_values_of_16(shared_data: Path):
    dataset = open_candidates(
        str(shared_data / "best_of_16" / "alpaca_tulu2dpo13b.jsonl.gz"), "gpt4_pref_vs_ref"
    )
    contents = dataset.scan()
    assert sum(contents.subsets.values()) == 805
    assert len(contents.subsets) == 5
    for row in read_candidates(dataset, "gpt4_pref_vs_ref"):
        assert len(row.group.completions) == 16
        assert [gold is None for gold in row.gold or ()] == [False] * 11 + [True] * 5
