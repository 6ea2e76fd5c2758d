"""RewardServe's own routes: the wire contract of `reward_client.schema`, word for word."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from reward_client.schema import (
    ERROR_RULES,
    CompareRequest,
    CompareResponse,
    ErrorResponse,
    HealthResponse,
    InfoResponse,
    Input,
    LogprobsRequest,
    LogprobsResponse,
    PromptInput,
    RankRequest,
    RankResponse,
    ReferenceInfo,
    RenderRequest,
    RenderResponse,
    ScoreRequest,
    ScoreResponse,
    TemplateInfo,
    Timing,
    Usage,
)
from reward_service import metrics
from reward_service.engine import Scored, ScoredGroup
from reward_service.errors import (
    InvalidRequestError,
    NotSupportedError,
    ServiceError,
    TooManyInputsError,
)
from reward_service.inputs import Boundary, Unit
from reward_service.loading import LoadedModel
from reward_service.preference import MAX_COMPARED, MAX_PAIRINGS
from reward_service.routes import wire
from reward_service.routes.connection import while_connected
from reward_service.score_rule import LabelScore, ScoreRule
from reward_service.service import Service

ERRORS: dict[int | str, dict[str, object]] = {
    status: {"model": ErrorResponse, "description": ", ".join(sorted(codes))}
    for status in sorted({rule.status for rule in ERROR_RULES.values()})
    if (codes := [code for code, rule in ERROR_RULES.items() if rule.status == status])
}

router = APIRouter()


def _service(request: Request) -> Service:
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


@router.post("/score", response_model=ScoreResponse, responses=ERRORS)
async def score(body: ScoreRequest, request: Request) -> Response:
    """Raw scores of completions, in order."""
    loaded = _service(request).loaded
    rule = _score_rule(loaded)
    _check_score_request(body, loaded)
    unit: Unit = "completions"
    if body.token_scores:
        unit = "prefixes" if body.token_scores == "prefix" else "tokens"
    computed = await _computed(body, request, rule, unit=unit)
    return computed.answer(ScoreResponse, lambda group: wire.score_result(group, loaded, body))


@router.post("/logprobs", response_model=LogprobsResponse, responses=ERRORS)
async def logprobs(body: LogprobsRequest, request: Request) -> Response:
    """Log-probabilities of completions given their prompts, in order."""
    loaded = _service(request).loaded
    if not loaded.has_logprobs:
        raise NotSupportedError(
            f"{loaded.model_id} is a {loaded.kind}, which has no log-probabilities: ask /score, "
            "or serve a causal language model"
        )
    if body.reference and loaded.reference is None:
        raise NotSupportedError(
            f"{loaded.model_id} is served without a reference: start the service with "
            "--ref-model-id ID, or leave reference out"
        )
    computed = await _computed(body, request, boundary="whole", with_reference=body.reference)
    return computed.answer(
        LogprobsResponse, lambda group: wire.logprobs_result(group, loaded.score_rule, body)
    )


@router.post("/compare", response_model=CompareResponse, responses=ERRORS)
async def compare(body: CompareRequest, request: Request) -> Response:
    """How likely the first of two completions is the better one."""
    computed = await _compared(body, request)
    loaded = _service(request).loaded
    return computed.answer(CompareResponse, lambda group: wire.compare_result(group, loaded))


@router.post("/rank", response_model=RankResponse, responses=ERRORS)
async def rank(body: RankRequest, request: Request) -> Response:
    """Completions of a prompt, best first."""
    computed = await _compared(body, request)
    loaded = _service(request).loaded
    return computed.answer(RankResponse, lambda group: wire.rank_result(group, loaded))


@router.post("/render", responses=ERRORS)
async def render(body: RenderRequest, request: Request) -> RenderResponse:
    """What would be computed: text, tokens, the position that is read, the completion's tokens."""
    service = _service(request)
    engine, loaded = service.engine, service.loaded
    _check_size(len(body.inputs), service)
    inputs = [wire.encoder_input(one) for one in body.inputs]
    unit: Unit = "completions"
    if loaded.preference_rule is not None:
        _check_compared(body.inputs, loaded)
        unit = "pairs"
    renderings = await while_connected(
        request, engine.render(inputs, truncation=body.truncation, unit=unit)
    )
    return RenderResponse(
        model=service.identity,
        results=[[wire.rendered_completion(one, loaded) for one in group] for group in renderings],
    )


@router.get("/info", responses=ERRORS)
async def info(request: Request) -> InfoResponse:
    """Which model is served, how, and under which limits."""
    service = _service(request)
    loaded = service.loaded
    rule, reference = loaded.score_rule, loaded.reference
    labels = list(loaded.objectives.names) if loaded.objectives else []
    return InfoResponse(
        model=service.identity,
        architecture=loaded.architecture,
        family=loaded.family,
        quantization=loaded.quantization,
        device=loaded.device,
        labels=labels,
        score_label=rule.label if isinstance(rule, LabelScore) else None,
        score_rule=_formula(loaded),
        reference=ReferenceInfo(
            id=reference.model_id,
            revision=reference.revision,
            dtype=reference.dtype,
            fingerprint=reference.fingerprint,
        )
        if reference
        else None,
        capabilities=_capabilities(loaded),
        runner=loaded.path,
        template=TemplateInfo(
            source=loaded.template.source,
            sha256=loaded.template.sha256,
            special_tokens=loaded.encoder.special_tokens,
        ),
        limits=service.limits(),
        versions=loaded.versions,
    )


@router.get("/health")
async def health() -> HealthResponse:
    """The process answers, whatever the model is doing."""
    return HealthResponse(status="ok")


@router.get("/ready", responses=ERRORS)
async def ready(request: Request) -> HealthResponse:
    """A request sent now would be scored; 503 while the model loads or the service drains."""
    _ = _service(request).engine
    return HealthResponse(status="ready")


@router.get("/metrics", response_class=Response)
async def exposition(request: Request) -> Response:
    """Prometheus metrics."""
    return Response(_service(request).metrics.render(), media_type=metrics.CONTENT_TYPE)


# ------------------------------------------------------------------------------ computing


@dataclass(frozen=True, slots=True)
class _Computed:
    """What the engine made of a request, and what every answer says about it."""

    scored: Scored
    service: Service
    started: float

    def answer(self, kind: type[Any], result: Callable[[ScoredGroup], Any]) -> Response:
        """The answer of this type, with a result per input."""
        scored = self.scored
        body = kind(
            model=self.service.identity,
            results=[result(group) for group in scored.groups],
            usage=Usage(
                input_tokens=sum(group.group.input_tokens for group in scored.groups),
                computed_tokens=scored.computed_tokens,
                reference_computed_tokens=scored.reference_computed_tokens,
                reference_cached_tokens=scored.reference_cached_tokens,
            ),
            timing=Timing(
                encoding_seconds=scored.encoding_seconds,
                queue_seconds=scored.queue_seconds,
                inference_seconds=scored.inference_seconds,
                total_seconds=time.perf_counter() - self.started,
            ),
        )
        # Written here: FastAPI would check once more what was checked when it was made.
        return Response(body.model_dump_json(), media_type="application/json")


async def _computed(
    body: ScoreRequest | LogprobsRequest | CompareRequest | RankRequest,
    request: Request,
    rule: ScoreRule | None = None,
    *,
    boundary: Boundary | None = None,
    unit: Unit = "completions",
    with_reference: bool = False,
) -> _Computed:
    """Have the engine compute a request.

    Args:
        rule: how scores are made, which says what else they need.
        unit: what gets a reading of its own.
    """
    started = time.perf_counter()
    service = _service(request)
    engine, loaded = service.engine, service.loaded
    _check_size(len(body.inputs), service)
    limit = service.settings.request_timeout_seconds
    scored = await while_connected(
        request,
        engine.score(
            [wire.encoder_input(one) for one in body.inputs],
            timeout_seconds=min(body.timeout_seconds or limit, limit),
            truncation=body.truncation,
            boundary=boundary or _boundary(loaded, unit),
            unit=unit,
            with_reference=with_reference or (rule is not None and rule.needs_reference),
            priority=body.priority,
            client=request.client.host if request.client else "",
        ),
    )
    _account(scored, request, service)
    return _Computed(scored, service, started)


async def _compared(body: CompareRequest | RankRequest, request: Request) -> _Computed:
    """Have the engine compute a request of which every two completions are compared."""
    loaded = _service(request).loaded
    if loaded.preference_rule is None:
        return await _computed(body, request, _score_rule(loaded))
    _check_compared(body.inputs, loaded)
    return await _computed(body, request, unit="pairs")


def _check_compared(inputs: Sequence[Input], loaded: LoadedModel) -> None:
    """See that a pairwise model is given something to compare, and not too much."""
    for index, one in enumerate(inputs):
        if not isinstance(one, PromptInput):
            continue  # the encoder says what it wants instead
        if len(one.completions) == 1:
            raise InvalidRequestError(
                f"{loaded.model_id} is a pairwise model, which cannot rank a single completion: "
                "send at least two",
                input_index=index,
                limit=2,
            )
        if len(one.completions) > MAX_COMPARED:
            raise TooManyInputsError(
                f"{len(one.completions)} completions to compare with each other, the limit is "
                f"{MAX_COMPARED}: send fewer at once",
                input_index=index,
                limit=MAX_COMPARED,
            )
    counts = [len(one.completions) for one in inputs if isinstance(one, PromptInput)]
    pairings = sum(count * (count - 1) for count in counts)
    if pairings > MAX_PAIRINGS:
        raise TooManyInputsError(
            f"{pairings:,} comparisons in one request (two for every two completions), the limit "
            f"is {MAX_PAIRINGS:,}: send fewer inputs at once",
            limit=MAX_PAIRINGS,
        )


def _boundary(loaded: LoadedModel, unit: Unit) -> Boundary:
    """What a score of this model, read in these units, must know of where completions start."""
    if loaded.has_logprobs or loaded.kind == "process":
        return "known"
    return "any" if unit in ("completions", "pairs") else "whole"


def _check_score_request(body: ScoreRequest, loaded: LoadedModel) -> None:
    """See that the model can say what is asked about its scores."""
    if body.objectives and loaded.objectives is None:
        raise NotSupportedError(
            f"{loaded.model_id} is a {loaded.kind} model, which has no objectives"
            + (": what its score is made of is behind /logprobs" if loaded.has_logprobs else "")
        )
    if not body.token_scores:
        return
    if loaded.kind == "process":
        raise NotSupportedError(
            f"{loaded.model_id} scores steps, not tokens: every answer of /score has step_scores"
        )
    if body.token_scores is True and not loaded.reads_any_token:
        reason = (
            "its score is made of the log-probabilities behind /logprobs"
            if loaded.has_logprobs
            else "its score is read from the text as a whole"
        )
        raise NotSupportedError(
            f"{loaded.model_id} has no score at every token ({reason}): "
            'send "token_scores": "prefix", which scores every prefix by itself'
        )


def _score_rule(loaded: LoadedModel) -> ScoreRule:
    if loaded.score_rule is not None:
        return loaded.score_rule
    if loaded.preference_rule is not None:
        raise NotSupportedError(
            f"{loaded.model_id} is a pairwise model, which has no score of one completion: ask "
            "/compare with two completions, or /rank with several"
        )
    raise NotSupportedError(
        f"{loaded.model_id} is a causal language model without scores: ask /logprobs, or start "
        "the service with --ref-model-id ID (the model that it was trained from by DPO)"
    )


def _formula(loaded: LoadedModel) -> str | None:
    rule = loaded.score_rule or loaded.preference_rule
    return rule.formula if rule else None


def _capabilities(loaded: LoadedModel) -> list[str]:
    """The routes that answer for this kind of model."""
    scored = ["score", "compare", "rank"] if loaded.score_rule else []
    compared = ["compare", "rank"] if loaded.preference_rule else []
    return [*scored, *compared, *(["logprobs"] if loaded.has_logprobs else []), "render"]


def _check_size(inputs: int, service: Service) -> None:
    limit = service.settings.max_client_batch_size
    if inputs > limit:
        raise TooManyInputsError(
            f"{inputs} inputs in one request, the limit is {limit} (max_client_batch_size): "
            "split them, as the client's score_many does",
            limit=limit,
        )


def _account(scored: Scored, request: Request, service: Service) -> None:
    """Tell metrics and the request's log line what was done; contents stay out of both."""
    service.metrics.request_scored(
        encoding_seconds=scored.encoding_seconds,
        queue_seconds=scored.queue_seconds,
        inference_seconds=scored.inference_seconds,
    )
    completions = 0
    for group in map(wire.whole_completions, scored.groups):
        compares = service.loaded.preference_rule is not None
        completions += wire.compared_completions(group) if compares else len(group.readings)
        for sequence in group.group.sequences:
            if sequence.truncated_tokens:
                service.metrics.prompt_truncated(sequence.truncated_tokens)
        for reading in group.readings:
            if isinstance(reading, ServiceError):
                service.metrics.error_reported(reading.code)
    request.state.log_fields = {
        "inputs": len(scored.groups),
        "completions": completions,
        "computed_tokens": scored.computed_tokens,
        "encoding_seconds": round(scored.encoding_seconds, 6),
        "queue_seconds": round(scored.queue_seconds, 6),
        "inference_seconds": round(scored.inference_seconds, 6),
    }
