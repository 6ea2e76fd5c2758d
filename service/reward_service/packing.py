"""How sequences become forward passes: packed in a prefix tree, padded, or one by one.

Everything here can happen before the device is free; only `Pass.forward` computes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from operator import methodcaller
from typing import Protocol

import numpy as np
import torch

from reward_service.attention import TreePlanner
from reward_service.models.reward_model import RewardModel, RunnerPath
from reward_service.prefix_tree import (
    Integers,
    build_tree,
    first_tokens,
    key_length,
    shared_prefix,
)
from reward_service.sequences import TokenSequence

MIN_ROOT_TOKENS = {"cpu": 16}
"""Headers shorter than this are computed again for each sequence; see `build_tree`. On a GPU every
run's keys are gathered anyway, so nothing is too short to share."""

MAX_PADDING = 1 / 8
"""Share of padding at which a padded batch is cut, once it is worth running."""

MIN_BATCH_TOKENS = 512
"""Below this, one forward pass costs more than the padding that cutting would save."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass, ready to run."""

    places: list[int]
    """Which of the given sequences it computes."""
    counts: list[int]
    """Aligned with `places`: how many numbers it gives for each sequence."""
    computed_tokens: list[int]
    """Aligned with `places`: tokens computed because of each sequence, its padding included."""
    padded_tokens: int
    """Padding among them."""
    forward: Callable[[RewardModel], torch.Tensor]
    """Runs it: the numbers of all sequences in the order of `places`, [sum of `counts`]. The model
    is the one it was packed for, or another of the same shape."""


class Packing(Protocol):
    """One way to make passes."""

    path: RunnerPath

    def passes(self, sequences: Sequence[TokenSequence], *, budget: int) -> Iterator[Pass]:
        """All sequences, each in one pass.

        Args:
            budget: most tokens of a pass; a longer sequence is a pass of its own.
        """
        ...


class TreePacking:
    """Every distinct token once."""

    path: RunnerPath = "tree"

    def __init__(self, model: RewardModel) -> None:
        self._model = model
        self._planner = TreePlanner(model.device, model.dtype)
        self._min_root_tokens = MIN_ROOT_TOKENS.get(model.device.type, 1)

    def passes(self, sequences: Sequence[TokenSequence], *, budget: int) -> Iterator[Pass]:
        """See `Packing.passes`."""
        keys = [first_tokens(one.key, self._model.needed_tokens(one)) for one in sequences]
        for alike in _with_the_same_positions(sequences, self._model):
            for places in _within_budget(
                keys, alike, budget=budget, min_root_tokens=self._min_root_tokens
            ):
                tree = build_tree(
                    [keys[place] for place in places], min_root_tokens=self._min_root_tokens
                )
                reads = self._model.reads([sequences[place] for place in places], tree.rows_of)
                yield Pass(
                    places,
                    reads.counts,
                    tree.new_tokens.tolist(),
                    padded_tokens=0,
                    forward=methodcaller("tree_outputs", self._planner.plan(tree), reads),
                )


class PaddedPacking:
    """Sequences of similar length side by side, padded on the right to the longest."""

    path: RunnerPath = "padded"

    def __init__(self, model: RewardModel) -> None:
        self._model = model

    def passes(self, sequences: Sequence[TokenSequence], *, budget: int) -> Iterator[Pass]:
        """See `Packing.passes`."""
        needed = [self._model.needed_tokens(one) for one in sequences]
        for alike in _with_the_same_positions(sequences, self._model):
            for places in _of_similar_length(needed, alike, budget=budget):
                lengths = [needed[place] for place in places]
                longest = max(lengths)
                token_ids = torch.full((len(places), longest), self._model.pad_token_id)
                for row, place, length in zip(token_ids, places, lengths, strict=True):
                    row[:length] = torch.tensor(sequences[place].token_ids[:length])
                reads = self._model.reads(
                    [sequences[place] for place in places], partial(_row_by_row, longest)
                )
                yield Pass(
                    places,
                    reads.counts,
                    [longest] * len(places),
                    padded_tokens=longest * len(places) - sum(lengths),
                    forward=methodcaller("outputs", token_ids, torch.tensor(lengths), reads),
                )


class NoPacking:
    """transformers' own forward, one sequence at a time."""

    path: RunnerPath = "alone"

    def __init__(self, model: RewardModel) -> None:
        self._model = model

    def passes(self, sequences: Sequence[TokenSequence], *, budget: int) -> Iterator[Pass]:
        """See `Packing.passes`; the budget has nothing to decide."""
        for place, sequence in enumerate(sequences):
            reads = self._model.reads([sequence], partial(_row_by_row, len(sequence)))
            yield Pass(
                [place],
                reads.counts,
                [len(sequence)],
                padded_tokens=0,
                forward=methodcaller("plain_outputs", torch.tensor([sequence.token_ids]), reads),
            )


def _row_by_row(length: int, row: int, start: int, stop: int) -> Integers:
    """The `RowsOf` of sequences that have this many tokens each, padding included."""
    return np.arange(row * length + start, row * length + stop)


def _with_the_same_positions(
    sequences: Sequence[TokenSequence], model: RewardModel
) -> Iterator[list[int]]:
    """Places of sequences that may share a pass: see `RewardModel.position_boundary`."""
    boundary = model.position_boundary or max(map(len, sequences), default=0)
    for is_long in (False, True):
        alike = [i for i, sequence in enumerate(sequences) if (len(sequence) > boundary) is is_long]
        if alike:
            yield alike


def _within_budget(
    keys: Sequence[bytes], places: list[int], *, budget: int, min_root_tokens: int
) -> Iterator[list[int]]:
    """Cut where the tree would have more tokens than the budget, in the order of the tree."""
    if sum(key_length(keys[place]) for place in places) <= budget:
        yield places
        return
    order = sorted(places, key=keys.__getitem__)
    shared = [shared_prefix(keys[a], keys[b]) for a, b in pairwise(order)]
    cut: list[int] = []
    tokens = 0
    for place, above in zip(order, [0, *shared], strict=True):
        length = key_length(keys[place])
        shared_tokens = above if above >= min_root_tokens else 0
        if cut and tokens + length - shared_tokens > budget:
            yield cut
            cut, tokens = [], 0
        tokens += length - shared_tokens if cut else length
        cut.append(place)
    yield cut


def _of_similar_length(
    lengths: Sequence[int], places: list[int], *, budget: int
) -> Iterator[list[int]]:
    """Shortest first, cut where padding would be more than it is worth."""
    cut: list[int] = []
    tokens = 0
    for place in sorted(places, key=lengths.__getitem__):
        length = lengths[place]
        padded = length * (len(cut) + 1)
        padding = padded - tokens - length
        wasteful = tokens >= MIN_BATCH_TOKENS and padding > MAX_PADDING * padded
        if cut and (padded > budget or wasteful):
            yield cut
            cut, tokens = [], 0
        cut.append(place)
        tokens += length
    if cut:
        yield cut
