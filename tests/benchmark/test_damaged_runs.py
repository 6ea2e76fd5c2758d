"""Directories that are damaged, half continued or of another kind: a sentence, and no traceback."""

import json
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reward_benchmark.cli import app
from reward_benchmark.errors import RunDirectoryError
from reward_benchmark.group import Group
from reward_benchmark.journal import Journal, write_atomically
from reward_benchmark.leaderboard import find_rows
from reward_benchmark.outcome import Outcome, outcome_from_line
from reward_benchmark.saved_run import open_saved_run

from .scored_runs import finished_run, pair_rows, random_judge, write_rows

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data of a run and the run."""
    folder = tmp_path_factory.mktemp("finished")
    rows = write_rows(folder / "rows.jsonl", pair_rows({"hep-go": 6, "hep-cpp": 5}))
    finished_run(folder / "run", str(rows), random_judge(1))
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished / "run", tmp_path / "run"))


def changed(name: str, change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(run: Path) -> None:
        document = json.loads((run / name).read_text())
        change(document)
        (run / name).write_text(json.dumps(document))

    return damage


def lines_changed(change: Callable[[list[bytes]], list[bytes]]) -> Damage:
    def damage(run: Path) -> None:
        lines = (run / "scores.jsonl").read_bytes().splitlines(keepends=True)
        (run / "scores.jsonl").write_bytes(b"".join(change(lines)))

    return damage


def without_field(path: str) -> Callable[[dict[str, Any]], object]:
    *parents, last = path.split(".")

    def change(document: dict[str, Any]) -> None:
        for parent in parents:
            document = document[parent]
        del document[last]

    return change


READ_FIELDS = [
    "benchmark",
    "dataset",
    "model",
    "model_type",
    "overall",
    "overall_ci95",
    "absent",
    "sections",
    "subsets",
    "counts.groups",
    "subsets.hep-go.accuracy",
    "subsets.hep-go.count",
    "sections.Reasoning.score",
    "provenance.fingerprint",
    "provenance.run",
    "provenance.dataset.path",
    "provenance.dataset.subsets",
    "provenance.dataset.limit",
    "provenance.time",
    "counts.wins",
    "counts.credit",
]

SERVICE: dict[str, Any] = {"model": {}, "template": {"source": "tulu"}}

DOCUMENTS: list[tuple[Damage, str]] = [
    (
        lambda run: (run / "results.json").write_text('{"benchmark": "preferences"}'),
        r"results\.json does not hold the numbers of a preference set \(dataset: Field required\)",
    ),
    (lambda run: (run / "results.json").write_text("[]"), r"does not hold the numbers"),
    (lambda run: (run / "results.json").write_text('{"ben'), r"does not hold the numbers"),
    (
        lambda run: (run / "results.json").write_bytes(b'{"\xff": 1}'),
        r"does not hold the numbers .*not text in UTF-8 .*save it as that",
    ),
    (lambda run: (run / "results.json").write_text("[" * 100_000), r"nested too deeply"),
    (lambda run: (run / "run.json").write_text("[" * 100_000), r"is not the identity of a run"),
    (
        changed("results.json", lambda d: d.update(benchmark="unheard-of")),
        r"no set is called 'unheard-of'",
    ),
    (changed("results.json", lambda d: d.update(overall=float("nan"))), r"overall: Input should"),
    (changed("results.json", lambda d: d.update(overall="0.5")), r"overall: Input should"),
    (changed("results.json", lambda d: d.update(overall_ci95=[0.5])), r"overall_ci95: List should"),
    (
        changed("results.json", lambda d: d["provenance"].update(info={"model": "m"})),
        r"info\.model",
    ),
    (
        changed("results.json", lambda d: d["provenance"].update(info={"model": {}})),
        r"info\.template",
    ),
    (
        changed("results.json", lambda d: d["provenance"].update(info=SERVICE | {"reference": {}})),
        r"info\.reference\.id: Field",
    ),
    (
        changed("results.json", lambda d: d["provenance"]["run"].update(scorer=["length"])),
        r"provenance\.run\.scorer: Input should",
    ),
    (
        changed("results.json", lambda d: d["provenance"]["run"].update(members=[{"sha256": ""}])),
        r"provenance\.run\.members\.0\.model: Field",
    ),
    (changed("results.json", lambda d: d.update(provenance={})), r"provenance\.fingerprint: Field"),
    *(
        (changed("results.json", without_field(path)), rf"does not .*\({path}: Field required\)")
        for path in READ_FIELDS
    ),
    (
        lambda run: (run / "run.json").write_text('{"format": 2}'),
        r"run\.json is not the identity of a run \(dataset_sha256: Field required\)",
    ),
    (
        lines_changed(lambda lines: lines[:5]),
        r"is not finished: scores\.jsonl has 5 lines, but results\.json is about 11 pairs",
    ),
    (lines_changed(lambda lines: [*lines, lines[3]]), r"scores\.jsonl has 12 lines, but"),
    (lambda run: (run / "scores.jsonl").unlink(), r"not finished: scores\.jsonl is missing"),
    (
        changed("run.json", lambda d: d.update(command="best-of-n")),
        r"run holds best-of-n results, not those of a preference set",
    ),
    (changed("run.json", lambda d: d.update(command="generate")), r"holds generate results"),
    (
        changed("run.json", lambda d: d.update(command=[], dataset_sha256=5)),
        r"run\.json is not the identity of a run \(dataset_sha256: Input should be",
    ),
]


@pytest.mark.parametrize(("damage", "message"), DOCUMENTS)
def test_a_damaged_directory_is_refused_and_left_out_of_a_leaderboard(
    finished: Path, run: Path, damage: Damage, message: str
):
    damage(run)
    with pytest.raises(RunDirectoryError, match=message):
        open_saved_run(run)
    shutil.copytree(finished / "run", run.parent / "whole")
    board = find_rows([run.parent])
    assert [row.model for row in board.rows] == ["org/model"]
    assert [note.startswith(f"left out: {run}") for note in board.notes] == [True]


@pytest.mark.parametrize(
    ("damage", "number"),
    [
        (lines_changed(lambda lines: [*lines[:3], b"garbage\n", *lines[4:]]), 4),
        (lines_changed(lambda lines: [*lines[:3], b"\xff\x00\n", *lines[4:]]), 4),
        (lines_changed(lambda lines: [*lines[:3], b"\n", *lines[4:]]), 4),
        (lines_changed(lambda lines: [b"[]\n", *lines[1:]]), 1),
        (lines_changed(lambda lines: [*lines[:6], b"[" * 100_000 + b"\n", *lines[7:]]), 7),
        (lines_changed(lambda lines: [*lines[:-1], lines[-1][:-9]]), 11),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        "compare {run} {whole}",
        "ensemble {run} {whole} --out {out}",
        "analyze correlation {run} {whole}",
        "analyze scores {run}",
        "report {run} --out {out}.md",
        "export {run} --out {out}",
    ],
)
def test_a_damaged_line_is_named_by_every_command(
    finished: Path, run: Path, damage: Damage, number: int, command: str
):
    damage(run)
    arguments = command.format(run=run, whole=finished / "run", out=run.parent / "out").split()
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.exception.__class__) == (2, SystemExit), result.output
    assert f"{run}/scores.jsonl, line {number}, is not the outcome of a pair" in result.stderr
    assert "delete that line" in result.stderr


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `best-of-n`, with known values."""
    folder = tmp_path_factory.mktemp("ranked")
    rows = [{"prompt": "p", "candidates": ["a", "bbb", "cc"], "gold": [1, 0, 2]}]
    candidates = write_rows(folder / "candidates.jsonl", rows)
    arguments = ["--scorer", "length", "--no-pictures", "--out", str(folder / "run")]
    result = CliRunner().invoke(app, ["best-of-n", "--candidates", str(candidates), *arguments])
    assert result.exit_code == 0, result.stderr
    return folder / "run"


def curve_changed(change: Callable[[dict[str, Any]], object], *, of: str = "curve") -> Damage:
    """Changes the second point of a curve."""

    def of_document(document: dict[str, Any]) -> None:
        change((document["gold"] if of == "gold" else document)["curve"][1])

    return changed("results.json", of_document)


BEST_OF_N: list[tuple[Damage, str]] = [
    (lambda run: (run / "results.json").unlink(), r"not finished: results\.json is missing"),
    (
        lambda run: (run / "results.json").write_bytes((run / "results.json").read_bytes()[:200]),
        r"results\.json does not hold the numbers of a best-of-n run \(.*\): the command that",
    ),
    (lambda run: (run / "results.json").write_bytes(b"\xff"), r"does not hold the numbers"),
    (lambda run: (run / "results.json").write_text("[]"), r"\(Input should be a valid dict"),
    (lambda run: (run / "results.json").write_text("{}"), r"\(dataset: Field required\)"),
    *(
        (changed("results.json", without_field(path)), rf"does not .*\({path}: Field required\)")
        for path in (
            "dataset",
            "model",
            "model_type",
            "counts",
            "counts.prompts",
            "counts.ranked",
            "counts.errors_by_code",
            "counts.truncated",
            "curve",
            "gold",
            "gold.column",
            "gold.curve",
            "provenance",
        )
    ),
    (changed("results.json", lambda d: d.update(curve={})), r"\(curve: Input should be a valid li"),
    (changed("results.json", lambda d: d["counts"].update(ranked="1")), r"\(counts\.ranked: Input"),
    (curve_changed(lambda point: point.update(n=0)), r"\(curve\.1\.n: Input should be greater"),
    (curve_changed(lambda point: point.pop("pick")), r"\(curve\.1\.pick: Field required\)"),
    (
        curve_changed(lambda point: point["pick"].update(mean=None)),
        r"\(curve\.1\.pick\.mean: Input",
    ),
    (
        curve_changed(lambda point: point["longest"].update(ci95=[1.0]), of="gold"),
        r"\(gold\.curve\.1\.longest\.ci95: List should have at least 2 items",
    ),
    *(
        (
            curve_changed(without_field(name), of="gold"),
            rf"\(gold\.curve\.1\.{name}: Field required\)",
        )
        for name in ("n", "prompts", "pick", "oracle", "random", "longest", "regret", "gain")
    ),
]


@pytest.mark.parametrize(("damage", "message"), BEST_OF_N)
def test_a_damaged_best_of_n_run_is_refused_by_the_report(
    ranked: Path, tmp_path: Path, damage: Damage, message: str
):
    run = Path(shutil.copytree(ranked, tmp_path / "run"))
    damage(run)
    out = tmp_path / "report.md"
    result = CliRunner().invoke(app, ["report", str(run), "--out", str(out)])
    assert (result.exit_code, result.exception.__class__) == (2, SystemExit), result.output
    assert re.search(message, result.stderr), result.stderr
    assert not out.exists()


def test_what_a_damaged_line_names_as_its_remedy_is_one(finished: Path, run: Path):
    lines_changed(lambda lines: [*lines[:3], *lines[4:]])(run)
    finished_run(run, str(finished / "rows.jsonl"), random_judge(1))
    assert (run / "scores.jsonl").read_bytes() == (finished / "run/scores.jsonl").read_bytes()
    open_saved_run(run)


def test_a_continuation_that_is_killed_leaves_no_results_of_before(finished: Path, tmp_path: Path):
    rows = str(finished / "rows.jsonl")
    out = finished_run(tmp_path / "out", rows, random_judge(1, failing=[2, 4]))
    before = (out / "results.json").read_bytes()

    class KilledError(Exception):
        pass

    def killed(group: Group) -> tuple[float, ...]:
        raise KilledError

    def killed_later(group: Group) -> Any:
        if (group.subset, group.id) == ("hep-cpp", 4):
            raise KilledError
        return random_judge(1)(group)

    with pytest.raises(KilledError):
        finished_run(out, rows, killed)
    # No line is new, so the results are still those of all lines.
    assert (out / "results.json").read_bytes() == before
    assert open_saved_run(out).document["counts"]["errors"] == 4

    with pytest.raises(KilledError):
        finished_run(out, rows, killed_later)
    with pytest.raises(RunDirectoryError, match=r"is not finished: results\.json is missing"):
        open_saved_run(out)
    finished_run(out, rows, random_judge(1))
    assert open_saved_run(out).document["counts"]["errors"] == 0


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Files grow no further, as on a full disk; Python ignores the signal that comes with it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_cannot_grow_is_named_with_what_is_kept(tmp_path: Path):
    groups = [Group(i, "s", i, "prompt", ("chosen", "rejected")) for i in range(9)]
    outcomes = [Outcome(*group.key, scores=(1.5, 0.5)) for group in groups]
    lines = [outcome.line() for outcome in outcomes]
    path = tmp_path / "scores.jsonl"
    journal = Journal(path, outcome_from_line, noun="pair")
    list(journal.missing(groups))
    message = rf"{path} cannot be written: File too large \(5 pairs are kept in it"
    with files_of_at_most(sum(map(len, lines[:5])) + 7):
        for outcome in outcomes[:5]:
            journal.append(outcome)
        with pytest.raises(RunDirectoryError, match=message):
            journal.append(outcomes[5])
    again = Journal(path, outcome_from_line, noun="pair")
    again.load()
    assert again.done == 5
    assert list(again.missing(groups)) == groups[5:]


def test_a_document_that_cannot_be_written_is_named_and_the_old_one_stays(tmp_path: Path):
    path = tmp_path / "results.json"
    path.write_bytes(b"old")
    with files_of_at_most(100), pytest.raises(OSError, match="File too large") as raised:
        write_atomically(path, [b"x" * 101])
    assert raised.value.filename == str(path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == {path: b"old"}
