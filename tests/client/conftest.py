"""Both clients behind one face, and a service that answers in process."""

import asyncio
import inspect
import json
import math
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from reward_client import AsyncRewardClient, RewardClient
from reward_client.schema import (
    CompareResponse,
    CompareResult,
    ErrorBody,
    ErrorResponse,
    HealthResponse,
    InfoResponse,
    Limits,
    LogprobsResponse,
    LogprobsResult,
    ModelIdentity,
    RankResponse,
    RankResult,
    ScoreResponse,
    ScoreResult,
    TemplateInfo,
    Timing,
    Usage,
)

Handler = Callable[[httpx.Request], Any]


def identity(fingerprint: str = "f1") -> ModelIdentity:
    return ModelIdentity(
        id="org/model", revision=None, kind="classifier", dtype="float32", fingerprint=fingerprint
    )


def info_response(*, max_client_batch_size: int = 2) -> InfoResponse:
    return InfoResponse(
        model=identity(),
        architecture="Fake",
        device="cpu",
        labels=["score"],
        score_label="score",
        capabilities=["score", "logprobs", "compare", "rank", "render"],
        runner="padded",
        template=TemplateInfo(source="tokenizer", sha256="0", special_tokens="template"),
        limits=Limits(
            max_input_tokens=100,
            max_batch_tokens=100,
            max_client_batch_size=max_client_batch_size,
            max_queue_tokens=100,
            max_concurrent_requests=8,
            max_request_bytes=10_000,
            request_timeout_seconds=60.0,
        ),
        versions={"torch": "2"},
    )


def refusal(status: int, code: str, *, headers: Any = None, **places: int) -> httpx.Response:
    """An error as the service writes it."""
    error = ErrorResponse(error=ErrorBody(code=code, message="no", **places))
    return httpx.Response(status, json=error.model_dump(), headers=headers)


def copy_of(response: httpx.Response) -> httpx.Response:
    """A response as of a new request: each can be read by one client only."""
    return httpx.Response(
        response.status_code, headers=response.headers, content=response.content or None
    )


def text_score(text: str) -> float:
    return zlib.crc32(text.encode()) / 2**32


def text_logprob(text: str) -> float:
    return -1 - text_score(text)


def text_preference(first: str, second: str) -> float:
    return 1 / (1 + math.exp(text_score(second) - text_score(first)))


REFERENCE_LOGPROB = -2.0
ANSWERS: dict[str, Callable[..., BaseModel]] = {
    "/score": ScoreResponse,
    "/logprobs": LogprobsResponse,
    "/compare": CompareResponse,
    "/rank": RankResponse,
}


class FakeService:
    """Answers like a service; a completion's score is a hash of its text.

    So is its log-probability, and the reference model finds every completion as likely as not.
    """

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.max_client_batch_size = 2
        self.fingerprints: Iterator[str] | None = None
        self.errors: dict[str, str] = {}
        """Texts that have no score or log-probability → the code that says why."""

    @property
    def paths(self) -> list[str]:
        return [request.url.path for request in self.requests]

    def bodies(self, path: str) -> list[Any]:
        return [json.loads(one.content) for one in self.requests if one.url.path == path]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        match request.url.path:
            case "/info":
                answer = info_response(max_client_batch_size=self.max_client_batch_size)
                return httpx.Response(200, json=answer.model_dump())
            case "/ready":
                return httpx.Response(200, json=HealthResponse(status="ready").model_dump())
            case path if path in ANSWERS:
                return httpx.Response(200, json=self._computed(request).model_dump())
        return refusal(404, "not_found")

    def _computed(self, request: httpx.Request) -> BaseModel:
        body = json.loads(request.content)
        path, inputs = request.url.path, body["inputs"]
        for_reference = len(inputs) if body.get("reference") else 0
        return ANSWERS[path](
            model=identity(next(self.fingerprints) if self.fingerprints else "f1"),
            results=[self._result(path, index, body) for index in range(len(inputs))],
            usage=Usage(
                input_tokens=10 * len(inputs),
                computed_tokens=len(inputs),
                reference_computed_tokens=2 * for_reference,
                reference_cached_tokens=3 * for_reference,
            ),
            timing=Timing(
                encoding_seconds=0.5, queue_seconds=0.25, inference_seconds=1.0, total_seconds=2.0
            ),
        )

    def _result(self, path: str, index: int, body: dict[str, Any]) -> BaseModel:
        one = body["inputs"][index]
        texts = one["completions"] if "completions" in one else [json.dumps(one)]

        def each(value_of: Callable[[str], Any]) -> list[Any]:
            return [None if text in self.errors else value_of(text) for text in texts]

        found = [
            ErrorBody(
                code=self.errors[text], message="no", input_index=index, completion_index=place
            )
            if text in self.errors
            else None
            for place, text in enumerate(texts)
        ]
        errors = found if any(found) else None
        sizes = {"num_tokens": [3] * len(texts), "truncated_tokens": [0] * len(texts)}
        match path:
            case "/score":
                return ScoreResult(scores=each(text_score), errors=errors, **sizes)
            case "/logprobs":
                return logprobs_result(each, body, errors=errors, **sizes)
            case "/compare":
                preference = None if errors else text_preference(*texts)
                return CompareResult(preference=preference, scores=each(text_score), errors=errors)
        places = [place for place in range(len(texts)) if not found[place]]
        return RankResult(
            order=sorted(places, key=lambda place: -text_score(texts[place])),
            scores=each(text_score),
            errors=errors,
        )


def logprobs_result(
    each: Callable[[Callable[[str], Any]], list[Any]], body: dict[str, Any], **more: Any
) -> LogprobsResult:
    logprobs = each(text_logprob)
    columns: dict[str, Any] = {}
    if by_token := body.get("token_logprobs", False):
        columns["token_logprobs"] = each(lambda text: [text_logprob(text) / 2] * 2)
    if body.get("reference", False):
        columns["reference_logprobs"] = each(lambda _: REFERENCE_LOGPROB)
        columns["scores"] = each(lambda text: text_logprob(text) - REFERENCE_LOGPROB)
        if by_token:
            columns["reference_token_logprobs"] = each(lambda _: [REFERENCE_LOGPROB / 2] * 2)
    return LogprobsResult(
        logprobs=logprobs,
        num_completion_tokens=[2] * len(logprobs),
        completion_start=[1] * len(logprobs),
        **columns,
        **more,
    )


class Driven:
    """A client whose calls return results, whichever of the two it is."""

    def __init__(
        self, client: RewardClient | AsyncRewardClient, runner: asyncio.Runner | None
    ) -> None:
        self.client = client
        self._runner = runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._runner is None:
                return method(*args, **kwargs)

            async def awaited() -> Any:
                return await method(*args, **kwargs)

            return self._runner.run(awaited())

        return call


Connect = Callable[..., Driven]


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes clients, of both kinds in turn, of a handler in process or of a real URL."""
    clients: list[tuple[Driven, httpx.Client | httpx.AsyncClient | None]] = []
    runner = asyncio.Runner() if request.param == "async" else None

    def connect(
        handler: Handler | None = None, url: str | None = "http://fake", **settings: Any
    ) -> Driven:
        http: Any = None
        if handler is not None:
            kind = httpx.AsyncClient if runner else httpx.Client
            http = kind(transport=httpx.MockTransport(handler))
        client = (AsyncRewardClient if runner else RewardClient)(url, http_client=http, **settings)
        driven = Driven(client, runner)
        clients.append((driven, http))
        return driven

    yield connect
    for driven, http in clients:
        driven.close()
        if isinstance(http, httpx.Client):
            http.close()
        elif runner and http:
            runner.run(http.aclose())
    if runner:
        runner.close()


@pytest.fixture
def fake() -> FakeService:
    return FakeService()


def is_async(client: Driven) -> bool:
    return inspect.iscoroutinefunction(client.client.score)
