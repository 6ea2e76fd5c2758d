"""What is scored: groups of random token ids in the lengths of real ones."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gpu.pair_lengths import Integers, PairLengths, lognormal
from reward_service.sequences import SequenceGroup, TokenSequence

HEADER_TOKENS = 3
"""Every sequence begins with these, as a chat template makes it."""

N = 16
PROMPT_TOKENS = 500
COMPLETION_MEDIAN, COMPLETION_SIGMA, LONGEST_COMPLETION = 160, 0.5, 600
"""Of best-of-16, as in the speed benchmark's long prompts."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Groups, and what is in them."""

    name: str
    unit: Literal["pairs", "completions"]
    source: str
    groups: tuple[SequenceGroup, ...]
    input_tokens: int
    """Tokens of all sequences."""
    distinct_tokens: int
    """Equal prefixes counted once. Not the engine's own count: it is measured with this one."""
    attended_keys: int
    """Keys that the distinct tokens see, themselves included."""

    @property
    def units(self) -> int:
        """What rates are given in."""
        return len(self.groups) if self.unit == "pairs" else self.sequences

    @property
    def sequences(self) -> int:
        """Sequences in all groups."""
        return sum(len(group.sequences) for group in self.groups)

    def first(self, groups: int) -> "Workload":
        """A smaller one."""
        return _workload(self.name, self.unit, self.source, self.groups[:groups])


def rewardbench_pairs(lengths: PairLengths, *, count: int, vocabulary: int, seed: int) -> Workload:
    """Pairs as long as RewardBench's, in a seeded order."""
    tokens = _Tokens(vocabulary, seed=seed)
    groups = []
    for shared, *rests in lengths.draw(count, seed=seed).tolist():
        prefix = tokens.prefix(shared)
        groups.append(_group(prefix, [tokens.some(rest) for rest in rests]))
    source = f"random ids, lengths of {lengths.source}"
    return _workload("rewardbench", "pairs", source, tuple(groups))


def best_of_16(*, prompts: int, vocabulary: int, seed: int) -> Workload:
    """Sixteen completions for each long prompt."""
    tokens = _Tokens(vocabulary, seed=seed)
    lengths: Integers = lognormal(
        COMPLETION_MEDIAN, COMPLETION_SIGMA, longest=LONGEST_COMPLETION, count=prompts * N
    )
    shuffled = np.random.default_rng(seed).permutation(lengths).reshape(prompts, N)
    groups = [
        _group(tokens.prefix(PROMPT_TOKENS), [tokens.some(length) for length in row])
        for row in shuffled.tolist()
    ]
    source = (
        f"random ids, prompts of {PROMPT_TOKENS} tokens, completions lognormal with median "
        f"{COMPLETION_MEDIAN} and sigma {COMPLETION_SIGMA}"
    )
    return _workload("best_of_16", "completions", source, tuple(groups))


class _Tokens:
    """Seeded ids; the first three are special, the next the header."""

    def __init__(self, vocabulary: int, *, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._header = [*range(3, 3 + HEADER_TOKENS)]
        self._ids = (3 + HEADER_TOKENS, vocabulary)

    def some(self, count: int) -> list[int]:
        ids: list[int] = self._rng.integers(*self._ids, size=count).tolist()
        return ids

    def prefix(self, count: int) -> list[int]:
        return (self._header + self.some(max(0, count - HEADER_TOKENS)))[:count]


def _group(prefix: list[int], rests: Iterable[list[int]]) -> SequenceGroup:
    sequences = tuple(TokenSequence(prefix + rest, completion_start=len(prefix)) for rest in rests)
    return SequenceGroup(sequences, shared_tokens=len(prefix))


def _workload(
    name: str,
    unit: Literal["pairs", "completions"],
    source: str,
    groups: tuple[SequenceGroup, ...],
) -> Workload:
    ids = [sequence.token_ids for group in groups for sequence in group.sequences]
    distinct = attended = 0
    before: Sequence[int] = []
    for one in sorted(ids):
        # Sorted, what a sequence shares with any before it, it shares with its neighbour.
        shared = _shared(before, one)
        distinct += len(one) - shared
        attended += (len(one) * (len(one) + 1) - shared * (shared + 1)) // 2
        before = one
    return Workload(name, unit, source, groups, sum(map(len, ids)), distinct, attended)


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (one, other) in pairs if one != other), min(len(a), len(b)))
