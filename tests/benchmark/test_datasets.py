"""Datasets by name, and selections of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reward_benchmark.candidates import open_candidates
from reward_benchmark.datasets import Selection, open_dataset
from reward_benchmark.datasets.rewardbench import SECTIONS
from reward_benchmark.errors import DatasetError


def test_the_bundled_sample_has_rewardbenchs_subsets():
    contents = open_dataset("sample").scan()
    assert contents.subsets.keys() == {name for weights in SECTIONS.values() for name in weights}
    assert min(contents.subsets.values()) >= 2


def test_an_unknown_name_is_told_what_is_known():
    with pytest.raises(DatasetError, match=r"'nope' is not rewardbench, .*`sample`, a file"):
        open_dataset("nope")


def test_a_selection_is_of_subsets_and_then_of_the_first(write_pairs: Callable[..., Path]):
    dataset = open_dataset(str(write_pairs(10)))
    contents = dataset.scan()
    assert contents.subsets == {"even": 5, "odd": 5}
    selection = Selection(frozenset({"odd"}), 3)
    assert [pair.id for pair in selection.groups(dataset)] == [1, 3, 5]
    assert selection.count(contents) == 3
    assert Selection().count(contents) == 10
    assert Selection(limit=99).count(contents) == 10


def test_an_unknown_subset_is_told_what_is_known(write_pairs: Callable[..., Path]):
    contents = open_dataset(str(write_pairs(4))).scan()
    with pytest.raises(DatasetError, match="no subset 'odds' in this dataset; it has even, odd"):
        Selection(frozenset({"odds", "odd"})).count(contents)


def test_rewardbench_has_exactly_its_pairs(rewardbench_file: Path):
    contents = open_dataset(str(rewardbench_file)).scan()
    weights = {name: weight for section in SECTIONS.values() for name, weight in section.items()}
    assert contents.subsets == weights | {"math-prm": 447}
    assert sum(contents.subsets.values()) == 2985


def test_a_file_that_mixes_texts_and_messages_is_refused(write_pairs: Callable[..., Path]):
    messages = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}]
    dataset = write_pairs(4, row_2={"chosen": messages, "rejected": messages})
    with pytest.raises(DatasetError, match=r"line 3: mixed schemas: .* texts in row 1"):
        open_dataset(str(dataset)).scan()
    # A second reading begins anew.
    with pytest.raises(DatasetError, match="line 3: mixed schemas"):
        open_dataset(str(dataset)).scan()


MESSAGES = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(
    ("row", "scored"),
    [
        ({"messages": MESSAGES}, True),
        ({"prompt": "p", "candidates": ["a", "b"]}, True),
        ({"instruction": "p", "output": "a"}, True),
        ({"messages": MESSAGES, "chosen": "a"}, False),
        ({"prompt": "p", "rejected": "a", "outputs": ["a"]}, False),
        ({"prompt": "p", "answer": "a"}, False),
        (["messages"], False),
    ],
)
def test_completions_without_a_preference_are_for_best_of_n(tmp_path: Path, row: Any, scored: bool):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    with pytest.raises(DatasetError) as refusal:
        open_dataset(str(file)).scan()
    hint = "; completions without a preference are scored by best-of-n --candidates"
    assert str(refusal.value).endswith(hint) == scored
    assert ("best-of-n" in str(refusal.value)) == scored
    if scored:
        assert "columns 'chosen', 'rejected' are missing; its columns are" in str(refusal.value)
        assert len(open_candidates(str(file)).scan().subsets) == 1


def test_the_name_of_a_local_copy_may_say_its_split(
    write_pairs: Callable[..., Path], tmp_path: Path
):
    copy = write_pairs(4).rename(tmp_path / "anthropic_hhh.jsonl")
    assert open_dataset(f"prior={copy}").scan().subsets == {"anthropic_hhh": 4}


def test_a_known_set_without_a_hub_copy_asks_for_a_local_one():
    with pytest.raises(DatasetError, match=r"the hub has no copy of RMB: .*rmb=FOLDER"):
        open_dataset("rmb")
    with pytest.raises(DatasetError, match="none, named as a copy of RMB, is not there"):
        open_dataset("rmb=none")
