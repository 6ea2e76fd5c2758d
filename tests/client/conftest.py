"""Both clients behind one face, and a service that answers in process."""

import asyncio
import inspect
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from reward_client import AsyncRewardClient, RewardClient
from reward_client.schema import (
    ErrorBody,
    ErrorResponse,
    HealthResponse,
    InfoResponse,
    Limits,
    ModelIdentity,
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
        capabilities=["score", "render"],
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


class FakeService:
    """Answers like a service; a completion's score is a hash of its text."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.max_client_batch_size = 2
        self.fingerprints: Iterator[str] | None = None
        self.errors: dict[str, str] = {}
        """Texts that have no score → the code that says why."""

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
            case "/score":
                return httpx.Response(200, json=self._scored(request).model_dump())
        return refusal(404, "not_found")

    def _scored(self, request: httpx.Request) -> ScoreResponse:
        inputs = json.loads(request.content)["inputs"]
        results = [self._result(index, one) for index, one in enumerate(inputs)]
        return ScoreResponse(
            model=identity(next(self.fingerprints) if self.fingerprints else "f1"),
            results=results,
            usage=Usage(input_tokens=10 * len(inputs), computed_tokens=len(inputs)),
            timing=Timing(
                encoding_seconds=0.5, queue_seconds=0.25, inference_seconds=1.0, total_seconds=2.0
            ),
        )

    def _result(self, index: int, one: dict[str, Any]) -> ScoreResult:
        texts = one["completions"] if "completions" in one else [json.dumps(one)]
        errors = [
            ErrorBody(
                code=self.errors[text], message="no", input_index=index, completion_index=place
            )
            if text in self.errors
            else None
            for place, text in enumerate(texts)
        ]
        return ScoreResult(
            scores=[None if error else text_score(t) for t, error in zip(texts, errors, strict=1)],
            num_tokens=[1] * len(texts),
            truncated_tokens=[0] * len(texts),
            errors=errors if any(errors) else None,
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
