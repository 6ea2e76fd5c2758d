"""Writes a run as RewardBench's scripts would."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from reward_benchmark.datasets import Benchmark
from reward_benchmark.group import Group, Prompt
from reward_benchmark.journal import write_atomically
from reward_benchmark.outcome import Outcome
from reward_benchmark.rewardbench_files.layout import METADATA, RewardBenchFileError

_INDENTING = json.JSONEncoder(indent=4, sort_keys=True, allow_nan=False)
"""RewardBench's `save_to_hub` formats so."""

_BLOCK_BYTES = 1 << 20
"""What is copied at once."""


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


def encoded(document: Mapping[str, Any]) -> bytes:
    """A document as RewardBench's `save_to_hub` formats it."""
    return _INDENTING.encode(document).encode()


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
    return benchmark.worth(outcome)


def _conversation(group: Group, index: int) -> list[dict[str, str]]:
    rejected = group.rejected_prompt if index >= group.num_chosen else None
    prompt: Prompt = group.prompt if rejected is None else rejected
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return [*turns, {"role": "assistant", "content": group.completions[index]}]
