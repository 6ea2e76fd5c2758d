"""Log-probabilities, comparing and ranking: both clients, beside what they share with scoring."""

import math
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from reward_client import (
    BadRequestError,
    InputTooLongError,
    LogprobsResponse,
    Message,
    ModelChangedError,
    NonFiniteScoreError,
    NotSupportedError,
    ServerFailureError,
    UnexpectedResponseError,
)
from reward_client.schema import Usage

from .conftest import (
    REFERENCE_LOGPROB,
    Connect,
    Driven,
    FakeService,
    Handler,
    identity,
    refusal,
    text_logprob,
    text_preference,
    text_score,
)

PROMPT = "p"
GROUP = {"prompt": PROMPT, "completions": ["good", "bad"]}
TEXTS = [{"prompt": PROMPT, "completions": [f"completion {number}"]} for number in range(9)]
OPTIONS = {"truncation": "prompt_start", "timeout_seconds": 2.5, "priority": -3}

Ask = Callable[..., Any]
ASKS: dict[str, Ask] = {
    "/score": lambda client, **options: client.score(PROMPT, GROUP["completions"], **options),
    "/logprobs": lambda client, **options: client.logprobs(PROMPT, GROUP["completions"], **options),
    "/compare": lambda client, **options: client.compare(PROMPT, *GROUP["completions"], **options),
    "/rank": lambda client, **options: client.rank(PROMPT, GROUP["completions"], **options),
}
"""Route → the method that asks it about `GROUP`."""

each_route = pytest.mark.parametrize(("path", "ask"), ASKS.items(), ids=ASKS)


def altered(fake: FakeService, path: str, **columns: Any) -> Handler:
    """The service, with these columns in its first result on a route."""

    def handler(request: httpx.Request) -> httpx.Response:
        answer = fake(request)
        if request.url.path != path:
            return answer
        document = answer.json()
        document["results"][0] |= columns
        return httpx.Response(200, json=document)

    return handler


# ---------------------------------------------------------------------------------- one prompt


def test_logprobs_is_one_float_per_completion_in_order(connect: Connect, fake: FakeService):
    completions = ["b", "", "a", "b"]
    assert connect(fake).logprobs(PROMPT, completions) == [text_logprob(one) for one in completions]
    assert fake.paths == ["/logprobs"]


def test_compare_is_the_probability_of_the_first(connect: Connect, fake: FakeService):
    client = connect(fake)
    preference = client.compare(PROMPT, "a", "b")
    assert preference == text_preference("a", "b")
    assert client.compare(PROMPT, "b", "a") == pytest.approx(1 - preference)
    assert fake.paths == ["/compare", "/compare"]


def test_rank_is_the_indices_best_first(connect: Connect, fake: FakeService):
    completions = ["a", "b", "", "c"]
    order = connect(fake).rank(PROMPT, completions)
    assert [completions[place] for place in order] == sorted(
        completions, key=lambda t: -text_score(t)
    )
    assert fake.paths == ["/rank"]


@each_route
def test_the_body_of_one_prompt_is_the_group_and_what_was_asked(
    connect: Connect, fake: FakeService, path: str, ask: Ask
):
    client = connect(fake)
    ask(client)
    ask(client, **OPTIONS)
    assert fake.bodies(path) == [{"inputs": [GROUP]}, {"inputs": [GROUP], **OPTIONS}]


@pytest.mark.parametrize("method", ["logprobs", "rank"])
def test_completions_may_be_any_sequence_but_one_text(
    connect: Connect, fake: FakeService, method: str
):
    client = connect(fake)
    prompt = (Message(role="system", content="s"), {"role": "user", "content": "q"})
    getattr(client, method)(prompt, ("a", "b"))
    assert fake.bodies(f"/{method}")[0]["inputs"] == [
        {
            "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
            "completions": ["a", "b"],
        }
    ]
    with pytest.raises(TypeError, match=r"pass \[completion\]"):
        getattr(client, method)(PROMPT, "completion")
    assert len(fake.requests) == 1


def test_compare_takes_messages(connect: Connect, fake: FakeService):
    message = {"role": "user", "content": "q"}
    connect(fake).compare([message], "a", "b")
    assert fake.bodies("/compare") == [
        {"inputs": [{"prompt": [message], "completions": ["a", "b"]}]}
    ]


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.logprobs(PROMPT, []),
        lambda client: client.logprobs(PROMPT, ["a"], priority=101),
        lambda client: client.rank([], ["a"]),
        lambda client: client.rank(PROMPT, ["a"], timeout_seconds=math.nan),
        lambda client: client.compare([{"role": "user"}], "a", "b"),
        lambda client: client.compare(PROMPT, "a", None),
        lambda client: client.compare(PROMPT, "\ud800", "a"),
        lambda client: client.compare(PROMPT, "a", "b", truncation="prompt_end"),
        lambda client: client.logprobs_many([{"text": "t"}], reference=1),
        lambda client: client.logprobs_many([{"text": "t", "completion_start": 2}]),
    ],
)
def test_what_the_service_would_refuse_is_not_sent(connect: Connect, fake: FakeService, ask: Ask):
    with pytest.raises(BadRequestError) as caught:
        ask(connect(fake))
    assert (caught.value.code, caught.value.status) == ("invalid_request", 422)
    assert fake.requests == []


# -------------------------------------------------------------------------------------- errors


@each_route
@pytest.mark.parametrize(
    ("code", "exception"),
    [("non_finite_score", NonFiniteScoreError), ("inference_failed", ServerFailureError)],
)
def test_a_completion_with_an_error_raises_it_by_name(
    connect: Connect,
    fake: FakeService,
    path: str,
    ask: Ask,
    code: str,
    exception: type[ServerFailureError],
):
    fake.errors = {"bad": code}
    with pytest.raises(ServerFailureError) as caught:
        ask(connect(fake))
    assert type(caught.value) is exception
    error = caught.value.error
    assert (error.code, error.input_index, error.completion_index) == (code, 0, 1)
    assert fake.paths == [path]


@each_route
def test_a_route_the_model_cannot_answer_is_not_supported_and_not_tried_again(
    connect: Connect, path: str, ask: Ask
):
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return refusal(422, "not_supported")

    with pytest.raises(NotSupportedError) as caught:
        ask(connect(handler))
    assert (caught.value.code, caught.value.status) == ("not_supported", 422)
    assert asked == [path]


@each_route
def test_a_success_of_another_kind_of_service_is_unexpected(connect: Connect, path: str, ask: Ask):
    client = connect(lambda request: httpx.Response(200, json={"score": 0.5}))
    with pytest.raises(UnexpectedResponseError, match=f"{path} answered 200"):
        ask(client)


# ----------------------------------------------------------------------------------- alignment


def with_everything(client: Driven) -> LogprobsResponse:
    response = client.logprobs_many([GROUP], reference=True, token_logprobs=True)
    assert isinstance(response, LogprobsResponse)
    return response


COLUMNS = [
    ("/score", "scores", ASKS["/score"]),
    ("/score", "errors", ASKS["/score"]),
    ("/compare", "scores", ASKS["/compare"]),
    ("/compare", "errors", ASKS["/compare"]),
    ("/rank", "scores", ASKS["/rank"]),
    ("/rank", "errors", ASKS["/rank"]),
    *(
        ("/logprobs", column, with_everything)
        for column in (
            "logprobs",
            "num_completion_tokens",
            "completion_start",
            "num_tokens",
            "truncated_tokens",
            "reference_logprobs",
            "scores",
            "token_logprobs",
            "reference_token_logprobs",
            "errors",
        )
    ),
]


@pytest.mark.parametrize(("path", "column", "ask"), COLUMNS)
@pytest.mark.parametrize("length", [0, 1, 3])
def test_a_list_of_another_length_than_the_completions_is_unexpected(
    connect: Connect, fake: FakeService, path: str, column: str, ask: Ask, length: int
):
    empty: Any = [[]] if "token_logprobs" in column else [None] if column == "errors" else [0]
    client = connect(altered(fake, path, **{column: empty * length}))
    with pytest.raises(UnexpectedResponseError, match=f"{path} answered .* number of {column} "):
        ask(client)


@each_route
@pytest.mark.parametrize("copies", [0, 2])
def test_another_number_of_results_than_inputs_is_unexpected(
    connect: Connect, fake: FakeService, path: str, ask: Ask, copies: int
):
    def handler(request: httpx.Request) -> httpx.Response:
        document = fake(request).json()
        return httpx.Response(200, json={**document, "results": document["results"] * copies})

    with pytest.raises(UnexpectedResponseError, match=f"{path} answered .* number of results "):
        ask(connect(handler))


@pytest.mark.parametrize("order", [[], [0], [1], [0, 0], [1, 1], [0, 2], [-1, 0], [0, 1, 1]])
def test_an_order_that_is_not_one_is_unexpected(
    connect: Connect, fake: FakeService, order: list[int]
):
    with pytest.raises(UnexpectedResponseError, match="/rank answered with an order"):
        connect(altered(fake, "/rank", order=order)).rank(PROMPT, GROUP["completions"])


def test_an_order_leaves_out_exactly_the_completions_with_errors(
    connect: Connect, fake: FakeService
):
    fake.errors = {"bad": "non_finite_score"}
    completions = ["a", "bad", "b"]
    with pytest.raises(NonFiniteScoreError):
        connect(fake).rank(PROMPT, completions)
    with pytest.raises(UnexpectedResponseError):
        connect(altered(fake, "/rank", order=[0, 1, 2])).rank(PROMPT, completions)


@pytest.mark.parametrize(
    ("path", "column", "value"),
    [("/logprobs", "logprobs", [-1.0, None]), ("/compare", "preference", None)],
)
def test_a_missing_value_without_a_reason_is_unexpected(
    connect: Connect, fake: FakeService, path: str, column: str, value: Any
):
    with pytest.raises(UnexpectedResponseError, match="neither a value nor an error"):
        ASKS[path](connect(altered(fake, path, **{column: value})))


@pytest.mark.parametrize("path", ["/compare", "/rank"])
def test_a_model_may_compare_without_scores(connect: Connect, fake: FakeService, path: str):
    expected = ASKS[path](connect(fake))
    assert ASKS[path](connect(altered(fake, path, scores=None))) == expected


# ------------------------------------------------------------------------------- logprobs_many


def logprobs_of(response: LogprobsResponse) -> list[float | None]:
    return [one for result in response.results for one in result.logprobs]


def test_logprobs_many_sends_what_was_asked_and_no_defaults(connect: Connect, fake: FakeService):
    client = connect(fake)
    text = {"text": "text", "completion_start": 2}
    client.logprobs_many([text])
    client.logprobs_many([text], token_logprobs=True, reference=True, **OPTIONS)
    assert fake.bodies("/logprobs") == [
        {"inputs": [text]},
        {"inputs": [text], "token_logprobs": True, "reference": True, **OPTIONS},
    ]


def test_options_are_sent_with_every_part(connect: Connect, fake: FakeService):
    fake.max_client_batch_size = 4
    connect(fake).logprobs_many(TEXTS, reference=True, **OPTIONS)
    bodies = sorted(fake.bodies("/logprobs"), key=lambda body: TEXTS.index(body["inputs"][0]))
    assert bodies == [
        {"inputs": TEXTS[start : start + 4], "reference": True, **OPTIONS} for start in (0, 4, 8)
    ]


@pytest.mark.parametrize(("limit", "sizes"), [(2, [2, 2, 2, 2, 1]), (4, [4, 4, 1]), (9, [9])])
def test_logprobs_many_splits_to_the_services_limit_and_keeps_the_order(
    connect: Connect, fake: FakeService, limit: int, sizes: list[int]
):
    fake.max_client_batch_size = limit
    response = connect(fake).logprobs_many(iter(TEXTS))
    assert logprobs_of(response) == [text_logprob(one["completions"][0]) for one in TEXTS]
    assert sorted((len(one["inputs"]) for one in fake.bodies("/logprobs")), reverse=True) == sizes


def test_the_limit_is_asked_for_once_for_all_routes(connect: Connect, fake: FakeService):
    client = connect(fake)
    client.logprobs_many(TEXTS)
    client.score_many(TEXTS)
    client.logprobs_many(TEXTS)
    assert fake.paths[0] == "/info"
    assert fake.paths.count("/info") == 1


def test_usage_and_timing_are_summed_with_those_of_the_reference(
    connect: Connect, fake: FakeService
):
    response = connect(fake).logprobs_many(TEXTS, reference=True)
    assert type(response) is LogprobsResponse
    assert response.model == identity()
    assert response.usage == Usage(
        input_tokens=90,
        computed_tokens=9,
        reference_computed_tokens=18,
        reference_cached_tokens=27,
    )
    assert response.timing.total_seconds == 10.0


def test_what_was_asked_for_arrives_and_nothing_else(connect: Connect, fake: FakeService):
    [plain] = connect(fake).logprobs_many([GROUP]).results
    [full] = with_everything(connect(fake)).results
    expected = [text_logprob(one) for one in GROUP["completions"]]
    assert plain.logprobs == full.logprobs == expected
    assert plain.reference_logprobs is plain.scores is plain.token_logprobs is None
    assert full.reference_logprobs == [REFERENCE_LOGPROB] * 2
    assert full.scores == [one - REFERENCE_LOGPROB for one in expected]
    assert full.token_logprobs == [[one / 2, one / 2] for one in expected]
    assert full.reference_token_logprobs == [[REFERENCE_LOGPROB / 2] * 2] * 2


def test_logprobs_many_keeps_the_values_beside_an_error(connect: Connect, fake: FakeService):
    fake.errors = {"bad": "non_finite_score"}
    [result] = with_everything(connect(fake)).results
    assert result.logprobs == [text_logprob("good"), None]
    assert [error and error.code for error in result.errors or []] == [None, "non_finite_score"]


def test_the_error_of_a_completion_counts_inputs_from_the_callers_first(
    connect: Connect, fake: FakeService
):
    fake.errors = {"completion 3": "non_finite_score"}
    response = connect(fake).logprobs_many(TEXTS)
    [error] = response.results[3].errors
    assert (error.input_index, error.completion_index) == (3, 0)
    assert logprobs_of(response)[3] is None


def test_a_refused_part_counts_inputs_from_the_callers_first(connect: Connect, fake: FakeService):
    def handler(request: httpx.Request) -> httpx.Response:
        if b"completion 3" in request.content:
            return refusal(422, "input_too_long", input_index=1, completion_index=0)
        return fake(request)

    with pytest.raises(InputTooLongError, match=r"\(input 3, completion 0\)"):
        connect(handler).logprobs_many(TEXTS)


def test_a_model_that_changes_between_parts_is_an_error(connect: Connect, fake: FakeService):
    fake.fingerprints = iter(["f1", "f1", "f2", "f1", "f1"])
    with pytest.raises(ModelChangedError, match="fingerprints f1, f2"):
        connect(fake).logprobs_many(TEXTS)
