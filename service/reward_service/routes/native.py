"""RewardServe's own routes: the wire contract of `reward_client.schema`, word for word."""

import time

from fastapi import APIRouter, Request, Response

from reward_client.schema import (
    ERROR_RULES,
    ErrorBody,
    ErrorResponse,
    HealthResponse,
    InfoResponse,
    Input,
    MessagesInput,
    PromptInput,
    RenderedCompletion,
    RenderRequest,
    RenderResponse,
    ScoreRequest,
    ScoreResponse,
    ScoreResult,
    TemplateInfo,
    TextInput,
    Timing,
    TokenIdsInput,
    Usage,
)
from reward_service import metrics
from reward_service.encoding import (
    Conversation,
    EncoderInput,
    GivenTokens,
    RenderedText,
    Rendering,
)
from reward_service.engine import Scored, ScoredGroup
from reward_service.errors import ServiceError, TooManyInputsError
from reward_service.loading import LoadedModel
from reward_service.responses import error_body
from reward_service.routes.connection import while_connected
from reward_service.service import Service

CAPABILITIES = ["score", "render"]

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
    started = time.perf_counter()
    service = _service(request)
    engine, loaded = service.engine, service.loaded
    _check_size(body.inputs, service)
    limit = service.settings.request_timeout_seconds
    scored = await while_connected(
        request,
        engine.score(
            [_encoder_input(one) for one in body.inputs],
            timeout_seconds=min(body.timeout_seconds or limit, limit),
            truncation=body.truncation,
            priority=body.priority,
            client=request.client.host if request.client else "",
        ),
    )
    _account(scored, request, service)
    answer = ScoreResponse(
        model=service.identity,
        results=[_result(group, loaded, objectives=body.objectives) for group in scored.groups],
        usage=Usage(
            input_tokens=sum(group.group.input_tokens for group in scored.groups),
            computed_tokens=scored.computed_tokens,
        ),
        timing=Timing(
            encoding_seconds=scored.encoding_seconds,
            queue_seconds=scored.queue_seconds,
            inference_seconds=scored.inference_seconds,
            total_seconds=time.perf_counter() - started,
        ),
    )
    # Written here: FastAPI would check once more what was checked when it was made.
    return Response(answer.model_dump_json(), media_type="application/json")


@router.post("/render", responses=ERRORS)
async def render(body: RenderRequest, request: Request) -> RenderResponse:
    """What would be scored: text, tokens, and the position that is read."""
    service = _service(request)
    engine, loaded = service.engine, service.loaded
    _check_size(body.inputs, service)
    inputs = [_encoder_input(one) for one in body.inputs]
    renderings = await while_connected(request, engine.render(inputs, truncation=body.truncation))
    return RenderResponse(
        model=service.identity,
        results=[[_rendered(one, loaded) for one in group] for group in renderings],
    )


@router.get("/info", responses=ERRORS)
async def info(request: Request) -> InfoResponse:
    """Which model is served, how, and under which limits."""
    service = _service(request)
    loaded = service.loaded
    return InfoResponse(
        model=service.identity,
        architecture=loaded.architecture,
        device=loaded.device,
        labels=list(loaded.labels),
        score_label=loaded.labels[loaded.score_index],
        capabilities=CAPABILITIES,
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


# -------------------------------------------------------------------------- wire ↔ engine


def _check_size(inputs: list[Input], service: Service) -> None:
    limit = service.settings.max_client_batch_size
    if len(inputs) > limit:
        raise TooManyInputsError(
            f"{len(inputs)} inputs in one request, the limit is {limit} (max_client_batch_size): "
            "split them, as the client's score_many does",
            limit=limit,
        )


def _encoder_input(one: Input) -> EncoderInput:
    match one:
        case PromptInput(prompt=str() as question):
            return Conversation([{"role": "user", "content": question}], one.completions)
        case PromptInput(prompt=list(messages)):
            return Conversation([message.model_dump() for message in messages], one.completions)
        case MessagesInput(messages=[*prompt, completion]):
            return Conversation([message.model_dump() for message in prompt], [completion.content])
        case TextInput(text=text):
            return RenderedText(text)
        case TokenIdsInput():
            return GivenTokens(one.token_ids, one.completion_start)
    raise AssertionError(f"unknown input {type(one).__name__}")


def _result(group: ScoredGroup, loaded: LoadedModel, *, objectives: bool) -> ScoreResult:
    errors: list[ErrorBody | None] = []
    scores: list[float | None] = []
    all_labels: list[dict[str, float] | None] = []
    for reading in group.readings:
        if isinstance(reading, ServiceError):
            errors.append(error_body(reading))
            scores.append(None)
            all_labels.append(None)
        else:
            errors.append(None)
            scores.append(reading.outputs[loaded.score_index])
            all_labels.append(dict(zip(loaded.labels, reading.outputs, strict=True)))
    sequences = group.group.sequences
    return ScoreResult(
        scores=scores,
        num_tokens=[len(sequence) for sequence in sequences],
        truncated_tokens=[sequence.truncated_tokens for sequence in sequences],
        objectives=all_labels if objectives else None,
        errors=errors if any(errors) else None,
    )


def _rendered(rendering: Rendering, loaded: LoadedModel) -> RenderedCompletion:
    sequence = rendering.sequence
    return RenderedCompletion(
        text=rendering.text,
        token_ids=sequence.token_ids,
        tokens=rendering.tokens,
        read_position=len(sequence) - 1 if loaded.reads_last_token else None,
        completion_start=sequence.completion_start,
        truncated_tokens=sequence.truncated_tokens,
        warnings=rendering.warnings,
    )


def _account(scored: Scored, request: Request, service: Service) -> None:
    """Tell metrics and the request's log line what was done; contents stay out of both."""
    service.metrics.request_scored(
        encoding_seconds=scored.encoding_seconds,
        queue_seconds=scored.queue_seconds,
        inference_seconds=scored.inference_seconds,
    )
    completions = 0
    for group in scored.groups:
        completions += len(group.readings)
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
