"""Rows become pairs, or a complaint that names the column."""

import re
from typing import Any

import pytest

from reward_benchmark.datasets.row import pair_from_row
from reward_benchmark.pair import Pair

ROW = {"prompt": "p", "chosen": "c", "rejected": "r"}
MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]


def test_three_columns_are_enough():
    pair = pair_from_row(ROW, row=7)
    assert pair == Pair(row=7, subset="all", id=7, prompt="p", chosen="c", rejected="r")
    assert pair.completions == ("c", "r")


def test_subset_id_and_messages_are_kept_and_other_columns_ignored():
    row = {**ROW, "prompt": MESSAGES, "subset": "s", "id": "x", "chosen_model": 3}
    pair = pair_from_row(row, row=1)
    assert (pair.key, pair.prompt) == (("s", "x"), MESSAGES)


def test_null_is_as_good_as_missing_for_optional_columns():
    assert pair_from_row({**ROW, "subset": None, "id": None}, row=2).key == ("all", 2)


def test_empty_completions_and_lone_surrogates_are_left_for_the_service_to_judge():
    pair = pair_from_row({**ROW, "chosen": "", "rejected": "\ud800"}, row=1)
    assert pair.completions == ("", "\ud800")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"chosen": 5}, "column 'chosen' must be a text, not 5"),
        ({"rejected": None}, "column 'rejected' must be a text, not None"),
        ({"prompt": []}, "column 'prompt' must be a text or a list of messages"),
        ({"prompt": [{"role": "user"}]}, "column 'prompt' must be"),
        ({"prompt": [{"role": "user", "content": "x", "name": "y"}]}, "column 'prompt' must be"),
        ({"subset": 3}, "column 'subset' must be a text"),
        ({"subset": "\ud800"}, "column 'subset' must be a text without lone surrogates"),
        ({"id": 1.5}, "column 'id' must be an integer or a text"),
        ({"id": True}, "column 'id' must be an integer or a text"),
        ({"chosen": ["x" * 100]}, "not ['xxx"),
    ],
)
def test_a_wrong_value_is_named(change: dict[str, Any], complaint: str):
    with pytest.raises(ValueError, match=re.escape(complaint)) as caught:
        pair_from_row(ROW | change, row=1)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("column", ROW)
def test_a_missing_column_is_named(column: str):
    with pytest.raises(ValueError, match=f"^column '{column}' is missing$"):
        pair_from_row({name: ROW[name] for name in ROW if name != column}, row=1)


def test_something_else_than_an_object_is_no_row():
    with pytest.raises(ValueError, match="not an object with columns"):
        pair_from_row(["prompt", "chosen"], row=1)
