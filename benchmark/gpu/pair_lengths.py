"""Lengths of preference pairs: the committed distribution, and pairs drawn from it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

LENGTHS_FILE = Path(__file__).with_name("rewardbench_lengths.json")

Integers = NDArray[np.int64]


def quantile_levels() -> list[float]:
    """Finer towards the longest, where few pairs hold many tokens."""
    return [*(i / 20 for i in range(19)), 0.92, 0.94, 0.96, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0]


@dataclass(frozen=True, slots=True)
class PairLengths:
    """Tokens of pairs, in three parts: shared by both, of the chosen alone, of the rejected alone.

    What is shared is the prompt with the template's header, and how far both completions begin
    alike, which is most of the text where the rejected one is code with a planted error.
    """

    source: str
    pairs: int
    mean_tokens: tuple[float, ...]
    """[3] Of the real pairs, to hold drawn ones against."""
    quantiles: tuple[tuple[int, ...], ...]
    """[3, levels] Tokens at each of `quantile_levels`."""
    rank_correlation: tuple[tuple[float, ...], ...]
    """[3, 3] Spearman's: long prompts have long answers, and pairs are alike in length."""

    def as_json(self) -> dict[str, Any]:
        """What the file holds."""
        parts = ("shared", "chosen_rest", "rejected_rest")
        return {**asdict(self), "parts": parts, "quantile_levels": quantile_levels()}

    def draw(self, pairs: int, *, seed: int) -> Integers:
        """[pairs, 3] Every part distributed as the real ones (evenly spread, so that few pairs
        have the right total too), correlated as they are."""
        rng = np.random.default_rng(seed)
        normal = rng.multivariate_normal(np.zeros(3), np.array(self.rank_correlation), size=pairs)
        ranks = normal.argsort(axis=0).argsort(axis=0)  # [pairs, 3]
        levels = (ranks + 0.5) / pairs
        columns = [
            np.interp(levels[:, part], quantile_levels(), self.quantiles[part]) for part in range(3)
        ]
        return np.maximum(np.rint(np.stack(columns, axis=1)), 1).astype(np.int64)


def read_pair_lengths(path: Path = LENGTHS_FILE) -> PairLengths:
    """The committed distribution."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return PairLengths(
        source=content["source"],
        pairs=content["pairs"],
        mean_tokens=tuple(content["mean_tokens"]),
        quantiles=tuple(map(tuple, content["quantiles"])),
        rank_correlation=tuple(map(tuple, content["rank_correlation"])),
    )


def lognormal(median: float, sigma: float, *, longest: int, count: int) -> Integers:
    """Lengths spread evenly over a lognormal distribution, shortest first."""
    levels = [(i + 0.5) / count for i in range(count)]
    normal = np.array([NormalDist().inv_cdf(level) for level in levels])
    return np.clip(np.rint(median * np.exp(sigma * normal)), 1, longest).astype(np.int64)
