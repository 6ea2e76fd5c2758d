"""The whole benchmark: models, rows, contenders, measurements; its result is one document."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from reward_service.process import SPIN_COUNT
from speed import rows
from speed.bars import judged
from speed.contenders import CONTENDERS, Matmul
from speed.environment import environment
from speed.growth import grow
from speed.models import LLAMA_40M, Shape, arithmetic, cached_model
from speed.scoring import score_interleaved
from speed.station import Station
from speed.tiny import load_servers
from speed.worker import Worker
from speed.workloads import Workload, make_workload

SCORING = ("rewardbench", "best-of-16-long", "best-of-16-alpaca")
PARTS = (*SCORING, "growth", "tiny")
GROWTH_PROMPT_TOKENS = 300
FALLBACK_BATCH_TOKENS = 4096
"""Of the matrix products, where our engine, which has its own, does not take part."""


@dataclass(frozen=True, slots=True)
class Options:
    """How much is measured."""

    pairs: int = 40
    long_prompts: int = 2
    alpaca_prompts: int = 4
    growth: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    repetitions: int = 3
    growth_repetitions: int = 5
    tiny_repetitions: int = 5
    tiny_seconds: float = 3.0
    matmul_seconds: float = 1.0
    seed: int = 0
    parts: tuple[str, ...] = PARTS
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    shape: Shape = LLAMA_40M
    data: Path = rows.DATA

    @property
    def is_complete(self) -> bool:
        """Whether everything is measured, by everyone."""
        return self.parts == PARTS and self.contenders == tuple(CONTENDERS)

    @property
    def steps(self) -> int:
        """How often `run` calls `advance`."""
        scoring = sum(part in SCORING for part in self.parts)
        return (
            scoring * len(self.contenders) * self.repetitions
            + ("growth" in self.parts) * len(self.growth) * self.growth_repetitions
            + ("tiny" in self.parts) * (3 * self.tiny_repetitions + 1)
            + 2 * bool(set(self.parts) - {"tiny"})
        )


def run(
    options: Options,
    *,
    cache: Path,
    host: Callable[[Callable[[], Any]], Any] = Worker,
    advance: Callable[[str], None],
) -> dict[str, Any]:
    """Measure all that the options ask for.

    Args:
        cache: where models are kept.
        host: gives each contender a process, or not (`Here`).
        advance: called before each measurement and other long work with what it is.
    """
    document: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "environment": environment(),
        "options": {
            name: value for name, value in asdict(options).items() if name not in ("data", "shape")
        },
        "complete": options.is_complete,
    }
    if set(options.parts) - {"tiny"}:
        document |= _with_model(options, cache, host, advance)
    if "tiny" in options.parts:
        advance("tiny: starting the servers")
        document["tiny"] = load_servers(
            cache / "debug",
            host=host,
            repetitions=options.tiny_repetitions,
            seconds=options.tiny_seconds,
            advance=advance,
        )
    document["bars"] = judged(document)
    return document


def _with_model(
    options: Options,
    cache: Path,
    host: Callable[[Callable[[], Any]], Any],
    advance: Callable[[str], None],
) -> dict[str, Any]:
    from transformers import AutoTokenizer

    advance("making the model")
    texts = rows.training_texts(seed=options.seed, data=options.data)
    folder = cached_model(options.shape, texts, cache)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = arithmetic(folder)
    document: dict[str, Any] = {
        "model": {"name": options.shape.name, "dtype": "float32", **asdict(model)}
    }
    names = options.contenders if set(options.parts) & set(SCORING) else ()
    if "growth" in options.parts and "engine" not in names:
        names = (*names, "engine")
    advance("starting the contenders")
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(closing(_hosted(name, folder, host))) for name in names
        }
        matmul = stack.enter_context(closing(host(partial(_started_matmul, folder))))
        batch_tokens = FALLBACK_BATCH_TOKENS
        if "engine" in workers:
            batch_tokens = workers["engine"].call("get", "max_batch_tokens")
            document["engine"] = {
                "path": workers["engine"].call("get", "path"),
                "max_batch_tokens": batch_tokens,
            }
        document["scoring"] = {
            workload.name: score_interleaved(
                workload,
                {name: workers[name] for name in options.contenders},
                matmul,
                model,
                batch_tokens=batch_tokens,
                repetitions=options.repetitions,
                matmul_seconds=options.matmul_seconds,
                advance=advance,
            )
            for workload in _workloads(options, tokenizer)
        }
        if "growth" in options.parts:
            document["growth"] = grow(
                _growing(options, tokenizer),
                workers["engine"],
                repetitions=options.growth_repetitions,
                advance=advance,
            )
    return document


def _workloads(options: Options, tokenizer: Any) -> Iterator[Workload]:
    limit = options.shape.positions
    seed, data = options.seed, options.data
    if "rewardbench" in options.parts:
        yield make_workload(
            "rewardbench",
            rows.rewardbench(seed=seed, data=data),
            tokenizer,
            unit="pairs",
            count=options.pairs,
            max_tokens=limit,
        )
    if "best-of-16-long" in options.parts:
        yield make_workload(
            "best-of-16-long",
            rows.long_prompts(options.long_prompts, seed=seed),
            tokenizer,
            unit="completions",
            count=options.long_prompts,
            max_tokens=limit,
        )
    if "best-of-16-alpaca" in options.parts:
        yield make_workload(
            "best-of-16-alpaca",
            rows.alpaca_best_of_16(seed=seed, data=data),
            tokenizer,
            unit="completions",
            count=options.alpaca_prompts,
            max_tokens=limit,
        )


def _growing(options: Options, tokenizer: Any) -> list[Workload]:
    groups = rows.growing(options.growth, prompt_tokens=GROWTH_PROMPT_TOKENS, seed=options.seed)
    return [
        make_workload(
            f"growth-{len(group.completions)}",
            rows.Rows([group], "synthetic"),
            tokenizer,
            unit="completions",
            count=1,
            max_tokens=options.shape.positions,
        )
        for group in groups
    ]


def _hosted(name: str, folder: Path, host: Callable[[Callable[[], Any]], Any]) -> Any:
    """A contender in its process; our engine's is started as the service starts its model's."""
    if name == "engine" and "GOMP_SPINCOUNT" not in os.environ:
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT  # read when torch is imported there
        try:
            return host(partial(Station, name, folder))
        finally:
            del os.environ["GOMP_SPINCOUNT"]
    return host(partial(Station, name, folder))


def _started_matmul(folder: Path) -> Matmul:
    matmul = Matmul()
    matmul.start(folder)
    return matmul
