"""Reads what RewardBench publishes of a model."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward_benchmark.datasets import BENCHMARKS, PREFERENCES, Benchmark
from reward_benchmark.datasets.prior import PRIOR
from reward_benchmark.datasets.rewardbench_2 import TIES
from reward_benchmark.datasets.rm_bench import RM_BENCH
from reward_benchmark.datasets.row import shown
from reward_benchmark.json_text import decoded
from reward_benchmark.outcome import Failure, Outcome
from reward_benchmark.rewardbench_files.layout import METADATA, RewardBenchFileError

RETIRED = frozenset({"anthropic", "summarize_prompted", "xstest"})
"""Subsets of old files that RewardBench's own analysis drops."""

_ROUNDING = 1e-6
"""What a credit such as 1/3 may differ by, whoever wrote it."""


@dataclass(frozen=True, slots=True)
class PublishedAccuracies:
    """An `eval-set` or `pref-sets` file."""

    model: str
    model_type: str
    benchmark: Benchmark
    accuracies: Mapping[str, float]
    """By subset, as fractions."""


@dataclass(frozen=True, slots=True)
class PublishedScores:
    """An `eval-set-scores` or `pref-sets-scores` file."""

    model: str
    model_type: str
    benchmark: Benchmark
    outcomes: Sequence[Outcome]
    """In the order of the file."""
    numbered: frozenset[str]
    """Subsets whose ids are numbers of rows, for the file has none or not one for each."""
    of_results: bool
    """Whether there are no scores, for which the results stand then."""
    half_points: int
    """Pairs with the result 0.5 of a judge that could not decide, or could not be understood."""


def benchmark_of(subsets: Collection[str], *, of_rows: bool = False) -> Benchmark | None:
    """The known set that has all these subsets, if any.

    Args:
        of_rows: whether they are those of its rows, and not those of its numbers.
    """
    for benchmark in BENCHMARKS.values():
        known = {name for weights in benchmark.sections.values() for name in weights}
        if of_rows:
            known = set(benchmark.row_subsets) or known
        if set(subsets) <= (known or (benchmark.overall or {}).keys()):
            return benchmark
    return None


def subsets_in(path: Path) -> tuple[frozenset[str], bool]:
    """The subsets that a file has numbers of, and whether they are those of rows of several.

    There are none in a file of another kind. Unlike in `read_accuracies`, they may be anybody's,
    and retired.
    """
    try:
        content = _content(path)
    except RewardBenchFileError:
        return frozenset(), False
    column = content.get("subset")
    if isinstance(column, list):
        subsets = frozenset(name for name in column if isinstance(name, str))
        return subsets, "num_correct" in content
    numbers = frozenset(name for name, value in content.items() if _is_number(value))
    return numbers - METADATA, False


def read_accuracies(path: Path) -> PublishedAccuracies:
    """Read the accuracies that RewardBench publishes of a model.

    Raises:
        RewardBenchFileError: the file holds something else.
    """
    content = _content(path)
    model = _text(path, content, "model")
    accuracies = {name: value for name, value in content.items() if name not in METADATA | RETIRED}
    for name, value in accuracies.items():
        # Ties goes from -0.01 to 1.01; percentages would be beyond that, and NaN is within nothing.
        if not _is_number(value) or not abs(value - 0.5) <= 0.51 + _ROUNDING:
            raise RewardBenchFileError(
                f"{path} is not a file of accuracies by subset as RewardBench's eval-set has it: "
                f"{name!r} is {shown(value)}, not a fraction"
            )
    benchmark = benchmark_of(accuracies)
    if benchmark is None or not accuracies:
        raise RewardBenchFileError(
            f"{path} is not a file of accuracies by subset as RewardBench's eval-set has it: its "
            f"fields {shown(sorted(accuracies))} are not the subsets of one known set"
        )
    model_type = content.get("model_type") or ""
    return PublishedAccuracies(model, str(model_type), benchmark, accuracies)


def read_scores(path: Path) -> PublishedScores:
    """Read the scores that RewardBench publishes of a model, row by row.

    A score may be a list, of which the first label counts. Where a file has none, as of generative
    judges, the results stand for them: 1 and 0, equal ones for half a point, and for RewardBench
    2's 1/k one that k - 1 others share. A row without either, or with a score that is no finite
    number, is a failure.

    Raises:
        RewardBenchFileError: the file holds something else, or contradicts itself.
    """
    content = _content(path)
    columns = {name: value for name, value in content.items() if isinstance(value, list)}
    if "subset" not in columns or not columns.keys() & {"results", "scores", "scores_chosen"}:
        accuracies = any(_is_number(value) for value in content.values())
        raise RewardBenchFileError(
            f"{path} has no columns of results or scores as RewardBench's eval-set-scores has them"
            + ("; accuracies by subset do not say which rows were won" if accuracies else "")
        )
    count = len(columns["subset"])
    for name, values in columns.items():
        if len(values) != count:
            raise RewardBenchFileError(
                f"{path}: column {name!r} has {len(values)} entries, but 'subset' has {count}"
            )
    if not count:
        raise RewardBenchFileError(f"{path} has no rows")
    for name in columns["subset"]:
        if not isinstance(name, str):
            raise RewardBenchFileError(f"{path}: {shown(name)} in column 'subset' is not a text")
    of_pairs = "num_correct" not in columns
    subsets = set(columns["subset"])
    benchmark = benchmark_of(subsets, of_rows=True)
    if of_pairs and benchmark in (None, RM_BENCH):  # whose rows are never pairs
        benchmark = PREFERENCES
    if benchmark is None:
        raise RewardBenchFileError(
            f"{path}: its subsets {shown(sorted(subsets))} are not those of one known set"
        )
    # The rows of the prior sets are told apart by their place here, whatever their ids are.
    ids, numbered = _ids(path, columns, by_place=benchmark is PRIOR)
    outcomes = []
    for row, id_ in enumerate(ids):
        entry = {name: values[row] for name, values in columns.items()}
        try:
            outcomes.append(_pair(entry, id_) if of_pairs else _best_of_n(entry, id_, benchmark))
        except ValueError as error:
            raise RewardBenchFileError(f"{path}, row {row + 1}: {error}") from error
    return PublishedScores(
        model=_text(path, content, "model"),
        model_type=str(content.get("model_type") or ""),
        benchmark=benchmark,
        outcomes=outcomes,
        numbered=numbered,
        of_results=not columns.keys() & {"scores", "scores_chosen"},
        half_points=columns.get("results", []).count(0.5) if of_pairs else 0,
    )


def _content(path: Path) -> dict[str, Any]:
    try:
        content = decoded(path.read_bytes())
    except ValueError as error:
        raise RewardBenchFileError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise RewardBenchFileError(f"{path} is not one of RewardBench's files: it is not an object")
    return content


def _text(path: Path, content: Mapping[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str) or not value:
        raise RewardBenchFileError(
            f"{path} is not one of RewardBench's files: {name!r} is {shown(value)}, not a text"
        )
    return value


def _ids(
    path: Path, columns: Mapping[str, Sequence[Any]], *, by_place: bool
) -> tuple[Sequence[int | str], frozenset[str]]:
    """The id of each row, and the subsets where that is its number within the subset."""
    subsets = columns["subset"]
    if "id" in columns and not by_place:
        ids = columns["id"]
        for value in ids:
            if not isinstance(value, int | str) or isinstance(value, bool):
                raise RewardBenchFileError(f"{path}: {shown(value)} in column 'id' is no id")
        keys = Counter(zip(subsets, ids, strict=True))
        # Most published files of RewardBench 2 label their first ten rows of Factuality 30 to 39,
        # which are others' ids (allenai/reward-bench, issue 273).
        numbered = frozenset(subset for (subset, _), times in keys.items() if times > 1)
    else:
        ids = [None] * len(subsets)
        numbered = frozenset(subsets)
    places: Counter[str] = Counter()
    result = []
    for subset, id_ in zip(subsets, ids, strict=True):
        places[subset] += 1
        result.append(places[subset] if subset in numbered else id_)
    return result, numbered


def _pair(entry: Mapping[str, Any], id_: int | str) -> Outcome:
    result = entry.get("results")
    if "scores_chosen" not in entry:
        won = {None: None, 0: (0.0, 1.0), 0.5: (1.0, 1.0), 1: (1.0, 0.0)}
        if isinstance(result, list | dict) or result not in won:
            raise ValueError(f"the result of a pair must be 0, 0.5 or 1, not {shown(result)}")
        return _outcome(entry["subset"], id_, 1, won[result])
    scores = [entry["scores_chosen"], entry.get("scores_rejected")]
    outcome = _outcome(entry["subset"], id_, 1, None if None in scores else _first_labels(scores))
    if outcome.scores is None or result is None:
        return outcome
    # RewardBench compares lists of labels as lists.
    chosen, rejected = (score if isinstance(score, list) else [score] for score in scores)
    if result != int(chosen > rejected):
        raise ValueError(f"the result is {shown(result)}, but the scores are {shown(scores)}")
    return outcome


def _best_of_n(entry: Mapping[str, Any], id_: int | str, benchmark: Benchmark) -> Outcome:
    num_correct, result = entry["num_correct"], entry.get("results")
    if not isinstance(num_correct, int) or num_correct < 1:
        raise ValueError(f"'num_correct' must be a positive integer, not {shown(num_correct)}")
    scores = entry.get("scores")
    if scores is None:
        return _outcome(entry["subset"], id_, num_correct, _shared_win(result))
    if not isinstance(scores, list) or len(scores) <= num_correct:
        raise ValueError(
            f"'scores' must be a list of more than num_correct = {num_correct}, not {shown(scores)}"
        )
    labels = None if None in scores else _first_labels(scores)
    outcome = _outcome(entry["subset"], id_, num_correct, labels)
    # What is there for Ties means nothing, and other numbers of completions have no rule.
    if outcome.scores is None or result is None or entry["subset"] == TIES:
        return outcome
    expected = benchmark.worth(outcome)
    if not _is_number(result) or abs(result - expected) > _ROUNDING:
        raise ValueError(f"the result is {shown(result)}, but the scores are {shown(scores)}")
    return outcome


def _shared_win(result: Any) -> tuple[float, ...] | None:
    """Scores of four completions that earn this credit."""
    if result is None:
        return None
    for winners in (1, 2, 3, 4):
        if _is_number(result) and abs(result - 1 / winners) <= _ROUNDING:
            return (1.0,) * winners + (0.0,) * (4 - winners)
    if result == 0:
        return (0.0, 1.0, 0.0, 0.0)
    raise ValueError(f"a result must be 0 or 1/k with k up to 4, not {shown(result)}")


def _first_labels(scores: Iterable[Any]) -> tuple[float, ...]:
    labels = tuple(score[0] if isinstance(score, list) and score else score for score in scores)
    for label in labels:
        if not _is_number(label):
            raise ValueError(f"a score must be a number or a list of numbers, not {shown(label)}")
    return tuple(map(float, labels))


def _outcome(
    subset: str, id_: int | str, num_chosen: int, scores: tuple[float, ...] | None
) -> Outcome:
    failure = None
    if scores is None:
        failure = Failure("no_score", "the file has no score and no result of it")
    elif not all(map(math.isfinite, scores)):
        failure = Failure("non_finite_score", f"the file has the scores {scores}")
    if failure is not None:
        return Outcome(subset, id_, num_chosen, error=failure)
    return Outcome(subset, id_, num_chosen, scores=scores)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
