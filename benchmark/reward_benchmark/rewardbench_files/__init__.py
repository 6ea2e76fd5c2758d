"""RewardBench's own files, as its scripts write them and its leaderboards keep them.

`eval-set/<model>.json` (`pref-sets/` for the prior sets) has an accuracy for each subset, and
`eval-set-scores/<model>.json` columns with an entry for each row: `scores_chosen` and
`scores_rejected` of pairs, or `scores` and `num_correct` of RewardBench 2. Those of a DPO model
without its reference are `<model>_ref_free.json`. Sources: scripts/run_rm, run_dpo, run_v2,
run_generative and run_generative_v2, and `save_to_hub` of rewardbench/utils.py, in
allenai/reward-bench.
"""

from reward_benchmark.rewardbench_files.data import require_no_other_data
from reward_benchmark.rewardbench_files.layout import (
    RewardBenchFileError,
    file_name,
    folder_of,
    scores_folder_of,
)
from reward_benchmark.rewardbench_files.reading import (
    PublishedAccuracies,
    PublishedScores,
    read_accuracies,
    read_scores,
)
from reward_benchmark.rewardbench_files.writing import (
    accuracies_document,
    are_pairs,
    encoded,
    require_subset_names,
    write_scores,
)

__all__ = [
    "PublishedAccuracies",
    "PublishedScores",
    "RewardBenchFileError",
    "accuracies_document",
    "are_pairs",
    "encoded",
    "file_name",
    "folder_of",
    "read_accuracies",
    "read_scores",
    "require_no_other_data",
    "require_subset_names",
    "scores_folder_of",
    "write_scores",
]
