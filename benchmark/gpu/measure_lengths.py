"""Writes `rewardbench_lengths.json`: how long RewardBench's pairs are, and nothing of their texts.

Runs where the rows and the speed benchmark's packages are, not on the GPU machine.

PYTHONPATH=benchmark python -m gpu.measure_lengths
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from gpu.pair_lengths import LENGTHS_FILE, PairLengths, quantile_levels

VOCABULARY = 32_000


def main() -> None:
    """Tokenise all pairs, keep quantiles and correlations."""
    from transformers import AutoTokenizer

    from speed import rows
    from speed.models import Shape, cached_model

    texts = rows.rewardbench(seed=0)
    shape = Shape("tokenizer only", VOCABULARY, 8, 8, 1, 1, 1)
    with tempfile.TemporaryDirectory() as cache:
        tokenizer = AutoTokenizer.from_pretrained(
            cached_model(shape, rows.training_texts(seed=0), Path(cache))
        )
    pairs = []
    for group in texts.groups:
        conversations = [
            [
                {"role": "user", "content": group.prompt},
                {"role": "assistant", "content": completion},
            ]
            for completion in group.completions
        ]
        chosen, rejected = (
            tokenizer(
                tokenizer.apply_chat_template(conversation, tokenize=False),
                add_special_tokens=False,
            ).input_ids
            for conversation in conversations
        )
        shared = next(
            (i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b),
            # One continues the other: the shorter keeps its last token for itself.
            min(len(chosen), len(rejected)) - 1,
        )
        pairs.append((shared, len(chosen) - shared, len(rejected) - shared))
    tokens = np.array(pairs, dtype=np.float64)  # [pairs, 3]
    ranks = tokens.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    correlation = np.atleast_2d(np.corrcoef(ranks, rowvar=False))
    lengths = PairLengths(
        source=(
            f"RewardBench, split filtered: all {len(pairs)} pairs, in tokens of a "
            f"{VOCABULARY:,}-token byte BPE trained on them, in a chat template"
        ),
        pairs=len(pairs),
        mean_tokens=tuple(tokens.mean(axis=0).round(1).tolist()),
        quantiles=tuple(
            tuple(np.quantile(column, quantile_levels()).round().astype(int).tolist())
            for column in tokens.T
        ),
        rank_correlation=tuple(tuple(row.tolist()) for row in correlation.round(3)),
    )
    LENGTHS_FILE.write_text(json.dumps(lengths.as_json(), indent=2) + "\n", encoding="utf-8")
    print(LENGTHS_FILE.name, lengths.mean_tokens)  # noqa: T201


if __name__ == "__main__":
    main()
