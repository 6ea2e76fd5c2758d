"""A leaderboard: one row a model, from the results of its runs and from published files.

What a row is made of is decided here alone: the columns of each set, and the score of RewardBench's
leaderboard, (2 Chat + 2 Chat Hard + 2 Safety + 2 Reasoning + Prior) / 9, or without the prior sets
the mean of the four (`get_average_over_rewardbench` of analysis/get_benchmark_results.py in
allenai/reward-bench).
"""

from reward_benchmark.leaderboard.board import Leaderboard
from reward_benchmark.leaderboard.columns import REWARDBENCH_2_COLUMN, own_column
from reward_benchmark.leaderboard.row import BASELINES, Row, gaps, leaderboard_row
from reward_benchmark.leaderboard.search import ROW_FILE, find_rows

__all__ = [
    "BASELINES",
    "REWARDBENCH_2_COLUMN",
    "ROW_FILE",
    "Leaderboard",
    "Row",
    "find_rows",
    "gaps",
    "leaderboard_row",
    "own_column",
]
