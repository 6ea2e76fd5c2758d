"""`reward-benchmark judge`, in process, against stand-ins for endpoints."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import stamina
from click.testing import Result
from typer.testing import CliRunner

from reward_benchmark.cli import app

from .fake_llm import FakeLLM, Messages
from .scored_runs import rewardbench_2_rows, write_rows

Run = Callable[..., Result]


def shown(messages: Messages) -> list[str]:
    return re.findall(r"^((?:chosen|rejected) \d+)$", messages[-1]["content"], re.MULTILINE)


def knowing(messages: Messages, _: int | None) -> str:
    """Right in nine cases of ten, taken in by the place in the tenth."""
    completions = shown(messages)
    if not completions:  # a client in doubt asks something short
        return "Hello!"
    if completions[0].endswith("3"):
        return "The first. [[A]]"
    return f"Clearly. [[{'AB'[completions[1].startswith('chosen')]}]]"


def harsh(messages: Messages, _: int | None) -> str:
    """Right in the odd half, undecided in the other."""
    completions = shown(messages)
    if not completions:
        return "Hello!"
    number = int(completions[0].split()[1])
    return f"[[{'AB'[completions[1].startswith('chosen')]}]]" if number % 2 else "Both. [[C]]"


@pytest.fixture
def llm() -> FakeLLM:
    return FakeLLM(knowing)


@pytest.fixture
def url(llm: FakeLLM) -> Iterator[str]:
    with llm.serve() as url:
        yield url


@pytest.fixture
def run(write_pairs: Callable[..., Path]) -> Iterator[Run]:
    """Runs the command over ten pairs, without waiting between retries."""
    dataset = write_pairs(10)

    def run(out: Path, *options: object) -> Result:
        arguments = ["judge", "--dataset", dataset, "--out", out, "--concurrency", 2, *options]
        environment = {"COLUMNS": "250", "CHAT_API_KEY": ""}
        return CliRunner().invoke(app, list(map(str, arguments)), env=environment)

    with stamina.set_testing(True):
        yield run


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]


def results(out: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((out / "results.json").read_text())
    return document


def test_a_run_writes_what_any_run_writes_and_more(
    run: Run, llm: FakeLLM, url: str, tmp_path: Path
):
    out = tmp_path / "out"
    judge = ["--judge", "org/chat", "--url", url, "--price-input", 2, "--price-output", 30]
    result = run(out, *judge, "--json")
    assert result.exit_code == 0, result.stderr
    assert sorted(file.name for file in out.iterdir()) == [
        "results.json",
        "rewardbench.json",
        "run.json",
        "scores.jsonl",
    ]
    written = lines(out)
    assert [line["id"] for line in written] == list(range(10))
    assert [line["scores"] for line in written] == [[1, 1] if i == 3 else [2, 0] for i in range(10)]
    document = results(out)
    assert json.loads(result.stdout.splitlines()[-1]) == document
    assert document["model"] == "org/chat"
    assert document["model_type"] == "Generative RM"
    assert document["counts"]["wins"] == 9
    assert document["counts"]["ties"] == 1
    [member] = document["judges"]["members"]
    assert member["accuracy"] == 0.9
    assert member["order_agreement"] == 0.9
    assert sum(member["verdicts"].values()) == 20

    assert {request.get("seed") for request in llm.requests} == {None}

    # The bill is that of the lines, and of what the endpoint counted.
    asked = sum(len(m["content"].split()) for r in llm.requests for m in r["messages"])
    said = sum(len(knowing(request["messages"], None).split()) for request in llm.requests)
    judges = document["judges"]
    assert (judges["input_tokens"], judges["output_tokens"]) == (asked, said)
    assert judges["cost"] == pytest.approx((2 * asked + 30 * said) / 1e6)
    recorded = [line["details"]["judges"][0] for line in written]
    assert sum(sum(one["input_tokens"]) for one in recorded) == asked
    assert f"{asked:,} input and {said:,} output tokens" in result.stderr
    assert "org/chat said A (" in result.stderr
    assert "90.0" in result.stderr


def test_a_jury_is_broken_down_by_judge(run: Run, llm: FakeLLM, url: str, tmp_path: Path):
    other = FakeLLM(harsh)
    other.model = "org/harsh"
    other.usage = None
    judges = ["--judge", "org/chat", "--url", url, "--concurrency", 1]
    prices = [*("--price-input", 1, "--price-input", 2), *("--price-output", 1) * 2]
    with other.serve() as other_url:
        result = run(tmp_path / "out", *judges, "--judge", f"org/harsh@{other_url}", *prices)
    assert result.exit_code == 0, result.stderr
    document = results(tmp_path / "out")
    assert document["model"] == "org/chat + org/harsh"
    assert document["model_type"] == "Generative RM PoLL"
    expected = [[3, 1] if i == 3 else [4, 0] if i % 2 else [2, 0] for i in range(10)]
    assert [line["scores"] for line in lines(tmp_path / "out")] == expected
    knows, doubts = document["judges"]["members"]
    assert (knows["accuracy"], doubts["accuracy"]) == (0.9, 0.5)
    assert doubts["verdicts"]["tie"] == 10
    assert doubts["answers_without_token_counts"] == 20
    [pair] = document["judges"]["agreement"]
    assert pair["judges"] == ["org/chat", "org/harsh"]
    assert pair["raw"] == 0.4
    assert "org/chat and org/harsh agree on 40.0 % of 10 decisions" in result.stdout
    assert "20 of 20 answers of org/harsh came without a count of tokens" in result.stdout


def test_a_kept_answer_changes_no_byte(run: Run, llm: FakeLLM, url: str, tmp_path: Path):
    judge = ["--judge", "org/chat", "--url", url, "--cache", tmp_path / "cache"]
    plain, asked, kept = (tmp_path / name for name in ("plain", "asked", "kept"))
    assert run(plain, *judge[:4]).exit_code == 0
    assert run(asked, *judge).exit_code == 0
    assert len(llm.requests) == 40
    # The same model at another address is the same model.
    llm.requests.clear()
    with llm.serve() as moved:
        assert run(kept, *judge[:3], moved, *judge[4:]).exit_code == 0
    assert llm.requests == []
    for other in (asked, kept):
        assert (other / "scores.jsonl").read_bytes() == (plain / "scores.jsonl").read_bytes()
        assert results(other)["judges"] == results(plain)["judges"]


def test_rewardbench_2_is_judged_by_best_of_four_and_its_ties_by_ratings(
    llm: FakeLLM, url: str, tmp_path: Path
):
    def answer(messages: Messages, _: int | None) -> str:
        texts = re.findall(r"^(?:right|wrong) \d$", messages[-1]["content"], re.MULTILINE)
        if len(texts) == 1:
            return "[[9]]" if texts[0].startswith("right") else "[[2]]"
        return f"[[{'ABCD'[texts.index('right 0')]}]]"

    def row(id_: str, subset: str, right: int, wrong: int) -> dict[str, object]:
        chosen, rejected = (
            [f"{w} {i}" for i in range(n)] for w, n in [("right", right), ("wrong", wrong)]
        )
        return {"id": id_, "subset": subset, "prompt": "p", "chosen": chosen, "rejected": rejected}

    llm.answering = answer
    dataset = tmp_path / "set.jsonl"
    rows = [row("7", "Math", 1, 3), row("ref:0", "Ties", 1, 2), row("tied:0", "Ties", 3, 2)]
    dataset.write_text("".join(json.dumps(one) + "\n" for one in rows))
    out = tmp_path / "out"
    options = ["--judge", "org/chat", "--url", url, "--concurrency", "1", "--out", str(out)]
    arguments = ["judge", "--dataset", f"rewardbench-2={dataset}", *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    ways = [line["details"]["way"] for line in lines(out)]
    assert ways == ["best-of-n", "rating-ties", "rating-ties"]
    scores = [line["scores"] for line in lines(out)]
    assert scores == [[2, 0, 0, 0], [9, 2, 2], [9, 9, 9, 2, 2]]
    assert results(out)["judges"]["members"][0]["accuracy"] == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--temperature", 1],
        ["--max-tokens", 9],
        ["--max-tokens", "none"],
        ["--prompts", "brief"],
    ],
)
def test_an_answer_to_another_question_is_not_taken(
    run: Run, llm: FakeLLM, url: str, tmp_path: Path, options: list[object]
):
    judge = ["--judge", "org/chat", "--url", url, "--cache", tmp_path / "cache", "--limit", 1]
    run(tmp_path / "first", *judge)
    assert len(llm.requests) == 2
    run(tmp_path / "second", *judge, *options)
    assert len(llm.requests) == 4


def test_a_run_that_was_cut_goes_on_to_the_same_bytes(
    run: Run, llm: FakeLLM, url: str, tmp_path: Path
):
    judge = ["--judge", "org/chat", "--url", url]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(whole, *judge)
    run(cut, *judge)
    written = (whole / "scores.jsonl").read_bytes()
    kept = b"".join(written.splitlines(keepends=True)[6:3:-1])
    (cut / "scores.jsonl").write_bytes(kept + written[:50])
    llm.requests.clear()
    result = run(cut, *judge, "--concurrency", 1)
    assert result.exit_code == 0, result.stderr
    assert len(llm.requests) == 14
    assert (cut / "scores.jsonl").read_bytes() == written
    assert results(cut)["judges"] == results(whole)["judges"]


def test_an_endpoint_that_is_lost_loses_nothing(run: Run, llm: FakeLLM, url: str, tmp_path: Path):
    judge = ["--judge", "org/chat", "--url", url]
    run(tmp_path / "whole", *judge)
    llm.requests.clear()
    answered = 0

    def breaking_down(messages: Messages, seed: int | None) -> str:
        nonlocal answered
        answered += 1
        llm.down = answered >= 9
        return knowing(messages, seed)

    llm.answering = breaking_down
    out = tmp_path / "out"
    result = run(out, *judge)
    assert result.exit_code == 1
    [kept] = re.findall(r"(\d+) of 10 pairs are kept", result.stderr)
    assert int(kept) == len(lines(out)) > 0
    llm.down, llm.answering = False, knowing
    assert run(out, *judge).exit_code == 0
    expected = (tmp_path / "whole" / "scores.jsonl").read_bytes()
    assert (out / "scores.jsonl").read_bytes() == expected


def test_what_cannot_be_read_is_counted_and_tried_again(
    run: Run, llm: FakeLLM, url: str, tmp_path: Path
):
    def unsure(messages: Messages, _: int | None) -> str:
        return "Hm." if "chosen 4" in shown(messages) else knowing(messages, None)

    llm.answering = unsure
    out, cache = tmp_path / "out", tmp_path / "cache"
    judge = ["--judge", "org/chat", "--url", url]
    result = run(out, *judge, "--cache", cache)
    assert result.exit_code == 0, result.stderr
    document = results(out)
    assert document["overall"] == 0.8
    assert document["counts"]["errors_by_code"] == {"unparsable_verdict": 1}
    # What could not be read was paid for all the same.
    assert document["judges"]["answers"] == 20
    failed = next(line for line in lines(out) if "error" in line)
    [bill] = failed["details"]["judges"]
    assert len(bill["input_tokens"]) == 2
    asked = [
        tokens for line in lines(out) for tokens in line["details"]["judges"][0]["input_tokens"]
    ]
    assert document["judges"]["input_tokens"] == sum(asked)
    assert document["judges"]["members"][0]["accuracy"] == 8 / 9
    assert f"delete the file in {cache}" in " ".join(result.stdout.split())
    llm.answering = knowing
    llm.requests.clear()
    run(out, *judge, "--cache", cache)
    assert results(out)["counts"]["errors"] == 1
    assert llm.requests == []
    run(out, *judge)
    assert results(out)["counts"]["errors"] == 0
    assert len(llm.requests) == 2


def test_a_judge_with_a_form_of_its_own(
    run: Run, llm: FakeLLM, url: str, tmp_path: Path, write_pairs: Callable[..., Path]
):
    turns = [("user", "Hi"), ("assistant", "Hello"), ("user", "prompt 2")]
    conversation = [{"role": role, "content": content} for role, content in turns]
    write_pairs(10, row_2={"prompt": conversation})
    folder, out = tmp_path / "prompts", tmp_path / "out"
    folder.mkdir()
    blocks = "{%% block system %%}Judge.{%% endblock %%}{%% block user %%}\n{{ prompt }}\n%s\n"
    compare = blocks % "{{ completions.A }}\n{{ completions.B }}" + "{% endblock %}"
    rate = blocks % "{{ completion }}" + "{% endblock %}"
    verdict = r"{% block verdict %}\[RESULT\] ([AB]){% endblock %}"
    (folder / "pairwise.jinja").write_text(compare + verdict)
    (folder / "rating.jinja").write_text(
        rate + r"{% block rating %}\[RESULT\] ([1-5]){% endblock %}"
    )

    def trained(messages: Messages, _: int | None) -> str:
        completions = shown(messages)
        if len(completions) == 1:
            return f"[RESULT] 3? [RESULT] {'15'[completions[0].startswith('chosen')]} it is."
        letter = knowing(messages, None)[-3]
        other = "AB"[letter == "A"]
        return f"It ends on [RESULT] {other}, and on [[{other}]]. Feedback: no. [RESULT] {letter}"

    llm.answering = trained
    judge = ["--judge", "org/chat", "--url", url, "--prompts", folder]
    result = run(out, *judge)
    assert result.exit_code == 0, result.stderr
    assert [line["scores"] for line in lines(out)] == [
        [1, 1] if i == 3 else [2, 0] for i in range(10)
    ]
    questions = [request["messages"][-1]["content"] for request in llm.requests]
    said = "[user]\nHi\n\n[assistant]\nHello\n\n[user]\nprompt 2\n"
    assert sum(question.startswith(said) for question in questions) == 2

    rated = tmp_path / "rated"
    assert run(rated, *judge, "--mode", "rating").exit_code == 0
    assert [line["scores"] for line in lines(rated)] == [[5, 1]] * 10

    # Cut, it goes on to the same bytes; read otherwise, it is another run.
    written = (out / "scores.jsonl").read_bytes()
    (out / "scores.jsonl").write_bytes(b"".join(written.splitlines(keepends=True)[:6]))
    llm.requests.clear()
    assert run(out, *judge).exit_code == 0
    assert len(llm.requests) == 8
    assert (out / "scores.jsonl").read_bytes() == written
    for changed, message in [
        (verdict.replace("[AB]", "[A-C]"), 'holds a run with prompts pairwise "'),
        (
            verdict.replace("verdict", "verdicts"),
            "block 'verdicts', which is none of system, user,",
        ),
        (verdict.replace("(", "(("), "is no regular expression"),
    ]:
        (folder / "pairwise.jinja").write_text(compare + changed)
        result = run(out, *judge)
        assert result.exit_code == 2
        assert message in " ".join(result.stderr.split())
    assert len(llm.requests) == 8
    assert (out / "scores.jsonl").read_bytes() == written


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (["--seed", 1], "seed 0, but this one has 1"),
        (["--orders", "seeded-single"], "orders"),
        (["--mode", "rating"], "mode"),
        (["--temperature", "none"], "temperature 0.0, but this one has null"),
        (["--max-tokens", 9], "max_tokens 2048, but this one has 9"),
        (["--max-tokens", "none"], "max_tokens 2048, but this one has null"),
        (["--no-system-role"], "system_role true, but this one has false"),
        (["--prompts", "brief"], "prompts"),
        (["--judge", "org/other"], "judges"),
    ],
)
def test_another_question_is_another_run(
    run: Run, llm: FakeLLM, url: str, tmp_path: Path, options: list[object], field: str
):
    out = tmp_path / "out"
    judge = ["--judge", "org/chat", "--url", url, "--limit", 1]
    assert run(out, *judge).exit_code == 0
    before = (out / "scores.jsonl").read_bytes()
    llm.requests.clear()
    result = run(out, *judge, *options)
    assert result.exit_code == 2
    assert f"holds a run with {field}" in result.stderr
    assert llm.requests == []
    assert (out / "scores.jsonl").read_bytes() == before


def test_prices_and_caches_may_change_between_runs(run: Run, url: str, tmp_path: Path):
    judge = ["--judge", "org/chat", "--url", url]
    run(tmp_path / "out", *judge)
    assert results(tmp_path / "out")["judges"]["cost"] is None
    prices = ["--price-input", 1, "--price-output", 1]
    assert run(tmp_path / "out", *judge, *prices, "--cache", tmp_path / "c").exit_code == 0
    judges = results(tmp_path / "out")["judges"]
    assert judges["cost"] == (judges["input_tokens"] + judges["output_tokens"]) / 1e6


def test_without_a_system_role_and_with_sampling(run: Run, llm: FakeLLM, url: str, tmp_path: Path):
    judges = ["--judge", "org/chat", "--judge", "org/chat", "--url", url, "--limit", 1]
    options = ["--no-system-role", "--temperature", 0.7, "--seed", 5, "--prompts", "brief"]
    result = run(tmp_path / "out", *judges, *options, "--cache", tmp_path / "cache")
    assert result.exit_code == 0, result.stderr
    assert {len(request["messages"]) for request in llm.requests} == {1}
    assert sorted(request["seed"] for request in llm.requests) == [5, 5, 6, 6]
    # Each of the two is remembered by itself.
    run(tmp_path / "again", *judges, *options, "--cache", tmp_path / "cache")
    assert len(llm.requests) == 4
    again, first = ((tmp_path / out / "scores.jsonl").read_bytes() for out in ("again", "out"))
    assert again == first
    names = [member["judge"] for member in results(tmp_path / "out")["judges"]["members"]]
    assert names == ["org/chat", "org/chat #2"]
    assert "without any explanation" in llm.requests[0]["messages"][0]["content"]


def test_a_judge_alone_earns_what_the_whole_run_does(
    run: Run, llm: FakeLLM, url: str, tmp_path: Path
):
    llm.answering = lambda messages, seed: "The first, whoever it is. [[A]]"
    rows = write_rows(tmp_path / "rows.jsonl", rewardbench_2_rows(domain_size=6, ties=0))
    out = tmp_path / "out"
    # The last of two options counts.
    options = ["--dataset", f"rewardbench-2={rows}", "--judge", "org/chat", "--url", url]
    assert run(out, *options).exit_code == 0
    counts, [member] = results(out)["counts"], results(out)["judges"]["members"]
    # Each of two completions is preferred once: the chosen one shares the best score, or has none.
    assert counts["wins"] == 0
    assert 0 < counts["credit"] == counts["ties"] / 2
    assert member["accuracy"] == pytest.approx(counts["credit"] / 30)


def test_a_reasoning_model_judges_without_the_settings_that_it_refuses(
    run: Run, llm: FakeLLM, url: str, tmp_path: Path
):
    llm.reasoning = True
    out = tmp_path / "out"
    judge = ["--judge", "org/chat", "--url", url]
    result = run(tmp_path / "refused", *judge, "--temperature", "none")
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert "Use 'max_completion_tokens' instead." in said
    assert "--max-tokens none sends no limit" in said
    free = ["--temperature", "none", "--max-tokens", "none"]
    assert run(out, *judge, *free).exit_code == 0
    # Of those that were refused, some may have been on their way until now.
    requests = [request for request in llm.requests if "max_tokens" not in request]
    # A seed there is, for the endpoint's own temperature is above 0.
    assert {frozenset(request) for request in requests} == {
        frozenset({"model", "messages", "stream", "seed"})
    }
    assert len(requests) == 20
    assert results(out)["counts"]["wins"] == 9
    recorded = json.loads((out / "run.json").read_text())
    assert (recorded["max_tokens"], recorded["temperature"]) == (None, None)
    assert results(out)["provenance"]["run"]["max_tokens"] is None
    # It goes on as what it is, and not as another run.
    written = (out / "scores.jsonl").read_bytes()
    (out / "scores.jsonl").write_bytes(b"".join(written.splitlines(keepends=True)[:6]))
    llm.requests.clear()
    result = run(out, *judge, *free[:2])
    assert result.exit_code == 2
    assert "holds a run with max_tokens null, but this one has 2048" in result.stderr
    assert llm.requests == []
    assert run(out, *judge, *free).exit_code == 0
    assert len(llm.requests) == 8
    assert (out / "scores.jsonl").read_bytes() == written


def test_an_answer_that_the_endpoint_cut_by_itself_is_not_blamed_on_an_option(
    run: Run, llm: FakeLLM, url: str, tmp_path: Path
):
    llm.finish_reason = "length"
    judge = ["--judge", "org/chat", "--url", url, "--limit", 1]
    run(tmp_path / "out", *judge, "--max-tokens", "none")
    run(tmp_path / "limited", *judge)
    messages = [lines(tmp_path / name)[0]["error"]["message"] for name in ("out", "limited")]
    assert "cut short by the endpoint's own limit, so" in messages[0]
    assert "cut short by --max-tokens 2048, so" in messages[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--judge", "m"], "--judge 'm' has no address: give --url"),
        (["--judge", "m@http://a", "--api-key", "k", "--judge", "n@http://b"], "one --api-key"),
        (["--judge", "m@http://a", *("--api-key", "k") * 2], "1 judges cannot have 2 times --api"),
        (["--judge", "m@http://a", "--price-input", 1], "give both"),
        (
            [*("--judge", "m@http://a") * 3, *("--price-input", 1) * 2, "--price-output", 1],
            "3 judges cannot have 2 times --price-input",
        ),
        (["--judge", "m@http://a", "--price-input", "inf"], "inf is not a finite number"),
        ([*("--judge", "m@http://a") * 2], "--judge m is there 2 times"),
        (["--judge", "m@http://a", "--temperature", "hot"], "neither a number from 0 nor 'none'"),
        (["--judge", "m@http://a", "--temperature", "-1"], "neither a number from 0"),
        (
            ["--judge", "m@http://a", "--max-tokens", "some"],
            "for '--max-tokens': 'some' is neither a whole number from 1 nor 'none'",
        ),
        (["--judge", "m@http://a", "--max-tokens", 0], "'0' is neither a whole number from 1"),
        (["--judge", "m@http://a", "--max-tokens", 1.5], "'1.5' is neither a whole number"),
        (["--judge", "m", "--url", "a.b"], "does not begin with http"),
        (["--judge", "m@http://a", "--prompts", "x"], "neither a folder nor a set"),
        (["--judge", "m@http://a", "--api-key", "é"], "API key holds a character"),
        ([], "Missing option '--judge'"),
    ],
)
def test_what_cannot_be_meant_is_told(
    run: Run, tmp_path: Path, options: list[object], message: str
):
    result = run(tmp_path / "out", *options)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


def test_a_cache_that_cannot_be_read_ends_the_run_and_stays(
    run: Run, llm: FakeLLM, url: str, tmp_path: Path
):
    cache = tmp_path / "cache"
    judge = ["--judge", "org/chat", "--url", url, "--cache", cache, "--limit", 2]
    run(tmp_path / "first", *judge)
    file = sorted(cache.glob("*/*.json"))[0]
    file.write_text("{")
    result = run(tmp_path / "second", *judge)
    assert result.exit_code == 2
    assert f"{file} cannot be read as an answer of the cache" in result.stderr
    assert file.read_text() == "{"


def test_each_judge_gets_its_own_key(run: Run, llm: FakeLLM, url: str, tmp_path: Path):
    other = FakeLLM(knowing)
    other.model = "org/open"
    llm.api_key = "key-of-the-first"
    with ExitStack() as servers:
        open_url = servers.enter_context(other.serve())
        judges = ["--judge", f"org/chat@{url}", "--judge", f"org/open@{open_url}", "--limit", 1]
        result = run(tmp_path / "out", *judges, "--api-key", llm.api_key, "--api-key", "")
    assert result.exit_code == 0, result.stderr
    assert {headers["authorization"] for headers in llm.headers} == {"Bearer key-of-the-first"}
    assert not any("authorization" in headers for headers in other.headers)
    for file in (tmp_path / "out").iterdir():
        assert "key-of-the-first" not in file.read_text()
