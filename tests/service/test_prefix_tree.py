"""The tree against the obvious: the set of all prefixes."""

import random
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reward_service.prefix_tree import (
    DistinctTokens,
    PrefixTree,
    build_tree,
    key_length,
    shared_prefix,
    sort_key,
)

Sequences = list[list[int]]

LARGEST_TOKEN = 2**32 - 1


def _grown(draw: st.DrawFn, tokens: st.SearchStrategy[int]) -> Sequences:
    """Each sequence continues a prefix of an earlier one: forks, duplicates, prefixes."""
    sequences: Sequences = []
    for _ in range(draw(st.integers(1, 12))):
        base = draw(st.sampled_from(sequences)) if sequences else []
        kept = base[: draw(st.integers(0, len(base)))]
        new = draw(st.lists(tokens, min_size=0 if kept else 1, max_size=6))
        sequences.append(kept + new)
    return draw(st.permutations(sequences))


FEW_TOKENS = st.integers(0, 2)
# Ids whose order differs between big-endian and little-endian bytes, and at the sign bit.
TRAPS = st.sampled_from([0, 1, 255, 256, 257, 65_535, 65_536, 2**31 - 1, 2**31, LARGEST_TOKEN])
FORESTS = st.one_of(
    st.composite(_grown)(FEW_TOKENS),
    st.composite(_grown)(TRAPS),
    st.lists(st.lists(FEW_TOKENS, min_size=1, max_size=6), max_size=20),
)


def _tree(sequences: Sequence[Sequence[int]], *, min_root_tokens: int = 1) -> PrefixTree:
    return build_tree([sort_key(one) for one in sequences], min_root_tokens=min_root_tokens)


def _prefixes(sequences: Sequences) -> set[tuple[int, ...]]:
    return {tuple(one[:stop]) for one in sequences for stop in range(1, len(one) + 1)}


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(map(len, (a, b)))
    )


def _ends(tree: PrefixTree) -> list[int]:
    """Packed index of each sequence's last token."""
    return [tree.segments[leaf].stop - 1 for leaf in tree.leaves]


def _path(tree: PrefixTree, row: int) -> list[int]:
    """Rows from the root to this one, by the segments alone."""
    index = next(i for i, one in enumerate(tree.segments) if one.start <= row < one.stop)
    rows = [*range(tree.segments[index].start, row + 1)]
    while (parent := tree.segments[index].parent) is not None:
        index = parent
        rows = [*range(tree.segments[index].start, tree.segments[index].stop), *rows]
    return rows


def _check_shape(tree: PrefixTree, sequences: Sequences) -> None:
    """What holds of every tree, however much of it is shared."""
    assert len(tree) == len(tree.token_ids) == len(tree.positions)
    assert tree.input_tokens == sum(map(len, sequences))
    assert len(_ends(tree)) == len(tree.new_tokens) == len(sequences)
    assert tree.new_tokens.sum() == len(tree)
    assert all(new >= 0 for new in tree.new_tokens)
    for end, sequence in zip(_ends(tree), sequences, strict=True):
        path = _path(tree, end)
        assert tree.token_ids[path].tolist() == sequence
        assert tree.positions[path].tolist() == [*range(len(sequence))]
    stop = 0
    for index, segment in enumerate(tree.segments):
        assert segment.start == stop < segment.stop
        stop = segment.stop
        if segment.parent is None:
            assert segment.depth == 0
        else:
            parent = tree.segments[segment.parent]
            assert segment.parent < index
            assert segment.depth == parent.depth + parent.stop - parent.start
    assert stop == len(tree)


@given(FORESTS)
def test_every_distinct_prefix_has_one_token_in_the_tree(sequences: Sequences) -> None:
    tree = _tree(sequences)
    _check_shape(tree, sequences)
    in_tree = [tuple(tree.token_ids[_path(tree, row)].tolist()) for row in range(len(tree))]
    assert len(in_tree) == len(set(in_tree))
    assert set(in_tree) == _prefixes(sequences)


@given(FORESTS)
def test_runs_partition_the_tokens_and_with_their_prefix_are_whole_paths(
    sequences: Sequences,
) -> None:
    tree = _tree(sequences)
    runs = [*tree.runs()]
    assert [row for run in runs for row in range(run.start, run.stop)] == [*range(len(tree))]
    for run in runs:
        assert len(run) == run.stop - run.start > 0
        above = [row for start, stop in run.prefix for row in range(start, stop)]
        assert len(above) == run.prefix_tokens == tree.positions[run.start]
        for row in range(run.start, run.stop):
            assert [*above, *range(run.start, row + 1)] == _path(tree, row)
        assert all(a[1] < b[0] for a, b in pairwise(run.prefix))
    leaves = set(range(len(tree.segments)))
    leaves -= {one.parent for one in tree.segments if one.parent is not None}
    assert [run.stop for run in runs] == [tree.segments[index].stop for index in sorted(leaves)]


@given(FORESTS)
def test_the_longest_way_down_is_packed_right_behind_its_parent(sequences: Sequences) -> None:
    tree = _tree(sequences)
    reach = [one.depth + one.stop - one.start for one in tree.segments]
    for index in reversed(range(len(tree.segments))):
        parent = tree.segments[index].parent
        if parent is not None:
            reach[parent] = max(reach[parent], reach[index])
    for index, segment in enumerate(tree.segments):
        children = [i for i, one in enumerate(tree.segments) if one.parent == index]
        if children:
            assert children[0] == index + 1
            assert tree.segments[children[0]].start == segment.stop
            assert reach[children[0]] == reach[index]


@given(FORESTS, st.integers(1, 8))
@example([[1], [1], [1, 2], [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 5]], 3)
def test_headers_that_are_too_short_are_not_shared(sequences: Sequences, least: int) -> None:
    tree = _tree(sequences, min_root_tokens=least)
    _check_shape(tree, sequences)
    roots = [_path(tree, end)[0] for end in _ends(tree)]
    for i, one in enumerate(sequences):
        for j, other in enumerate(sequences[:i]):
            is_shared = one == other or _shared(one, other) >= least
            assert (roots[i] == roots[j]) is is_shared
            if is_shared:
                rows = zip(_path(tree, _ends(tree)[i]), _path(tree, _ends(tree)[j]), strict=False)
                common = sum(a == b for a, b in rows)
                assert common == _shared(one, other)
    forks = [i for i, one in enumerate(tree.segments) if one.parent is None]
    for index in forks:
        children = [one for one in tree.segments if one.parent == index]
        assert all(child.depth >= least for child in children)


@given(FORESTS, st.randoms(use_true_random=False))
def test_counting_distinct_tokens_equals_building_the_tree_in_any_order(
    sequences: Sequences, rng: random.Random
) -> None:
    counted = DistinctTokens()
    order = rng.sample(sequences, len(sequences))
    done = 0
    while done < len(order):
        some = order[done : done + rng.randint(1, 3)]
        done += len(some)
        before = counted.count
        added = counted.add(sort_key(one) for one in some)
        assert counted.count == before + added == len(_prefixes(order[:done]))
    assert counted.count == len(_tree(sequences))
    assert counted.add(sort_key(one) for one in sequences) == 0


@given(st.lists(st.lists(TRAPS, max_size=4), max_size=12))
def test_keys_sort_like_the_tokens_they_stand_for(sequences: Sequences) -> None:
    assert sorted(sequences, key=sort_key) == sorted(sequences)
    for one in sequences:
        assert key_length(sort_key(one)) == len(one)
        for other in sequences:
            assert shared_prefix(sort_key(one), sort_key(other)) == _shared(one, other)


def test_largest_token_ids_come_back_unchanged() -> None:
    sequences = [[LARGEST_TOKEN, 0], [LARGEST_TOKEN, LARGEST_TOKEN], [2**31, 256], [2**31, 1]]
    tree = _tree(sequences)
    _check_shape(tree, sequences)
    assert len(tree) == 6
    assert tree.token_ids.dtype == np.int64


@pytest.mark.parametrize(
    ("sequences", "tokens", "segments"),
    [
        pytest.param([], 0, 0, id="no sequences"),
        pytest.param([[7]], 1, 1, id="one token"),
        pytest.param([[7], [7], [7]], 1, 1, id="one token three times"),
        pytest.param([[1, 2, 3]] * 5, 3, 1, id="duplicates"),
        pytest.param([[1], [1, 2], [1, 2, 3]], 3, 3, id="prefixes of each other"),
        pytest.param([[1, 2, 3], [1, 2], [1]], 3, 3, id="prefixes, longest first"),
        pytest.param([[1, 2], [3, 4], [5, 6]], 6, 3, id="nothing shared"),
        pytest.param([[1, 2, 3], [1, 2, 4], [1, 5]], 5, 5, id="nested forks"),
    ],
)
def test_small_trees_have_the_size_one_counts_by_hand(
    sequences: Sequences, tokens: int, segments: int
) -> None:
    tree = _tree(sequences)
    _check_shape(tree, sequences)
    assert len(tree) == tokens
    assert len(tree.segments) == segments
    assert len([*tree.runs()]) == segments - len(
        {one.parent for one in tree.segments if one.parent is not None}
    )


@pytest.mark.parametrize("sequences", [[[]], [[1], []], [[], [1, 2]]])
def test_an_empty_sequence_has_no_place(sequences: Sequences) -> None:
    with pytest.raises(ValueError, match="empty sequence"):
        _tree(sequences)


def test_the_first_sequence_in_sorted_order_brings_the_shared_tokens() -> None:
    tree = _tree([[1, 2, 9], [1, 2, 3, 4], [1, 2], [1, 2]])
    # [1, 2] comes first and brings two tokens; its twin brings none.
    assert tree.new_tokens.tolist() == [1, 2, 2, 0]


def test_thousands_of_nested_prefixes_need_no_deep_recursion() -> None:
    depth = 3_000
    spine = [i % 7 for i in range(depth)]
    nested = [spine[:stop] for stop in range(1, depth + 1)]
    side = [[*spine[:stop], 100 + stop] for stop in range(0, depth, 3)]
    tree = _tree(nested + side)
    assert len(tree) == depth + len(side)
    assert tree.token_ids[_ends(tree)].tolist() == [one[-1] for one in nested + side]
    assert tree.positions[_ends(tree)].tolist() == [len(one) - 1 for one in nested + side]
    runs = [*tree.runs()]
    assert len(runs) == 1 + len(side)
    assert sum(map(len, runs)) == len(tree)


def test_4096_sequences_of_1000_tokens_become_one_tree() -> None:
    generator = np.random.default_rng(0)
    prompts = generator.integers(0, 128_000, (256, 600))
    answers = generator.integers(0, 128_000, (4_096, 400))
    prompts[:, 0], answers[:, 0] = range(256), range(4_096)
    keys = [
        sort_key(np.concatenate([prompts[index % 256], answer]))  # type: ignore[arg-type]
        for index, answer in enumerate(answers)
    ]
    tree = build_tree(keys)
    assert len(tree) == 256 * 600 + 4_096 * 400
    assert tree.input_tokens == 4_096 * 1_000
    assert tree.token_ids[_ends(tree)].tolist() == answers[:, -1].tolist()
    assert len([*tree.runs()]) == 4_096
