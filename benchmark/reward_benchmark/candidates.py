"""Reads candidates: prompts with several completions each, and maybe what they are worth."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import (
    AliasChoices,
    ConfigDict,
    Field,
    FiniteFloat,
    TypeAdapter,
    ValidationError,
)

from reward_benchmark.datasets import CANDIDATES_COLUMNS, Benchmark, Dataset, Selection
from reward_benchmark.datasets.files import SUFFIXES, open_file
from reward_benchmark.datasets.row import ONE_SUBSET, Messages, Row, checked, dumped, shown
from reward_benchmark.errors import DatasetError
from reward_benchmark.group import Group, Prompt
from reward_client.schema import Text

GOLD = "gold"
"""The column of known values that is read where it is there and no other is named."""

Gold = tuple[float | None, ...]
"""The known value of each candidate, higher for a better one; `None` where it was not annotated."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """One row: a prompt with its candidates, as a group of which none is chosen."""

    group: Group
    gold: Gold | None
    """`None` where the row has no such column."""

    def first(self, count: int | None) -> "Candidates":
        """The same prompt with at most this many candidates; `None` means all."""
        return Candidates(_first(self.group, count), self.gold and self.gold[:count])

    @property
    def instruction(self) -> str:
        """The prompt as one text; where several messages precede, it names who said what."""
        prompt = self.group.prompt
        if isinstance(prompt, str):
            return prompt
        if len(prompt) == 1:
            return prompt[0]["content"]
        return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)


@dataclass(frozen=True, slots=True)
class CandidateSelection(Selection):
    """Which prompts, and how many of the candidates of each."""

    best_of: int | None = None
    """At most this many, the first ones."""

    def groups(self, dataset: Iterable[Group]) -> Iterator[Group]:
        """See `Selection.groups`."""
        for group in Selection.groups(self, dataset):
            yield _first(group, self.best_of)


def _first(group: Group, count: int | None) -> Group:
    return replace(group, completions=group.completions[:count])


def open_candidates(name: str, gold: str | None = None) -> Dataset:
    """Prompts with their candidates, as a dataset to score.

    Args:
        name: a file; a hub id, maybe with `:split`; or a folder laid out as the hub has datasets.
        gold: the column of known values, which every row must have; `None` takes `gold` from rows
            that have it.

    Raises:
        DatasetError: it is none of them, or the hub does not give it.
    """
    benchmark = Benchmark(
        name="candidates",
        title="Candidates",
        parse=lambda row, number, _: candidates_from_row(row, number, gold).group,
        noun="prompt",
    )
    if name.endswith(SUFFIXES):
        return Dataset(Path(name).name, (open_file(Path(name)),), benchmark)
    hub_id, _, split = name.partition(":")
    if not Path(hub_id).is_dir() and (hub_id.count("/") != 1 or Path(name).is_file()):
        raise DatasetError(
            f"candidates {name!r} are neither a file ({', '.join(SUFFIXES)}) nor a folder or a hub "
            "id such as owner/name[:split]"
        )
    # `datasets` takes a second to import, which only hub datasets should cost.
    from reward_benchmark.datasets.hub import open_hub_split

    return Dataset(name, (open_hub_split(hub_id, split or None),), benchmark)


def read_candidates(dataset: Dataset, gold: str | None = None) -> Iterator[Candidates]:
    """All that the rows of opened candidates say, which were scanned before."""
    for number, row in dataset.rows():
        yield candidates_from_row(row, number, gold)


class _CandidatesRow(Row):
    prompt: Annotated[
        str | Messages | None,
        Field(
            validation_alias=AliasChoices("prompt", "instruction"),
            description="a text or a list of messages, each with just a role and a content",
        ),
    ] = None
    candidates: Annotated[
        str | list[str] | None,
        Field(
            validation_alias=AliasChoices(*CANDIDATES_COLUMNS),
            description="a list of texts",
        ),
    ] = None
    messages: Annotated[
        Messages | None,
        Field(description="a list of messages, each with just a role and a content"),
    ] = None
    subset: Annotated[
        Text | None,
        Field(
            validation_alias=AliasChoices("subset", "dataset"),
            description="a text without lone surrogates",
        ),
    ] = None
    id: Annotated[
        int | Text | None, Field(description="an integer or a text without lone surrogates")
    ] = None


LARGEST_GOLD = 1e300
"""Beyond it sums overflow."""

_Gold = Annotated[FiniteFloat, Field(ge=-LARGEST_GOLD, le=LARGEST_GOLD)]
_GOLD = TypeAdapter(list[_Gold | None], config=ConfigDict(strict=True))


def candidates_from_row(value: object, number: int, gold: str | None = None) -> Candidates:
    """What a decoded row says; `number` is its place in its file.

    A row has a prompt and a list of candidates, which is empty where none could be made; or only
    `messages`, as instruction data does: then the last one, of the assistant, is the one candidate.

    Args:
        gold: see `open_candidates`.

    Raises:
        ValueError: it describes none; the message says what is wrong with which column.
    """
    row = checked(_CandidatesRow, value)
    assert isinstance(value, Mapping)
    prompt, candidates = _parted(row, value)
    group = Group(
        row=number,
        subset=sys.intern(row.subset or ONE_SUBSET),
        id=number if row.id is None else row.id,
        prompt=prompt,
        completions=candidates,
        num_chosen=0,
    )
    return Candidates(group, _gold(value, gold, len(candidates)))


def _parted(row: _CandidatesRow, value: Mapping[str, object]) -> tuple[Prompt, tuple[str, ...]]:
    """What the candidates answer, and their texts."""
    if row.candidates is None:
        *turns, answer = dumped(row.messages) if row.messages else ({},)
        if not answer:
            raise ValueError(
                f"column 'candidates' is missing; its columns are {shown(list(value))}"
            )
        if not turns or answer["role"] != "assistant":
            raise ValueError(
                "column 'messages' must end with an answer of the assistant to another message, "
                f"not with {shown(answer)}"
            )
        return turns, (answer["content"],)
    candidates = (row.candidates,) if isinstance(row.candidates, str) else tuple(row.candidates)
    prompt = row.messages if row.prompt is None else row.prompt
    if prompt is None:
        raise ValueError(f"column 'prompt' is missing; its columns are {shown(list(value))}")
    return prompt if isinstance(prompt, str) else dumped(prompt), candidates


def _gold(row: Mapping[str, object], column: str | None, count: int) -> Gold | None:
    name = GOLD if column is None else column
    if name not in row:
        if column is None:
            return None
        raise ValueError(f"column {name!r} is missing; its columns are {shown(list(row))}")
    if row[name] is None:
        return (None,) * count
    try:
        values = _GOLD.validate_python(row[name])
    except ValidationError as error:
        raise ValueError(
            f"column {name!r} must be a list of nulls and numbers from -{LARGEST_GOLD:g} to "
            f"{LARGEST_GOLD:g}, not {shown(row[name])}"
        ) from error
    if len(values) != count:
        raise ValueError(
            f"column {name!r} has {len(values)} values for {count} candidates: it must have one "
            "for each, null where there is none"
        )
    return tuple(values)
