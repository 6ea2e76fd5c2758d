"""Candidate files: what a row may look like, and what is said about rows that are wrong."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from reward_benchmark.candidates import candidates_from_row, open_candidates, read_candidates
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
    one, other = open_candidates(lines), open_candidates(parquet)
    assert one.scan() == other.scan()
    assert [*read_candidates(one)] == [*read_candidates(other)]
    assert [row.gold for row in read_candidates(one)] == [(0.5, None)] * 3


def test_a_wrong_row_is_named_by_its_place(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(ROW) + "\n" + json.dumps({**ROW, "gold": [1]}) + "\n")
    with pytest.raises(DatasetError, match=r"rows\.jsonl, line 2: column 'gold' has 1 values"):
        open_candidates(file).scan()


def test_a_file_of_another_kind_is_refused(tmp_path: Path):
    with pytest.raises(DatasetError, match=r"must end in \.jsonl, \.jsonl\.gz"):
        open_candidates(tmp_path / "rows.csv")


def test_the_real_file_has_11_known_values_of_16(shared_data: Path):
    dataset = open_candidates(
        shared_data / "best_of_16" / "alpaca_tulu2dpo13b.jsonl.gz", "gpt4_pref_vs_ref"
    )
    contents = dataset.scan()
    assert sum(contents.subsets.values()) == 805
    assert len(contents.subsets) == 5
    for row in read_candidates(dataset, "gpt4_pref_vs_ref"):
        assert len(row.group.completions) == 16
        assert [gold is None for gold in row.gold or ()] == [False] * 11 + [True] * 5
