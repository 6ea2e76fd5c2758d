"""What a row of preference data must look like, whatever file or hub it comes from."""

import sys
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reward_benchmark.pair import Pair
from reward_client.schema import Text

ONE_SUBSET = "all"
"""Subset of rows that name none."""

_EXPECTED = {
    "prompt": "a text or a list of messages, each with just a role and a content",
    "chosen": "a text",
    "rejected": "a text",
    "subset": "a text without lone surrogates",
    "id": "an integer or a text without lone surrogates",
}


class _Message(BaseModel):
    # A further field could change what the conversation means, so it is not dropped silently.
    model_config = ConfigDict(strict=True, extra="forbid")

    role: str
    content: str


class _Row(BaseModel):
    # Plain `str` lets lone surrogates pass: the text is then an error of that pair when scored.
    model_config = ConfigDict(strict=True, extra="ignore")

    prompt: str | Annotated[list[_Message], Field(min_length=1)]
    chosen: str
    rejected: str
    subset: Text | None = None
    id: int | Text | None = None


def pair_from_row(value: object, *, row: int) -> Pair:
    """The pair that a decoded row describes.

    Raises:
        ValueError: it describes none; the message says what is wrong with which column.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"it is not an object with columns, but {_shown(value)}")
    try:
        checked = _Row.model_validate(value)
    except ValidationError as error:
        raise ValueError(_complaint(value, error)) from error
    prompt = checked.prompt
    return Pair(
        row=row,
        # One string per subset, not one per pair: a million keys are kept during a run.
        subset=sys.intern(checked.subset or ONE_SUBSET),
        id=row if checked.id is None else checked.id,
        prompt=prompt if isinstance(prompt, str) else [m.model_dump() for m in prompt],
        chosen=checked.chosen,
        rejected=checked.rejected,
    )


def _complaint(row: Mapping[str, object], error: ValidationError) -> str:
    column = str(error.errors()[0]["loc"][0])
    if column not in row:
        return f"column {column!r} is missing"
    return f"column {column!r} must be {_EXPECTED[column]}, not {_shown(row[column])}"


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
