"""A real process, killed and interrupted in the middle of a run, and then continued."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import FakeService

PAIRS = 60


def command(dataset: Path, url: str, out: Path) -> list[str]:
    module = [sys.executable, "-m", "reward_benchmark", "run"]
    return [*module, "--dataset", str(dataset), "--url", url, "--out", str(out)]


def stopped_after(
    lines: int, by: signal.Signals, arguments: list[str], out: Path
) -> tuple[int, str]:
    """Exit code and standard error of a run that gets a signal after so many lines."""
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        scores = out / "scores.jsonl"
        deadline = time.monotonic() + 60
        while not scores.exists() or scores.read_bytes().count(b"\n") < lines:
            assert process.poll() is None, "the run ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(by)
        _, errors = process.communicate()
    return process.returncode, errors


@pytest.fixture
def dataset(write_pairs: Callable[..., Path]) -> Path:
    return write_pairs(PAIRS)


def test_a_killed_run_goes_on_to_the_files_of_an_undisturbed_one(
    dataset: Path, fake_url: str, fake_service: FakeService, tmp_path: Path
):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    fake_service.errors["chosen 5"] = 422, "input_too_long"
    subprocess.run(command(dataset, fake_url, undisturbed), check=True, capture_output=True)

    arguments = command(dataset, fake_url, killed)
    fake_service.seconds = 0.2
    asked: dict[str, int] = {}
    """How often a pair had been asked for when a kill found it finished."""
    for lines in (5, 40):
        exit_code, _ = stopped_after(lines, signal.SIGKILL, arguments, killed)
        assert exit_code == -signal.SIGKILL
        kept = (killed / "scores.jsonl").read_bytes().splitlines(keepends=True)
        finished = [line["id"] for line in map(json.loads, kept) if "scores" in line]
        asked = {f"chosen {id_}": fake_service.asked[f"chosen {id_}"] for id_ in finished} | asked
        # What a kill in the middle of a write leaves behind.
        with (killed / "scores.jsonl").open("ab") as file:
            file.write(kept[0][:-7])
    fake_service.seconds = 0
    subprocess.run(arguments, check=True, capture_output=True)

    assert (killed / "scores.jsonl").read_bytes() == (undisturbed / "scores.jsonl").read_bytes()
    assert 30 < len(asked) < PAIRS
    assert {chosen: fake_service.asked[chosen] for chosen in asked} == asked
    results = [json.loads((out / "results.json").read_text()) for out in (undisturbed, killed)]
    for document in results:
        del document["provenance"]["time"], document["provenance"]["command"]
    assert results[0] == results[1]


def test_ctrl_c_says_what_is_kept(
    dataset: Path, fake_url: str, fake_service: FakeService, tmp_path: Path
):
    fake_service.seconds = 0.2
    out = tmp_path / "out"
    arguments = command(dataset, fake_url, out)
    exit_code, errors = stopped_after(1, signal.SIGINT, arguments, out)
    kept = len((out / "scores.jsonl").read_text().splitlines())
    assert exit_code == 130
    assert f"interrupted ({kept} of {PAIRS} pairs are kept in {out}" in errors
    assert "Traceback" not in errors
