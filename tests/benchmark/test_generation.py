"""Candidates from a chat endpoint: all of them, each with its own seed, whatever comes between."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import stamina
from click.testing import Result
from typer.testing import CliRunner

from reward_benchmark.cli import app
from reward_benchmark.datasets import Selection
from reward_benchmark.generation import seed_of
from reward_benchmark.prompts import open_prompts

from .fake_llm import BROKEN, HTML, REFUSED, SLOW, TOO_MANY, TRUNCATED, FakeLLM, hashed_answer

Generate = Callable[..., Result]


@pytest.fixture
def fake() -> FakeLLM:
    return FakeLLM()


@pytest.fixture
def url(fake: FakeLLM) -> Iterator[str]:
    with fake.serve() as url:
        yield url


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def generate(url: str, out: Path) -> Iterator[Generate]:
    """Runs `reward-benchmark generate` without waiting between attempts; expects `exit_code`."""

    def generate(prompts: object, *options: str, exit_code: int = 0, into: Path = out) -> Result:
        where = ["--prompts", str(prompts), "--out", str(into), "--url", url, "--model", "org/chat"]
        arguments = ["generate", *where, "--timeout", "30", *options]
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": "300"})
        assert result.exit_code == exit_code, result.output
        return result

    with stamina.set_testing(True, attempts=3, cap=True):
        yield generate


def write(path: Path, *rows: Mapping[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Ten prompts, some with an id of their own."""
    rows = [{"prompt": f"question {i}"} | ({"id": f"q{i}"} if i % 2 else {}) for i in range(10)]
    return write(tmp_path / "prompts.jsonl", *rows)


def files(out: Path) -> dict[str, bytes]:
    """What must not depend on how the work went."""
    return {name: (out / name).read_bytes() for name in ("candidates.jsonl", "answers.jsonl")}


def results(out: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((out / "results.json").read_text())
    return document


# ------------------------------------------------------------------------------ what is written


def test_every_prompt_gets_its_candidates(
    generate: Generate, prompts: Path, fake: FakeLLM, out: Path
):
    options = ["--n", "3", "--temperature", "0.7", "--top-p", "0.9", "--max-tokens", "50"]
    result = generate(prompts, *options, "--stop", "END", "--stop", "\n\n", "--json")

    rows = read(out / "candidates.jsonl")
    assert [row["id"] for row in rows] == [1, "q1", 3, "q3", 5, "q5", 7, "q7", 9, "q9"]
    for number, row in enumerate(rows):
        assert row["prompt"] == f"question {number}"
        assert row["generator"] == "org/chat"
        assert row["candidates"] == [
            hashed_answer([{"role": "user", "content": row["prompt"]}], seed)
            for seed in row["seeds"]
        ]
        assert row["finish_reasons"] == ["stop"] * 3
        assert row["input_tokens"] == row["output_tokens"] == [2] * 3
        assert "failures" not in row
    assert len({seed for row in rows for seed in row["seeds"]}) == 30

    assert len(fake.requests) == 30
    for request in fake.requests:
        assert request["temperature"] == 0.7
        assert request["top_p"] == 0.9
        assert request["max_tokens"] == 50
        assert request["stop"] == ["END", "\n\n"]

    document = results(out)
    assert json.loads(result.stdout.splitlines()[-1]) == document
    assert "does the endpoint sample?" not in result.output
    assert document["prompts"] == {"count": 10, "complete": 10}
    assert document["candidates"] == {
        "count": 30,
        "empty": 0,
        "repeated": 0,
        "finish_reasons": {"stop": 30},
    }
    assert document["failures"] == {"count": 0, "by_code": {}}
    assert document["usage"] == {
        "counted_candidates": 30,
        "input_tokens": 60,
        "output_tokens": 60,
    }
    assert document["provenance"]["run"]["stop"] == ["END", "\n\n"]


def test_a_reasoning_model_answers_without_a_limit_on_tokens(
    generate: Generate, prompts: Path, fake: FakeLLM, out: Path, tmp_path: Path
):
    def unlimited() -> list[dict[str, Any]]:
        # Of those that were refused, some may be on their way for long.
        return [request for request in fake.requests if "max_tokens" not in request]

    limited = tmp_path / "limited"
    generate(prompts, "--n", "2", into=limited)
    assert {request["max_tokens"] for request in fake.requests} == {2048}

    fake.reasoning = True
    result = generate(prompts, "--n", "2", exit_code=1)
    assert "Use 'max_completion_tokens' instead." in result.stderr
    assert "--max-tokens none sends no limit" in result.stderr
    result = generate(prompts, "--n", "2", "--max-tokens", "none", exit_code=2)
    assert "holds a run with max_tokens 2048, but this one has null" in result.stderr
    free = tmp_path / "free"
    generate(prompts, "--n", "2", "--max-tokens", "none", into=free)
    assert len(unlimited()) == 20
    assert files(free) == files(limited)
    assert json.loads((free / "run.json").read_text())["max_tokens"] is None
    assert results(free)["provenance"]["run"]["max_tokens"] is None
    generate(prompts, "--n", "2", "--max-tokens", "none", into=free)
    assert len(unlimited()) == 20


def test_a_seed_depends_on_the_work_the_prompt_and_the_place_alone():
    # From the definition: the first 31 bits of the SHA-256 of the JSON of all of them.
    assert seed_of(0, ("all", 0), 0) == 2141322922
    assert seed_of(0, ("all", 0), 1) == 1347013259
    places = [
        (seed, (subset, id_), index)
        for seed in (0, 1, -1)
        for subset in ("all", "1")
        for id_ in (0, 1, "1", "é")
        for index in range(20)
    ]
    seeds = [seed_of(*place) for place in places]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert max(seeds) > 2**30


def test_another_seed_gives_other_candidates_and_another_prompt_none_of_both(
    generate: Generate, prompts: Path, tmp_path: Path
):
    first, second, shorter = tmp_path / "first", tmp_path / "second", tmp_path / "shorter"
    generate(prompts, "--n", "2", into=first)
    generate(prompts, "--n", "2", "--seed", "1", into=second)
    generate(prompts, "--n", "3", "--limit", "4", into=shorter)
    texts = [
        {t for row in read(out / "candidates.jsonl") for t in row["candidates"]}
        for out in (first, second)
    ]
    assert not texts[0] & texts[1]
    for row, longer in zip(
        read(shorter / "candidates.jsonl"), read(first / "candidates.jsonl"), strict=False
    ):
        assert row["candidates"][:2] == longer["candidates"]
    assert len(read(shorter / "candidates.jsonl")) == 4


def test_many_candidates_of_one_prompt(generate: Generate, tmp_path: Path, out: Path):
    one = write(tmp_path / "one.jsonl", {"prompt": "q"})
    generate(one, "--n", "150", "--concurrency", "150")
    [row] = read(out / "candidates.jsonl")
    assert len(set(row["candidates"])) == len(set(row["seeds"])) == 150


def test_what_the_endpoint_does_not_count_is_null(
    generate: Generate, prompts: Path, fake: FakeLLM, out: Path
):
    fake.usage = None
    result = generate(prompts, "--n", "2", "--limit", "2")
    assert results(out)["usage"] == {
        "counted_candidates": 0,
        "input_tokens": None,
        "output_tokens": None,
    }
    assert read(out / "candidates.jsonl")[0]["output_tokens"] == [None, None]
    assert "not counted" in result.stdout


def test_empty_cut_and_repeated_candidates_are_counted(
    generate: Generate, prompts: Path, fake: FakeLLM, out: Path
):
    fake.answering = lambda messages, _: "" if messages[-1]["content"] == "question 0" else "same"
    fake.finish_reason = "length"
    result = generate(prompts, "--n", "3", "--limit", "2")
    assert "does the endpoint sample?" in result.stdout
    assert results(out)["candidates"] == {
        "count": 6,
        "empty": 3,
        "repeated": 4,
        "finish_reasons": {"length": 6},
    }
    assert [row["candidates"] for row in read(out / "candidates.jsonl")] == [[""] * 3, ["same"] * 3]


def test_any_text_survives(generate: Generate, fake: FakeLLM, tmp_path: Path, out: Path):
    texts = ["naïve 🦉", "line\u2028break\r\n\x00\x85", "half \ud83e a pair"]
    rows = [{"id": f"é{i}", "prompt": text} for i, text in enumerate(texts)]
    dataset = write(tmp_path / "prompts.jsonl", *rows)
    fake.answering = lambda messages, _: messages[-1]["content"] + "\ud83e"
    for _ in range(2):
        generate(dataset, "--n", "2")
        written = read(out / "candidates.jsonl")
        assert [row["prompt"] for row in written] == texts
        assert [row["candidates"] for row in written] == [
            [texts[0] + "\ud83e"] * 2,
            [texts[1] + "\ud83e"] * 2,
            [],
        ]
        assert {failure["code"] for failure in written[2]["failures"]} == {"not_unicode"}
    assert len(fake.requests) == 4


# ------------------------------------------------------------------------------- what goes wrong


def test_failures_are_counted_kept_and_tried_again(
    generate: Generate, prompts: Path, fake: FakeLLM, out: Path, tmp_path: Path
):
    undisturbed = tmp_path / "undisturbed"
    generate(prompts, "--n", "2", into=undisturbed)

    kinds = {
        "question 1": (REFUSED, "refused"),
        "question 2": (SLOW, "timeout"),
        "question 4": (TRUNCATED, "unreachable"),
        "question 6": (HTML, "malformed_answer"),
        "question 7": (BROKEN, "server_error"),
        "question 9": (TOO_MANY, "rate_limited"),
    }
    for question, (reply, _) in kinds.items():
        fake.never_answer(question, reply)
    result = generate(prompts, "--n", "2", "--concurrency", "5", "--timeout", "2")
    assert "failed (the same command tries again)" in result.stdout
    assert results(out)["failures"] == {
        "count": 12,
        "by_code": {code: 2 for _, code in sorted(kinds.values(), key=lambda kind: kind[1])},
    }
    assert results(out)["prompts"] == {"count": 10, "complete": 4}
    for row in read(out / "candidates.jsonl"):
        _, code = kinds.get(row["prompt"], (None, None))
        assert len(row["candidates"]) == len(row["seeds"]) == (2 if code is None else 0)
        assert [failure["code"] for failure in row.get("failures", [])] == [code] * 2 * bool(code)

    for question in list(kinds)[:3]:
        fake.obey(question)
    fake.asked.clear()
    generate(prompts, "--n", "2", "--timeout", "2")
    assert results(out)["failures"]["count"] == 6
    assert not fake.asked.keys() & {f"question {i}" for i in (0, 3, 5, 8)}
    for question in kinds:
        fake.obey(question)
    generate(prompts, "--n", "2")
    assert files(out) == files(undisturbed)
    assert results(out)["failures"]["count"] == 0


def test_one_lost_candidate_leaves_its_siblings_their_places(
    generate: Generate, prompts: Path, fake: FakeLLM, out: Path
):
    lost = seed_of(0, ("all", 1), 1)
    fake.answering = lambda messages, seed: None if seed == lost else hashed_answer(messages, seed)
    generate(prompts, "--n", "3", "--limit", "1")
    [row] = read(out / "candidates.jsonl")
    assert row["seeds"] == [seed_of(0, ("all", 1), 0), seed_of(0, ("all", 1), 2)]
    [failure] = row["failures"]
    assert (failure["index"], failure["code"]) == (1, "no_text")


def test_failures_that_pass_leave_no_trace(
    generate: Generate, prompts: Path, fake: FakeLLM, out: Path, tmp_path: Path
):
    undisturbed = tmp_path / "undisturbed"
    generate(prompts, "--n", "2", into=undisturbed)
    for number, reply in enumerate((TOO_MANY, BROKEN, TRUNCATED, HTML, SLOW)):
        fake.misbehave(f"question {number}", reply)
    generate(prompts, "--n", "2", "--concurrency", "7", "--timeout", "2")
    assert files(out) == files(undisturbed)


def test_a_lost_endpoint_ends_the_run_with_what_is_kept(
    generate: Generate, prompts: Path, fake: FakeLLM, out: Path, tmp_path: Path
):
    undisturbed = tmp_path / "undisturbed"
    generate(prompts, "--n", "3", into=undisturbed)

    def break_down(messages: Any, seed: int | None) -> str:
        fake.down = len(fake.requests) >= 13
        return hashed_answer(messages, seed)

    fake.requests.clear()
    fake.answering = break_down
    result = generate(prompts, "--n", "3", "--concurrency", "2", exit_code=1)
    kept = read(out / "answers.jsonl")
    assert 10 <= len(kept) <= 12
    assert "cannot be used: the connection failed" in result.stderr
    assert (
        f"({len(kept)} of 30 candidates are kept in {out}, and the same command goes on from there)"
        in result.stderr
    )
    assert not (out / "candidates.jsonl").exists()

    fake.down, fake.answering = False, hashed_answer
    fake.requests.clear()
    generate(prompts, "--n", "3", "--concurrency", "4")
    assert files(out) == files(undisturbed)
    # One that was on its way when the run ended may arrive now, and is asked for again.
    asked = {(r["messages"][-1]["content"], r["seed"]) for r in fake.requests}
    assert len([one for one in asked if one[0].startswith("question")]) == 30 - len(kept)
    fake.down = True  # a complete work asks for nothing
    generate(prompts, "--n", "3")
    assert files(out) == files(undisturbed)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """A job in the background of a shell would ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_says_what_is_kept(
    generate: Generate, prompts: Path, fake: FakeLLM, out: Path, tmp_path: Path
):
    undisturbed = tmp_path / "undisturbed"
    generate(prompts, "--n", "3", into=undisturbed)

    pressed = threading.Event()

    def press(messages: Any, seed: int | None) -> str:
        if len(fake.requests) >= 12 and not pressed.is_set():
            pressed.set()
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
        return hashed_answer(messages, seed)

    fake.requests.clear()
    fake.answering = press
    result = generate(prompts, "--n", "3", "--concurrency", "2", exit_code=130)
    kept = read(out / "answers.jsonl")
    assert 10 <= len(kept) <= 12
    assert f"interrupted ({len(kept)} of 30 candidates are kept in {out}" in result.stderr
    fake.answering = hashed_answer
    generate(prompts, "--n", "3")
    assert files(out) == files(undisturbed)


def test_killed_work_goes_on_to_the_files_of_undisturbed_work(
    generate: Generate, prompts: Path, fake: FakeLLM, url: str, out: Path, tmp_path: Path
):
    undisturbed = tmp_path / "undisturbed"
    generate(prompts, "--n", "4", into=undisturbed)
    fake.asked.clear()
    fake.seconds = 0.05

    arguments = [sys.executable, "-m", "reward_benchmark", "generate", "--concurrency", "3"]
    options = ["--prompts", prompts, "--url", url, "--model", "org/chat", "--n", "4", "--out", out]
    answers = out / "answers.jsonl"
    with subprocess.Popen([*arguments, *map(str, options)], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not answers.exists() or answers.read_bytes().count(b"\n") < 15:
            assert process.poll() is None, "the run ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
    kept = answers.read_bytes().splitlines(keepends=True)
    assert 15 <= len(kept) < 40
    assert not (out / "candidates.jsonl").exists()
    with answers.open("ab") as file:
        file.write(kept[0][:-7])  # what a kill in the middle of a write leaves behind

    fake.seconds = 0.0
    generate(prompts, "--n", "4")
    assert files(out) == files(undisturbed)
    # Only what was under way was asked for again.
    assert fake.asked.total() <= 40 + 3


def test_work_with_other_settings_is_left_alone(
    generate: Generate, prompts: Path, out: Path, tmp_path: Path
):
    generate(prompts, "--n", "2")
    before = files(out)
    for options in (
        ["--n", "3"],
        ["--n", "2", "--seed", "1"],
        ["--n", "2", "--temperature", "0.5"],
        ["--n", "2", "--top-p", "0.5"],
        ["--n", "2", "--max-tokens", "1"],
        ["--n", "2", "--max-tokens", "none"],
        ["--n", "2", "--stop", "a"],
        ["--n", "2", "--system", "a"],
        ["--n", "2", "--limit", "3"],
        ["--n", "2", "--model", "org/other"],
    ):
        result = generate(prompts, *options, exit_code=2)
        name = options[-2].removeprefix("--").replace("-", "_")
        assert f"holds a run with {name} " in result.stderr
        assert "choose another --out" in result.stderr
    write(prompts, {"prompt": "another question"})
    result = generate(prompts, "--n", "2", exit_code=2)
    assert "holds a run with dataset_sha256" in result.stderr
    assert files(out) == before


def test_the_key_is_written_nowhere(generate: Generate, prompts: Path, fake: FakeLLM, out: Path):
    key = "sk-secret-0123456789"
    fake.api_key = key
    fake.never_answer("question 1", REFUSED)
    result = generate(prompts, "--n", "1", "--api-key", key)
    assert results(out)["prompts"]["complete"] == 9
    assert key not in result.output
    assert not [file for file in out.iterdir() if key.encode() in file.read_bytes()]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--temperature", "0"], "with --temperature 0 all 16 candidates of a prompt are the same"),
        (["--temperature", "nan"], "Invalid value for '--temperature'"),
        (["--temperature", "inf"], "Invalid value for '--temperature'"),
        (["--top-p", "nan"], "Invalid value for '--top-p'"),
        (["--top-p", "1.1"], "Invalid value for '--top-p'"),
        (["--n", "0"], "Invalid value for '--n'"),
        (["--max-tokens", "0"], "'0' is neither a whole number from 1 nor 'none'"),
        (["--max-tokens", "all"], "Invalid value for '--max-tokens': 'all' is neither"),
        (["--url", "ftp://host"], "'ftp://host' does not begin with http://HOST"),
        (["--subset", "none"], "no subset 'none' in this dataset; it has all"),
    ],
)
def test_wrong_options_are_told_before_anything_is_asked(
    generate: Generate, prompts: Path, fake: FakeLLM, out: Path, options: list[str], complaint: str
):
    assert complaint in generate(prompts, *options, exit_code=2).stderr
    assert not fake.requests
    assert not out.exists()


# ----------------------------------------------------------------------------- what is asked of


def test_conversations_and_a_system_message(
    generate: Generate, fake: FakeLLM, tmp_path: Path, out: Path
):
    user = {"role": "user", "content": "why?"}
    own = {"role": "system", "content": "Be long."}
    brief = {"role": "system", "content": "Be brief."}
    dataset = write(
        tmp_path / "prompts.jsonl",
        {"prompt": "what?"},
        {"prompt": [user]},
        {"prompt": [own, user | {"name": None}]},
    )
    generate(dataset, "--n", "1", "--system", "Be brief.", "--concurrency", "1")
    assert [request["messages"] for request in fake.requests] == [
        [brief, {"role": "user", "content": "what?"}],
        [brief, user],
        [own, user],
    ]
    assert [row["prompt"] for row in read(out / "candidates.jsonl")] == [
        "what?",
        [user],
        [own, user],
    ]


@pytest.mark.parametrize(
    ("columns", "prompt"),
    [
        ({"prompt": "p", "instruction": "i", "input": "n"}, "p"),
        ({"instruction": "i", "input": "", "output": "o"}, "i"),
        ({"question": "q", "input": "n"}, "q"),
        ({"input": "n", "chosen": "c"}, "n"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_a_column_of_prompts_has_one_of_four_names(
    tmp_path: Path, columns: dict[str, str], prompt: str, suffix: str
):
    path = tmp_path / f"prompts{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([columns]), path)
    else:
        path.write_text(json.dumps(columns if suffix == ".jsonl" else [columns]))
    [group] = open_prompts(str(path), Selection())
    assert (group.subset, group.id, group.prompt) == ("all", 1, prompt)


def test_of_preferences_every_distinct_prompt_is_answered_once(tmp_path: Path):
    preference = {"chosen": "c", "rejected": "r"}
    texts = ["a", "b", "a", "c", "b", "d"]
    dataset = write(
        tmp_path / "pairs.jsonl",
        *[preference | {"prompt": text, "subset": f"s{i % 2}"} for i, text in enumerate(texts)],
    )
    prompts = open_prompts(str(dataset), Selection())
    assert [(group.key, group.prompt) for group in prompts] == [
        (("s0", 1), "a"),
        (("s1", 2), "b"),
        (("s1", 4), "c"),
        (("s1", 6), "d"),
    ]
    assert [group.prompt for group in open_prompts(str(dataset), Selection(limit=3))] == list("abc")
    odd = open_prompts(str(dataset), Selection(frozenset({"s1"})))
    assert [group.prompt for group in odd] == ["b", "c", "d"]
    # A file of prompts alone is taken at its word.
    alone = write(tmp_path / "prompts.jsonl", *[{"prompt": text} for text in texts])
    assert [group.prompt for group in open_prompts(str(alone), Selection())] == texts


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([{"prompt": "p", "id": 1}, {"prompt": "q", "id": 1}], "id 1 of subset 'all' was there"),
        ([{"text": "p"}], "column 'prompt' is missing"),
        ([{"prompt": "p"}, {"prompt": None}], "line 2: column 'prompt' must be a text or a list"),
        ([{"prompt": []}], "line 1: column 'prompt' must be a text or a list of messages"),
        ([{"instruction": "sum", "input": "1, 2"}], "join them in a column 'prompt'"),
        ([{"instruction": "i"}, {"instruction": 5}], "line 2: column 'instruction' must be"),
        ([], "has no rows"),
    ],
)
def test_a_file_that_holds_no_prompts_is_told(
    generate: Generate, tmp_path: Path, out: Path, rows: list[Mapping[str, Any]], complaint: str
):
    dataset = write(tmp_path / "prompts.jsonl", *rows)
    assert complaint in generate(dataset, exit_code=2).stderr
    assert not out.exists()


def test_the_real_prompts_of_best_of_16(generate: Generate, shared_data: Path, out: Path):
    file = shared_data / "best_of_16" / "alpaca_tulu2dpo13b.jsonl.gz"
    generate(file, "--n", "2", "--limit", "3")
    rows = read(out / "candidates.jsonl")
    assert [(row["subset"], row["id"]) for row in rows] == [("helpful_base", i) for i in range(3)]
    assert len(list(open_prompts(str(file), Selection()))) == 805
