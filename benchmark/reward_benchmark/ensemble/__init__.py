"""Several saved runs as one scorer: their scores, combined for every completion.

The arithmetic is RewardBench's (`run_ensemble_offline`): each member's scores become z-scores over
all completions that it scored, unless they are to be combined as they are, and a completion's score
is their mean, their smallest, or their mean minus their standard deviation (Coste et al., arXiv
2310.02743, subtract the variance). Groups are told apart by subset and id, and one of which any
member has no scores is an error, as it is of a single model.
"""

from reward_benchmark.ensemble.evaluation import SWEEP_FILE, ensemble
from reward_benchmark.ensemble.members import combined

__all__ = ["SWEEP_FILE", "combined", "ensemble"]
