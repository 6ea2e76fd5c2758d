"""A run's lines, added up judge by judge."""

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_benchmark.datasets import PREFERENCES
from reward_benchmark.datasets.rewardbench_2 import REWARDBENCH_2
from reward_benchmark.judges.agreement import cohens_kappa, raw_agreement
from reward_benchmark.judges.judge import Price
from reward_benchmark.judges.summary import judges_summary
from reward_benchmark.outcome import Failure, Outcome

decisions = st.lists(st.tuples(st.sampled_from("abt"), st.sampled_from("abt")), max_size=40)


def kappa_of_matrix(pairs: list[tuple[str, str]]) -> float:
    """Cohen 1960, from the matrix of shares."""
    matrix = np.array([[pairs.count((one, other)) for other in "abt"] for one in "abt"])
    shares = matrix / matrix.sum()
    by_chance = float(shares.sum(axis=1) @ shares.sum(axis=0))
    return (float(np.trace(shares)) - by_chance) / (1 - by_chance)


@given(decisions)
def test_kappa_is_cohens(pairs: list[tuple[str, str]]):
    if len({decision for pair in pairs for decision in pair}) < 2:
        assert cohens_kappa(Counter(pairs)) is None
        return
    assert cohens_kappa(Counter(pairs)) == pytest.approx(kappa_of_matrix(pairs), abs=1e-12)


def test_kappa_of_a_known_table():
    # 50 proposals: both yes 20, both no 15, only one of them 5 and 10.
    table = {("yes", "yes"): 20, ("yes", "no"): 5, ("no", "yes"): 10, ("no", "no"): 15}
    assert raw_agreement(table) == 0.7
    assert cohens_kappa(table) == pytest.approx(0.4)
    assert raw_agreement({}) is None
    assert cohens_kappa({("yes", "yes"): 9}) is None


def compared(id_: int, picks: dict[str, list[int | None]], *, completions: int = 2) -> Outcome:
    """A group whose seeded order is its own, with what judges picked in it and in its reverse."""
    judges = []
    for judge, picked in picks.items():
        shown = [list(range(completions)), list(range(completions))[::-1]]
        verdicts = [
            "C" if pick is None else "ABCD"[order.index(pick)]
            for pick, order in zip(picked, shown, strict=False)
        ]
        tokens = list(range(10, 10 + len(picked)))
        judges.append(
            {
                "judge": judge,
                "verdicts": verdicts,
                "picks": picked,
                "texts": ["…"] * len(picked),
                "input_tokens": tokens,
                "output_tokens": [1] * len(picked),
            }
        )
    votes = [pick for picked in picks.values() for pick in picked]
    details: dict[str, Any] = {"way": "…", "order": list(range(completions)), "judges": judges}
    scores = tuple(float(votes.count(index)) for index in range(completions))
    return Outcome("s", id_, scores=scores, details=details)


def test_what_is_reported_of_a_judge():
    summary = judges_summary(
        [
            compared(1, {"j": [0, 0]}),
            compared(2, {"j": [0, 1]}),
            compared(3, {"j": [1, 1]}),
            compared(4, {"j": [None, 0]}),
            compared(5, {"j": [None, None]}),
            compared(6, {"j": [0, 3]}, completions=4),
            Outcome("s", 7, error=Failure("unparsable_verdict", "…")),
        ],
        {"j": Price(2.0, 1000.0)},
        PREFERENCES.worth,
    )
    [member] = summary["members"]
    assert member["accuracy"] == 2 / 6
    assert member["groups"] == 6
    assert member["ties"] == 3
    # Shown first is index 0 in one order, and the last index in the other.
    assert member["verdicts"] == {"A": 6, "B": 3, "tie": 3}
    assert member["order_agreement"] == 3 / 6
    assert member["first_position_rate"] == 6 / 9
    assert member["first_position_expected"] == pytest.approx((7 * 0.5 + 2 * 0.25) / 9)
    assert member["ratings"] == {}
    assert member["answers"] == 12
    assert (member["input_tokens"], member["output_tokens"]) == (126, 12)
    assert member["cost"] == pytest.approx(126 * 2 / 1e6 + 12 / 1000)
    assert summary["cost"] == member["cost"]
    assert summary["agreement"] == []
    low, high = member["ci95"]
    assert low < 2 / 6 < high


def test_a_judge_who_always_takes_the_first_is_seen():
    outcomes = [compared(i, {"j": [0, 1]}) for i in range(20)]
    [member] = judges_summary(outcomes, {"j": None}, PREFERENCES.worth)["members"]
    assert member["first_position_rate"] == 1
    assert member["first_position_expected"] == 0.5
    assert member["order_agreement"] == 0
    assert member["accuracy"] == 0
    assert member["ties"] == 20
    assert member["cost"] is None


def test_a_judge_earns_what_its_set_gives_for_shared_picks():
    outcomes = [
        compared(1, {"j": [0, 0]}, completions=4),
        compared(2, {"j": [0, 3]}, completions=4),
        compared(3, {"j": [2, 3]}, completions=4),
    ]
    [member] = judges_summary(outcomes, {"j": None}, REWARDBENCH_2.worth)["members"]
    assert member["accuracy"] == (1 + 1 / 2 + 0) / 3
    assert member["ties"] == 1


def test_ratings_are_decisions_too():
    def rated(id_: int, one: list[float], other: list[float]) -> Outcome:
        judges = [
            {"judge": judge, "ratings": ratings, "input_tokens": [1], "output_tokens": [None]}
            for judge, ratings in {"one": one, "other": other}.items()
        ]
        details = {"way": "rating", "order": [1, 0], "judges": judges}
        return Outcome("s", id_, scores=(0.0, 0.0), details=details)

    summary = judges_summary(
        [rated(1, [9, 3], [8.5, 8]), rated(2, [5, 5], [5, 4]), rated(3, [2, 7], [1, 10])],
        {"one": Price(1e6, 0.0), "other": Price(2e6, 0.0)},
        PREFERENCES.worth,
    )
    one, other = summary["members"]
    assert (one["accuracy"], other["accuracy"]) == (1 / 3, 2 / 3)
    assert (one["ties"], other["ties"]) == (1, 0)
    assert one["ratings"] == {"2": 1, "3": 1, "5": 2, "7": 1, "9": 1}
    assert other["ratings"]["8.5"] == 1
    assert one["order_agreement"] is None
    assert one["first_position_rate"] is None
    assert one["answers_without_token_counts"] == 3
    assert summary["agreement"][0]["raw"] == 2 / 3
    assert summary["cost"] == 9


def test_agreement_does_not_come_from_being_right():
    # Both are right in 80 % of cases, independently: no better than chance, had they to guess
    # which of the two texts, in whatever order, is the chosen one.
    random_ = random.Random(0)
    outcomes = []
    for id_ in range(2000):
        chosen_first = random_.random() < 0.5
        picks: dict[str, list[int | None]] = {
            judge: [int(random_.random() < 0.2)] * 2 for judge in ("one", "other", "third")
        }
        outcome = compared(id_, picks)
        assert outcome.details is not None
        order = [0, 1] if chosen_first else [1, 0]
        outcomes.append(
            Outcome("s", id_, scores=outcome.scores, details={**outcome.details, "order": order})
        )
    agreement = judges_summary(
        outcomes, dict.fromkeys(("one", "other", "third")), PREFERENCES.worth
    )["agreement"]
    assert [pair["judges"] for pair in agreement] == [
        ["one", "other"],
        ["one", "third"],
        ["other", "third"],
    ]
    for pair in agreement:
        assert pair["groups"] == 2000
        assert pair["raw"] == pytest.approx(0.68, abs=0.04)
        # With categories that are equally frequent, chance agrees in half of all cases.
        assert pair["kappa"] == pytest.approx((0.68 - 0.5) / 0.5, abs=0.08)


def test_groups_without_preference_have_no_accuracy():
    outcome = compared(1, {"j": [1, 1]})
    unknown = Outcome("s", 1, 0, scores=outcome.scores, details=outcome.details)
    [member] = judges_summary([unknown], {"j": None}, PREFERENCES.worth)["members"]
    assert member["accuracy"] is None
    assert member["ci95"] is None
    assert member["verdicts"] == {"A": 1, "B": 1}


def test_a_run_without_any_scores_has_a_summary():
    summary = judges_summary(
        [Outcome("s", 1, error=Failure("refused", "…"))], {"j": Price(1, 1)}, PREFERENCES.worth
    )
    assert summary["members"][0]["accuracy"] is None
    assert summary["cost"] == 0
