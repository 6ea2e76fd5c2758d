"""The texts that are scored: real rows where they lie beside the checkout, else synthetic ones."""

import gzip
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
REWARDBENCH_FILE = Path("rewardbench") / "filtered.jsonl.gz"
BEST_OF_16_FILE = Path("best_of_16") / "alpaca_tulu2dpo13b.jsonl.gz"

N = 16
"""Completions of a best-of-n prompt."""


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt and its completions: a pair, or best-of-n candidates."""

    prompt: str
    completions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lengths:
    """A lognormal distribution of lengths in tokens."""

    median: float
    sigma: float
    longest: int

    def draw(self, rng: random.Random) -> int:
        """One length."""
        drawn = round(rng.lognormvariate(math.log(self.median), self.sigma))
        return min(max(drawn, 1), self.longest)


# Fitted to the real rows, in tokens of a 32,000-token BPE trained on them.
REWARDBENCH_PROMPT = Lengths(36, 1.0, 800)
REWARDBENCH_COMPLETION = Lengths(100, 1.1, 1900)
ALPACA_PROMPT = Lengths(24, 0.8, 480)
ALPACA_COMPLETION = Lengths(290, 0.8, 2700)
LONG_PROMPT_TOKENS = 500
LONG_PROMPT_COMPLETION = Lengths(160, 0.5, 600)


class Words:
    """Texts of a wanted length, made of the words of a seeded vocabulary.

    It is small, so that a tokenizer trained on such texts has a token for every word.
    """

    def __init__(self, *, seed: int, vocabulary: int = 1000) -> None:
        syllables = [a + b for a in "bcdfglmnprst" for b in ("a", "e", "i", "o", "u", "an", "er")]
        rng = random.Random(seed)
        self._words = [
            "".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in range(vocabulary)
        ]
        # Zipf's law: a few words make up most of a text.
        self._weights = [1 / (rank + 10) for rank in range(vocabulary)]

    def text(self, tokens: int, rng: random.Random) -> str:
        """About this many tokens."""
        return " ".join(rng.choices(self._words, self._weights, k=tokens))


@dataclass(frozen=True, slots=True)
class Rows:
    """Groups and where they come from."""

    groups: Sequence[Group]
    source: str


def rewardbench(*, seed: int, data: Path = DATA) -> Rows:
    """RewardBench pairs (chosen, rejected), all of them, shuffled by the seed."""
    path = data / REWARDBENCH_FILE
    if path.exists():
        pairs = [
            Group(row["prompt"], (row["chosen"], row["rejected"])) for row in _json_lines(path)
        ]
        random.Random(seed).shuffle(pairs)
        return Rows(pairs, "RewardBench, split filtered, a seeded sample")
    return Rows(
        _synthetic(400, 2, REWARDBENCH_PROMPT.draw, REWARDBENCH_COMPLETION.draw, seed=seed),
        "synthetic, lengths distributed as RewardBench's",
    )


def alpaca_best_of_16(*, seed: int, data: Path = DATA) -> Rows:
    """AlpacaEval prompts with the 16 candidates that RewardBench ranks, shuffled by the seed."""
    path = data / BEST_OF_16_FILE
    if path.exists():
        groups = [
            Group(row["instruction"], tuple(row["candidates"][:N])) for row in _json_lines(path)
        ]
        random.Random(seed).shuffle(groups)
        return Rows(groups, "AlpacaEval, 16 candidates of tulu-2-dpo-13b, a seeded sample")
    return Rows(
        _synthetic(40, N, ALPACA_PROMPT.draw, ALPACA_COMPLETION.draw, seed=seed),
        "synthetic, lengths distributed as AlpacaEval's with its candidates",
    )


def long_prompts(count: int, *, seed: int) -> Rows:
    """Best of 16 with prompts of about 500 tokens."""
    groups = _synthetic(
        count, N, lambda _: LONG_PROMPT_TOKENS, LONG_PROMPT_COMPLETION.draw, seed=seed
    )
    return Rows(groups, f"synthetic, prompts of about {LONG_PROMPT_TOKENS} tokens")


def growing(counts: Sequence[int], *, prompt_tokens: int, seed: int) -> list[Group]:
    """One prompt with ever more completions; each group begins with the one before it."""
    [longest] = _synthetic(
        1, max(counts), lambda _: prompt_tokens, LONG_PROMPT_COMPLETION.draw, seed=seed
    )
    return [Group(longest.prompt, longest.completions[:n]) for n in counts]


def training_texts(*, seed: int, data: Path = DATA) -> Iterator[str]:
    """Every text there is, for the tokenizer to learn from."""
    for rows in (
        rewardbench(seed=seed, data=data),
        alpaca_best_of_16(seed=seed, data=data),
        long_prompts(20, seed=seed),
    ):
        for group in rows.groups:
            yield group.prompt
            yield from group.completions


def _synthetic(
    count: int,
    n: int,
    prompt_tokens: Callable[[random.Random], int],
    completion_tokens: Callable[[random.Random], int],
    *,
    seed: int,
) -> list[Group]:
    words = Words(seed=0)
    rng = random.Random(seed)
    return [
        Group(
            words.text(prompt_tokens(rng), rng),
            tuple(words.text(completion_tokens(rng), rng) for _ in range(n)),
        )
        for _ in range(count)
    ]


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)
