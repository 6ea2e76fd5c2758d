"""What a reader must know who was not there: how the numbers are made, in plain words."""

from collections.abc import Mapping, Sequence

from reward_benchmark.datasets.prior import PRIOR
from reward_benchmark.datasets.rewardbench import REWARDBENCH
from reward_benchmark.datasets.rewardbench_2 import REWARDBENCH_2

HOW_TO_READ: Sequence[str] = (
    "A model wins a pair if it scores the chosen completion strictly above the rejected one; with "
    "several completions, if it scores every chosen one above every rejected one. A tie is a loss. "
    "Where a set says otherwise, it is written there. What could not be scored earns nothing.",
    "An interval says how far a number may be from the one that the model would have on endlessly "
    "many such pairs: of a hundred intervals of 95 %, about five miss it. Two models whose "
    "intervals overlap may still differ; the section on differences compares them pair by pair.",
    "Baselines are no models. Length prefers the longer completion; random guesses. What a model "
    "does not do better than they, it has not learnt from the text.",
)

EXPLANATIONS: Mapping[str, Sequence[str]] = {
    REWARDBENCH.name: (
        "Every section is the mean of its subsets, weighted by their numbers of pairs, only that "
        "the 447 pairs of math-prm weigh as much as the 984 of code. The overall number is the "
        "mean of the four sections.",
    ),
    PRIOR.name: (),
    REWARDBENCH_2.name: (
        "Outside Ties, a prompt has one chosen and three rejected completions, and a model that "
        "scores the chosen one highest earns 1; if k completions share the highest score and the "
        "chosen one is among them, it earns 1/k. A model that guesses earns 25 %.",
        "Ties asks for more: some of its prompts have several answers that are equally right, such "
        "as the colours of the rainbow. A model should score all of them above the wrong ones, "
        "and close to each other. Its number is 0.30 of the share of prompts with several right "
        "answers where all of them are above the wrong ones, 0.30 of the same share where only one "
        "answer is right, and 0.40 for right answers that lie closer to each other than to the "
        "wrong ones. That makes 1 already. RewardBench 2 then adds 0.01 of a term between -1 and 1 "
        "that tells apart models which are equal in everything else. So the best possible number "
        "is 1.01 and the worst -0.01, and one above 100 % is no mistake.",
    ),
}
"""Of the known sets, beside their remarks."""
