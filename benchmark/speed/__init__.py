"""The speed benchmark: the same rows and model through RewardServe and what people run today.

python -m speed --help
"""
