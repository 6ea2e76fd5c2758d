"""Rows become pairs, or a complaint that names the column."""

import copy
import json
import random
import re
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from reward_benchmark.candidates import candidates_from_row
from reward_benchmark.cli import app
from reward_benchmark.datasets import open_dataset
from reward_benchmark.datasets.row import PreferenceRows, group_from_row
from reward_benchmark.group import Group, Prompt
from reward_benchmark.prompts import prompt_from_row

from .conftest import FakeService

ROW = {"prompt": "p", "chosen": "c", "rejected": "r"}
MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def test_three_columns_are_enough():
    group = group_from_row(ROW, 7)
    assert group == Group(row=7, subset="all", id=7, prompt="p", completions=("c", "r"))


def test_subset_id_and_messages_are_kept_and_other_columns_ignored():
    row = {**ROW, "prompt": MESSAGES, "subset": "s", "id": "x", "chosen_model": 3}
    group = group_from_row(row, 1)
    assert (group.key, group.prompt) == (("s", "x"), MESSAGES)


def test_null_is_as_good_as_missing_for_optional_columns():
    row = {"prompt": None, "chosen": [*MESSAGES, assistant("c")], "subset": None, "id": None}
    group = group_from_row(row | {"rejected": [*MESSAGES, assistant("r")]}, 2)
    assert (group.key, group.prompt) == (("all", 2), MESSAGES)


def test_empty_completions_and_lone_surrogates_are_left_for_the_service_to_judge():
    group = group_from_row({**ROW, "chosen": "", "rejected": "\ud800"}, 1)
    assert group.completions == ("", "\ud800")


@pytest.mark.parametrize("column", ["question", "input"])
def test_a_prompt_may_have_rewardbenchs_other_names(column: str):
    row = {column: "p", "chosen": "c", "rejected": "r"}
    assert group_from_row(row, 1).prompt == "p"
    assert group_from_row(row | {"prompt": "the first of them"}, 1).prompt == "the first of them"
    with pytest.raises(ValueError, match=f"^column '{column}' must be a text or a list"):
        group_from_row(row | {column: 3}, 1)


@pytest.mark.parametrize(
    ("row", "prompt", "rejected_prompt"),
    [
        # Whole conversations, on which a prompt beside them has no say.
        (
            {"chosen": [*MESSAGES, assistant("c")], "rejected": [*MESSAGES, assistant("r")]},
            MESSAGES,
            None,
        ),
        (
            {
                "prompt": "u",
                "chosen": [*MESSAGES, assistant("c")],
                "rejected": [*MESSAGES, assistant("r")],
            },
            MESSAGES,
            None,
        ),
        (
            {
                "chosen": [user("u"), assistant("a"), user("v"), assistant("c")],
                "rejected": [user("u"), assistant("b"), user("v"), assistant("r")],
            },
            [user("u"), assistant("a"), user("v")],
            [user("u"), assistant("b"), user("v")],
        ),
        (
            {
                "chosen": [user("u"), assistant("a"), user("v"), assistant("c")],
                "rejected": [user("u"), assistant("r")],
            },
            [user("u"), assistant("a"), user("v")],
            [user("u")],
        ),
        # Answers alone, and what follows the prompt.
        ({"prompt": "u", "chosen": [assistant("c")], "rejected": [assistant("r")]}, "u", None),
        (
            {"prompt": MESSAGES, "chosen": [assistant("c")], "rejected": [assistant("r")]},
            MESSAGES,
            None,
        ),
        (
            {
                "prompt": "u",
                "chosen": [assistant("a"), user("v"), assistant("c")],
                "rejected": [assistant("r")],
            },
            [user("u"), assistant("a"), user("v")],
            "u",
        ),
        # An assistant may also open a conversation.
        (
            {
                "chosen": [assistant("hello"), user("u"), assistant("c")],
                "rejected": [assistant("hello"), user("u"), assistant("r")],
            },
            [assistant("hello"), user("u")],
            None,
        ),
    ],
)
def test_lists_of_messages_are_parted_into_prompt_and_answer(
    row: dict[str, Any], prompt: Prompt, rejected_prompt: Prompt | None
):
    group = group_from_row(row, 1)
    assert group.prompt == prompt
    assert group.completions == ("c", "r")
    assert group.rejected_prompt == rejected_prompt


CONVERSATIONS = [
    {
        "prompt": [user("by the prompt")],
        "chosen": [user("u é"), assistant("a"), user("v"), assistant("c 1")],
        "rejected": [user("u é"), assistant("a"), user("v"), assistant("r 1")],
    },
    {
        "prompt": [user("p")],
        "chosen": [assistant("c 2")],
        "rejected": [assistant("r 2")],
    },
]
WIRE = [
    ([user("u é"), assistant("a"), user("v")], ["c 1", "r 1"]),
    ([user("p")], ["c 2", "r 2"]),
]
"""What a service is asked about them, in any order."""


def with_nulls(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows, their messages with null fields here and there, in front and behind."""
    choice = random.Random(5)
    filled = copy.deepcopy(rows)
    for row in filled:
        for messages in row.values():
            for place, message in enumerate(messages):
                names = choice.sample(["name", "tool_calls", "weight"], choice.randint(1, 3))
                nulls = dict.fromkeys(names)
                messages[place] = choice.choice([nulls | message, message | nulls])
    return filled


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_null_fields_of_messages_are_as_good_as_missing(
    tmp_path: Path, suffix: str, fake_service: FakeService
):
    clean, path = tmp_path / "clean.jsonl", tmp_path / f"nulls{suffix}"
    clean.write_text("".join(json.dumps(row) + "\n" for row in CONVERSATIONS))
    rows = with_nulls(CONVERSATIONS)
    assert "null" in json.dumps(rows)
    if suffix == ".parquet":
        table = pyarrow.Table.from_pylist(rows)
        # Arrow gives all messages of a column the same fields.
        assert table.to_pylist()[0]["prompt"][0].keys() > {"role", "content"}
        pyarrow.parquet.write_table(table, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(open_dataset(str(path))) == list(open_dataset(str(clean)))

    identities = []
    for dataset in (clean, path):
        fake_service.requests.clear()
        out = tmp_path / f"out-{dataset.name}"
        with fake_service.serve() as url:
            arguments = ["run", "--dataset", str(dataset), "--out", str(out), "--url", url]
            result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        asked = [one for request in fake_service.requests for one in request["inputs"]]
        expected = [{"prompt": prompt, "completions": texts} for prompt, texts in WIRE]
        assert sorted(asked, key=str) == sorted(expected, key=str)
        identities.append(json.loads((out / "run.json").read_text())["dataset_sha256"])
    assert identities[0] == identities[1]


def test_null_fields_of_messages_are_missing_wherever_messages_are_read():
    nulls = {"name": None, "tool_calls": None}
    conversation = [user("u"), assistant("a")]
    filled = [nulls | conversation[0], conversation[1] | nulls]
    assert prompt_from_row({"prompt": filled}, 1) == prompt_from_row({"prompt": conversation}, 1)
    for row, clean in [
        ({"messages": filled}, {"messages": conversation}),
        (
            {"prompt": filled, "candidates": ["x"]},
            {"prompt": conversation, "candidates": ["x"]},
        ),
        (
            {"messages": filled, "candidates": ["x"]},
            {"messages": conversation, "candidates": ["x"]},
        ),
    ]:
        assert candidates_from_row(row, 1) == candidates_from_row(clean, 1)
    # Prompts that are told apart by their nulls alone are one prompt.
    row = {"chosen": [user("u"), assistant("c")], "rejected": [filled[0], assistant("r")]}
    assert group_from_row(row, 1) == Group(1, "all", 1, [user("u")], ("c", "r"))
    assert filled == [nulls | conversation[0], conversation[1] | nulls]


@pytest.mark.parametrize("field", ["role", "content"])
def test_a_role_and_a_content_must_not_be_null(field: str):
    with pytest.raises(ValueError, match=r"^column 'prompt' must be a text or a list .*None"):
        group_from_row(ROW | {"prompt": [user("u") | {field: None}]}, 1)


def test_a_further_field_of_a_message_is_named_with_the_remedy():
    said = assistant("a") | {"name": "y", "train": False, "tool_calls": None}
    for row, parse in [
        ({"prompt": [user("u" * 99), said], "chosen": "c", "rejected": "r"}, group_from_row),
        ({"prompt": [user("u" * 99), said, said]}, prompt_from_row),
    ]:
        with pytest.raises(ValueError, match="each with just a role and a content, not") as caught:
            parse(row, 1)
        assert str(caught.value).endswith("...; drop 'name', 'train' from its messages")
    with pytest.raises(ValueError, match=r"; drop 'train' from its messages$"):
        candidates_from_row({"messages": [user("u"), assistant("a") | {"train": True}]}, 1)
    # Dropping fields would not make messages of these.
    for message in ({"from": "human", "value": "u"}, {"role": "user", "content": 5, "name": "y"}):
        with pytest.raises(ValueError, match=r"just a role and a content, not \[\{.*\}\]$"):
            prompt_from_row({"prompt": [message]}, 1)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"chosen": 5}, "column 'chosen' must be a text or a list of messages"),
        ({"chosen": ["c"]}, "column 'chosen' must be a text or a list of messages"),
        ({"chosen": []}, "each with just a role and a content, not []"),
        ({"rejected": None}, "column 'rejected' must be a text or a list"),
        ({"prompt": []}, "column 'prompt' must be a text or a list of messages"),
        ({"prompt": [{"role": "user"}]}, "column 'prompt' must be"),
        ({"prompt": [{"role": "user", "content": "x", "name": "y"}]}, "column 'prompt' must be"),
        ({"prompt": None}, "column 'prompt' is missing"),
        ({"subset": 3}, "column 'subset' must be a text"),
        ({"subset": "\ud800"}, "column 'subset' must be a text without lone surrogates"),
        ({"id": 1.5}, "column 'id' must be an integer or a text"),
        ({"id": True}, "column 'id' must be an integer or a text"),
        ({"chosen": ["x" * 100]}, "not ['xxx"),
        ({"chosen": [assistant("c")]}, "both texts or both lists of messages, not [{'role'"),
        ({"rejected": [assistant("r")]}, "both texts or both lists of messages, not 'c'"),
        (
            {"chosen": [user("u"), assistant("c")], "rejected": [user("u"), user("v")]},
            "column 'rejected' must end with a message of the assistant, not of 'user'",
        ),
        (
            {"prompt": None, "chosen": [assistant("c")], "rejected": [assistant("r")]},
            "column 'prompt' is missing, and 'chosen' has no message before the answer",
        ),
    ],
)
def test_a_wrong_value_is_named(change: dict[str, Any], complaint: str):
    with pytest.raises(ValueError, match=re.escape(complaint)) as caught:
        group_from_row(ROW | change, 1)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("column", ROW)
def test_a_missing_column_is_named(column: str):
    with pytest.raises(ValueError, match=f"^column '{column}' is missing"):
        group_from_row({name: ROW[name] for name in ROW if name != column}, 1)


def test_all_missing_columns_are_named_beside_those_that_are_there():
    with pytest.raises(ValueError, match=r"columns 'chosen', 'rejected' are missing") as caught:
        group_from_row({"prompt": "p", "answer": "a", "é" * 90: 0}, 1)
    assert "its columns are ['prompt', 'answer', '\\xe9" in str(caught.value)
    assert len(str(caught.value)) < 200
    with pytest.raises(ValueError, match=r"its columns are none$"):
        group_from_row({}, 1)


def test_something_else_than_an_object_is_no_row():
    with pytest.raises(ValueError, match="not an object with columns"):
        group_from_row(["prompt", "chosen"], 1)


def test_rows_of_mixed_schemas_are_refused():
    messages = {"chosen": [user("u"), assistant("c")], "rejected": [user("u"), assistant("r")]}
    rows = PreferenceRows()
    for number in (3, 4):
        assert rows(ROW, number) == group_from_row(ROW, number)
    with pytest.raises(ValueError, match=r"mixed schemas: .* lists of .* texts in row 3; split"):
        rows(messages, 5)
    # A second reading finds the same, and another file is another matter.
    assert rows(ROW, 3) == group_from_row(ROW, 3)
    rows = PreferenceRows()
    assert rows(messages, 1) == group_from_row(messages, 1)
    with pytest.raises(ValueError, match=r"are texts here, but lists of messages in row 1;"):
        rows(ROW, 2)
