"""The command line, in process, against the stand-in for a service."""

import contextlib
import importlib
import importlib.util
import json
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import stamina
import typer
from click.testing import Result
from rich.console import Group
from rich.text import Text
from typer.testing import CliRunner

from reward_benchmark import __main__
from reward_benchmark.cli import app
from reward_benchmark.cli.ending import Interruptible, command_line, ending_well, show
from reward_benchmark.errors import BenchmarkError

from .conftest import FakeService

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Runs `reward-benchmark run` into `tmp_path / "out"` without waiting between retries."""

    def run(dataset: object, *options: str) -> Result:
        arguments = ["run", "--dataset", str(dataset), "--out", str(tmp_path / "out"), *options]
        return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})

    with stamina.set_testing(True):
        yield run


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]


def no_constants(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@pytest.mark.parametrize("linked", [True, False])
def test_ctrl_c_that_an_import_takes_for_its_own_error_still_ends_in_a_sentence(linked: bool):
    program = typer.Typer(cls=Interruptible, pretty_exceptions_enable=False)

    @program.command()
    def import_() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            # As pybind11 ends the import of SciPy's HiGHS.
            raise ImportError("initialization failed") from (error if linked else None)

    @program.command()
    def absent() -> None:
        importlib.import_module("reward_benchmark.no_such_module")

    result = CliRunner().invoke(program, ["import-"])
    assert (result.exit_code, result.stderr) == (130, "reward-benchmark: interrupted\n")
    assert isinstance(CliRunner().invoke(program, ["absent"]).exception, ModuleNotFoundError)


def test_a_run_writes_what_it_promises(
    run: Run, write_pairs: Callable[..., Path], fake_url: str, tmp_path: Path
):
    dataset = write_pairs(10)
    result = run(dataset, "--url", fake_url, "--concurrency", "3")
    assert result.exit_code == 0, result.stderr
    out = tmp_path / "out"
    assert sorted(file.name for file in out.iterdir()) == [
        "results.json",
        "rewardbench.json",
        "run.json",
        "scores.jsonl",
    ]

    scores = lines(out)
    assert [line["id"] for line in scores] == list(range(10))
    assert scores[3] == {
        "subset": "odd",
        "id": 3,
        "scores": [FakeService.score_of("chosen 3"), FakeService.score_of("rejected 3")],
        "num_characters": [8, 10],
        "num_tokens": [8, 10],
        "win": FakeService.score_of("chosen 3") > FakeService.score_of("rejected 3"),
        "tie": False,
    }

    document = json.loads((out / "results.json").read_text(), parse_constant=no_constants)
    wins = sum(line["win"] for line in scores)
    assert document["overall"] == wins / 10
    assert document["sections"] == {}
    assert document["counts"]["groups"] == 10
    assert document["counts"]["wins"] == wins
    assert document["subsets"]["even"]["count"] == 5
    assert document["provenance"]["fingerprint"] == "f1"
    assert document["provenance"]["info"]["template"]["source"] == "chatml"
    assert document["provenance"]["dataset"]["path"] == str(dataset)

    assert json.loads((out / "rewardbench.json").read_text()) == {
        "model": "org/fake",
        "model_type": "Seq. Classifier",
        "chat_template": "chatml",
        "even": document["subsets"]["even"]["accuracy"],
        "odd": document["subsets"]["odd"]["accuracy"],
    }
    assert "org/fake on pairs.jsonl" in result.stdout
    assert f"are in {out}" in result.stdout
    assert "10/10" in result.stderr


def test_a_complete_run_asks_nothing_again(
    run: Run, write_pairs: Callable[..., Path], fake_url: str, fake_service: FakeService
):
    dataset = write_pairs(6)
    first = run(dataset, "--url", fake_url)
    again = run(dataset, "--url", fake_url)
    assert again.exit_code == 0
    assert again.stdout == first.stdout
    assert set(fake_service.asked.values()) == {1}


def test_json_is_the_last_line_of_standard_output_and_the_table_goes_elsewhere(
    run: Run, write_pairs: Callable[..., Path], fake_url: str, tmp_path: Path
):
    result = run(write_pairs(4), "--url", fake_url, "--json")
    [line] = result.stdout.splitlines()
    assert json.loads(line) == json.loads((tmp_path / "out" / "results.json").read_text())
    assert "overall" in result.stderr


def test_pairs_that_fail_are_counted_and_the_rest_goes_on(
    run: Run,
    write_pairs: Callable[..., Path],
    fake_url: str,
    fake_service: FakeService,
    tmp_path: Path,
):
    fake_service.errors["chosen 2"] = 422, "input_too_long"
    fake_service.errors["chosen 3"] = 500, "inference_failed"
    fake_service.non_finite.add("chosen 4")
    dataset = write_pairs(
        8, row_5={"rejected": "\udc80"}, row_6={"rejected": "chosen 6"}, row_7={"prompt": "\x00"}
    )
    result = run(dataset, "--url", fake_url)
    assert result.exit_code == 0, result.stderr
    assert "4 of 8 pairs failed, which counts as a loss" in result.stdout
    assert "1 of 8 pairs are ties. A tie counts as a loss." in result.stdout
    scores = lines(tmp_path / "out")
    assert [line["error"]["code"] for line in scores if "error" in line] == [
        "input_too_long",
        "inference_failed",
        "non_finite_score",
        "invalid_request",
    ]
    assert scores[6]["tie"]
    counts = json.loads((tmp_path / "out" / "results.json").read_text())["counts"]
    assert (counts["groups"], counts["ties"], counts["errors"]) == (8, 1, 4)
    assert counts["wins"] == sum(line["win"] for line in scores)

    fake_service.errors.clear()
    fake_service.non_finite.clear()
    assert "1 of 8 pairs failed" in run(dataset, "--url", fake_url).stdout
    assert fake_service.asked["chosen 2"] == 2
    assert fake_service.asked["chosen 1"] == 1
    assert [line["id"] for line in lines(tmp_path / "out")] == list(range(8))


@pytest.mark.parametrize(
    ("status", "code"), [(401, "unauthorized"), (503, "overloaded"), (404, "not_found")]
)
def test_losing_the_service_ends_the_run_and_the_same_command_goes_on(
    run: Run,
    write_pairs: Callable[..., Path],
    fake_url: str,
    fake_service: FakeService,
    tmp_path: Path,
    status: int,
    code: str,
):
    dataset = write_pairs(10)
    fake_service.errors["chosen 4"] = status, code
    result = run(dataset, "--url", fake_url, "--concurrency", "1")
    assert result.exit_code == 1
    [sentence] = [line for line in result.stderr.splitlines() if "reward-benchmark:" in line]
    assert "no score for chosen 4" in sentence
    assert f"4 of 10 pairs are kept in {tmp_path / 'out'}, and the same command goes" in sentence
    assert not (tmp_path / "out" / "results.json").exists()

    fake_service.errors.clear()
    assert run(dataset, "--url", fake_url).exit_code == 0
    assert fake_service.asked["chosen 3"] == 1
    assert len(lines(tmp_path / "out")) == 10


def test_another_model_in_the_middle_ends_the_run_and_cannot_continue_it(
    run: Run, write_pairs: Callable[..., Path], fake_url: str, fake_service: FakeService
):
    dataset = write_pairs(10)
    fake_service.changes_after = 5
    result = run(dataset, "--url", fake_url, "--concurrency", "1")
    assert result.exit_code == 1
    assert "fingerprint f2, but the run began with f1" in result.stderr
    assert "5 of 10 pairs are kept" in result.stderr

    result = run(dataset, "--url", fake_url)
    assert result.exit_code == 2
    assert 'fingerprint "f1", but this one has "f2": choose another --out' in result.stderr


def test_the_first_pairs_of_some_subsets(
    run: Run, write_pairs: Callable[..., Path], fake_url: str, tmp_path: Path
):
    dataset = write_pairs(10)
    options = ("--url", fake_url, "--subset", "odd", "--limit", "3")
    assert run(dataset, *options).exit_code == 0
    assert [line["id"] for line in lines(tmp_path / "out")] == [1, 3, 5]
    refused = run(dataset, "--url", fake_url, "--subset", "odd", "--limit", "4")
    assert refused.exit_code == 2
    assert "limit 3, but this one has 4: choose another --out" in refused.stderr


def test_rewardbench_by_length_without_a_service(run: Run, rewardbench_file: Path, tmp_path: Path):
    result = run(rewardbench_file, "--scorer", "length", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["counts"] == {
        "groups": 2985,
        "wins": 1116,
        "credit": 1116.0,
        "ties": 368,
        "errors": 0,
        "errors_by_code": {},
        "truncated": 0,
    }
    assert document["sections"].keys() == {"Chat", "Chat Hard", "Safety", "Reasoning"}
    sections = [section["score"] for section in document["sections"].values()]
    assert document["overall"] == pytest.approx(sum(sections) / 4)
    assert document["provenance"]["info"] is None
    rewardbench = json.loads((tmp_path / "out" / "rewardbench.json").read_text())
    assert len(rewardbench) == 23 + 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--subset", "none"), "no subset 'none' in this dataset; it has even, odd"),
        (("--limit", "0"), "Invalid value for '--limit'"),
        (("--url", "localhost:8000"), "does not begin with http://HOST"),
        (("--url", "http://localhost:abc"), "is not a URL"),
        (("--scorer", "vibes"), "'vibes' is not one of"),
    ],
)
def test_a_wrong_option_is_a_sentence(
    run: Run, write_pairs: Callable[..., Path], options: tuple[str, ...], message: str
):
    result = run(write_pairs(2), *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_wrong_row_is_a_sentence(run: Run, write_pairs: Callable[..., Path]):
    dataset = write_pairs(5, row_3={"chosen": None})
    result = run(dataset, "--scorer", "length")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        f"reward-benchmark: {dataset}, line 4: column 'chosen' must be a text or a list of "
        "messages, each with just a role and a content, not None"
    )


def test_a_place_that_cannot_be_written_is_a_sentence(
    run: Run, write_pairs: Callable[..., Path], tmp_path: Path
):
    (tmp_path / "file").touch()
    result = run(write_pairs(2), "--scorer", "length", "--out", str(tmp_path / "file" / "out"))
    assert result.exit_code == 2
    assert "Not a directory" in result.stderr


def test_nobody_at_the_address(run: Run, write_pairs: Callable[..., Path], tmp_path: Path):
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    result = run(write_pairs(2), "--url", url, "--wait", "0.5")
    assert result.exit_code == 1
    assert f"no reward service can be used at {url}" in result.stderr
    assert not (tmp_path / "out").exists()


def test_somebody_silent_at_the_address(run: Run, write_pairs: Callable[..., Path]):
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        result = run(write_pairs(2), "--url", url, "--wait", "0.1")
    assert result.exit_code == 1
    assert f"no reward service can be used at {url}: " in result.stderr


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["run", "--api-key", "it's se cret", "--json"], ["run", "--api-key", "***", "--json"]),
        (["--judge-api-key=has se cret", "--json"], ["--judge-api-key=***", "--json"]),
        (["--url", "http://me:secret@host/x"], ["--url", "http://***@host/x"]),
        (["--url=HTTP://me:se@cret@host"], ["--url=HTTP://***@host"]),
        (["org/judge@https://host/v1?api_key=secret"], ["org/judge@https://host/v1?***"]),
        (
            ["http://a:secret@b/?secret", "--name", "a?b@c"],
            ["http://***@b/?***", "--name", "a?b@c"],
        ),
        (["http://host/a@b"], ["http://host/a@b"]),
    ],
)
def test_the_recorded_command_has_no_secrets(
    arguments: list[str], shown: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "argv", ["reward-benchmark", *arguments])
    assert shlex.split(command_line()) == ["reward-benchmark", *shown]


def test_a_password_in_the_address_is_not_shown(run: Run, write_pairs: Callable[..., Path]):
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
    url = f"http://me:hunt@er2@{place}/x?key=hunt"
    result = run(write_pairs(2), "--url", url, "--wait", "0.3")
    assert result.exit_code == 1
    assert f"no reward service can be used at http://{place}/x: " in result.stderr
    assert f"GET http://{place}/x/ready: " in result.stderr
    assert "hunt" not in result.stderr
    assert "er2" not in result.stderr


def test_texts_of_the_data_do_not_act_on_the_terminal(
    run: Run, write_pairs: Callable[..., Path], tmp_path: Path
):
    escape = "\x1b]0;x\x07\x1b[2J\u202e"
    result = run(write_pairs(2, row_0={"subset": escape}), "--scorer", "length")
    assert result.exit_code == 0
    for command in (["scores"], ["subsets"], ["subsets", "--format", "markdown"]):
        result_2 = CliRunner().invoke(app, ["analyze", *command, str(tmp_path / "out")])
        assert result_2.exit_code == 0
        assert not {"\x1b", "\x07", "\u202e"} & set(result_2.output)
        assert ("‹U+001B›" in result_2.output) == (command != ["scores"])
    assert not {"\x1b", "\x07", "\u202e"} & set(result.output)
    assert "‹U+001B›" in result.output


def test_remarks_and_errors_do_not_act_on_the_terminal(capsys: pytest.CaptureFixture[str]):
    show("at \x1b[2J[red]", Group(Text("\x1b[1m")), document=None, print_json=False)
    with pytest.raises(typer.Exit), ending_well():
        raise BenchmarkError("no \x9b2J")
    said = capsys.readouterr()
    assert said.out == "at ‹U+001B›[2J[red]\n‹U+001B›[1m\n"
    assert said.err == "reward-benchmark: no ‹U+009B›2J\n"


@pytest.mark.parametrize("module", ["reward_benchmark.cli", "reward_benchmark.evaluation"])
def test_ctrl_c_while_a_command_imports_is_a_sentence(module: str, tmp_path: Path):
    program = f"""
import builtins, sys
real = builtins.__import__
def interrupted(name, *rest):
    if name == {module!r}:
        raise KeyboardInterrupt
    return real(name, *rest)
builtins.__import__ = interrupted
from reward_benchmark.__main__ import main
sys.argv = ["reward-benchmark", "run", "--out", {str(tmp_path / "out")!r}]
main()
"""
    arguments = [sys.executable, "-c", program]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (130, "reward-benchmark: interrupted\n")


def test_a_plain_installation_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch):
    missing = {"typer", "scipy"}
    monkeypatch.setattr(
        __main__,
        "find_spec",
        lambda name: None if name in missing else importlib.util.find_spec(name),
    )
    with pytest.raises(SystemExit, match=r"needs scipy, typer: .*'rewardserve\[benchmark\]'"):
        __main__.main()
