"""Between the wire contract and the engine: inputs one way, readings the other."""

import math
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import asdict, replace
from functools import partial
from itertools import accumulate, combinations, pairwise
from typing import TypeVar

from reward_client.schema import (
    CompareResult,
    ErrorBody,
    Input,
    LogprobsRequest,
    LogprobsResult,
    MessagesInput,
    Objectives,
    PromptInput,
    RankResult,
    RenderedCompletion,
    ScoreRequest,
    ScoreResult,
    TextInput,
    TokenIdsInput,
)
from reward_service.engine import ScoredGroup
from reward_service.errors import ServiceError
from reward_service.inputs import Conversation, EncoderInput, GivenTokens, RenderedText, Rendering
from reward_service.loading import LoadedModel
from reward_service.model_runner import Reading
from reward_service.objectives import ObjectiveLayout
from reward_service.preference import Pairing, PreferenceRule, logistic, ordered_pairs, rank
from reward_service.responses import error_body
from reward_service.score_rule import ScoreRule, StepScore

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


def score_result(group: ScoredGroup, loaded: LoadedModel, body: ScoreRequest) -> ScoreResult:
    """The scores of one input."""
    rule, layout = _rule(loaded), loaded.objectives
    token_scores = None
    if body.token_scores == "prefix":
        token_scores = _prefix_scores(group, rule)
        group = whole_completions(group)
    elif body.token_scores:
        assert layout is not None
        token_scores = _column(group, partial(_throughout, rule=rule, layout=layout))
    sequences = group.group.sequences
    return ScoreResult(
        scores=_column(group, lambda one: _score(_last(one, layout), rule)),
        num_tokens=[len(sequence) for sequence in sequences],
        truncated_tokens=[sequence.truncated_tokens for sequence in sequences],
        token_scores=token_scores,
        completion_start=(
            [sequence.completion[0] for sequence in sequences] if body.token_scores else None
        ),
        step_scores=(
            _column(group, lambda one: rule.probabilities(one.outputs))
            if isinstance(rule, StepScore)
            else None
        ),
        objectives=(
            _column(group, lambda one: _objectives(_last(one, layout), layout))
            if body.objectives and layout
            else None
        ),
        errors=errors(group),
    )


def whole_completions(group: ScoredGroup) -> ScoredGroup:
    """Of a group of prefixes, the completions; one is without score where a prefix of it is."""
    if group.group.parts is None:
        return group
    sequences = []
    readings: list[Reading | ServiceError] = []
    for index, (first, last) in enumerate(_parts(group)):
        sequences.append(group.group.sequences[last - 1])
        readings.append(group.readings[last - 1])
        failed = [one for one in group.readings[first:last] if isinstance(one, ServiceError)]
        if failed:
            readings[-1] = error = copy(failed[0])
            error.completion_index = index
    return ScoredGroup(replace(group.group, sequences=tuple(sequences), parts=None), readings)


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


def compare_result(group: ScoredGroup, loaded: LoadedModel) -> CompareResult:
    """Which of an input's two completions is better."""
    if loaded.preference_rule is not None:
        preferences = _preferences(group, loaded.preference_rule)
        return CompareResult(
            preference=preferences[0, 1], scores=None, errors=_pair_errors(group, [None, None])
        )
    both = scores(group, _rule(loaded))
    first, second = both
    preference = None
    if first is not None and second is not None:
        # Bradley and Terry (1952).
        preference = logistic(first - second)
    return CompareResult(preference=preference, scores=both, errors=errors(group))


def rank_result(group: ScoredGroup, loaded: LoadedModel) -> RankResult:
    """An input's completions, best first."""
    if loaded.preference_rule is not None:
        ranking = rank(compared_completions(group), _preferences(group, loaded.preference_rule))
        return RankResult(
            order=ranking.order,
            scores=None,
            win_rates=ranking.win_rates,
            errors=_pair_errors(group, ranking.win_rates),
        )
    column = scores(group, _rule(loaded))
    ranked = [(-score, index) for index, score in enumerate(column) if score is not None]
    return RankResult(
        order=[index for _, index in sorted(ranked)], scores=column, errors=errors(group)
    )


def scores(group: ScoredGroup, rule: ScoreRule) -> list[float | None]:
    """One score per completion."""
    return _column(group, lambda one: _score(one, rule))


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


def _rule(loaded: LoadedModel) -> ScoreRule:
    assert loaded.score_rule is not None
    return loaded.score_rule


def _score(one: Reading, rule: ScoreRule) -> float:
    return rule.score(one.outputs, one.reference.outputs if one.reference else None)


def _last(one: Reading, layout: ObjectiveLayout | None) -> Reading:
    """What was read at the end of the sequence alone."""
    return one if layout is None else replace(one, outputs=one.outputs[-layout.outputs :])


def _throughout(one: Reading, rule: ScoreRule, layout: ObjectiveLayout) -> list[float]:
    """The scores that were read on the way, without the last one, which is the sequence's."""
    count = layout.outputs
    reads = [one.outputs[i : i + count] for i in range(0, len(one.outputs) - count, count)]
    return [rule.score(outputs, None) for outputs in reads]


def _prefix_scores(group: ScoredGroup, rule: ScoreRule) -> list[list[float] | None]:
    column = scores(group, rule)
    by_completion = [column[first:last] for first, last in _parts(group)]
    return [
        None if None in part else [score for score in part if score is not None]
        for part in by_completion
    ]


def _parts(group: ScoredGroup) -> Iterator[tuple[int, int]]:
    """Where each completion's prefixes are among the sequences."""
    assert group.group.parts is not None
    return pairwise(accumulate(group.group.parts, initial=0))


def _objectives(one: Reading, layout: ObjectiveLayout) -> Objectives:
    return Objectives.model_validate(asdict(layout.objectives(one.outputs)))


def _preferences(group: ScoredGroup, rule: PreferenceRule) -> dict[Pairing, float | None]:
    """For each two completions i < j, the probability that i is better."""
    completions = compared_completions(group)
    said = dict(zip(ordered_pairs(completions), group.readings, strict=True))
    preferences: dict[Pairing, float | None] = {}
    for i, j in combinations(range(completions), 2):
        both = said[i, j], said[j, i]
        readings = [one.outputs[0] for one in both if isinstance(one, Reading)]
        preferences[i, j] = rule.preference(*readings) if len(readings) == 2 else None
    return preferences


def compared_completions(group: ScoredGroup) -> int:
    """Of a group of ordered pairs, how many completions they are of: n have n · (n - 1)."""
    return math.isqrt(len(group.readings)) + 1


def _pair_errors(
    group: ScoredGroup, win_rates: Sequence[float | None]
) -> list[ErrorBody | None] | None:
    """Why completions could not be compared; `None` when all could."""
    column: list[ErrorBody | None] = [None] * len(win_rates)
    for pairing, one in zip(ordered_pairs(len(win_rates)), group.readings, strict=True):
        if isinstance(one, ServiceError):
            for place in pairing:
                if win_rates[place] is None and column[place] is None:
                    body = error_body(one)
                    column[place] = body.model_copy(update={"completion_index": place})
    return column if any(column) else None


def _column(group: ScoredGroup, value: Callable[[Reading], T]) -> list[T | None]:
    return [None if isinstance(one, ServiceError) else value(one) for one in group.readings]


def _reference(one: Reading) -> tuple[float, ...]:
    assert one.reference is not None
    return one.reference.outputs
