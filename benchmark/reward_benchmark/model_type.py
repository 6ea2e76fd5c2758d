"""RewardBench's words for what gives the numbers, which its leaderboards sort by.

Source: `model_type` in rewardbench/models/__init__.py and the scripts of allenai/reward-bench; an
ensemble is our own.
"""

SEQUENCE_CLASSIFIER = "Seq. Classifier"
CUSTOM_CLASSIFIER = "Custom Classifier"
"""What reads the texts in another way: a pairwise model, or the length of an answer."""
DPO = "DPO"
REFERENCE_FREE_DPO = "DPO Ref. Free"
GENERATIVE = "Generative RM"
GENERATIVE_JURY = "Generative RM PoLL"
ENSEMBLE = "Ensemble"
