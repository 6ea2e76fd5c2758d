"""Both clients against a real service."""

import math
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.conftest import running_service

from reward_client import (
    AuthenticationError,
    BadRequestError,
    InputTooLongError,
    Message,
    MessagesInput,
    NotSupportedError,
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
    assert [one.names for one in result.objectives] == [[label]] * len(result.scores)
    assert [one.rewards for one in result.objectives] == [[score] for score in result.scores]
    assert client.score_many([GROUP]).results[0].objectives is None


def test_token_scores_are_returned_when_asked_for(connect: Connect, service_url: str):
    client = connect(url=service_url)
    group = {"prompt": "How?", "completions": ["Wash it first.", "No.", "é😀\0"]}
    prefixes, throughout, plain = (
        client.score_many([group, {"text": "abc"}], token_scores=how).results
        for how in ("prefix", True, False)
    )
    for by_prefix, by_token, without in zip(prefixes, throughout, plain, strict=True):
        assert by_prefix.scores == pytest.approx(by_token.scores, abs=1e-5)
        assert [one[-1] for one in by_prefix.token_scores] == by_prefix.scores
        assert len(by_prefix.token_scores) == len(by_token.token_scores) == len(without.scores)
        assert by_prefix.completion_start == by_token.completion_start
        assert without.token_scores is without.completion_start is None
    with pytest.raises(BadRequestError, match="'prefix'"):
        client.score_many([GROUP], token_scores="all")


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
    assert connect(url=service_url).wait_until_ready(600) is None
    assert time.monotonic() - started < 120


def test_waiting_for_a_dead_port_ends_with_its_timeout(connect: Connect):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(ServiceConnectionError, match="is the service running at this address"):
        connect(url=f"http://127.0.0.1:{port}").wait_until_ready(0.2)


# ------------------------------------------------------------------------------ DPO policies

TEXTS = ["Wash it first.", "No.", "é😀\0", "No."]
POLICY_GROUP = {**GROUP, "completions": TEXTS}


@pytest.fixture(scope="module")
def policy_url() -> Iterator[str]:
    """A policy with its reference, asked for few inputs at once."""
    with running_service(
        model_id="debug-policy", ref_model_id="debug-reference", max_client_batch_size=3
    ) as url:
        yield url


def test_logprobs_with_and_without_reference_and_tokens(connect: Connect, policy_url: str):
    client = connect(url=policy_url)
    logprobs = client.logprobs(GROUP["prompt"], TEXTS)
    assert all(one < 0 for one in logprobs)
    plain = client.logprobs_many([POLICY_GROUP])
    full = client.logprobs_many([POLICY_GROUP], token_logprobs=True, reference=True)
    [few], [all_of_it] = plain.results, full.results
    assert few.logprobs == all_of_it.logprobs == pytest.approx(logprobs, abs=1e-5)
    assert few.token_logprobs is few.reference_logprobs is few.reference_token_logprobs is None
    assert few.scores is None
    assert plain.usage.reference_computed_tokens == plain.usage.reference_cached_tokens == 0
    for sums, columns in (
        (all_of_it.logprobs, all_of_it.token_logprobs),
        (all_of_it.reference_logprobs, all_of_it.reference_token_logprobs),
    ):
        assert sums == pytest.approx([math.fsum(values) for values in columns])
        assert [len(values) for values in columns] == all_of_it.num_completion_tokens
    assert all_of_it.scores == pytest.approx(
        [
            mine - theirs
            for mine, theirs in zip(all_of_it.logprobs, all_of_it.reference_logprobs, strict=True)
        ]
    )
    assert all_of_it.scores == pytest.approx(client.score(GROUP["prompt"], TEXTS), abs=1e-4)


def test_a_preference_and_a_rank_follow_the_scores(connect: Connect, policy_url: str):
    client = connect(url=policy_url)
    scores = client.score(GROUP["prompt"], TEXTS)
    preference = client.compare(GROUP["prompt"], TEXTS[0], TEXTS[1])
    assert preference == pytest.approx(1 / (1 + math.exp(scores[1] - scores[0])), abs=1e-4)
    assert client.compare(GROUP["prompt"], TEXTS[1], TEXTS[0]) == pytest.approx(1 - preference)
    assert client.compare([USER], TEXTS[1], TEXTS[3]) == 0.5
    assert client.rank(GROUP["prompt"], TEXTS) == sorted(
        range(len(TEXTS)), key=lambda place: (-scores[place], place)
    )


def test_a_classifier_compares_and_ranks_too(
    connect: Connect, service_url: str, reference: list[float]
):
    client = connect(url=service_url)
    order = client.rank(GROUP["prompt"], GROUP["completions"])
    assert order == sorted(range(4), key=lambda place: -reference[place])
    first, second = (GROUP["completions"][place] for place in (order[0], order[-1]))
    assert 0.5 < client.compare(GROUP["prompt"], first, second) <= 1


def test_many_inputs_of_a_policy_are_split_and_their_usage_is_summed(
    connect: Connect, policy_url: str, request: pytest.FixtureRequest
):
    client = connect(url=policy_url)
    # The two clients share a service, which remembers what its reference said.
    prompt = request.node.name
    inputs = [{"prompt": prompt, "completions": ["x" * (number + 1)]} for number in range(10)]
    first, second = (client.logprobs_many(inputs, reference=True) for _ in range(2))
    tokens = sum(result.num_tokens[0] for result in first.results)
    assert first.usage.input_tokens == second.usage.reference_cached_tokens == tokens
    assert first.usage.reference_computed_tokens > 0
    assert second.usage.reference_computed_tokens == 0
    assert [result.num_completion_tokens for result in first.results] == [
        [number + 2] for number in range(10)
    ]
    for mine, again in zip(first.results, second.results, strict=True):
        assert mine.reference_logprobs == again.reference_logprobs


def test_what_a_model_cannot_answer_is_an_error_with_the_remedy(
    connect: Connect, service_url: str, policy_url: str, start_service: Callable[..., str]
):
    with pytest.raises(NotSupportedError, match="ask /score"):
        connect(url=service_url).logprobs("p", ["a"])
    alone = connect(url=start_service(model_id="debug-policy"))
    assert alone.logprobs("p", ["a"])
    for ask in (
        lambda: alone.score("p", ["a"]),
        lambda: alone.compare("p", "a", "b"),
        lambda: alone.rank("p", ["a", "b"]),
        lambda: alone.logprobs_many([POLICY_GROUP], reference=True),
    ):
        with pytest.raises(NotSupportedError, match="--ref-model-id"):
            ask()


def test_an_empty_completion_has_no_logprob_and_is_named(connect: Connect, policy_url: str):
    client = connect(url=policy_url)
    inputs = [POLICY_GROUP] * 4 + [{**GROUP, "completions": ["fine", ""]}]
    with pytest.raises(BadRequestError, match="the completion is empty") as caught:
        client.logprobs_many(inputs)
    # Counted from the caller's first input, not from that of the part it was sent in.
    assert (caught.value.error.input_index, caught.value.error.completion_index) == (4, 1)


def test_info_tells_the_reference(connect: Connect, policy_url: str):
    info = connect(url=policy_url).info()
    assert info.reference.id == "debug-reference"
    assert info.capabilities == ["score", "compare", "rank", "logprobs", "render"]
