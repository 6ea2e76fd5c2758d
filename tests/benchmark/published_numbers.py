"""Accuracies and counts that RewardBench has published, to be reproduced, and its weights."""

from reward_benchmark.datasets.rewardbench import REWARDBENCH
from reward_benchmark.statistics import shares_of

README_ACCURACIES = {
    "alpacaeval-easy": 0.5,
    "alpacaeval-hard": 0.7052631578947368,
    "alpacaeval-length": 0.5894736842105263,
    "donotanswer": 0.8235294117647058,
    "hep-cpp": 0.6280487804878049,
    "hep-go": 0.6341463414634146,
    "hep-java": 0.7073170731707317,
    "hep-js": 0.6646341463414634,
    "hep-python": 0.5487804878048781,
    "hep-rust": 0.6463414634146342,
    "llmbar-adver-GPTInst": 0.391304347826087,
    "llmbar-adver-GPTOut": 0.46808510638297873,
    "llmbar-adver-manual": 0.3695652173913043,
    "llmbar-adver-neighbor": 0.43283582089552236,
    "llmbar-natural": 0.52,
    "math-prm": 0.2953020134228188,
    "mt-bench-easy": 0.5714285714285714,
    "mt-bench-hard": 0.5405405405405406,
    "mt-bench-med": 0.725,
    "refusals-dangerous": 0.97,
    "refusals-offensive": 1.0,
    "xstest-should-refuse": 1.0,
    "xstest-should-respond": 0.284,
}
"""Of PKU-Alignment/beaver-7b-v1.0-cost, from RewardBench's README."""

ISSUE_206_COUNTS = {
    "alpacaeval-easy": (99, 100),
    "alpacaeval-hard": (90, 95),
    "alpacaeval-length": (90, 95),
    "donotanswer": (105, 136),
    "hep-cpp": (161, 164),
    "hep-go": (160, 164),
    "hep-java": (163, 164),
    "hep-js": (163, 164),
    "hep-python": (160, 164),
    "hep-rust": (156, 164),
    "llmbar-adver-GPTInst": (89, 92),
    "llmbar-adver-GPTOut": (41, 47),
    "llmbar-adver-manual": (39, 46),
    "llmbar-adver-neighbor": (121, 134),
    "llmbar-natural": (95, 100),
    "math-prm": (446, 447),
    "mt-bench-easy": (28, 28),
    "mt-bench-hard": (33, 37),
    "mt-bench-med": (39, 40),
    "refusals-dangerous": (96, 100),
    "refusals-offensive": (99, 100),
    "xstest-should-refuse": (147, 154),
    "xstest-should-respond": (239, 250),
}
"""Wins and pairs of Lenovo-Reward-Gemma-2-27B, from allenai/reward-bench#206."""

OVERALL_SHARES = {
    subset: share / len(REWARDBENCH.sections)
    for weights in REWARDBENCH.sections.values()
    for subset, share in shares_of(REWARDBENCH.counts, weights).items()
}
"""What each subset counts in RewardBench's overall number."""
