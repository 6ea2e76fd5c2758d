"""Between the wire contract and the engine: inputs one way, readings the other."""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from reward_client.schema import (
    CompareResult,
    ErrorBody,
    Input,
    LogprobsRequest,
    LogprobsResult,
    MessagesInput,
    PromptInput,
    RankResult,
    RenderedCompletion,
    ScoreResult,
    TextInput,
    TokenIdsInput,
)
from reward_service.encoding import (
    Conversation,
    EncoderInput,
    GivenTokens,
    RenderedText,
    Rendering,
)
from reward_service.engine import ScoredGroup
from reward_service.errors import ServiceError
from reward_service.loading import LoadedModel
from reward_service.model_runner import Reading
from reward_service.responses import error_body
from reward_service.score_rule import ScoreRule

T = TypeVar("T")


def encoder_input(one: Input) -> EncoderInput:
    """An input as the encoder takes it."""
    match one:
        case PromptInput(prompt=str() as question):
            return Conversation([{"role": "user", "content": question}], one.completions)
        case PromptInput(prompt=list(messages)):
            return Conversation([message.model_dump() for message in messages], one.completions)
        case MessagesInput(messages=[*prompt, completion]):
            return Conversation([message.model_dump() for message in prompt], [completion.content])
        case TextInput():
            return RenderedText(one.text, one.completion_start)
        case TokenIdsInput():
            return GivenTokens(one.token_ids, one.completion_start)
    raise AssertionError(f"unknown input {type(one).__name__}")


def score_result(
    group: ScoredGroup, rule: ScoreRule, labels: Sequence[str], *, objectives: bool
) -> ScoreResult:
    """The scores of one input."""
    sequences = group.group.sequences
    return ScoreResult(
        scores=scores(group, rule),
        num_tokens=[len(sequence) for sequence in sequences],
        truncated_tokens=[sequence.truncated_tokens for sequence in sequences],
        objectives=(
            _column(group, lambda one: dict(zip(labels, one.outputs, strict=False)))
            if objectives
            else None
        ),
        errors=errors(group),
    )


def logprobs_result(
    group: ScoredGroup, rule: ScoreRule | None, body: LogprobsRequest
) -> LogprobsResult:
    """The log-probabilities of one input."""
    sequences = group.group.sequences
    spans = [sequence.completion for sequence in sequences]
    shows_reference_tokens = body.reference and body.token_logprobs
    return LogprobsResult(
        logprobs=_column(group, lambda one: math.fsum(one.outputs)),
        num_completion_tokens=[stop - start for start, stop in spans],
        completion_start=[start for start, _ in spans],
        num_tokens=[len(sequence) for sequence in sequences],
        truncated_tokens=[sequence.truncated_tokens for sequence in sequences],
        reference_logprobs=(
            _column(group, lambda one: math.fsum(_reference(one))) if body.reference else None
        ),
        scores=scores(group, rule) if body.reference and rule else None,
        token_logprobs=_column(group, lambda one: list(one.outputs))
        if body.token_logprobs
        else None,
        reference_token_logprobs=(
            _column(group, lambda one: list(_reference(one))) if shows_reference_tokens else None
        ),
        errors=errors(group),
    )


def compare_result(group: ScoredGroup, rule: ScoreRule) -> CompareResult:
    """Which of an input's two completions is better, after Bradley and Terry (1952)."""
    both = scores(group, rule)
    first, second = both
    preference = None
    if first is not None and second is not None:
        # Of the two equal forms of the logistic function, the one that cannot overflow.
        margin = first - second
        small = math.exp(-abs(margin))
        preference = (1 if margin >= 0 else small) / (1 + small)
    return CompareResult(preference=preference, scores=both, errors=errors(group))


def rank_result(group: ScoredGroup, rule: ScoreRule) -> RankResult:
    """An input's completions, best first."""
    column = scores(group, rule)
    ranked = [(-score, index) for index, score in enumerate(column) if score is not None]
    return RankResult(
        order=[index for _, index in sorted(ranked)], scores=column, errors=errors(group)
    )


def scores(group: ScoredGroup, rule: ScoreRule) -> list[float | None]:
    """One score per completion."""
    return _column(
        group,
        lambda one: rule.score(one.outputs, one.reference.outputs if one.reference else None),
    )


def errors(group: ScoredGroup) -> list[ErrorBody | None] | None:
    """Why completions have no reading; `None` when all have one."""
    column = [error_body(one) if isinstance(one, ServiceError) else None for one in group.readings]
    return column if any(column) else None


def rendered_completion(rendering: Rendering, loaded: LoadedModel) -> RenderedCompletion:
    """One sequence, for people to check."""
    sequence = rendering.sequence
    is_known = sequence.completion_start is not None
    return RenderedCompletion(
        text=rendering.text,
        token_ids=sequence.token_ids,
        tokens=rendering.tokens,
        read_position=len(sequence) - 1 if loaded.reads_last_token else None,
        completion_start=sequence.completion_start,
        completion_end=sequence.completion[1] if is_known else None,
        truncated_tokens=sequence.truncated_tokens,
        warnings=rendering.warnings,
    )


def _column(group: ScoredGroup, value: Callable[[Reading], T]) -> list[T | None]:
    return [None if isinstance(one, ServiceError) else value(one) for one in group.readings]


def _reference(one: Reading) -> tuple[float, ...]:
    assert one.reference is not None
    return one.reference.outputs
