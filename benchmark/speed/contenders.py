"""Who is measured: every way of scoring a workload behind one face."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from speed.models import POLICY, REFERENCE, model_class
from speed.process import Server
from speed.rows import Group
from speed.workloads import Workload

Scored = Literal["score", "dpo"]
"""Kinds of models that have scores."""

CALLERS = 64
"""Concurrent callers of whatever takes requests."""

TIMEOUT_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a contender made of a workload."""

    scores: list[float]
    """In the order of the workload's texts."""
    computed_tokens: int
    """Tokens that went through the model, padding included; through the policy, where there is a
    reference beside it."""
    latencies: list[float] = field(default_factory=list)
    """Seconds of each request, where there are requests."""


class Contender(Protocol):
    """A way of scoring; lives in a process of its own."""

    def start(self, folder: Path) -> None:
        """Load the model in this folder."""
        ...

    def score(self, workload: Workload) -> Outcome:
        """Score every text."""
        ...

    def stop(self) -> None:
        """Let everything go."""
        ...

    @property
    def pid(self) -> int:
        """The process that holds the model, whose memory counts."""
        ...


class _InProcess:
    """Holds the model in this process, and counts what goes through it."""

    _computed_tokens = 0

    def _count(self, model: Any) -> None:
        def note(_: object, __: object, inputs: dict[str, Any]) -> None:
            self._computed_tokens += inputs["input_ids"].numel()

        model.register_forward_pre_hook(note, with_kwargs=True)

    def _counted(self, scores: list[float]) -> Outcome:
        computed, self._computed_tokens = self._computed_tokens, 0
        return Outcome(scores, computed)

    def stop(self) -> None:
        """See `Contender`."""

    @property
    def pid(self) -> int:
        """See `Contender`."""
        return os.getpid()


class Loop(_InProcess):
    """RewardBench's loop: batch 8 as its command line runs it, batch 64 as its scripts do."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def start(self, folder: Path) -> None:
        """See `Contender`."""
        from baselines.rewardbench_loop import RewardBenchLoop

        self._loop = RewardBenchLoop(
            str(folder),
            batch_size=self.batch_size,
            padding_side="left" if self.batch_size == 8 else None,
        )
        self._count(self._loop.model)

    def score(self, workload: Workload) -> Outcome:
        """See `Contender`."""
        return self._counted([s for row in self._loop.score(workload.rows) for s in row])


class Sorted(_InProcess):
    """Length-sorted batches."""

    def __init__(self, *, attention_mask: bool) -> None:
        self.attention_mask = attention_mask

    def start(self, folder: Path) -> None:
        """See `Contender`."""
        from baselines.length_sorted import LengthSorted

        self._sorted = LengthSorted(str(folder), attention_mask=self.attention_mask)
        self._count(self._sorted.model)

    def score(self, workload: Workload) -> Outcome:
        """See `Contender`."""
        return self._counted(self._sorted.score(workload.flat_texts))


class Alone(_InProcess):
    """One by one."""

    def start(self, folder: Path) -> None:
        """See `Contender`."""
        from baselines.one_by_one import OneByOne

        self._one_by_one = OneByOne(str(folder))
        self._count(self._one_by_one.model)

    def score(self, workload: Workload) -> Outcome:
        """See `Contender`."""
        return self._counted(self._one_by_one.score(workload.flat_texts))


class DpoLoop(_InProcess):
    """RewardBench's loop over a DPO policy and its reference, six rows a batch as it runs it.

    Args:
        sort: the rows by length, longest first, as a careful user does.
    """

    def __init__(self, *, sort: bool) -> None:
        self.sort = sort

    def start(self, folder: Path) -> None:
        """See `Contender`."""
        from baselines.rewardbench_dpo_loop import RewardBenchDpoLoop

        self._loop = RewardBenchDpoLoop(str(folder / POLICY), str(folder / REFERENCE))
        self._count(self._loop.policy)

    def score(self, workload: Workload) -> Outcome:
        """See `Contender`."""
        from baselines.rewardbench_dpo_loop import Answer

        rows = [
            tuple(Answer(text, span.start, span.stop) for text, span in zip(*row, strict=True))
            for row in zip(workload.texts, workload.spans, strict=True)
        ]
        order = [*range(len(rows))]
        if self.sort:
            order.sort(key=lambda row: max(workload.lengths[row]), reverse=True)
        rewards = self._loop.rewards([rows[row] for row in order])
        by_row = dict(zip(order, rewards, strict=True))
        return self._counted([reward for row in range(len(rows)) for reward in by_row[row]])


class OneForwardServer:
    """One forward pass per request behind FastAPI; a request holds a group's texts."""

    def start(self, folder: Path) -> None:
        """See `Contender`."""
        self._server = Server(
            "baselines.one_forward_server", ["--model", str(folder)], ready_path="/openapi.json"
        )
        self._server.wait_until_ready()
        self._loop = asyncio.Runner()

    def score(self, workload: Workload) -> Outcome:
        """See `Contender`."""
        return self._loop.run(self._score(workload))

    async def _score(self, workload: Workload) -> Outcome:
        import httpx

        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS) as client:

            async def ask(texts: Sequence[str]) -> _Answer:
                response = await client.post(
                    f"{self._server.url}/get_reward", json={"query": list(texts)}
                )
                response.raise_for_status()
                # The server does not say what it computed, but it pads to the longest.
                return _Answer(response.json()["rewards"], 0)

            outcome = await _by_callers(workload.texts, ask)
        computed = sum(len(lengths) * max(lengths) for lengths in workload.lengths)
        return Outcome(outcome.scores, computed, outcome.latencies)

    def stop(self) -> None:
        """See `Contender`."""
        self._loop.close()
        self._server.stop()

    @property
    def pid(self) -> int:
        """See `Contender`."""
        return self._server.pid


class OurEngine:
    """Our engine without HTTP: 64 callers, each with one group at a time."""

    def start(self, folder: Path) -> None:
        """See `Contender`."""
        from reward_service.process import prepare_for_inference

        prepare_for_inference()  # as the service does
        from reward_service.loading import load_model
        from reward_service.settings import Settings

        settings = Settings(model_id=str(folder), device="cpu")
        self._loaded = load_model(settings)
        self._loop = asyncio.Runner()
        self._engine = self._loop.run(self._started(settings))

    async def _started(self, settings: Any) -> Any:
        from reward_service.engine import Engine
        from reward_service.scheduler import Scheduler

        engine = Engine(
            self._loaded.encoder,
            self._loaded.runner,
            Scheduler(
                max_batch_tokens=self._loaded.max_batch_tokens,
                max_queue_tokens=settings.max_queue_tokens,
            ),
            max_concurrent_requests=settings.max_concurrent_requests,
        )
        engine.start()
        return engine

    @property
    def path(self) -> str:
        """How the runner computes, as it says itself."""
        return str(self._loaded.path)

    @property
    def max_batch_tokens(self) -> int:
        """The budget of one batch."""
        return self._loaded.max_batch_tokens

    def score(self, workload: Workload) -> Outcome:
        """See `Contender`."""
        return self._loop.run(self._score(workload))

    async def _score(self, workload: Workload) -> Outcome:
        from reward_service.inputs import Conversation

        async def ask(group: Group) -> _Answer:
            prompt = [{"role": "user", "content": group.prompt}]
            scored = await self._engine.score(
                [Conversation(prompt, group.completions)], timeout_seconds=TIMEOUT_SECONDS
            )
            # The model has one output, which is the score.
            scores = [reading.outputs[0] for reading in scored.groups[0].readings]
            return _Answer(scores, scored.computed_tokens)

        return await _by_callers(workload.groups, ask)

    def stop(self) -> None:
        """See `Contender`."""
        self._loop.run(self._engine.stop())
        self._loop.close()

    @property
    def pid(self) -> int:
        """See `Contender`."""
        return os.getpid()


class OurService:
    """Our service over HTTP, through its own client: 64 callers, each with one group at a time."""

    def start(self, folder: Path) -> None:
        """See `Contender`."""
        self._serve("--model-id", str(folder))

    def _serve(self, *model: str) -> None:
        from reward_client import AsyncRewardClient

        self._server = Server("reward_service", [*model, "--device", "cpu"], ready_path="/ready")
        self._server.wait_until_ready()
        self._client = AsyncRewardClient(self._server.url, timeout=TIMEOUT_SECONDS)
        self._loop = asyncio.Runner()

    def score(self, workload: Workload) -> Outcome:
        """See `Contender`."""
        return self._loop.run(self._score(workload))

    async def _score(self, workload: Workload) -> Outcome:
        async def ask(group: Group) -> _Answer:
            answer = await self._client.score_many(
                [{"prompt": group.prompt, "completions": list(group.completions)}]
            )
            scores = [s for s in answer.results[0].scores if s is not None]
            return _Answer(scores, answer.usage.computed_tokens)

        return await _by_callers(workload.groups, ask)

    def stop(self) -> None:
        """See `Contender`."""
        self._loop.run(self._client.close())
        self._loop.close()
        self._server.stop()

    @property
    def pid(self) -> int:
        """See `Contender`."""
        return self._server.pid


class OurDpoService(OurService):
    """The same with a DPO policy and its reference.

    Without the cache of what the reference said, or repetitions would measure the cache.
    """

    def start(self, folder: Path) -> None:
        """See `Contender`."""
        policy, reference = str(folder / POLICY), str(folder / REFERENCE)
        models = ("--kind", "dpo", "--model-id", policy, "--ref-model-id", reference)
        self._serve(*models, "--reference-cache-bytes", "0")


class Matmul(_InProcess):
    """The machine: the trunk's own linear layers, multiplied with as many tokens as a batch has."""

    def start(self, folder: Path) -> None:
        """See `Contender`."""
        import torch
        from transformers.utils import logging

        logging.disable_progress_bar()
        model = model_class(folder).from_pretrained(folder, dtype=torch.float32)
        self._weights = [
            module.weight.detach()
            for module in model.base_model.modules()
            if isinstance(module, torch.nn.Linear)
        ]

    def flops_per_second(self, *, tokens: int, seconds: float) -> float:
        """Floating point operations per second over all linear layers, in the model's order."""
        import torch

        inputs = {w.shape[1]: torch.randn(1, tokens, w.shape[1]) for w in self._weights}
        flops = sum(2.0 * tokens * weights.numel() for weights in self._weights)
        done = 0.0
        with torch.inference_mode():
            self._pass(inputs)
            started = time.perf_counter()
            while (elapsed := time.perf_counter() - started) < seconds:
                self._pass(inputs)
                done += flops
        return done / elapsed

    def _pass(self, inputs: dict[int, Any]) -> None:
        from torch.nn.functional import linear

        for weights in self._weights:
            linear(inputs[weights.shape[1]], weights)


@dataclass(frozen=True, slots=True)
class _Answer:
    scores: list[float]
    computed_tokens: int


async def _by_callers(items: Sequence[Any], ask: Callable[[Any], Awaitable[_Answer]]) -> Outcome:
    """Ask for every item, by callers that each ask for the next one when they have an answer."""
    answers: list[_Answer | None] = [None] * len(items)
    latencies = [0.0] * len(items)
    remaining: Iterator[tuple[int, Any]] = iter(enumerate(items))

    async def call() -> None:
        for index, item in remaining:
            started = time.perf_counter()
            answers[index] = await ask(item)
            latencies[index] = time.perf_counter() - started

    async with asyncio.TaskGroup() as callers:
        for _ in range(CALLERS):
            callers.create_task(call())
    given = [answer for answer in answers if answer is not None]
    return Outcome(
        [score for answer in given for score in answer.scores],
        sum(answer.computed_tokens for answer in given),
        latencies,
    )


CONTENDERS: dict[Scored, dict[str, Callable[[], Contender]]] = {
    "score": {
        "loop-8": partial(Loop, 8),
        "loop-64": partial(Loop, 64),
        "one-by-one": Alone,
        "length-sorted": partial(Sorted, attention_mask=True),
        "length-sorted-no-mask": partial(Sorted, attention_mask=False),
        "one-forward-server": OneForwardServer,
        "engine": OurEngine,
        "service": OurService,
    },
    "dpo": {
        "dpo-loop-6": partial(DpoLoop, sort=False),
        "dpo-loop-6-sorted": partial(DpoLoop, sort=True),
        "service": OurDpoService,
    },
}
"""Kind of model → name → contender. The baselines come first, ours next to each other."""

RIGHT: dict[Scored, str] = {"score": "one-by-one", "dpo": "dpo-loop-6"}
"""Whose scores all others are compared with; the DPO loop's are differences of float32 sums of many
thousands, good to about 1e-3."""

NAMES = tuple(dict.fromkeys(name for contenders in CONTENDERS.values() for name in contenders))
"""Of all contenders."""
