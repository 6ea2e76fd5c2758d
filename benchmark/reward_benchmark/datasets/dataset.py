"""A dataset of preference pairs: named, checked, and read row by row as often as asked."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from reward_benchmark.datasets.row import pair_from_row
from reward_benchmark.errors import DatasetError
from reward_benchmark.pair import Key, Pair

Rows = Iterable[tuple[int, object]]
"""Decoded rows with their number in the source, from 1."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What one reading of a whole dataset found."""

    sha256: str
    """Hash over the pairs as they were read: the same in every file format."""
    subsets: Mapping[str, int]
    """Number of pairs of each subset, in the dataset's order."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Where pairs come from; iterating reads them lazily, from the start each time."""

    name: str
    location: str
    """The path or hub address that is read."""
    unit: str
    """What the source calls a row: a row or a line."""
    rows: Callable[[], Rows]

    def __iter__(self) -> Iterator[Pair]:
        for number, row in self.rows():
            try:
                pair = pair_from_row(row, row=number)
            except ValueError as error:
                raise DatasetError(f"{self.location}, {self.unit} {number}: {error}") from error
            yield pair

    def scan(self) -> Contents:
        """Read everything once, and check that no pair appears twice.

        Raises:
            DatasetError: the source cannot be read, a row is wrong, or there is none.
        """
        seen: set[Key] = set()
        subsets: Counter[str] = Counter()
        digest = hashlib.sha256()
        for pair in self:
            if pair.key in seen:
                raise DatasetError(
                    f"{self.location}, {self.unit} {pair.row}: id {pair.id!r} of subset "
                    f"{pair.subset!r} was there before, but (subset, id) must be unique"
                )
            seen.add(pair.key)
            subsets[pair.subset] += 1
            fields = [pair.subset, pair.id, pair.prompt, pair.chosen, pair.rejected]
            digest.update(json.dumps(fields).encode() + b"\n")
        if not seen:
            raise DatasetError(f"{self.location} has no rows")
        return Contents(digest.hexdigest(), subsets)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which pairs of a dataset to judge."""

    subsets: frozenset[str] = frozenset()
    """Only these subsets; none named means all."""
    limit: int | None = None
    """At most this many pairs, the first ones."""

    def pairs(self, dataset: Iterable[Pair]) -> Iterator[Pair]:
        """The selected pairs, lazily and in order."""
        wanted = (pair for pair in dataset if not self.subsets or pair.subset in self.subsets)
        return islice(wanted, self.limit)

    def count(self, contents: Contents) -> int:
        """How many pairs are selected.

        Raises:
            DatasetError: a subset is named that the dataset does not have.
        """
        known = contents.subsets
        if unknown := sorted(self.subsets - known.keys()):
            raise DatasetError(
                f"no subset {unknown[0]!r} in this dataset; it has {', '.join(sorted(known))}"
            )
        total = sum(known[name] for name in self.subsets or known)
        return total if self.limit is None else min(total, self.limit)
