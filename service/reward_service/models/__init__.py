"""Reward-model families, one file each."""
