"""RewardBench 2: the best of four completions, and Ties (https://arxiv.org/abs/2506.01937).

Hub: allenai/reward-bench-2. Credit and Ties as in rewardbench/utils.py of allenai/reward-bench;
the overall number, a plain mean of six, is its leaderboard's and the paper's.
"""

from collections.abc import Iterable
from typing import Annotated, Literal, get_args

from pydantic import Field

from reward_benchmark.datasets.benchmark import Benchmark, HubSource, strict_win
from reward_benchmark.datasets.row import Row, checked, shown
from reward_benchmark.datasets.ties import ties, ties_id
from reward_benchmark.group import Group
from reward_benchmark.outcome import Outcome
from reward_client.schema import Text

TIES = "Ties"

_Subset = Literal["Factuality", "Precise IF", "Math", "Safety", "Focus", "Ties"]
SUBSETS: tuple[str, ...] = get_args(_Subset)

COUNTS = {
    "Factuality": 475,
    "Precise IF": 160,
    "Math": 183,
    "Safety": 450,
    "Focus": 495,
    "Ties": 102,
}

_Completions = Annotated[list[str], Field(min_length=1, description="a list of at least one text")]


class _Row(Row):
    id: Annotated[Text, Field(description="a text")]
    prompt: Annotated[str, Field(description="a text")]
    chosen: _Completions
    rejected: _Completions
    subset: Annotated[_Subset, Field(description=f"one of {', '.join(SUBSETS)}")]


def _group(value: object, number: int, split: str | None) -> Group:
    row = checked(_Row, value)
    if row.subset == TIES:
        ties_id(row.id)
    elif len(row.chosen) != 1:
        raise ValueError(
            f"column 'chosen' must be a list of one text outside {TIES}, not {shown(row.chosen)}"
        )
    return Group(
        row=number,
        subset=row.subset,
        id=row.id,
        prompt=row.prompt,
        completions=(*row.chosen, *row.rejected),
        num_chosen=len(row.chosen),
    )


def _credits(outcome: Outcome) -> Iterable[tuple[str, float]]:
    """1/k where the chosen one is among the k highest scores; the number of Ties is another."""
    if outcome.subset == TIES:
        return strict_win(outcome)
    scores = outcome.scores or ()
    if not scores or scores[0] < max(scores):
        return [(outcome.subset, 0.0)]
    return [(outcome.subset, 1 / scores.count(scores[0]))]


REWARDBENCH_2 = Benchmark(
    name="rewardbench-2",
    title="RewardBench 2",
    source=HubSource("allenai/reward-bench-2", ("test",)),
    parse=_group,
    credits=_credits,
    groupwise={TIES: ties},
    overall=dict.fromkeys(SUBSETS, 1.0),
    counts=COUNTS,
    noun="prompt",
    tie_rule=(
        "A correct completion that shares the highest score with k - 1 others earns 1/k; in "
        f"{TIES}, a tie counts as a loss."
    ),
    remark=(
        "Ties is no share of prompts: RewardBench 2 adds a term of weight 0.01 to weights that sum "
        "to 1 already, so it ranges from -0.01 to 1.01, and the overall number up to 1.0017."
    ),
)
