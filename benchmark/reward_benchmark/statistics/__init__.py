"""Pure functions from counts and arrays to numbers that can be reported; none reads a file."""

from reward_benchmark.statistics.comparison import Discordant, holm, mcnemar, stratified_mcnemar
from reward_benchmark.statistics.differences import (
    paired_difference,
    tango,
    weighted_difference,
)
from reward_benchmark.statistics.intervals import (
    Estimate,
    Interval,
    accuracy,
    bootstrap_mean,
    shares_of,
    weighted_mean,
    wilson,
)
from reward_benchmark.statistics.lengths import LengthReport, correlation, length_report
from reward_benchmark.statistics.margins import (
    MarginReport,
    calibration,
    histogram,
    margin_report,
)
from reward_benchmark.statistics.observations import Observations

__all__ = [
    "Discordant",
    "Estimate",
    "Interval",
    "LengthReport",
    "MarginReport",
    "Observations",
    "accuracy",
    "bootstrap_mean",
    "calibration",
    "correlation",
    "histogram",
    "holm",
    "length_report",
    "margin_report",
    "mcnemar",
    "paired_difference",
    "shares_of",
    "stratified_mcnemar",
    "tango",
    "weighted_difference",
    "weighted_mean",
    "wilson",
]
