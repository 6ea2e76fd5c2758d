"""Questions to a chat endpoint: answers as they were given, and every way to get none."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import stamina
from huggingface_hub import constants
from stamina.instrumentation import set_on_retry_hooks

from reward_benchmark import chat
from reward_benchmark.chat import Answer, ChatClient, ChatUnavailableError, Sampling
from reward_benchmark.errors import BenchmarkError
from reward_benchmark.outcome import Failure

from .fake_llm import (
    BROKEN,
    HTML,
    NO_CHOICES,
    OTHER_SHAPE,
    REFUSED,
    SLOW,
    TOO_MANY,
    TRICKLING,
    TRUNCATED,
    FakeLLM,
    Reply,
    hashed_answer,
)

ATTEMPTS = 4
SAMPLING = Sampling(seed=7, max_tokens=20)

PASSING = {
    "rate_limited": TOO_MANY,
    "server_error": BROKEN,
    "unreachable": TRUNCATED,
    "malformed_answer": OTHER_SHAPE,
    "timeout": SLOW,
}
"""A failure of each kind that may pass, by the code of its `Failure`."""

Ask = Callable[..., list[Answer | Failure]]


def messages(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def said(question: str, seed: int | None = SAMPLING.seed) -> Answer:
    return Answer(hashed_answer(messages(question), seed), "stop", len(question.split()), 2)


def deadline(reply: Reply) -> dict[str, float]:
    """A short one only where it matters: a busy machine may take its time to answer."""
    return {"timeout_seconds": 1.5} if reply in (SLOW, TRICKLING) else {}


@pytest.fixture
def fake() -> FakeLLM:
    return FakeLLM()


@pytest.fixture
def url(fake: FakeLLM) -> Iterator[str]:
    with fake.serve() as url:
        yield url


@pytest.fixture
def ask(url: str) -> Iterator[Ask]:
    """Asks questions of the fake one after the other, without waiting between attempts."""

    def ask(*questions: str, path: str = "", **options: Any) -> list[Answer | Failure]:
        async def run() -> list[Answer | Failure]:
            settings = {"model": "org/chat", "timeout_seconds": 30.0, **options}
            sampling = settings.pop("sampling", SAMPLING)
            async with ChatClient(settings.pop("url", url) + path, **settings) as client:
                return [await client.answer(messages(one), sampling) for one in questions]

        return asyncio.run(run())

    with stamina.set_testing(True, attempts=ATTEMPTS, cap=True):
        yield ask


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/v1/chat/completions?version=2"])
def test_the_address_may_be_given_in_any_form(ask: Ask, path: str):
    assert ask("what?", path=path) == [said("what?")]


def test_a_request_says_what_the_sampling_says_and_no_more(ask: Ask, fake: FakeLLM):
    ask("what?", sampling=Sampling())
    assert fake.requests.pop() == {
        "model": "org/chat",
        "messages": messages("what?"),
        "stream": False,
    }
    ask(
        "what?", sampling=Sampling(temperature=0.0, top_p=0.5, max_tokens=1, seed=0, stop=("a", ""))
    )
    assert fake.requests.pop() == {
        "model": "org/chat",
        "messages": messages("what?"),
        "stream": False,
        "temperature": 0.0,
        "top_p": 0.5,
        "max_tokens": 1,
        "seed": 0,
        "stop": ["a", ""],
    }


# ------------------------------------------------------------------------------ what was answered


def test_an_empty_text_and_a_cut_one_are_answers_that_show_it(ask: Ask, fake: FakeLLM):
    fake.answering = lambda *_: ""
    assert ask("what?") == [Answer("", "stop", 1, 0)]
    fake.answering, fake.finish_reason = lambda *_: "and so", "length"
    [answer] = ask("what?")
    assert isinstance(answer, Answer)
    assert (answer.text, answer.cut_short) == ("and so", True)


def test_an_answer_without_a_text_is_a_failure_that_names_the_remedy(ask: Ask, fake: FakeLLM):
    fake.answering = lambda *_: None
    [failure] = ask("what?")
    assert failure == Failure("no_text", "the model answered without a text (finish_reason stop)")
    fake.finish_reason = "length"
    [failure] = ask("what?")
    assert isinstance(failure, Failure)
    assert "reasoning used up max_tokens=20; allow more tokens, or send no" in failure.message
    [failure] = ask("what?", sampling=Sampling())
    assert isinstance(failure, Failure)
    assert failure.message.endswith("reasoning used up all tokens that the endpoint allows")
    assert fake.asked == {"what?": 3}


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 0}, (5, 0)),
        ({"completion_tokens": 3}, (None, 3)),
        ({"prompt_tokens": -1, "completion_tokens": "3"}, (None, None)),
        ({"prompt_tokens": True, "completion_tokens": 1.5}, (None, None)),
        (None, (None, None)),
        ([], (None, None)),
        ("many", (None, None)),
    ],
)
def test_tokens_are_counted_where_the_server_counts_them(
    ask: Ask, fake: FakeLLM, usage: Any, counted: tuple[int | None, int | None]
):
    fake.usage = usage
    assert ask("what?") == [Answer(said("what?").text, "stop", *counted)]


def test_half_a_surrogate_pair_is_kept_in_an_answer_and_refused_in_a_question(
    ask: Ask, fake: FakeLLM
):
    fake.answering = lambda *_: "naïve 🦉 \ud83e"
    [answer] = ask("какой? 🦉")
    assert isinstance(answer, Answer)
    assert answer.text == "naïve 🦉 \ud83e"
    assert fake.requests[0]["messages"] == messages("какой? 🦉")
    [failure] = ask("ab\ud83e")
    assert isinstance(failure, Failure)
    assert failure.code == "not_unicode"
    assert "character 2 is half of a surrogate pair" in failure.message
    assert len(fake.requests) == 1


# ---------------------------------------------------------------------------------- what went wrong


@pytest.mark.parametrize("reply", [*PASSING.values(), HTML, NO_CHOICES, TRICKLING])
def test_a_failure_that_passes_costs_nothing_but_another_request(
    ask: Ask, fake: FakeLLM, reply: Reply
):
    fake.misbehave("what?", reply)
    assert ask("what?", "who?", **deadline(reply)) == [said("what?"), said("who?")]
    assert fake.asked == {"what?": 2, "who?": 1}


@pytest.mark.parametrize(("code", "reply"), PASSING.items())
def test_a_failure_of_one_question_leaves_the_others_alone(
    ask: Ask, fake: FakeLLM, code: str, reply: Reply
):
    fake.never_answer("what?", reply)
    before, failure, after = ask("where?", "what?", "who?", **deadline(reply))
    assert (before, after) == (said("where?"), said("who?"))
    assert isinstance(failure, Failure)
    assert failure.code == code
    assert fake.asked["what?"] == (2 if code == "timeout" else ATTEMPTS)


@pytest.mark.parametrize(("code", "reply"), PASSING.items())
def test_an_endpoint_that_answers_nobody_is_lost(
    ask: Ask, fake: FakeLLM, url: str, code: str, reply: Reply
):
    fake.always = reply
    with pytest.raises(ChatUnavailableError, match=f"org/chat at {url} cannot be used: ") as lost:
        ask("what?", **deadline(reply))
    remedy = {"rate_limited": "lower the concurrency", "timeout": "allow more time"}
    assert remedy.get(code, "is a chat model running at this address?") in str(lost.value)


def test_an_endpoint_that_never_worked_is_given_up_sooner(ask: Ask, fake: FakeLLM):
    fake.down = True
    with pytest.raises(ChatUnavailableError, match="the connection failed"):
        ask("what?")
    assert fake.asked["what?"] == chat.UNSEEN_ATTEMPTS < ATTEMPTS

    def then_down(*_: object) -> str:
        fake.down = "who?" in fake.asked
        return "yes"

    fake.asked.clear()
    fake.down, fake.always = False, BROKEN
    with pytest.raises(ChatUnavailableError, match="HTTP status 500"):
        ask("what?")
    assert fake.asked["what?"] == chat.UNSEEN_ATTEMPTS

    fake.asked.clear()
    fake.always = Reply(503, "loading the model")
    with pytest.raises(ChatUnavailableError, match="loading the model"):
        ask("what?")
    assert fake.asked["what?"] == ATTEMPTS

    fake.asked.clear()
    fake.always, fake.answering = None, then_down
    with pytest.raises(ChatUnavailableError, match="the connection failed"):
        ask("what?", "who?")
    assert fake.asked["who?"] == ATTEMPTS


def test_a_refused_question_is_asked_once(ask: Ask, fake: FakeLLM):
    fake.never_answer("what?", REFUSED)
    first, second, after = ask("what?", "what?", "who?")
    assert first == second
    assert isinstance(first, Failure)
    assert first.code == "refused"
    assert 'HTTP status 422: {"error": "inputs must have less than 10 tokens"' in first.message
    assert after == said("who?")
    # The first refusal might have been about the settings; the second one cannot.
    assert fake.asked == {"what?": 2, "Hi": 1, "who?": 1}


def test_settings_that_the_endpoint_refuses_end_the_run_at_once(ask: Ask, fake: FakeLLM):
    fake.always = Reply(400, '{"error": "unknown field seed"}')
    with pytest.raises(
        ChatUnavailableError, match=r"unknown field seed.*change the settings.*about$"
    ):
        ask("what?")
    assert len(fake.requests) == 2
    assert [request["seed"] for request in fake.requests] == [7, 7]


def test_a_refused_limit_on_tokens_need_not_be_sent(ask: Ask, fake: FakeLLM):
    fake.reasoning = True
    with pytest.raises(
        ChatUnavailableError,
        match=r"Use 'max_completion_tokens' instead\..*--max-tokens none sends no limit$",
    ):
        ask("what?")
    with pytest.raises(ChatUnavailableError, match=r"'temperature' .* that it complains about$"):
        ask("what?", sampling=Sampling(max_tokens=None, temperature=0.5))
    # Where none was sent, not sending one is no remedy.
    fake.always = Reply(400, '{"error": "max_tokens is missing"}')
    with pytest.raises(ChatUnavailableError, match=r"that it complains about$"):
        ask("what?", sampling=Sampling())
    fake.always = None
    assert ask("what?", sampling=Sampling(seed=7)) == [said("what?", 7)]
    assert "max_tokens" not in fake.requests[-1]


def test_a_403_is_moderation_of_a_question_or_the_end_of_a_key(ask: Ask, fake: FakeLLM):
    fake.never_answer("what?", Reply(403, "flagged"))
    flagged, after = ask("what?", "who?")
    assert isinstance(flagged, Failure)
    assert after == said("who?")

    def expire(*_: object) -> str:
        fake.always = Reply(403, "your key has expired")
        return "yes"

    fake.answering = expire
    with pytest.raises(ChatUnavailableError, match=r"your key has expired; give the API key"):
        ask("who?", "where?")


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "give the API key of an account that may use the model"),
        (404, "with or without /v1, or its whole address up to /chat/completions"),
        (405, "with or without /v1, or its whole address up to /chat/completions"),
    ],
)
def test_a_wrong_address_key_or_model_is_not_asked_twice(
    ask: Ask, fake: FakeLLM, status: int, remedy: str
):
    fake.always = Reply(status, "")
    with pytest.raises(
        ChatUnavailableError, match=rf"HTTP status {status}: no message; .*{remedy}"
    ):
        ask("what?")
    assert len(fake.requests) == 1


def test_a_wrong_path_and_a_wrong_model_are_told(ask: Ask):
    with pytest.raises(ChatUnavailableError, match="no route /v2/v1/chat/completions"):
        ask("what?", path="/v2")
    with pytest.raises(ChatUnavailableError, match=r"org/other at .*the model does not exist"):
        ask("what?", model="org/other")


@pytest.mark.parametrize(
    "reply",
    [
        Reply(400, "[1]"),
        Reply(400, '{"errors": [1], "error": {"message": 5}}'),
        Reply(400, b"\xff\xfe"),
        Reply(200, "[" * 100_000),
        Reply(200, "[]"),
        Reply(200, "null"),
        Reply(200, b'"\xff"'),
        Reply(200, ""),
        Reply(200, '{"choices": "none"}'),
        Reply(200, '{"choices": [[]]}'),
        Reply(200, '{"choices": [{"message": "hello", "finish_reason": "stop"}]}'),
        Reply(200, '{"choices": [{"message": {"content": 5}, "finish_reason": "stop"}]}'),
        Reply(200, "junk", {"content-encoding": "gzip"}),
        Reply(304, ""),
        Reply(307, "", {"location": "/v1/chat/completions"}),
    ],
    ids=lambda reply: repr(reply.body[:60]),
)
def test_nonsense_is_never_an_answer(ask: Ask, fake: FakeLLM, reply: Reply):
    fake.never_answer("what?", reply)
    failure, after = ask("what?", "who?")
    assert isinstance(failure, Failure)
    assert after == said("who?")
    if reply.status in (304, 400):
        assert f"HTTP status {reply.status}: " in failure.message


def test_an_error_without_a_message_is_named(ask: Ask, fake: FakeLLM):
    """Such as httpx's error for a connection that is reset."""
    fake.never_answer("what?", Reply(500, ""))
    [failure] = ask("what?")
    assert isinstance(failure, Failure)
    assert failure.message == "the endpoint answered with HTTP status 500: no message"

    async def reset(*_: object, **__: object) -> None:
        raise ConnectionResetError

    async def run() -> None:
        async with ChatClient("http://fake", model="org/chat") as client:
            client._http.chat_completion = reset  # type: ignore[method-assign, assignment]
            await client.answer(messages("what?"), SAMPLING)

    with pytest.raises(ChatUnavailableError, match="the connection failed: ConnectionResetError;"):
        asyncio.run(run())


def test_a_probe_that_stumbles_does_not_end_the_run(ask: Ask, fake: FakeLLM):
    fake.never_answer("what?", BROKEN)
    fake.misbehave("Hi", TRUNCATED)
    failure, after = ask("what?", "who?")
    assert isinstance(failure, Failure)
    assert after == said("who?")
    assert fake.asked["Hi"] == 2


# ------------------------------------------------------------------------------------ how it asks


def http_date(ahead: timedelta) -> str:
    return format_datetime(datetime.now(UTC) + ahead, usegmt=True)


@pytest.mark.parametrize(
    ("retry_after", "shortest", "longest"),
    [
        ("0.4", 0.4, 0.5),
        (timedelta(minutes=1), 20, 75),
        ("1e9", 120, 150),
        ("inf", 120, 150),
        # Without a time to wait, or with none at all, the first wait is a second and some jitter.
        (None, 1, 2),
        ("0", 1, 2),
        ("nan", 1, 2),
        ("soon", 1, 2),
        (timedelta(minutes=-1), 1, 2),
    ],
)
def test_the_server_may_say_how_long_to_wait(
    fake: FakeLLM,
    url: str,
    retry_after: str | timedelta | None,
    shortest: float,
    longest: float,
):
    if isinstance(retry_after, timedelta):
        # Not before now: other tests may take longer than it is ahead.
        retry_after = http_date(retry_after)
    headers = {} if retry_after is None else {"retry-after": retry_after}
    fake.always = Reply(429, "slow down", headers)

    async def planned_wait() -> float:
        planned = asyncio.get_running_loop().create_future()
        set_on_retry_hooks([lambda details: planned.set_result(details.wait_for)])
        async with ChatClient(url, model="org/chat") as client:
            question = asyncio.create_task(client.answer(messages("what?"), SAMPLING))
            seconds: float = await planned
            question.cancel()
        return seconds

    try:
        assert shortest <= asyncio.run(planned_wait()) <= longest
    finally:
        set_on_retry_hooks(None)


def test_waiting_for_a_connection_is_not_waiting_for_the_answer(
    fake: FakeLLM, url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(chat, "MAX_CONNECTIONS", 2)
    fake.seconds = 1.0

    async def run() -> list[Answer | Failure]:
        async with ChatClient(url, model="org/chat", timeout_seconds=3.0) as client:
            questions = [client.answer(messages(str(i)), SAMPLING) for i in range(8)]
            return await asyncio.gather(*questions)

    assert asyncio.run(run()) == [said(str(i)) for i in range(8)]
    assert len(fake.requests) == 8
    assert fake.most_active == 2


def test_no_token_of_the_users_goes_to_an_endpoint_that_was_given_none(
    ask: Ask, fake: FakeLLM, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_user")
    ask("what?")
    ask("what?", api_key="")
    assert all("authorization" not in headers for headers in fake.headers)
    ask("what?", api_key="sk-given ")
    assert fake.headers[-1]["authorization"] == "Bearer sk-given"
    assert "hf_of_the_user" not in str(fake.headers)


def test_the_hubs_offline_mode_is_about_the_hub(ask: Ask):
    assert constants.HF_HUB_OFFLINE
    assert ask("what?") == [said("what?")]


def test_secrets_are_not_shown(ask: Ask, fake: FakeLLM, url: str):
    key = "sk-secret-0123456789"
    fake.api_key = "another"
    with pytest.raises(ChatUnavailableError, match=r"wrong key: Bearer \*\*\*") as lost:
        ask("what?", api_key=key)
    assert key not in "".join(map(str, [lost.value, lost.value.__cause__]))
    with pytest.raises(ChatUnavailableError) as lost:
        ask("what?", url=url.replace("//", "//me:secret@"), path="/v1?code=secret")
    assert f"org/chat at {url}/v1 cannot be used" in str(lost.value)
    assert "secret" not in str(lost.value)
    with pytest.raises(BenchmarkError, match="only printable ASCII can be sent") as refused:
        ask("what?", api_key="sk-sécret")
    assert "cret" not in str(refused.value)


def test_messages_may_be_any_mapping(ask: Ask, fake: FakeLLM, url: str):
    conversation: list[Mapping[str, str]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "what?"},
        {"role": "assistant", "content": "that"},
        {"role": "user", "content": "why?"},
    ]

    async def run() -> Answer | Failure:
        async with ChatClient(url, model="org/chat") as client:
            return await client.answer(tuple(conversation), Sampling())

    assert asyncio.run(run()) == Answer(hashed_answer(conversation, None), "stop", 5, 2)
    assert fake.requests[0]["messages"] == conversation
