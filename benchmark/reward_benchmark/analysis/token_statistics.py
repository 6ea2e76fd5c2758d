"""How many tokens a completion has with its prompt, and how many different ones.

As in allenai/reward-bench's analysis/get_subtoken_statistics.py: prompt and completion are
tokenized apart, without special tokens, and their tokens put one after the other; a token that both
have is one different token. The standard deviation is the one that draw_subtoken_statistics.py
draws.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from reward_benchmark.errors import BenchmarkError
from reward_benchmark.group import Group, Prompt
from reward_benchmark.text_table import Cell, TextTable

Side = Literal["chosen", "rejected"]
SIDES: tuple[Side, ...] = ("chosen", "rejected")

ALL = "all"
"""Stands for all subsets together, and is what a set calls its only one."""

BATCH_GROUPS = 64
"""Groups whose texts are tokenized at once."""

TOKENIZER_FILE = "tokenizer.json"


@dataclass(slots=True)
class Extent:
    """Of the numbers that were added."""

    count: int = 0
    sum: int = 0
    sum_of_squares: int = 0
    largest: int = 0
    smallest: int = 0

    def add(self, number: int) -> None:
        """Take one more."""
        self.smallest = min(self.smallest, number) if self.count else number
        self.largest = max(self.largest, number)
        self.count += 1
        self.sum += number
        self.sum_of_squares += number * number

    @property
    def mean(self) -> float:
        """Of all numbers, of which there must be one."""
        return self.sum / self.count

    @property
    def standard_deviation(self) -> float:
        """Of all numbers, of which there must be one: they are the whole population."""
        # In whole numbers up to the division: nothing is lost where all are large and close.
        return math.sqrt(self.count * self.sum_of_squares - self.sum * self.sum) / self.count


@dataclass(slots=True)
class TokenExtents:
    """Of some completions, each with its prompt or without."""

    tokens: Extent = field(default_factory=Extent)
    """How many tokens each has."""
    distinct: Extent = field(default_factory=Extent)
    """How many different ones."""


@dataclass(frozen=True, slots=True)
class GroupTokens:
    """What counts of a group, completion by completion."""

    subset: str
    completions: list[tuple[Side, list[int]]]
    """Side, and token ids: those of the prompt, unless left out, then those of the completion."""


class TokenStatistics:
    """Per subset and over all of them, for chosen and for rejected completions."""

    def __init__(self) -> None:
        self._extents: dict[str, dict[Side, TokenExtents]] = {}
        self._together: dict[Side, TokenExtents] = {}

    @property
    def subsets(self) -> dict[str, dict[Side, TokenExtents]]:
        """In the order of the set."""
        return self._extents

    def add(self, group: GroupTokens) -> None:
        """Take one more group."""
        of_subset = self._extents.setdefault(group.subset, {})
        for side, ids in group.completions:
            for extents in (of_subset, self._together):
                one = extents.setdefault(side, TokenExtents())
                one.tokens.add(len(ids))
                one.distinct.add(len(set(ids)))

    def table(self) -> TextTable:
        """A row per subset and side; all subsets together come last."""
        numbers = ("Mean", "S.d.", "Max", "Min")
        columns = [f"{number} {what}" for what in ("tokens", "distinct") for number in numbers]
        rows: list[list[Cell]] = []
        for subset, sides in (self._extents | {ALL: self._together}).items():
            for side, extents in sides.items():
                cells: list[Cell] = [subset, side, extents.tokens.count]
                for one in (extents.tokens, extents.distinct):
                    cells += [one.mean, one.standard_deviation, one.largest, one.smallest]
                rows.append(cells)
        return TextTable(("Subset", "Side", "n", *columns), rows)

    def document(self) -> dict[str, Any]:
        """The same as JSON: subset → side → numbers."""
        return {
            subset: {
                side: {"completions": extents.tokens.count}
                | {
                    name: {
                        "mean": one.mean,
                        "standard_deviation": one.standard_deviation,
                        "max": one.largest,
                        "min": one.smallest,
                    }
                    for name, one in (("tokens", extents.tokens), ("distinct", extents.distinct))
                }
                for side, extents in sides.items()
            }
            for subset, sides in (self._extents | {ALL: self._together}).items()
        }


def open_tokenizer(name: str) -> Tokenizer:
    """The tokenizer in a file or a folder, or of a hub id.

    Raises:
        BenchmarkError: there is none, or it cannot be read.
    """
    path = Path(name)
    if path.is_dir():
        path /= TOKENIZER_FILE
        if not path.exists():
            raise BenchmarkError(f"--tokenizer {name}: there is no {TOKENIZER_FILE} in this folder")
    elif not path.is_file():
        path = _from_hub(name)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise BenchmarkError(f"--tokenizer {path} is not a tokenizer: {error}") from error
    # A checkpoint may say how its training cut and padded texts; here whole texts are counted.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def token_ids(
    groups: Iterable[Group], tokenizer: Tokenizer, *, completions_only: bool = False
) -> Iterator[GroupTokens]:
    """The tokens of every completion with its prompt, without special tokens.

    Of a prompt that is a list of messages every content counts, whoever speaks, each tokenized
    apart; roles and what a chat template adds do not. (RewardBench's script reads prompts that are
    texts, no others.) Rejected completions that answer a prompt of their own count with that one.

    Args:
        completions_only: leave the prompts out.

    Raises:
        BenchmarkError: a text is not Unicode.
    """
    remaining = iter(groups)
    while batch := list(islice(remaining, BATCH_GROUPS)):
        texts = [list(_texts(group, completions_only=completions_only)) for group in batch]
        for group, of_group in zip(batch, texts, strict=True):
            _check_unicode(group, (text for _, one in of_group for text in one))
        # Each text once: a prompt stands before every one of its completions.
        different = list({text: None for of_group in texts for _, one in of_group for text in one})
        encodings = tokenizer.encode_batch(different, add_special_tokens=False)
        ids = {text: one.ids for text, one in zip(different, encodings, strict=True)}
        for group, of_group in zip(batch, texts, strict=True):
            yield GroupTokens(
                group.subset,
                [(side, [id_ for text in one for id_ in ids[text]]) for side, one in of_group],
            )


def _texts(group: Group, *, completions_only: bool) -> Iterator[tuple[Side, list[str]]]:
    """For each completion its side, and the texts whose tokens count for it, in their order."""
    rejected_prompt = group.prompt if group.rejected_prompt is None else group.rejected_prompt
    sides: tuple[tuple[Side, Prompt, tuple[str, ...]], ...] = (
        ("chosen", group.prompt, group.chosen),
        ("rejected", rejected_prompt, group.rejected),
    )
    for side, prompt, completions in sides:
        before = [] if completions_only else _contents(prompt)
        for completion in completions:
            yield side, [*before, completion]


def _check_unicode(group: Group, texts: Iterable[str]) -> None:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BenchmarkError(
                f"row {group.row} (subset {group.subset!r}, id {group.id!r}) cannot be tokenized: "
                f"character {error.start} of a text is half of a surrogate pair; mend the text"
            ) from error


def _contents(prompt: Prompt) -> list[str]:
    return [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]


def _from_hub(hub_id: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(hf_hub_download(hub_id, TOKENIZER_FILE))
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise BenchmarkError(
            f"--tokenizer {hub_id!r} is neither a file nor a folder, and the hub does not give its "
            f"{TOKENIZER_FILE}: {first_line}"
        ) from error
