"""Both clients against a real service."""

import math
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from reward_client import (
    AuthenticationError,
    InputTooLongError,
    Message,
    MessagesInput,
    PromptInput,
    RewardClient,
    ServiceConnectionError,
    TextInput,
    TokenIdsInput,
)

from .conftest import Connect

GROUP = {"prompt": "How do I detail a car?", "completions": ["Wash it first.", "", "No.", "é😀\0"]}
USER = {"role": "user", "content": "How do I detail a car?"}


@pytest.fixture
def reference(service_url: str) -> list[float]:
    """What the synchronous client says about `GROUP`."""
    with RewardClient(service_url) as client:
        return client.score(GROUP["prompt"], GROUP["completions"])


def test_both_clients_give_the_same_numbers(
    connect: Connect, service_url: str, reference: list[float]
):
    scores = connect(url=service_url).score(GROUP["prompt"], GROUP["completions"])
    assert scores == pytest.approx(reference, abs=1e-6)
    assert len(set(scores)) == len(scores) == 4
    assert all(math.isfinite(score) for score in scores)


def test_a_text_and_a_users_message_are_the_same_prompt(
    connect: Connect, service_url: str, reference: list[float]
):
    scores = connect(url=service_url).score([USER], GROUP["completions"])
    assert scores == pytest.approx(reference, abs=1e-6)


def test_all_forms_of_the_same_sequence_score_the_same(connect: Connect, service_url: str):
    client = connect(url=service_url)
    group = PromptInput(prompt="q", completions=["a"])
    [[rendered]] = client.render([group]).results
    messages = [Message(role="user", content="q"), Message(role="assistant", content="a")]
    response = client.score_many(
        [
            group,
            MessagesInput(messages=messages),
            TextInput(text=rendered.text),
            TokenIdsInput(token_ids=rendered.token_ids),
        ]
    )
    scores = [score for result in response.results for score in result.scores]
    assert scores == pytest.approx([scores[0]] * 4, abs=1e-6)
    assert [result.num_tokens for result in response.results] == [[len(rendered.token_ids)]] * 4


def test_many_inputs_are_split_and_come_back_in_order(
    connect: Connect, start_service: Callable[..., str]
):
    client = connect(url=start_service(max_client_batch_size=3))
    inputs = [{"prompt": "q", "completions": ["x" * (number + 1)]} for number in range(10)]
    response = client.score_many(inputs)
    lengths = [tokens for result in response.results for tokens in result.num_tokens]
    assert lengths == [lengths[0] + number for number in range(10)]
    assert response.usage.input_tokens == sum(lengths)
    alone = [client.score("q", one["completions"])[0] for one in inputs]
    together = [result.scores[0] for result in response.results]
    assert together == pytest.approx(alone, abs=1e-5)


def test_info_says_what_is_served(connect: Connect, service_url: str):
    client = connect(url=service_url)
    info = client.info()
    assert info.model.id == "debug"
    assert {"score", "render"} <= set(info.capabilities)
    assert info.score_label in info.labels
    assert client.score_many([GROUP]).model == info.model


def test_objectives_are_returned_when_asked_for(connect: Connect, service_url: str):
    client = connect(url=service_url)
    [result] = client.score_many([GROUP], objectives=True).results
    label = client.info().score_label
    assert [one[label] for one in result.objectives] == result.scores
    assert client.score_many([GROUP]).results[0].objectives is None


def test_render_shows_what_is_scored(connect: Connect, service_url: str):
    client = connect(url=service_url)
    response = client.render([GROUP, {"token_ids": [5, 6, 7], "completion_start": 1}])
    group, [given] = response.results
    assert len(group) == 4
    assert all(GROUP["prompt"] in one.text for one in group)
    assert all(one.read_position == len(one.token_ids) - 1 for one in group)
    assert (given.token_ids, given.completion_start) == ([5, 6, 7], 1)


def test_an_input_over_the_limit_is_refused_or_truncated_as_asked(
    connect: Connect, start_service: Callable[..., str]
):
    client = connect(url=start_service(max_input_tokens=128))
    with pytest.raises(InputTooLongError) as caught:
        client.score("x" * 300, ["a"])
    error = caught.value
    assert (error.error.input_index, error.error.completion_index) == (0, 0)
    assert error.error.limit == 128
    assert error.request_id
    group = {"prompt": "x" * 300, "completions": ["a"]}
    [result] = client.score_many([group], truncation="prompt_start").results
    assert result.num_tokens[0] <= 128
    assert result.truncated_tokens[0] > 0


def test_a_key_is_needed_where_the_service_has_one(
    connect: Connect, start_service: Callable[..., str]
):
    url = start_service(api_key="right")
    assert connect(url=url, api_key="right").score("p", ["a"])
    for key in (None, "wrong"):
        with pytest.raises(AuthenticationError):
            connect(url=url, api_key=key).score("p", ["a"])


@pytest.mark.parametrize(
    "one",
    [
        {"prompt": "p", "completions": ["\0", "\u2028", "<|user|>", "x" * 2000]},
        {"messages": [USER, {"role": "assistant", "content": ""}]},
        {"text": "\0"},
    ],
)
def test_odd_texts_are_scored(connect: Connect, service_url: str, one: Any):
    [result] = connect(url=service_url).score_many([one]).results
    assert all(score is not None and math.isfinite(score) for score in result.scores)


def test_waiting_for_a_ready_service_returns_at_once(connect: Connect, service_url: str):
    started = time.monotonic()
    assert connect(url=service_url).wait_until_ready(30) is None
    assert time.monotonic() - started < 5


def test_waiting_for_a_dead_port_ends_with_its_timeout(connect: Connect):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(ServiceConnectionError, match="is the service running at this address"):
        connect(url=f"http://127.0.0.1:{port}").wait_until_ready(0.2)
    assert time.monotonic() - started < 2
