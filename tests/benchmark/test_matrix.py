"""Many models in turn: through real processes, and through everything that ends them early."""

import fcntl
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from reward_benchmark.cli import app
from reward_benchmark.errors import InterruptedRunError, RunDirectoryError
from reward_benchmark.matrix import children
from reward_benchmark.matrix.children import Children
from reward_benchmark.matrix.interrupts import Interrupts
from reward_benchmark.matrix.launcher import ModelFailedError, ServedModel
from reward_benchmark.matrix.loop import Matrix
from reward_benchmark.matrix.model import Model
from reward_benchmark.matrix.rows import Result as RunResult
from reward_benchmark.matrix.rows import Row
from reward_benchmark.matrix.table import rows_table

from .conftest import FakeService

PROGRAMS = Path(__file__).parent / "matrix_programs"
FAKE = [sys.executable, str(PROGRAMS / "fake_service.py")]
PAIRS = 8
SOME = 3
"""How many of them a fake service scores before something happens to it."""


class Bench:
    """A matrix of fake services, in process or in one of its own."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder = folder
        self.data = data
        self.starts = folder / "starts"
        self.go = folder / "go"
        self.info = folder / "info.json"
        self.info.write_text(FakeService().info().model_dump_json())
        self.environment = {
            "FAKE_INFO": str(self.info),
            "FAKE_STARTS": str(self.starts),
            "FAKE_GO": str(self.go),
            "COLUMNS": "200",
            "REWARD_DTYPE": "int3",  # of a shell, and none of a model's business
        }

    def arguments(self, models: str, out: str, *options: str) -> list[str]:
        file = self.folder / "models.yaml"
        file.write_text(models)
        command = ["matrix", str(file), "--out", str(self.folder / out), "--dataset"]
        return [*command, str(self.data), "--service-command", " ".join(FAKE), *options]

    def run(self, models: str, out: str, *options: str) -> Result:
        arguments = self.arguments(models, out, *options)
        return CliRunner().invoke(app, arguments, env=self.environment)

    def start(self, models: str, out: str, *options: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "reward_benchmark", *self.arguments(models, out, *options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **self.environment},
        )

    def started(self) -> list[str]:
        """Ids of the models whose service was started."""
        return [line.split()[1] for line in self.starts.read_text().splitlines()]

    def alive(self) -> list[int]:
        """Processes of services that still run."""
        pids = [int(line.split()[0]) for line in self.starts.read_text().splitlines()]
        return [pid for pid in pids if is_alive(pid)]

    def run_folder(self, out: str, name: str) -> Path:
        return self.folder / out / name / self.data.name

    def rows(self, out: str) -> list[dict[str, Any]]:
        document = json.loads((self.folder / out / "rows.json").read_text())
        rows: list[dict[str, Any]] = document["rows"]
        return rows

    def timeless(self, out: str) -> str:
        """`rows.json` with its times cut out."""
        text = (self.folder / out / "rows.json").read_text()
        return re.sub(r'"seconds": [0-9.]+', '"seconds": _', text)


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
def bench(tmp_path: Path, write_pairs: Callable[..., Path]) -> Iterator[Bench]:
    bench = Bench(tmp_path, write_pairs(PAIRS))
    yield bench
    if bench.starts.exists():
        for pid in bench.alive():
            os.kill(pid, signal.SIGKILL)


def listed(*models: str) -> str:
    return "".join(f"- model_id: {model}\n" for model in models)


def test_a_model_that_fails_keeps_no_other_from_being_measured(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    # `stubborn` is measured, and then neither ends by itself nor ends what it has started.
    monkeypatch.setattr(children, "END_SECONDS", 0.2)
    models = ("crash", "stubborn", "loads", "dies")
    result = bench.run(listed(*models), "out", "--start-timeout", "1", "--json")
    assert result.exit_code == 1, result.output
    assert bench.started() == ["crash", "stubborn", "stubborn", "loads", "dies"]
    assert bench.alive() == []

    document = json.loads(result.stdout.splitlines()[-1])
    assert document == json.loads((bench.folder / "out" / "rows.json").read_text())
    rows = {row["name"]: row for row in document["rows"]}
    assert [(name, row["status"]) for name, row in rows.items()] == [
        ("crash", "failed"),
        ("stubborn", "finished"),
        ("loads", "failed"),
        ("dies", "failed"),
    ]
    assert rows["crash"]["reason"] == "the service ended with status 1: crash has no weights"
    assert "was not ready after 1 s" in rows["loads"]["reason"]
    assert (
        "the service was killed by signal 9, as a machine out of memory" in (rows["dies"]["reason"])
    )

    [measured] = rows["stubborn"]["results"]
    results = json.loads((bench.run_folder("out", "stubborn") / "results.json").read_text())
    assert (measured["dataset"], measured["out"]) == (str(bench.data), "pairs.jsonl")
    assert (measured["groups"], measured["errors"]) == (PAIRS, 0)
    assert (results["model"], results["overall"]) == ("stubborn", measured["overall"])

    # The shell's own settings reach no service; its log is kept, and its end is shown.
    log = (bench.folder / "out" / "crash" / "service.log").read_text()
    assert log.splitlines() == [
        "settings ['REWARD_MODEL_ID']",
        "reward-service: crash has no weights",
    ]
    for line in log.splitlines():
        assert f"  | {line}" in result.stderr
    assert "crash failed: the service ended with status 1" in result.stderr


def test_a_matrix_that_was_killed_and_interrupted_ends_with_the_rows_of_another(bench: Bench):
    models = listed("waits", "crash")
    scores = bench.run_folder("out", "waits") / "scores.jsonl"

    def until(is_so: Callable[[], object], matrix: subprocess.Popen[str]) -> None:
        give_up = time.monotonic() + 60
        while not is_so():
            assert matrix.poll() is None, matrix.communicate()
            assert time.monotonic() < give_up
            time.sleep(0.01)

    def has_lines(count: int) -> bool:
        return scores.exists() and scores.read_bytes().count(b"\n") == count

    with bench.start(models, "out") as killed:
        until(lambda: has_lines(SOME), killed)
        killed.kill()
    [orphan] = bench.alive()

    with bench.start(models, "out") as interrupted:
        until(lambda: has_lines(2 * SOME), interrupted)
        assert not is_alive(orphan)
        for sign in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            interrupted.send_signal(sign)
        _, errors = interrupted.communicate()
    assert interrupted.returncode == 130, errors
    assert "Traceback" not in errors
    assert f"Ending the service {orphan}, which a killed matrix has left behind" in errors
    assert "Ending the run" in errors
    assert f"interrupted ({2 * SOME} of {PAIRS} pairs are kept" in errors
    assert bench.alive() == []
    assert [row["status"] for row in bench.rows("out")] == ["unfinished", "unfinished"]

    bench.go.touch()
    assert bench.run(models, "out").exit_code == 1
    assert bench.started() == ["waits", "waits", "waits", "crash"]
    assert bench.run(models, "whole").exit_code == 1
    assert bench.timeless("out") == bench.timeless("whole")
    kept, whole = (
        (bench.run_folder(out, "waits") / "scores.jsonl").read_bytes() for out in ("out", "whole")
    )
    assert kept == whole


class Script:
    """A launcher without processes: what becomes of a model is what the test says."""

    def __init__(self) -> None:
        self.served: list[str] = []
        self.runs: list[tuple[str, str]] = []
        self.running: list[str] = []
        self.failures: dict[str, Exception] = {}
        """Model, or model and data set → what serving or measuring it raises."""
        self.errors: dict[str, Any] = {"errors": 0}

    def check(self, models: Sequence[Model]) -> None:
        pass

    @contextmanager
    def serve(self, model: Model, log: Path) -> Iterator[ServedModel]:
        self.served.append(model.name)
        self.running.append(model.name)
        log.write_text(f"{model.name} was served\n")
        try:
            if error := self.failures.get(model.name):
                raise error
            yield Scripted(self)
        finally:
            self.running.remove(model.name)


class Scripted:
    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked = 0

    def is_ready(self) -> bool:
        self.asked += 1
        return self.asked > 2

    def death(self) -> str | None:
        return None

    def benchmark(self, model: Model, dataset: str, out: Path) -> dict[str, Any]:
        self.script.runs.append((model.name, dataset))
        if error := self.script.failures.get(f"{model.name} {dataset}"):
            raise error
        out.mkdir(parents=True, exist_ok=True)
        score = len(model.settings["model_id"]) / 100
        return {
            "benchmark": "preferences",
            "dataset": dataset,
            "subsets": {},
            "overall": score,
            "sections": {"Chat": {"score": score, "ci95": None}},
            "counts": {"groups": 10, **self.script.errors},
        }


class Play:
    """Matrices of one directory, with one script."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.script = Script()
        self.console = Console(file=io.StringIO(), width=200)

    def __call__(self, *models: Model, **options: Any) -> list[Row]:
        self.script.served.clear()
        self.script.runs.clear()
        held = Children(self.out, console=self.console, interrupts=Interrupts())
        return (
            Matrix(
                models=models,
                out=self.out,
                launcher=self.script,
                start_seconds=9,
                children=held,
                **options,
            )
            .measure()
            .rows
        )


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return Play(tmp_path / "out")


def a_model(name: str, *datasets: str, **settings: str) -> Model:
    settings = {"model_id": name, **settings}
    return Model(name=name, settings=settings, datasets=datasets or ("sample",))


def test_what_is_finished_is_not_served_again_and_what_failed_is(play: Play):
    play.script.failures = {
        "b": ModelFailedError("no weights"),
        "c rewardbench": ModelFailedError("the run fell over"),
    }
    both = ("sample", "rewardbench")
    models = a_model("a", *both), a_model("b", *both), a_model("c", *both)
    rows = play(*models)
    assert [(row.status, row.reason, len(row.results)) for row in rows] == [
        ("finished", None, 2),
        ("failed", "no weights", 0),
        ("failed", "the run fell over", 1),
    ]
    assert play.script.runs == [
        ("a", "sample"),
        ("a", "rewardbench"),
        ("c", "sample"),
        ("c", "rewardbench"),
    ]

    play.script.failures.clear()
    again = play(*models)
    assert play.script.served == ["b", "c"]
    assert play.script.runs == [("b", "sample"), ("b", "rewardbench"), ("c", "rewardbench")]
    assert [(row.status, row.reason, len(row.results)) for row in again] == [
        ("finished", None, 2)
    ] * 3
    assert again[0] == rows[0]

    play(*models)
    assert play.script.served == []


def test_a_result_counts_only_for_what_was_asked(play: Play):
    play(a_model("a"))
    play(a_model("a", "sample", "rewardbench"))
    assert play.script.runs == [("a", "rewardbench")]
    [row] = play(a_model("a", "rewardbench"))
    assert (play.script.runs, [one.dataset for one in row.results]) == ([], ["rewardbench"])
    play(a_model("a", "rewardbench", dtype="float32"))
    assert play.script.runs == [("a", "rewardbench")]
    play(replace(a_model("a", "rewardbench", dtype="float32"), options=("--limit", "3")))
    assert play.script.runs == [("a", "rewardbench")]
    shutil.rmtree(play.out / "a" / "rewardbench")  # how a user has a run made anew
    play(replace(a_model("a", "rewardbench", dtype="float32"), options=("--limit", "3")))
    assert play.script.runs == [("a", "rewardbench")]


def test_an_end_in_the_middle_stops_the_service_and_keeps_the_rows(play: Play):
    play.script.failures = {"b rewardbench": KeyboardInterrupt()}
    models = a_model("a"), a_model("b", "sample", "rewardbench"), a_model("c")
    with pytest.raises(InterruptedRunError, match=r"\(1 of 3 models are finished in "):
        play(*models)
    assert play.script.running == []
    document = json.loads((play.out / "rows.json").read_text())
    assert [(row["status"], len(row["results"])) for row in document["rows"]] == [
        ("finished", 1),
        ("unfinished", 1),
        ("unfinished", 0),
    ]
    play.script.failures.clear()
    play(*models)
    assert play.script.runs == [("b", "rewardbench"), ("c", "sample")]


def test_prompts_without_scores_are_counted_and_tried_again_when_asked_for(play: Play):
    play.script.errors = {"errors": 2}
    [row] = play(a_model("a"))
    assert (row.status, row.results[0].errors) == ("finished", 2)
    play(a_model("a"))
    assert play.script.served == []
    play(a_model("a"), retry_errors=True)
    assert play.script.served == ["a"]
    play.script.errors = {"errors": 10, "errors_by_code": {"out_of_memory": 9, "timeout": 1}}
    [row] = play(a_model("a"), retry_errors=True)
    assert (row.status, row.reason) == (
        "failed",
        "none of 10 groups of sample could be scored: out_of_memory 9, timeout 1",
    )
    assert row.results[0].errors == 2  # the last that there were


def test_rows_of_models_that_are_not_named_stay_as_they_are(play: Play):
    play.script.failures["b"] = ModelFailedError("no weights")
    models = a_model("a"), a_model("b"), a_model("c")
    before = play(*models, only=frozenset("ab"))
    assert [row.status for row in before] == ["finished", "failed", "unfinished"]
    after = play(*models, only=frozenset("c"))
    assert play.script.served == ["c"]
    assert after[:2] == before[:2]
    assert after[2].status == "finished"


def test_nothing_of_anybody_else_is_overwritten(play: Play):
    foreign = play.out / "a"
    foreign.mkdir(parents=True)
    play(a_model("a"))  # an empty folder is nobody's
    for name, text in [("a/row.json", "[]"), ("rows.json", "[1]"), ("rows.json", "{}")]:
        file = play.out / name
        before = file.read_text()
        file.write_text(text)
        with pytest.raises(RunDirectoryError, match=r"is not a matrix's: choose another --out"):
            play(a_model("a"))
        assert file.read_text() == text
        file.write_text(before.replace('"format": 1', '"format": 9'))
        with pytest.raises(RunDirectoryError, match="is of format 9, but this version"):
            play(a_model("a"))
        file.write_text(before)
    (play.out / "a" / "row.json").write_text('{"format": 1, "settings": {"model_id": "a"}}')
    with pytest.raises(RunDirectoryError, match="is not the row of a model"):
        play(a_model("a"))
    (play.out / "a" / "row.json").unlink()
    with pytest.raises(RunDirectoryError, match="holds something else than a matrix's results"):
        play(a_model("a"))
    assert play.script.served == []


def test_two_matrices_cannot_share_a_directory(play: Play):
    play.out.mkdir()
    lock = os.open(play.out, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunDirectoryError, match="is in use by another process"):
            play(a_model("a"))
    finally:
        os.close(lock)


def printed(rows: Sequence[Row]) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(rows_table(rows))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_has_a_line_for_every_run_and_a_reason_for_every_failure(play: Play):
    play.script.failures = {"bb": ModelFailedError("no [weights]")}
    rows = play(a_model("a", "sample", "rewardbench"), a_model("bb"))
    text = printed(rows)
    cells = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in text.splitlines()
        if line.startswith("│")
    ]
    assert [row[:-1] for row in cells] == [
        ["a", "finished", "sample", "1.0", "1.0", "0"],
        ["", "", "rewardbench", "1.0", "1.0", "0"],
        ["bb", "failed", "", "-", "-", "-"],
    ]
    assert "bb failed: no [weights]" in text


def test_a_part_of_a_set_is_said_to_be_one():
    about = {"dataset": "sample", "options": ["--limit", "5"], "out": "sample", "sections": {}}
    reasons = ["only the first 5", "1 failed, which counts as lost"]
    part = RunResult(**about, overall=0.5, groups=5, errors=1, seconds=1.0, incomplete=reasons)
    whole = RunResult(**about, overall=0.5, groups=9, errors=0, seconds=1.0)
    rows = [
        Row(name=name, settings={}, status="finished", results=[one])
        for name, one in (("part", part), ("whole", whole))
    ]
    part_line, whole_line, *remarks = [
        line for line in printed(rows).splitlines() if "part" in line or "whole" in line
    ]
    assert "finished, incomplete" in part_line
    assert "incomplete" not in whole_line
    assert remarks == [f"part is incomplete: sample: {reason}" for reason in reasons]


def test_signals_wait_until_a_start_or_stop_is_over():
    interrupts = Interrupts()
    steps = []
    with interrupts.caught():
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            with interrupts.held():
                with interrupts.held():
                    signal.raise_signal(signal.SIGTERM)
                    steps.append("inner")
                steps.append("outer")
            steps.append("after")
        signal.raise_signal(signal.SIGINT)  # nothing is left but to clean up
        signal.raise_signal(signal.SIGHUP)
    assert steps == ["inner", "outer"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with Interrupts().caught():
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_only_the_models_that_are_named_are_measured(bench: Bench):
    models = listed("crash", "owner/crash")
    result = bench.run(models, "out", "--model", "crash")
    assert (result.exit_code, bench.started()) == (1, ["crash"])
    result = bench.run(models, "out", "--model", "crush")
    assert result.exit_code == 2
    assert "has no model called crush: it has crash, owner--crash" in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dataset", "no-such-set"], "no-such-set"),
        (["--service-command", "no-such-program --flag"], "no-such-program is not a program"),
        (["--launcher", "compose", "--project-dir", "/nowhere"], "/nowhere/docker-compose.yml"),
        (["--launcher", "kubernetes", "--project-dir", "/nowhere"], "/nowhere/k8s/overlays/cpu"),
        (["--launcher", "kubernetes", "--gpu", "--project-dir", "/nowhere"], "overlays/gpu"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_started(
    bench: Bench, options: list[str], words: str
):
    result = bench.run(listed("crash"), "out", *options)
    assert result.exit_code == 2
    [sentence] = result.stderr.splitlines()
    assert words in sentence
    assert not bench.starts.exists()


def test_the_real_service_is_served_measured_and_stopped(debug_folder: Path, bench: Bench):
    command = f"{sys.executable} -m reward_service"
    models = f"- model_id: {debug_folder}\n  name: real\n  dtype: bfloat16\n"
    models += "  model_process: false\n"  # one process starts sooner
    result = bench.run(models, "out", "--service-command", command, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads((bench.run_folder("out", "real") / "results.json").read_text())
    [row] = json.loads(result.stdout.splitlines()[-1])["rows"]
    assert row["results"][0]["overall"] == document["overall"]
    assert document["provenance"]["info"]["model"]["dtype"] == "bfloat16"
    log = (bench.folder / "out" / "real" / "service.log").read_text().splitlines()
    assert json.loads(log[-1])["event"] == "draining"
