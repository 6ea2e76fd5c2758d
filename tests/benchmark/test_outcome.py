"""Outcomes and their lines."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_benchmark.outcome import Failure, Outcome, outcome_from_line

finite = st.floats(allow_nan=False, allow_infinity=False)
counts = st.tuples(st.integers(0), st.integers(0))
keys = st.integers(-(2**63), 2**63 - 1) | st.text()
outcomes = st.builds(
    Outcome, st.text(), keys, st.tuples(finite, finite), st.none() | counts, st.none() | counts
) | st.builds(Outcome, st.text(), keys, error=st.builds(Failure, st.text(), st.text()))


@given(outcomes)
def test_a_line_holds_the_outcome_exactly(outcome: Outcome):
    line = outcome.line()
    assert line.isascii()
    assert line.index(b"\n") == len(line) - 1
    assert outcome_from_line(line) == outcome


def test_a_line_of_a_scored_pair():
    line = Outcome("s", 1, (2.5, 2.5), (3, 4)).line()
    assert line == (
        b'{"subset": "s", "id": 1, "scores": [2.5, 2.5], "num_tokens": [3, 4], '
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
    assert Outcome("s", 1, (1.0, 0.0)).win
    assert not Outcome("s", 1, (0.0, 1.0)).win
    assert not Outcome("s", 1, (1.0, 1.0)).win
    assert not Outcome("s", 1, (0.0, 1.0)).tie


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b'{"subset": "s", "id": 1}', b'{"subset": "s", "id": 1, "scores": [1.0]}', b"\0"],
)
def test_what_is_no_outcome_is_refused(line: bytes):
    with pytest.raises(ValueError, match=r"neither|validation error"):
        outcome_from_line(line)


def test_a_number_that_json_lacks_is_never_written():
    with pytest.raises(ValueError, match="not JSON compliant"):
        Outcome("s", 1, (float("nan"), 1.0)).line()
