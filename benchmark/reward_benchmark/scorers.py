"""What gives completions their scores: a reward service, or a baseline that needs none."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from reward_benchmark.group import Group
from reward_benchmark.model_type import (
    CUSTOM_CLASSIFIER,
    DPO,
    REFERENCE_FREE_DPO,
    SEQUENCE_CLASSIFIER,
)
from reward_benchmark.outcome import Failure, Outcome, Scores
from reward_client import (
    AsyncRewardClient,
    InfoResponse,
    ModelChangedError,
    ServiceStatusError,
)
from reward_client.schema import (
    CompareResult,
    ErrorBody,
    ErrorCode,
    ModelIdentity,
    RankResult,
    ScoreResult,
    Truncation,
)

SERVICE_STATUSES = frozenset({401, 403, 404, 405, 429, 502, 503})
"""HTTP statuses that say something about the service and nothing about the group that met them."""


class Scorer(Protocol):
    """Judges the completions of one prompt."""

    model: str
    """What a leaderboard calls it."""
    model_type: str
    """RewardBench's word for its kind."""
    info: InfoResponse | None
    """The service behind it, if any."""
    identity: Mapping[str, Any]
    """What its scores depend on, as JSON: a run goes on only with an equal one."""

    async def score(self, group: Group) -> Scores | Failure:
        """A score per completion, or why these completions have none.

        Raises:
            RewardServiceError: the scorer as a whole is lost.
        """

    def summary(self, outcomes: Iterable[Outcome]) -> Mapping[str, Any]:
        """What a scorer of this kind adds to `results.json` about all that it scored."""


class LengthScorer:
    """The baseline that every reward model must beat: longer is better."""

    model = "length"
    model_type = CUSTOM_CLASSIFIER
    info: InfoResponse | None = None
    identity: Mapping[str, Any] = {"scorer": "length"}

    async def score(self, group: Group) -> Scores:
        """The number of characters of each completion."""
        return Scores(tuple(float(len(completion)) for completion in group.completions))

    def summary(self, outcomes: Iterable[Outcome]) -> Mapping[str, Any]:
        """Nothing more."""
        return {}


class EndpointScorer:
    """Asks a reward service, and holds it to the model that it served at the start.

    A pairwise model has no score of a completion. There the two probabilities to be the better one
    stand for scores, and with more completions the rates at which each wins against the others.

    Args:
        info: the service's answer before the first score.
        timeout_seconds: the deadline that each request carries.
    """

    def __init__(
        self,
        client: AsyncRewardClient,
        *,
        info: InfoResponse,
        truncation: Truncation,
        timeout_seconds: float,
    ) -> None:
        self.model = info.model.id
        self.model_type = _model_type(info)
        self.info: InfoResponse | None = info
        self.identity: Mapping[str, Any] = {
            "scorer": "endpoint",
            "truncation": truncation,
            "fingerprint": info.model.fingerprint,
        }
        self._client = client
        self._compares = "score" not in info.capabilities and "compare" in info.capabilities
        self._fingerprint = info.model.fingerprint
        self._truncation = truncation
        self._timeout_seconds = timeout_seconds

    async def score(self, group: Group) -> Scores | Failure:
        """See `Scorer.score`."""
        if self._compares and group.rejected_prompt is not None:
            return Failure(
                "prompts_differ",
                f"{self.model} compares completions of one prompt, and these have two",
            )
        try:
            return await self._answer(group)
        except ServiceStatusError as error:
            if error.status in SERVICE_STATUSES:
                raise
            return Failure(error.code, str(error))

    def summary(self, outcomes: Iterable[Outcome]) -> Mapping[str, Any]:
        """Nothing more."""
        return {}

    async def _answer(self, group: Group) -> Scores | Failure:
        inputs = list(_inputs(group))
        truncation, seconds = self._truncation, self._timeout_seconds
        if not self._compares:
            scored = await self._client.score_many(
                inputs, truncation=truncation, timeout_seconds=seconds
            )
            self._check_model(scored.model)
            return _scores(scored.results)
        if len(group.completions) == 2:
            compared = await self._client.compare_many(
                inputs, truncation=truncation, timeout_seconds=seconds
            )
            self._check_model(compared.model)
            return _preference(compared.results[0])
        ranked = await self._client.rank_many(
            inputs, truncation=truncation, timeout_seconds=seconds
        )
        self._check_model(ranked.model)
        return _win_rates(ranked.results[0])

    def _check_model(self, model: ModelIdentity) -> None:
        if model.fingerprint != self._fingerprint:
            raise ModelChangedError(
                f"the service now serves {model.id} with fingerprint {model.fingerprint}, but the "
                f"run began with {self._fingerprint}: bring that model back, or choose another "
                "--out"
            )


def _inputs(group: Group) -> Iterable[dict[str, Any]]:
    if group.rejected_prompt is None:
        yield {"prompt": group.prompt, "completions": list(group.completions)}
    else:
        yield {"prompt": group.prompt, "completions": list(group.chosen)}
        yield {"prompt": group.rejected_prompt, "completions": list(group.rejected)}


def _preference(result: CompareResult) -> Scores | Failure:
    if failure := _failure(result.errors):
        return failure
    if result.preference is None or not math.isfinite(result.preference):
        return _non_finite(f"preference {result.preference}")
    return Scores((result.preference, 1 - result.preference))


def _win_rates(result: RankResult) -> Scores | Failure:
    if failure := _failure(result.errors):
        return failure
    rates = _finite(result.win_rates or result.scores or ())
    return _non_finite(f"win rates {result.win_rates}") if rates is None else Scores(rates)


def _scores(results: Sequence[ScoreResult]) -> Scores | Failure:
    for result in results:
        if failure := _failure(result.errors):
            return failure
    answered = [score for result in results for score in result.scores]
    scores = _finite(answered)
    if scores is None:
        return _non_finite(f"scores {answered}")
    truncated = tuple(tokens for result in results for tokens in result.truncated_tokens)
    return Scores(
        scores,
        num_tokens=tuple(tokens for result in results for tokens in result.num_tokens),
        truncated_tokens=truncated if any(truncated) else None,
    )


def _failure(errors: Iterable[ErrorBody | None] | None) -> Failure | None:
    return next((Failure(e.code, e.message) for e in errors or () if e is not None), None)


def _finite(values: Sequence[float | None]) -> tuple[float, ...] | None:
    """The values, if there are any and all are numbers."""
    finite = tuple(value for value in values if value is not None and math.isfinite(value))
    return finite if finite and len(finite) == len(values) else None


def _non_finite(answer: str) -> Failure:
    return Failure(ErrorCode.NON_FINITE_SCORE, f"the service answered with the {answer}")


def _model_type(info: InfoResponse) -> str:
    if info.model.kind == "dpo":
        return DPO if info.reference else REFERENCE_FREE_DPO
    return CUSTOM_CLASSIFIER if info.model.kind == "pairwise" else SEQUENCE_CLASSIFIER
