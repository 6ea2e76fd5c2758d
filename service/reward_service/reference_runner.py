"""Runs a policy and its reference side by side: two models, one set of forward passes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from reward_service.errors import ServiceError
from reward_service.model_runner import (
    BatchReadings,
    ModelRunner,
    PreparedBatch,
    Reading,
    ReferenceReading,
)
from reward_service.reference_cache import LogProbs, ReferenceCache
from reward_service.sequences import SequenceGroup, TokenSequence


@dataclass(frozen=True, slots=True)
class PreparedPair:
    """A batch for the policy, and what of it the reference has to compute."""

    policy: PreparedBatch
    known: list[LogProbs | None]
    """For every sequence whose reference numbers are wanted, in order, where they are known."""
    reference: PreparedBatch | None
    """The sequences for which they are not."""


class ReferenceRunner:
    """Reads a policy, and a reference where it is wanted and not known from before.

    Args:
        cache: what the reference said before; `None` asks it each time.
    """

    def __init__(
        self, policy: ModelRunner, reference: ModelRunner, cache: ReferenceCache | None
    ) -> None:
        self._policy = policy
        self._reference = reference
        self._cache = cache
        self._plans_alike = policy.packs_like(reference)

    @property
    def max_batch_tokens(self) -> int:
        """Most tokens of one forward pass."""
        return self._policy.max_batch_tokens

    def prepare(self, groups: Sequence[SequenceGroup]) -> PreparedPair:
        """See `model_runner.Runner`."""
        policy = self._policy.prepare(groups)
        wanted = [one for group in groups if group.with_reference for one in group.sequences]
        known: list[LogProbs | None] = (
            self._cache.find(wanted) if self._cache else [None] * len(wanted)
        )
        is_known = iter(known)
        unknown = [
            replace(group, sequences=missing)
            for group in groups
            if group.with_reference
            and (missing := tuple(one for one in group.sequences if next(is_known) is None))
        ]
        if not unknown:
            return PreparedPair(policy, known, None)
        if self._plans_alike and sum(len(g.sequences) for g in unknown) == len(policy.sequences):
            return PreparedPair(policy, known, policy)
        return PreparedPair(policy, known, self._reference.prepare(unknown))

    def run(self, batch: PreparedPair) -> BatchReadings:
        """See `model_runner.Runner`; what the reference fails on has no reading at all.

        Raises:
            DeviceFailedError: this process cannot compute any more.
        """
        readings = self._policy.run(batch.policy)
        computed: list[Reading | ServiceError] = []
        if batch.reference is not None:
            answers = self._reference.run(batch.reference)
            readings = replace(readings, reference_computed_tokens=answers.computed_tokens)
            computed = [one for group in answers.groups for one in group]
            self._remember(batch.reference.sequences, computed)
        said = self._in_order(batch, computed)
        groups = [
            [
                _joined(one, next(said)) if group.with_reference else one
                for one in readings.groups[index]
            ]
            for index, group in enumerate(batch.policy.groups)
        ]
        cached = sum(
            one.reference.cached_tokens
            for group in groups
            for one in group
            if isinstance(one, Reading) and one.reference
        )
        return replace(readings, groups=groups, reference_cached_tokens=cached)

    def stop(self) -> None:
        """See `model_runner.Runner`."""
        if self._cache is not None:
            self._cache.close()

    def _remember(
        self, sequences: Sequence[TokenSequence], computed: Sequence[Reading | ServiceError]
    ) -> None:
        if self._cache is not None:
            self._cache.keep(
                (sequence, one.outputs)
                for sequence, one in zip(sequences, computed, strict=True)
                if isinstance(one, Reading)
            )

    def _in_order(
        self, batch: PreparedPair, computed: Sequence[Reading | ServiceError]
    ) -> Iterator[ReferenceReading | ServiceError]:
        """What the reference says about each sequence that it was wanted for."""
        fresh = iter(computed)
        wanted = (
            sequence
            for group in batch.policy.groups
            if group.with_reference
            for sequence in group.sequences
        )
        for sequence, known in zip(wanted, batch.known, strict=True):
            if known is not None:
                yield ReferenceReading(known, computed_tokens=0, cached_tokens=len(sequence))
                continue
            one = next(fresh)
            if isinstance(one, Reading):
                yield ReferenceReading(one.outputs, one.computed_tokens, cached_tokens=0)
            else:
                yield one


def _joined(
    policy: Reading | ServiceError, reference: ReferenceReading | ServiceError
) -> Reading | ServiceError:
    if isinstance(policy, ServiceError):
        return policy
    if isinstance(reference, ServiceError):
        return reference
    return replace(policy, reference=reference)
