"""The GPU benchmark: real model shapes with random weights, measured on a machine that has little.

Needs torch, transformers and numpy; nothing of it is imported by the other benchmarks.

python benchmark/gpu/run.py --help
"""
