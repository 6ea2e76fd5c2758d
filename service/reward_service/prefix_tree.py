"""Token sequences folded into a tree: every distinct prefix is there once.

Pure bookkeeping on bytes and numpy arrays; knows nothing of models, devices or time.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

Range = tuple[int, int]
"""Start and stop."""

_TOKEN = np.dtype(">u4")
"""Big-endian, so that comparing bytes compares tokens, at memcmp's speed."""


def sort_key(token_ids: Sequence[int]) -> bytes:
    """Token ids as bytes that sort like the ids themselves."""
    return np.asarray(token_ids, dtype=_TOKEN).tobytes()


def token_ids_of(key: bytes) -> list[int]:
    """The token ids that `sort_key` made a key of."""
    ids: list[int] = np.frombuffer(key, _TOKEN).tolist()
    return ids


def key_length(key: bytes) -> int:
    """Tokens in a key."""
    return len(key) // _TOKEN.itemsize


def first_tokens(key: bytes, count: int) -> bytes:
    """The key of a sequence's first so many tokens."""
    return key[: count * _TOKEN.itemsize]


def shared_prefix(a: bytes, b: bytes) -> int:
    """How many tokens two keys have in common at their start."""
    length = min(key_length(a), key_length(b))
    differ = np.frombuffer(a, _TOKEN, length) != np.frombuffer(b, _TOKEN, length)
    first = int(differ.argmax()) if length else 0
    return first if length and differ[first] else length


class DistinctTokens:
    """Counts the tokens of the tree that a growing set of sequences would make.

    Between its neighbours in sorted order a sequence shares most with one of them; what it does
    not share is new. Adding costs a binary search, not a new tree.
    """

    def __init__(self) -> None:
        self.count = 0
        self._keys: list[bytes] = []

    def add(self, keys: Iterable[bytes]) -> int:
        """Add sequences by their `sort_key`; returns how many tokens they add."""
        before = self.count
        for key in keys:
            place = bisect_left(self._keys, key)
            neighbours = self._keys[max(place - 1, 0) : place + 1]
            shared = max((shared_prefix(key, other) for other in neighbours), default=0)
            self.count += key_length(key) - shared
            self._keys.insert(place, key)
        return self.count - before


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens between two forks of the tree, at `start:stop` of the packed tokens."""

    start: int
    stop: int
    depth: int
    """Tokens before it on its path, which is the position of its first token."""
    parent: int | None
    """Index of the segment it continues."""


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens that follow each other both in memory and on one path.

    The longest way through a segment is packed right behind it. So a prompt and its longest
    completion are one run, and each further completion is a run with the prompt as its prefix.
    """

    start: int
    stop: int
    prefix: tuple[Range, ...]
    """Packed ranges that come before it on its path, from the root down; empty at a root."""
    prefix_tokens: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """Sequences as one packed tree, depth first. `build_tree` makes it."""

    token_ids: Integers
    """[tokens] Every distinct token once."""
    positions: Integers
    """[tokens] Depth of each token, its position in every sequence that has it."""
    leaves: tuple[int, ...]
    """[sequences] Index of the segment that each sequence ends with."""
    new_tokens: Integers
    """[sequences] Tokens that are in the tree because of it; they add up to its length."""
    segments: tuple[Segment, ...]
    """In packed order, so parents come first."""
    paths: tuple[tuple[Range, ...], ...]
    """[segments] Packed ranges from each segment's root to its own end, joined where they touch."""
    input_tokens: int
    """Tokens of all sequences, the shared ones counted once per sequence."""

    def __len__(self) -> int:
        return len(self.token_ids)

    def rows_of(self, sequence: int, start: int, stop: int) -> Integers:
        """Packed indices of a sequence's tokens `start:stop`."""
        path = self.paths[self.leaves[sequence]]
        if len(path) == 1:
            return np.arange(path[0][0] + start, path[0][0] + stop)
        parts = [np.empty(0, np.int64)]
        depth = 0
        for first, last in path:
            low, high = max(start - depth, 0), min(stop - depth, last - first)
            if low < high:
                parts.append(np.arange(first + low, first + high))
            depth += last - first
        return np.concatenate(parts)

    def runs(self) -> Iterator[Run]:
        """The tree cut into runs, in packed order: one per leaf."""
        first = 0
        for index in range(1, len(self.segments) + 1):
            if index < len(self.segments) and self.segments[index].parent == index - 1:
                continue
            segment = self.segments[first]
            prefix = () if segment.parent is None else self.paths[segment.parent]
            yield Run(segment.start, self.segments[index - 1].stop, prefix, segment.depth)
            first = index


def _paths(segments: Iterable[Segment]) -> tuple[tuple[Range, ...], ...]:
    paths: list[tuple[Range, ...]] = []
    for segment in segments:
        above = () if segment.parent is None else paths[segment.parent]
        if above and above[-1][1] == segment.start:
            paths.append((*above[:-1], (above[-1][0], segment.stop)))
        else:
            paths.append((*above, (segment.start, segment.stop)))
    return tuple(paths)


def build_tree(keys: Sequence[bytes], *, min_root_tokens: int = 1) -> PrefixTree:
    """Fold sequences, given by their `sort_key`, into a tree.

    Sorted, each sequence leaves the path of the one before it where the two begin to differ, so one
    pass with a stack builds the tree.

    Args:
        min_root_tokens: sequences that share less than this (the header of a chat template) stand
            side by side: attending to so short a prefix from outside costs more than computing it
            again.

    Raises:
        ValueError: a sequence has no token.
    """
    if not all(keys):
        raise ValueError("an empty sequence has no place in a prefix tree")
    roots: list[_Node] = []
    leaf_of: list[_Node | None] = [None] * len(keys)
    new_tokens = np.zeros(len(keys), np.int64)
    path: list[_Node] = []
    last = b""
    for index in sorted(range(len(keys)), key=keys.__getitem__):
        key = keys[index]
        if key != last:
            shared = shared_prefix(last, key)
            _leave_at(path, roots, shared if shared >= min_root_tokens else 0)
            node = _Node(key, path[-1].stop if path else 0, key_length(key))
            (path[-1].children if path else roots).append(node)
            path.append(node)
            new_tokens[index] = node.stop - node.start
            last = key
        leaf_of[index] = path[-1]
    return _packed(roots, leaf_of, new_tokens, input_tokens=sum(map(key_length, keys)))


@dataclass(slots=True, eq=False)
class _Node:
    """A segment while the tree is being built: tokens `start:stop` of `key`."""

    key: bytes
    start: int
    stop: int
    children: list["_Node"] = field(default_factory=list)
    reach: int = 0
    """Depth of the deepest leaf below."""
    index: int = 0
    """Place among the packed segments."""


def _leave_at(path: list[_Node], roots: list[_Node], depth: int) -> None:
    """Cut the path back to this depth, splitting the node that the cut goes through."""
    while path and path[-1].start >= depth:
        path.pop()
    if path and path[-1].stop > depth:
        # The lower half stays the same object: sequences that end there still do.
        lower = path.pop()
        upper = _Node(lower.key, lower.start, depth, [lower])
        lower.start = depth
        siblings = path[-1].children if path else roots
        siblings[-1] = upper
        path.append(upper)


def _packed(
    roots: list[_Node],
    leaf_of: Sequence[_Node | None],
    new_tokens: Integers,
    *,
    input_tokens: int,
) -> PrefixTree:
    _measure_reach(roots)
    segments: list[Segment] = []
    ids: list[NDArray[np.uint32]] = []
    depths: list[Integers] = []
    packed = 0
    stack: list[tuple[_Node, int | None]] = [(root, None) for root in reversed(roots)]
    while stack:
        node, parent = stack.pop()
        length = node.stop - node.start
        node.index = len(segments)
        segments.append(Segment(packed, packed + length, node.start, parent))
        ids.append(np.frombuffer(node.key, _TOKEN, length, node.start * _TOKEN.itemsize))
        depths.append(np.arange(node.start, node.stop))
        packed += length
        # The longest branch comes off the stack first, right behind its parent.
        stack += [
            (child, node.index) for child in sorted(node.children, key=lambda child: child.reach)
        ]
    none = np.empty(0, np.int64)
    return PrefixTree(
        token_ids=np.concatenate([none, *ids], dtype=np.int64),
        positions=np.concatenate([none, *depths]),
        leaves=tuple(leaf.index for leaf in leaf_of if leaf),
        new_tokens=new_tokens,
        segments=tuple(segments),
        paths=_paths(segments),
        input_tokens=input_tokens,
    )


def _measure_reach(roots: list[_Node]) -> None:
    order = [*roots]
    for node in order:
        order += node.children
    for node in reversed(order):
        node.reach = max([node.stop, *(child.reach for child in node.children)])
