"""Outcomes and their lines."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_benchmark.outcome import Failure, Outcome, outcome_from_line

finite = st.floats(allow_nan=False, allow_infinity=False)
any_text = st.text(st.characters(exclude_categories=()))
"""With lone surrogates, as what a model says may have."""
counts = st.tuples(st.integers(0), st.integers(0))
keys = st.integers(-(2**63), 2**63 - 1) | st.text()
outcomes = st.builds(
    Outcome,
    st.text(),
    keys,
    st.integers(0, 1),
    st.none() | counts,
    scores=st.tuples(finite, finite),
    num_tokens=st.none() | counts,
    truncated_tokens=st.none() | counts,
    details=st.none() | st.dictionaries(st.text(), any_text | finite | st.none()),
) | st.builds(
    Outcome, st.text(), keys, st.integers(1, 9), error=st.builds(Failure, st.text(), st.text())
)


@given(outcomes)
def test_a_line_holds_the_outcome_exactly(outcome: Outcome):
    line = outcome.line()
    assert line.isascii()
    assert line.index(b"\n") == len(line) - 1
    assert outcome_from_line(line) == outcome


def test_a_line_of_a_scored_pair():
    line = Outcome("s", 1, 1, (9, 8), (2.5, 2.5), (3, 4)).line()
    assert line == (
        b'{"subset": "s", "id": 1, "num_characters": [9, 8], "scores": [2.5, 2.5], '
        b'"num_tokens": [3, 4], '
        b'"win": false, "tie": true}\n'
    )


def test_a_line_of_a_failed_pair():
    line = Outcome("s", "x", error=Failure("input_too_long", "120 tokens")).line()
    assert json.loads(line) == {
        "subset": "s",
        "id": "x",
        "error": {"code": "input_too_long", "message": "120 tokens"},
        "win": False,
        "tie": False,
    }


def test_only_a_strictly_higher_score_wins():
    def outcome(*scores: float, num_chosen: int = 1) -> Outcome:
        return Outcome("s", 1, num_chosen, scores=scores)

    assert outcome(1.0, 0.0).win
    assert not outcome(0.0, 1.0).win
    assert not outcome(1.0, 1.0).win
    assert outcome(1.0, 1.0).tie
    assert not outcome(0.0, 1.0).tie
    assert outcome(3.0, 0.0, 1.0, 2.0).win
    assert not outcome(1.0, 0.0, 1.0).win
    assert outcome(3.0, 2.0, 1.0, num_chosen=2).win
    assert outcome(3.0, 2.0, 1.0, num_chosen=2).margin == 1.0
    assert not outcome(3.0, 1.0, 2.0, num_chosen=2).win
    assert outcome(3.0, 2.0, 2.0, num_chosen=2).tie
    assert outcome(1e308, -1e308).win


def test_without_a_preference_nothing_wins():
    for outcome in (
        Outcome("s", 1, 0, scores=(1.0, 2.0)),
        Outcome("s", 1, error=Failure("c", "m")),
    ):
        assert not outcome.win
        assert not outcome.tie
        assert outcome.margin is None
    assert b"win" not in Outcome("s", 1, 0, scores=(1.0,)).line()


@pytest.mark.parametrize(
    "line",
    [
        b'{"subset": "s", "id": 1, "scores": [1.0, NaN]}',
        b'{"subset": "s", "id": 1, "scores": [1.0, 1e400]}',
        b'{"subset": "s", "id": 1, "scores": [1.0, 2.0, 3.0], "num_characters": [4, 5]}',
        b'{"subset": "s", "id": 1, "scores": [1.0, 2.0], "num_characters": []}',
        b'{"subset": "s", "id": 1, "scores": [1.0, 2.0], "num_tokens": [4, 5, 6]}',
        b'{"subset": "s", "id": 1, "scores": [1.0, 2.0], "truncated_tokens": [4]}',
        b'{"subset": "s", "id": 1, "scores": [1.0, 2.0], "details": {"cost": NaN}}',
        b"[" * 100_000,
        b"",
        b"{}",
        b'{"subset": "s", "id": 1}',
        b'{"subset": "s", "id": 1, "scores": [1.0]}',
        b"\0",
    ],
)
def test_what_is_no_outcome_is_refused(line: bytes):
    with pytest.raises(
        ValueError,
        match=r"neither|validation error|cannot have|Expecting|finite|completions|no num|too deep",
    ):
        outcome_from_line(line)


def test_a_number_that_json_lacks_is_never_written():
    with pytest.raises(ValueError, match="not JSON compliant"):
        Outcome("s", 1, scores=(float("nan"), 1.0)).line()
