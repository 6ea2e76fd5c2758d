"""RewardBench's own files, as its scripts write them and its leaderboards keep them.

`eval-set/<model>.json` (`pref-sets/` for the prior sets) has an accuracy for each subset, and
`eval-set-scores/<model>.json` columns with an entry for each row: `scores_chosen` and
`scores_rejected` of pairs, or `scores` and `num_correct` of RewardBench 2. Sources: scripts/run_rm,
run_dpo, run_v2, run_generative and run_generative_v2, and `save_to_hub` of rewardbench/utils.py,
in allenai/reward-bench.
"""

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from reward_benchmark.datasets import BENCHMARKS, PREFERENCES, Benchmark
from reward_benchmark.datasets.prior import PRIOR
from reward_benchmark.datasets.rewardbench_2 import TIES
from reward_benchmark.datasets.rm_bench import RM_BENCH
from reward_benchmark.datasets.row import shown
from reward_benchmark.errors import BenchmarkError
from reward_benchmark.group import Group, Prompt
from reward_benchmark.journal import write_atomically
from reward_benchmark.json_text import decoded
from reward_benchmark.outcome import Failure, Outcome

METADATA = frozenset(
    {"model", "model_type", "chat_template", "ref_model", "model_beaker", "score_w_ratings"}
)
"""What is no subset in a file of accuracies, and no column in one of scores."""

RETIRED = frozenset({"anthropic", "summarize_prompted", "xstest"})
"""Subsets of old files that RewardBench's own analysis drops."""

_ROUNDING = 1e-6
"""What a credit such as 1/3 may differ by, whoever wrote it."""

_INDENTING = json.JSONEncoder(indent=4, sort_keys=True, allow_nan=False)
"""RewardBench's `save_to_hub` formats so."""

_BLOCK_BYTES = 1 << 20
"""What is copied at once."""


class RewardBenchFileError(BenchmarkError):
    """A file is not one of RewardBench's."""


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


def accuracies_document(results: Mapping[str, Any]) -> dict[str, Any]:
    """What an `eval-set` file has to say about a run.

    Args:
        results: the content of its `results.json`.
    """
    accuracies = {name: subset["accuracy"] for name, subset in results["subsets"].items()}
    # No subset may pass for what the file says about the model; see `require_subset_names`.
    return {**accuracies, **_metadata(results)}


def require_subset_names(results: Mapping[str, Any]) -> None:
    """See that no subset has a name that means something else in an `eval-set` file.

    Raises:
        RewardBenchFileError: one has.
    """
    if taken := sorted(METADATA & results["subsets"].keys()):
        raise RewardBenchFileError(
            f"a subset of {results['dataset']} is called {taken[0]!r}, but in RewardBench's files "
            "that is a field about the model: rename it in the data and run again"
        )


def are_pairs(groups: Iterable[Group]) -> bool:
    """Whether an `eval-set-scores` file has columns of pairs for them, as RewardBench's first set.

    All others have the columns of RewardBench 2.
    """
    return all(len(group.completions) == 2 and group.num_chosen == 1 for group in groups)


def write_scores(
    path: Path,
    results: Mapping[str, Any],
    benchmark: Benchmark,
    scored: Iterable[tuple[Group, Outcome]],
    *,
    of_pairs: bool,
) -> None:
    """Write an `eval-set-scores` file of a run, in the form of `encoded`.

    Texts are lists of messages, as RewardBench's generative judges have them: how a service's
    template writes them is not the benchmark's to know. Failed groups have `null` for scores.

    Args:
        results: the content of its `results.json`.
        scored: every group of the run with its outcome.
        of_pairs: what `are_pairs` says of the groups.
    """
    with ExitStack() as files:
        # The file has one column after the other, but a million rows are too many to hold.
        columns: dict[str, IO[bytes]] = {}
        for group, outcome in scored:
            for name, value in _row(group, outcome, benchmark, of_pairs=of_pairs).items():
                if name in columns:
                    columns[name].write(b",")
                else:
                    columns[name] = files.enter_context(TemporaryFile(dir=path.parent))
                columns[name].write(b"\n        " + _indented(value, 8))
        write_atomically(path, _merged(_metadata(results), columns))


def folder_of(benchmark: Benchmark) -> str:
    """Where RewardBench keeps accuracies on a set."""
    return "pref-sets" if benchmark.name == PRIOR.name else "eval-set"


def scores_folder_of(benchmark: Benchmark) -> str:
    """Where RewardBench keeps scores of a set's rows."""
    return f"{folder_of(benchmark)}-scores"


def encoded(document: Mapping[str, Any]) -> bytes:
    """A document as RewardBench's `save_to_hub` formats it."""
    return _INDENTING.encode(document).encode()


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
    _, expected = next(iter(benchmark.credits(outcome)))
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


def _metadata(results: Mapping[str, Any]) -> dict[str, Any]:
    info = results["provenance"]["info"] or {}
    metadata = {
        "model": results["model"],
        "model_type": results["model_type"],
        "chat_template": info["template"]["source"] if info else None,
    }
    if info.get("reference"):
        metadata["ref_model"] = info["reference"]["id"]
    return metadata


def _row(group: Group, outcome: Outcome, benchmark: Benchmark, *, of_pairs: bool) -> dict[str, Any]:
    texts = [_conversation(group, index) for index in range(len(group.completions))]
    scores = list(outcome.scores or [None] * len(texts))
    row: dict[str, Any] = {"subset": outcome.subset, "id": outcome.id}
    if of_pairs:
        for side, text, score in zip(("chosen", "rejected"), texts, scores, strict=True):
            row |= {f"text_{side}": text, f"scores_{side}": score}
        return {**row, "results": int(outcome.win)}
    result = _result(outcome, benchmark)
    num_correct = group.num_chosen
    return {**row, "results": result, "text": texts, "scores": scores, "num_correct": num_correct}


def _merged(fields: Mapping[str, Any], columns: Mapping[str, IO[bytes]]) -> Iterator[bytes]:
    """The object of these fields and columns as `encoded` would write it."""
    before = "{"
    for name in sorted(fields.keys() | columns.keys()):
        yield f"{before}\n    {json.dumps(name)}: ".encode()
        before = ","
        if name in fields:
            yield _indented(fields[name], 4)
        else:
            columns[name].seek(0)
            yield b"["
            yield from iter(partial(columns[name].read, _BLOCK_BYTES), b"")
            yield b"\n    ]"
    yield b"\n}"


def _indented(value: Any, width: int) -> bytes:
    """A value as it stands within an encoded document, this far from the margin."""
    if not isinstance(value, list):
        return json.dumps(value, allow_nan=False).encode()  # many times as fast as with an indent
    return _INDENTING.encode(value).replace("\n", "\n" + " " * width).encode()


def _result(outcome: Outcome, benchmark: Benchmark) -> float | None:
    """The credit, where the subset's number is a mean of credits."""
    if outcome.subset in benchmark.groupwise:
        return None
    return next(credit for _, credit in benchmark.credits(outcome))


def _conversation(group: Group, index: int) -> list[dict[str, str]]:
    rejected = group.rejected_prompt if index >= group.num_chosen else None
    prompt: Prompt = group.prompt if rejected is None else rejected
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return [*turns, {"role": "assistant", "content": group.completions[index]}]
