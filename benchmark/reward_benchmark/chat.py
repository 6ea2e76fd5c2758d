"""Questions to a chat model behind an OpenAI-compatible endpoint, and what may go wrong with them.

All the benchmark's requests to language models leave through `ChatClient`. Its answers are either
an `Answer`, or a `Failure` where this one question has none although the endpoint works; an
endpoint that does not work ends the caller's run with a `ChatUnavailableError`:

    async with ChatClient(url, model="org/name", api_key=None, timeout_seconds=300) as chat:
        answer = await chat.answer([{"role": "user", "content": "Hi"}], Sampling(seed=1))
        if isinstance(answer, Failure):
            ...

A caller decides what an empty text, or one that `Answer.cut_short` calls unfinished, is worth.

Under it lies huggingface_hub's `AsyncInferenceClient`, which neither retries nor limits the time of
a whole answer, sends the user's Hugging Face token to any address when it is given no key, refuses
every address under HF_HUB_OFFLINE, and reads answers of any shape. All of that is put right here.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import stamina
from huggingface_hub import AsyncInferenceClient, ChatCompletionOutput
from pydantic import BaseModel, Field, ValidationError

from reward_benchmark.errors import BenchmarkError, ServiceError
from reward_benchmark.json_text import first_reason
from reward_benchmark.outcome import Failure
from reward_client.address import shown_address
from reward_client.calls import MAX_RETRY_AFTER_SECONDS

ATTEMPTS = 8
"""How often one question is asked; the waits between grow from one second to a minute."""
FIRST_WAIT_SECONDS = 1.0
MAX_WAIT_SECONDS = 60.0

TIMEOUT_ATTEMPTS = 2
"""A timeout is asked again once only: the endpoint would compute the same long answer again."""
UNSEEN_ATTEMPTS = 3
"""Before the first answer of all: more likely than a bad moment is a wrong address or model."""
PROBE_ATTEMPTS = 2
"""The first one may meet a connection that the server has closed since its last answer."""

MAX_CONNECTIONS = 100
"""Requests open at once: httpx's own limit, in whose queue a request's deadline would run."""

ADDRESS_STATUSES = frozenset({401, 404, 405})
"""HTTP statuses that are about the address, the key or the model, never about one question."""
RETRY_STATUSES = frozenset({408, 424, 425, 429})
"""HTTP statuses below 500 that may pass; 424 is text-generation-inference's failed generation."""
TIMEOUT_STATUSES = frozenset({408, 504})
STARTING_STATUSES = frozenset({429, 503})
"""HTTP statuses of an endpoint that knows of us and of the model, but not yet now."""

_SHORTEST_SECRET = 8
"""Characters; a shorter key is a placeholder such as EMPTY."""
_EXCERPT = 300
"""Characters of a server's answer that a message repeats."""

Messages = Sequence[Mapping[str, str]]
"""A conversation: each message has a `role` and a `content`."""

_PROBE: Messages = ({"role": "user", "content": "Hi"},)
"""What any endpoint that works can answer."""


class ChatUnavailableError(ServiceError):
    """The endpoint as a whole cannot be used; the message says why, and what to do about it."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the endpoint should choose tokens; what is `None` is not sent."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def parameters(self) -> dict[str, Any]:
        """What the request says."""
        return asdict(self) | {"stop": list(self.stop) or None}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said."""

    text: str
    """Never made up: it is empty only where the model said an empty text."""
    finish_reason: str | None
    """In the server's words: `stop`, `length`, `content_filter`, `eos_token`, …"""
    input_tokens: int | None
    output_tokens: int | None
    """`None`, both, where the server does not count."""

    @property
    def cut_short(self) -> bool:
        """Whether a limit on tokens ended the text: `max_tokens`, or the endpoint's own."""
        return self.finish_reason == "length"


class ChatClient:
    """Asks one model at one address.

    Args:
        url: the endpoint's root, with or without `/v1`, or the whole address up to
            `/chat/completions`.
        model: its name at the endpoint.
        api_key: sent to the endpoint, and never shown; without one, no key is sent.
        timeout_seconds: for one whole answer.
        attempts: how often one question is asked while the endpoint fails in a way that may pass.

    Raises:
        BenchmarkError: the key cannot be sent.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str,
        api_key: str | None = None,
        timeout_seconds: float = 300.0,
        attempts: int = ATTEMPTS,
    ) -> None:
        api_key = (api_key or "").strip()
        if not (api_key.isascii() and api_key.isprintable()):
            raise BenchmarkError(
                "the API key holds a character that no HTTP header can carry: only printable "
                "ASCII can be sent"
            )
        self.model = model
        self.url = shown_address(url)
        """The address as records and messages may show it."""
        self._api_key = api_key
        self._attempts = attempts
        self._timeout_seconds = timeout_seconds
        self._answered = False
        self._connections = asyncio.Semaphore(MAX_CONNECTIONS)
        # Without a key, the library would look for the user's own and send that.
        self._http = _EndpointClient(
            base_url=url.strip(),
            api_key=api_key or "none",
            headers=None if api_key else {"authorization": None},  # type: ignore[dict-item]
        )

    async def answer(self, messages: Messages, sampling: Sampling) -> Answer | Failure:
        """The model's answer, or why this question has none.

        What may pass is tried again, with exponentially growing waits or those that the server asks
        for. When all attempts are spent, the endpoint is asked the shortest of questions: if it
        answers that, the fault is this question's.

        Raises:
            ChatUnavailableError: the endpoint cannot be used, or not any more.
        """
        try:
            return await self._ask_patiently(messages, sampling, self._attempts)
        except _AttemptError as error:
            if not error.endpoint_works(answered=self._answered):
                await self._probe(error, sampling)
            return Failure(error.code, str(error))

    async def _probe(self, error: "_AttemptError", sampling: Sampling) -> None:
        """Find out whether the endpoint answers anybody."""
        if error.status in ADDRESS_STATUSES:
            raise self._unavailable(error, sampling) from error
        try:
            await self._ask_patiently(_PROBE, sampling, PROBE_ATTEMPTS)
        except _AttemptError as lost:
            if not lost.endpoint_works(answered=False):
                raise self._unavailable(lost, sampling) from lost

    async def _ask_patiently(self, messages: Messages, sampling: Sampling, attempts: int) -> Answer:
        made = 0

        def backoff(error: Exception) -> bool | float:
            nonlocal made
            made += 1
            if not isinstance(error, _AttemptError):
                return False
            if error.code == "timeout" and made >= TIMEOUT_ATTEMPTS:
                return False
            starting = error.status in STARTING_STATUSES
            if not (self._answered or starting) and made >= UNSEEN_ATTEMPTS:
                return False
            return error.retry

        async for attempt in stamina.retry_context(
            on=backoff,
            attempts=attempts,
            timeout=None,
            wait_initial=FIRST_WAIT_SECONDS,
            wait_max=MAX_WAIT_SECONDS,
        ):
            with attempt:
                return await self._ask(messages, sampling)
        raise AssertionError("stamina raises the last error")

    async def _ask(self, messages: Messages, sampling: Sampling) -> Answer:
        """Ask once.

        Raises:
            _AttemptError: there is no answer.
        """
        _check_unicode(messages)
        async with self._connections:
            choice, usage = _read(await self._complete(messages, sampling))
        self._answered = True
        if choice.message.content is None:
            raise _AttemptError("no_text", _why_no_text(choice, sampling), retry=False)
        return Answer(
            text=choice.message.content,
            finish_reason=choice.finish_reason,
            input_tokens=_count(usage, "prompt_tokens"),
            output_tokens=_count(usage, "completion_tokens"),
        )

    async def _complete(self, messages: Messages, sampling: Sampling) -> ChatCompletionOutput:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                completion: ChatCompletionOutput = await self._http.chat_completion(
                    [dict(message) for message in messages],
                    model=self.model,
                    **sampling.parameters(),
                )
                return completion
        except _StatusError as error:
            raise self._from_status(error) from None
        except TimeoutError as error:
            raise _AttemptError(
                "timeout", f"no answer within {self._timeout_seconds:g} s"
            ) from error
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
            # The library's reader stumbles over what is no chat completion in one of these ways.
            raise _AttemptError(
                "malformed_answer",
                f"the answer is not a chat completion ({type(error).__name__})",
            ) from error
        except Exception as error:  # httpx's errors, which the library renames from time to time
            raise _AttemptError(
                "unreachable",
                self._without_key(f"the connection failed: {str(error) or type(error).__name__}"),
            ) from error

    def _from_status(self, error: "_StatusError") -> "_AttemptError":
        status = error.status
        said = self._without_key(" ".join(error.text.split())[:_EXCERPT]) or "no message"
        if status in TIMEOUT_STATUSES:
            code = "timeout"
        elif status == 429:
            code = "rate_limited"
        elif status >= 500 or status in RETRY_STATUSES:
            code = "server_error"
        else:
            code = "refused"
        return _AttemptError(
            code,
            f"the endpoint answered with HTTP status {status}: {said}",
            retry=code != "refused" and (error.retry_after_seconds or True),
            status=status,
        )

    def _without_key(self, text: str) -> str:
        if len(self._api_key) < _SHORTEST_SECRET:
            return text
        return text.replace(self._api_key, "***")

    def _unavailable(self, error: "_AttemptError", sampling: Sampling) -> ChatUnavailableError:
        return ChatUnavailableError(
            f"{self.model} at {self.url} cannot be used: {error}; {self._remedy(error, sampling)}"
        )

    def _remedy(self, error: "_AttemptError", sampling: Sampling) -> str:
        if error.status in (401, 403):
            return "give the API key of an account that may use the model"
        if error.status in (404, 405):
            return (
                f"the address must be the endpoint's root, with or without /v1, or its whole "
                f"address up to /chat/completions, and serve a model named {self.model}"
            )
        if error.code == "refused":
            remedy = "it refuses even a short question: change the settings that it complains about"
            # OpenAI's newer models know the limit by another name alone, vLLM may find it too high.
            if sampling.max_tokens is not None and "max_tokens" in str(error):
                remedy += "; --max-tokens none sends no limit"
            return remedy
        if error.code == "rate_limited":
            return "lower the concurrency, or wait until the limit allows more"
        if error.code == "timeout":
            return "lower the concurrency, or allow more time for an answer"
        return "is a chat model running at this address?"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.close()  # type: ignore[no-untyped-call]


class _AttemptError(Exception):
    """One request brought no answer.

    Args:
        code: what a `Failure` of the question is called.
        retry: whether another attempt may help, or after how many seconds.
    """

    def __init__(
        self, code: str, message: str, *, retry: bool | float = True, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retry = retry
        self.status = status

    def endpoint_works(self, *, answered: bool) -> bool:
        """Whether the endpoint certainly answers other questions.

        Args:
            answered: whether it has answered one; before, its refusals may be about the settings.
        """
        if self.code in ("no_text", "not_unicode"):
            return True
        # A 403 may be moderation of this question, or a key that expired during the run.
        return answered and self.code == "refused" and self.status not in {403, *ADDRESS_STATUSES}


# ------------------------------------------------------------------------------ HTTP underneath


class _StatusError(Exception):
    """The endpoint answered with something else than 200."""

    def __init__(self, response: Any) -> None:
        self.status: int = response.status_code
        self.text: str = response.text
        self.retry_after_seconds = _retry_after_seconds(response.headers.get("retry-after"))


class _EndpointClient(AsyncInferenceClient):
    """The library's client with another opinion on what an HTTP status means.

    Its own hooks obey HF_HUB_OFFLINE, which is about the hub and not about a model next door; and
    it would read an error's body in ways that fail for some bodies.
    """

    async def _get_async_client(self) -> Any:
        session = await super()._get_async_client()  # type: ignore[no-untyped-call]
        session.event_hooks = {"response": [_raise_for_status]}
        return session


async def _raise_for_status(response: Any) -> None:
    if not (response.is_success or response.has_redirect_location):
        await response.aread()
        raise _StatusError(response)


def _retry_after_seconds(value: str | None) -> float | None:
    """Seconds from a `Retry-After` header, which holds seconds or a date; within our patience."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    # Callers refused together must not come back together.
    return min(max(0.0, seconds), MAX_RETRY_AFTER_SECONDS) * random.uniform(1.0, 1.25)


def _check_unicode(messages: Messages) -> None:
    for message in messages:
        for text in message.values():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise _AttemptError(
                    "not_unicode",
                    f"the text cannot be sent: character {error.start} is half of a surrogate pair",
                    retry=False,
                ) from error


# -------------------------------------------------------------------------- reading the answers


class _Message(BaseModel):
    content: str | None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: Any


def _read(completion: ChatCompletionOutput) -> tuple[_Choice, Any]:
    """The first choice and the usage, out of what the library accepted.

    Raises:
        _AttemptError: it is no chat completion.
    """
    try:
        read = _Completion.model_validate(dict(completion))
    except ValidationError as error:
        raise _AttemptError(
            "malformed_answer", f"the answer is not a chat completion ({first_reason(error)})"
        ) from error
    return read.choices[0], read.usage


def _why_no_text(choice: _Choice, sampling: Sampling) -> str:
    message = f"the model answered without a text (finish_reason {choice.finish_reason})"
    if choice.finish_reason == "length":
        if sampling.max_tokens is None:
            return f"{message}: reasoning used up all tokens that the endpoint allows"
        return (
            f"{message}: reasoning used up max_tokens={sampling.max_tokens}; allow more tokens, "
            "or send no limit with --max-tokens none"
        )
    return message


def _count(usage: Any, field: str) -> int | None:
    """A count, or `None` where the server gives none: an answer is not worth less without."""
    value = usage.get(field) if isinstance(usage, dict) else None
    return value if type(value) is int and value >= 0 else None
