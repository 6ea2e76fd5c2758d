"""Prometheus metrics: base units, a HELP text for each, one registry per service."""

from collections.abc import Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from reward_service.model_runner import BatchReadings

CONTENT_TYPE = CONTENT_TYPE_LATEST

# A gauge per counter that only says when the process started: twice the series for nothing.
disable_created_metrics()

_SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    120,
    300,
)
_TOKENS = (64, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)


class Metrics:
    """Everything the service counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"reward_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"reward_{name}", text, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"reward_{name}", text, buckets=buckets, registry=self.registry)

        self._requests = counter(
            "requests", "Answered HTTP requests by route and status code.", "route", "code"
        )
        self._errors = counter("errors", "Errors reported to callers, by error code.", "code")
        self._open_requests = gauge("open_requests", "HTTP requests being answered.")
        self._total_seconds = histogram(
            "total_seconds", "Time from a request's headers to its answer.", _SECONDS
        )
        self._encoding_seconds = histogram(
            "encoding_seconds", "Time a scored request spent in template and tokenizer.", _SECONDS
        )
        self._queue_seconds = histogram(
            "queue_seconds", "Time a scored request waited for the device.", _SECONDS
        )
        self._inference_seconds = histogram(
            "inference_seconds", "Time from a scored request's first batch to its last.", _SECONDS
        )
        self._queue_requests = gauge(
            "queue_requests", "Requests that wait for the device, wholly or in part."
        )
        self._queue_tokens = gauge(
            "queue_tokens", "Tokens to compute for what waits: a prompt counts once."
        )
        self._batch_seconds = histogram("batch_seconds", "Time of one batch.", _SECONDS)
        self._batch_size = histogram("batch_size_tokens", "Input tokens of one batch.", _TOKENS)
        self._batch_tokens = counter(
            "batch_tokens",
            "Tokens in batches: input (of all sequences), computed (padding included), padded.",
            "kind",
        )
        self._reference_tokens = counter(
            "reference_tokens",
            "Tokens of a DPO reference: computed, or cached (their log-probs known from before).",
            "kind",
        )
        self._truncations = counter("truncations", "Completions whose prompt was truncated.")
        self._truncated_tokens = counter("truncated_tokens", "Tokens dropped by truncation.")
        self._ready = gauge("ready", "1 when the service scores, 0 while it loads or drains.")
        self._model = Info("reward_model", "The model that is served.", registry=self.registry)

    def render(self) -> bytes:
        """The exposition document."""
        return generate_latest(self.registry)

    def set_model(self, labels: Mapping[str, str]) -> None:
        """Name the model that is served."""
        self._model.info(dict(labels))

    def set_ready(self, *, ready: bool) -> None:
        """Say whether the service scores."""
        self._ready.set(ready)

    # ------------------------------------------------------------- what the engine observes

    def queue_changed(self, *, requests: int, tokens: int) -> None:
        """See `engine.Observer`."""
        self._queue_requests.set(requests)
        self._queue_tokens.set(tokens)

    def batch_ran(self, batch: BatchReadings, *, seconds: float) -> None:
        """See `engine.Observer`."""
        self._batch_seconds.observe(seconds)
        self._batch_size.observe(batch.input_tokens)
        self._batch_tokens.labels("input").inc(batch.input_tokens)
        self._batch_tokens.labels("computed").inc(batch.computed_tokens)
        self._batch_tokens.labels("padded").inc(batch.padded_tokens)
        self._reference_tokens.labels("computed").inc(batch.reference_computed_tokens)
        self._reference_tokens.labels("cached").inc(batch.reference_cached_tokens)

    # ------------------------------------------------------------- what the HTTP edge sees

    def request_opened(self) -> None:
        """An HTTP request arrived."""
        self._open_requests.inc()

    def request_answered(self, *, route: str, status: int, seconds: float) -> None:
        """An HTTP request was answered, or its caller left (499)."""
        self._open_requests.dec()
        self._requests.labels(route, str(status)).inc()
        self._total_seconds.observe(seconds)

    def error_reported(self, code: str) -> None:
        """A caller was told about an error."""
        self._errors.labels(code).inc()

    def request_scored(
        self, *, encoding_seconds: float, queue_seconds: float, inference_seconds: float
    ) -> None:
        """A request's completions have their scores."""
        self._encoding_seconds.observe(encoding_seconds)
        self._queue_seconds.observe(queue_seconds)
        self._inference_seconds.observe(inference_seconds)

    def prompt_truncated(self, tokens: int) -> None:
        """A prompt lost this many tokens."""
        self._truncations.inc()
        self._truncated_tokens.inc(tokens)
