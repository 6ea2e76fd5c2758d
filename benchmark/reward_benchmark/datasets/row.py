"""What a row of preference data must look like, whatever file or hub it comes from."""

import sys
from collections.abc import Iterable, Mapping
from typing import Annotated, TypeVar

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from reward_benchmark.group import Group, Prompt
from reward_client.schema import Text

ONE_SUBSET = "all"
"""Subset of rows that name none."""

_A_MESSAGE = "messages, each with just a role and a content"
_SHOWN_CHARACTERS = 60


class Row(BaseModel):
    """Columns that the rows of a set have; what else they have is ignored.

    A column's description says what it must be, as the end of "column 'x' must be …".
    """

    # Plain `str` lets lone surrogates pass: the text is then an error of that pair when scored.
    model_config = ConfigDict(strict=True, extra="ignore")


AnyRow = TypeVar("AnyRow", bound=Row)


def checked(columns: type[AnyRow], value: object) -> AnyRow:
    """The columns of a decoded row.

    Raises:
        ValueError: they are not there; the message says what is wrong with which column.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"it is not an object with columns, but {shown(value)}")
    try:
        return columns.model_validate(value)
    except ValidationError as error:
        raise ValueError(_complaint(columns, value, error)) from error


def shown(value: object, characters: int = _SHOWN_CHARACTERS) -> str:
    """A value in a message: in ASCII, and never long."""
    text = ascii(value)
    return text if len(text) <= characters else text[: characters - 3] + "..."


class Message(BaseModel):
    """A turn of a conversation; a field that is null is as good as missing."""

    # A further field could change what the conversation means, so it is not dropped silently.
    model_config = ConfigDict(strict=True, extra="forbid")

    role: str
    content: str

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        # Arrow gives every message of a column all fields that any of them has.
        if not isinstance(value, Mapping):
            return value
        return {name: field for name, field in value.items() if field is not None}


Messages = Annotated[list[Message], Field(min_length=1)]
_Completion = Annotated[str | Messages, Field(description=f"a text or a list of {_A_MESSAGE}")]


class _PreferenceRow(Row):
    # RewardBench's loader takes `question` and `input` for `prompt` too.
    prompt: Annotated[
        str | Messages | None,
        Field(
            validation_alias=AliasChoices("prompt", "question", "input"),
            description=f"a text or a list of {_A_MESSAGE}",
        ),
    ] = None
    chosen: _Completion
    rejected: _Completion
    subset: Annotated[Text | None, Field(description="a text without lone surrogates")] = None
    id: Annotated[
        int | Text | None, Field(description="an integer or a text without lone surrogates")
    ] = None


def group_from_row(value: object, number: int, split: str | None = None) -> Group:
    """The pair that a decoded row describes; `number` is its place in its file or split.

    `chosen` and `rejected` are texts that answer `prompt`, or lists of messages that end with the
    assistant's answer. Such lists are whole conversations, as RewardBench reads them, and may
    differ before the answer; only lists that start with the assistant go on from `prompt`, where
    there is one.

    Raises:
        ValueError: it describes none; the message says what is wrong with which column.
    """
    row = checked(_PreferenceRow, value)
    if isinstance(row.chosen, str) != isinstance(row.rejected, str):
        raise ValueError(
            "columns 'chosen' and 'rejected' must be both texts or both lists of messages, not "
            f"{shown(row.model_dump()['chosen'])} and {shown(row.model_dump()['rejected'])}"
        )
    prompt = row.prompt if isinstance(row.prompt, str | None) else dumped(row.prompt)
    chosen_prompt, chosen = _parted("chosen", row.chosen, prompt)
    rejected_prompt, rejected = _parted("rejected", row.rejected, prompt)
    return Group(
        row=number,
        # One string per subset, not one per pair: a million keys are kept during a run.
        subset=sys.intern(row.subset or ONE_SUBSET),
        id=number if row.id is None else row.id,
        prompt=chosen_prompt,
        completions=(chosen, rejected),
        rejected_prompt=None if rejected_prompt == chosen_prompt else rejected_prompt,
    )


class PreferenceRows:
    """Makes groups of one dataset's rows, which must agree on what their completions are.

    A file that mixes texts and lists of messages is mostly two files by mistake, and half of its
    scores would not mean what the other half's do.
    """

    def __init__(self) -> None:
        self._first: tuple[int, str] | None = None

    def __call__(self, value: object, number: int, split: str | None = None) -> Group:
        """The pair that a decoded row describes.

        Raises:
            ValueError: it describes none, or is not like the row that was read first.
        """
        group = group_from_row(value, number, split)
        texts = isinstance(value, Mapping) and isinstance(value["chosen"], str)
        kind = "texts" if texts else "lists of messages"
        self._first = self._first or (number, kind)
        first_number, first_kind = self._first
        if kind != first_kind:
            raise ValueError(
                f"mixed schemas: 'chosen' and 'rejected' are {kind} here, but {first_kind} in row "
                f"{first_number}; split the file in two"
            )
        return group


def _parted(
    column: str, completion: str | list[Message], prompt: Prompt | None
) -> tuple[Prompt, str]:
    """What a completion answers, and its text."""
    if isinstance(completion, str):
        if prompt is None:
            raise ValueError("column 'prompt' is missing")
        return prompt, completion
    *turns, answer = dumped(completion)
    if answer["role"] != "assistant":
        raise ValueError(
            f"column {column!r} must end with a message of the assistant, not of "
            f"{shown(answer['role'])}"
        )
    if prompt is not None and completion[0].role == "assistant":
        return (_as_messages(prompt) + turns if turns else prompt), answer["content"]
    if not turns:
        raise ValueError(
            f"column 'prompt' is missing, and {column!r} has no message before the answer"
        )
    return turns, answer["content"]


def _as_messages(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def dumped(messages: Iterable[Message]) -> list[dict[str, str]]:
    """The same as JSON."""
    return [message.model_dump() for message in messages]


def _complaint(columns: type[Row], row: Mapping[str, object], error: ValidationError) -> str:
    missing = [str(e["loc"][0]) for e in error.errors() if e["loc"][0] not in row]
    if missing:
        names = ", ".join(map(repr, missing))
        there = shown(list(row)) if row else "none"
        verb = "is missing" if len(missing) == 1 else "are missing"
        return f"column{'s' * (len(missing) > 1)} {names} {verb}; its columns are {there}"
    column = str(error.errors()[0]["loc"][0])
    complaint = (
        f"column {column!r} must be {_description(columns, column)}, not {shown(row[column])}"
    )
    if fields := _further_fields(column, error):
        complaint += f"; drop {', '.join(map(shown, fields))} from its messages"
    return complaint


def _further_fields(column: str, error: ValidationError) -> list[str]:
    """What messages have besides a role and a content, where nothing else is wrong with them."""
    # That a list of messages is no text either is not what is wrong with it.
    errors = [e for e in error.errors() if e["loc"][0] == column and e["loc"][1:] != ("str",)]
    if {e["type"] for e in errors} != {"extra_forbidden"}:
        return []
    return list(dict.fromkeys(str(e["loc"][-1]) for e in errors))


def _description(columns: type[Row], column: str) -> str | None:
    for name, field in columns.model_fields.items():
        alias = field.validation_alias
        if column in (alias.choices if isinstance(alias, AliasChoices) else [name]):
            return field.description
    return None
