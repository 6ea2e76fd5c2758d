"""Prompts with their candidates in order, and what they add up to."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from reward_benchmark.candidates import GOLD, Candidates
from reward_benchmark.outcome import Outcome
from reward_benchmark.results import Provenance
from reward_benchmark.statistics.best_of import Point, expected_picks, kl_bound, mean_curves
from reward_benchmark.statistics.observations import Floats

PICK, ORACLE, RANDOM, LONGEST = "pick", "oracle", "random", "longest"
REGRET, GAIN = "regret", "gain"
"""Oracle minus pick, and pick minus random."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """One prompt with the scores of its candidates, or with the reason why it has none."""

    candidates: Candidates
    outcome: Outcome

    @property
    def order(self) -> list[int]:
        """The candidates' places from the best; of equal scores, the first in the file first."""
        scores = self.outcome.scores or ()
        return sorted(range(len(scores)), key=lambda place: -scores[place])

    @property
    def tied(self) -> int:
        """How many candidates share the best score: more than one makes the pick arbitrary."""
        scores = self.outcome.scores or ()
        return scores.count(max(scores, default=0.0))

    def line(self) -> bytes:
        """One line of JSON."""
        fields: dict[str, Any] = {"subset": self.outcome.subset, "id": self.outcome.id}
        if self.outcome.error is not None:
            fields["error"] = asdict(self.outcome.error)
        else:
            order = self.order
            fields |= {
                "order": order,
                "scores": self.outcome.scores,
                "pick": order[0],
                "tied": self.tied,
            }
        return json.dumps(fields, allow_nan=False).encode() + b"\n"


@dataclass(slots=True)
class Tally:
    """What the rankings add up to."""

    best_of: int | None = None
    """How many candidates of each prompt take part; `None` means all."""
    fewer: int = 0
    """Prompts that have not that many."""
    gold: bool = False
    """Whether any row has a column of known values."""
    prompts: int = 0
    candidates: int = 0
    truncated: int = 0
    """Prompts of which some candidate lost the start of its prompt."""
    top_ties: int = 0
    """Prompts whose best score several candidates share."""
    tied_pairs: int = 0
    """Pairs of candidates of one prompt with one score."""
    tied_texts: int = 0
    """Those among them that are the same text."""
    annotated: Counter[int] = field(default_factory=Counter)
    """How many ranked prompts have how many annotated candidates."""
    error_codes: Counter[str] = field(default_factory=Counter)
    score_curves: list[dict[str, Floats]] = field(default_factory=list)
    gold_curves: list[dict[str, Floats]] = field(default_factory=list)

    def add(self, ranking: Ranking) -> None:
        """Count one more prompt."""
        outcome, candidates = ranking.outcome, ranking.candidates
        self.prompts += 1
        count = len(candidates.group.completions)
        self.candidates += count
        self.fewer += self.best_of is not None and count < self.best_of
        self.truncated += outcome.truncated_tokens is not None
        self.gold |= candidates.gold is not None
        if outcome.error is not None:
            self.error_codes[outcome.error.code] += 1
        if outcome.scores is None:
            return
        self.top_ties += ranking.tied > 1
        scored = zip(outcome.scores, candidates.group.completions, strict=True)
        for (score, text), (other_score, other_text) in combinations(scored, 2):
            self.tied_pairs += score == other_score
            self.tied_texts += score == other_score and text == other_text
        scores = np.array(outcome.scores)
        self.score_curves.append({PICK: expected_picks(scores, scores)})
        annotated = [i for i, gold in enumerate(candidates.gold or ()) if gold is not None]
        self.annotated[len(annotated)] += 1
        if annotated:
            self.gold_curves.append(_gold_curves(candidates, scores, annotated))


def _gold_curves(candidates: Candidates, scores: Floats, annotated: list[int]) -> dict[str, Floats]:
    assert candidates.gold is not None
    gold = np.array([candidates.gold[i] for i in annotated], dtype=float)
    lengths = np.array([float(len(candidates.group.completions[i])) for i in annotated])
    pick, oracle = expected_picks(scores[annotated], gold), expected_picks(gold, gold)
    random = np.full(len(gold), gold.mean())
    return {
        PICK: pick,
        ORACLE: oracle,
        RANDOM: random,
        LONGEST: expected_picks(lengths, gold),
        REGRET: oracle - pick,
        GAIN: pick - random,
    }


def best_of_n_document(tally: Tally, provenance: Provenance, gold: str | None) -> dict[str, Any]:
    """The content of `results.json`, without what the scorer adds to it.

    Args:
        gold: the column of known values, as the file was opened with.
    """
    return {
        "benchmark": provenance.dataset.benchmark.name,
        "dataset": provenance.dataset.name,
        "model": provenance.model,
        "model_type": provenance.model_type,
        "best_of": tally.best_of and {"n": tally.best_of, "prompts_with_fewer": tally.fewer},
        "counts": {
            "prompts": tally.prompts,
            "candidates": tally.candidates,
            "ranked": len(tally.score_curves),
            "top_ties": tally.top_ties,
            "tied_pairs": tally.tied_pairs,
            "tied_pairs_of_equal_texts": tally.tied_texts,
            "errors": tally.error_codes.total(),
            "errors_by_code": tally.error_codes,
            "truncated": tally.truncated,
        },
        "curve": [_point(point) for point in mean_curves(tally.score_curves)],
        "gold": _gold_document(tally, gold) if tally.gold else None,
        "provenance": provenance.document(),
    }


def _gold_document(tally: Tally, gold: str | None) -> dict[str, Any]:
    return {
        "column": GOLD if gold is None else gold,
        "prompts": len(tally.gold_curves),
        "annotated_candidates": {
            str(count): prompts for count, prompts in sorted(tally.annotated.items())
        },
        "curve": [_point(point) for point in mean_curves(tally.gold_curves)],
    }


def _point(point: Point) -> dict[str, Any]:
    estimates = point.estimates.items()
    return {
        "n": point.n,
        "prompts": point.prompts,
        "kl_bound": kl_bound(point.n),
        **{name: {"mean": value, "ci95": interval} for name, (value, interval) in estimates},
    }
