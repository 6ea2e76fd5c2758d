"""Our service with an engine that does no work: the ceiling that HTTP sets.

It computes the first request and answers every later one with the same; routes, middleware, schema
and log are those of `reward-service`, whose flags it takes.
"""

import sys
from collections.abc import Sequence
from typing import Any

import reward_service.service
from reward_service.__main__ import main
from reward_service.engine import Engine, Scored
from reward_service.inputs import EncoderInput


class ConstantEngine(Engine):
    """Gives the first answer again and again."""

    _answer: Scored | None = None

    async def score(self, inputs: Sequence[EncoderInput], **options: Any) -> Scored:
        """See `Engine.score`."""
        if self._answer is None:
            self._answer = await super().score(inputs, **options)
        return self._answer


if __name__ == "__main__":
    setattr(reward_service.service, "Engine", ConstantEngine)  # noqa: B010 (mypy: not exported)
    sys.exit(main())
