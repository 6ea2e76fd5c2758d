"""RM-Bench: right and wrong answers in three styles each (https://arxiv.org/abs/2410.16184).

Hub: THU-KEG/RM-Bench, or `total_dataset.json` of the repository of that name. Both sides come
concise, detailed, and detailed with Markdown, which makes nine comparisons: easy where the chosen
one has the richer style, normal where both have the same, hard where it has the poorer. A level of
a domain is the share of its comparisons that are won, the domains weigh alike, and the overall
number is the mean of the domains (README.md and scripts/utils.py, `compute_accuracy`).
"""

from collections.abc import Iterable
from itertools import product
from typing import Annotated, Literal, get_args

from pydantic import Field

from reward_benchmark.datasets.benchmark import Benchmark, HubSource
from reward_benchmark.datasets.row import Row, checked
from reward_benchmark.group import Group
from reward_benchmark.outcome import Outcome
from reward_client.schema import Text

STYLES = 3

DOMAINS = ("chat", "code", "math", "safety")
LEVELS = ("easy", "normal", "hard")

_Domain = Literal["chat", "code", "math", "safety-refuse", "safety-response"]

_Completions = Annotated[
    list[str],
    Field(
        min_length=STYLES,
        max_length=STYLES,
        description="a list of three texts: concise, detailed, and detailed with Markdown",
    ),
]


class _Row(Row):
    id: Annotated[int | Text, Field(description="an integer or a text")]
    prompt: Annotated[str, Field(description="a text")]
    chosen: _Completions
    rejected: _Completions
    domain: Annotated[_Domain, Field(description=f"one of {', '.join(get_args(_Domain))}")]


def _group(value: object, number: int, split: str | None) -> Group:
    row = checked(_Row, value)
    return Group(
        row=number,
        subset=row.domain,
        id=row.id,
        prompt=row.prompt,
        completions=(*row.chosen, *row.rejected),
        num_chosen=STYLES,
    )


def _credits(outcome: Outcome) -> Iterable[tuple[str, float]]:
    """The share of comparisons won, in the whole domain and in each of its levels."""
    domain = outcome.subset.partition("-")[0]
    wins = dict.fromkeys(LEVELS, 0)
    styles = product(enumerate(outcome.chosen_scores), enumerate(outcome.rejected_scores))
    for (chosen_style, chosen), (rejected_style, rejected) in styles:
        level = 1 + (rejected_style > chosen_style) - (rejected_style < chosen_style)
        wins[LEVELS[level]] += chosen > rejected
    # The levels have equally many comparisons: their mean is the share of all.
    yield domain, sum(wins.values()) / STYLES**2
    for level_name, count in wins.items():
        yield f"{domain}/{level_name}", count / STYLES


RM_BENCH = Benchmark(
    name="rm-bench",
    title="RM-Bench",
    source=HubSource("THU-KEG/RM-Bench", ("train",)),
    parse=_group,
    credits=_credits,
    sections={
        # Of the domain's own number, not of its levels, which are not independent of each other.
        **{domain: {domain: 1.0} for domain in DOMAINS},
        **{level: {f"{domain}/{level}": 1.0 for domain in DOMAINS} for level in LEVELS},
    },
    overall=dict.fromkeys(DOMAINS, 1.0),
    row_subsets=get_args(_Domain),
    noun="prompt",
    tie_rule=(
        "In a tie, the lowest right answer scores like the highest wrong one: of the nine "
        "comparisons, those with equal scores are lost."
    ),
    remark=(
        "Each prompt is nine comparisons of a right with a wrong answer: hard ones, where the "
        "wrong answer has the richer style, easy ones, where the right one has, and normal ones."
    ),
)
