"""Best of n: the candidates of every prompt in order, and what the best of n of them is worth."""

from reward_benchmark.best_of_n.pictures import (
    GOLD_CURVES,
    SCORE_CURVES,
    gold_figure,
    scores_figure,
    shown,
)
from reward_benchmark.best_of_n.rankings import (
    GAIN,
    LONGEST,
    ORACLE,
    PICK,
    RANDOM,
    REGRET,
    Ranking,
    Tally,
)
from reward_benchmark.best_of_n.scoring import best_of_n

__all__ = [
    "GAIN",
    "GOLD_CURVES",
    "LONGEST",
    "ORACLE",
    "PICK",
    "RANDOM",
    "REGRET",
    "SCORE_CURVES",
    "Ranking",
    "Tally",
    "best_of_n",
    "gold_figure",
    "scores_figure",
    "shown",
]
