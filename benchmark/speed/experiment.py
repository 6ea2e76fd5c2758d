"""The whole benchmark: models, rows, contenders, measurements; its result is one document."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from reward_service.process import SPIN_COUNT
from speed import rows
from speed.bars import judged
from speed.contenders import CONTENDERS, NAMES, RIGHT, Matmul, Scored
from speed.environment import environment
from speed.growth import grow
from speed.logprob_memory import DTYPES, WAYS, measure_memory
from speed.models import (
    LLAMA_40M,
    LLAMA_40M_50K,
    LLAMA_152K,
    POLICY,
    Arithmetic,
    Shape,
    arithmetic,
    cached_model,
)
from speed.scoring import score_interleaved
from speed.station import Station
from speed.tiny import load_servers
from speed.worker import Worker
from speed.workloads import Workload, make_workload

SCORING: dict[str, Scored] = {
    "rewardbench": "score",
    "best-of-16-long": "score",
    "best-of-16-alpaca": "score",
    "dpo": "dpo",
}
"""Parts in which contenders take turns, and the kind of model that they have."""
PARTS = (*SCORING, "growth", "logprob-memory", "tiny")
GROWTH_PROMPT_TOKENS = 300
DPO_MAX_TOKENS = 1024
"""Of a text, prompt included: a batch of RewardBench's loop then takes 8 GB, not 12 or more."""
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
    dpo_pairs: int = 100
    dpo_repetitions: int = 1
    memory_tokens: int = 8192
    tiny_repetitions: int = 5
    tiny_seconds: float = 3.0
    matmul_seconds: float = 1.0
    seed: int = 0
    parts: tuple[str, ...] = PARTS
    contenders: tuple[str, ...] = NAMES
    shape: Shape = LLAMA_40M
    dpo_shape: Shape = LLAMA_40M_50K
    memory_shape: Shape = LLAMA_152K
    data: Path = rows.DATA

    @property
    def is_complete(self) -> bool:
        """Whether everything is measured, by everyone."""
        return self.parts == PARTS and self.contenders == NAMES

    def names(self, kind: Scored) -> tuple[str, ...]:
        """Contenders that take turns with this kind of model."""
        return tuple(name for name in CONTENDERS[kind] if name in self.contenders)

    def scoring(self, kind: Scored) -> tuple[str, ...]:
        """Parts in which they do; none if there is no such contender."""
        return tuple(part for part in self.parts if SCORING.get(part) == kind and self.names(kind))

    @property
    def needs_reward_model(self) -> bool:
        """Whether any part does."""
        return bool(self.scoring("score")) or "growth" in self.parts

    @property
    def steps(self) -> int:
        """How often `run` calls `advance`."""
        scores = len(self.scoring("score")) * len(self.names("score")) * self.repetitions
        growth = ("growth" in self.parts) * len(self.growth) * self.growth_repetitions
        dpo = len(self.scoring("dpo")) * (2 + len(self.names("dpo")) * self.dpo_repetitions)
        memory = ("logprob-memory" in self.parts) * (1 + len(DTYPES) * len(WAYS))
        tiny = ("tiny" in self.parts) * (3 * self.tiny_repetitions + 1)
        return 2 * self.needs_reward_model + scores + growth + dpo + memory + tiny


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
            name: value
            for name, value in asdict(options).items()
            if name != "data" and not name.endswith("shape")
        },
        "complete": options.is_complete,
    }
    if options.needs_reward_model:
        document |= _with_reward_model(options, cache, host, advance)
    if options.scoring("dpo"):
        scoring = document.setdefault("scoring", {})
        scoring["dpo"] = _with_dpo_model(options, cache, host, advance)
    if "logprob-memory" in options.parts:
        advance("logprob-memory: making the model")
        shape = options.memory_shape
        document["logprob-memory"] = measure_memory(
            cached_model(shape, (), cache, kind="causal"),
            shape,
            completion_tokens=options.memory_tokens,
            host=host,
            advance=advance,
        )
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


def _with_reward_model(
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
    document: dict[str, Any] = {"model": _model_document(options.shape, model)}
    names = options.names("score") if options.scoring("score") else ()
    if "growth" in options.parts and "engine" not in names:
        names = (*names, "engine")
    advance("starting the contenders")
    with ExitStack() as stack:
        workers = _started("score", names, folder, host, stack)
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
                {name: workers[name] for name in options.names("score")},
                matmul,
                right=RIGHT["score"],
                useful_flops=model.useful_flops(
                    tokens=workload.distinct.tokens,
                    attended=workload.distinct.attended_keys,
                    read=workload.sequences,
                ),
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


def _with_dpo_model(
    options: Options,
    cache: Path,
    host: Callable[[Callable[[], Any]], Any],
    advance: Callable[[str], None],
) -> dict[str, Any]:
    from transformers import AutoTokenizer

    advance("dpo: making policy and reference")
    texts = rows.training_texts(seed=options.seed, data=options.data)
    folder = cached_model(options.dpo_shape, texts, cache, kind="dpo")
    model = arithmetic(folder / POLICY)
    workload = make_workload(
        "dpo",
        rows.rewardbench(seed=options.seed, data=options.data),
        AutoTokenizer.from_pretrained(folder / POLICY),
        unit="pairs",
        count=options.dpo_pairs,
        max_tokens=min(DPO_MAX_TOKENS, options.dpo_shape.positions),
    )
    advance("dpo: starting the contenders")
    with ExitStack() as stack:
        scoring = score_interleaved(
            workload,
            _started("dpo", options.names("dpo"), folder, host, stack),
            stack.enter_context(closing(host(partial(_started_matmul, folder / POLICY)))),
            right=RIGHT["dpo"],
            # The policy's and the reference's.
            useful_flops=2
            * model.useful_flops(
                tokens=workload.distinct.tokens,
                attended=workload.distinct.attended_keys,
                read=workload.distinct.completion_tokens,
            ),
            batch_tokens=FALLBACK_BATCH_TOKENS,
            repetitions=options.dpo_repetitions,
            matmul_seconds=options.matmul_seconds,
            advance=advance,
        )
    return {"model": _model_document(options.dpo_shape, model), **scoring}


def _model_document(shape: Shape, model: Arithmetic) -> dict[str, Any]:
    return {"name": shape.name, "dtype": "float32", **asdict(model)}


def _workloads(options: Options, tokenizer: Any) -> Iterator[Workload]:
    parts, limit = options.scoring("score"), options.shape.positions
    seed, data = options.seed, options.data
    if "rewardbench" in parts:
        yield make_workload(
            "rewardbench",
            rows.rewardbench(seed=seed, data=data),
            tokenizer,
            unit="pairs",
            count=options.pairs,
            max_tokens=limit,
        )
    if "best-of-16-long" in parts:
        yield make_workload(
            "best-of-16-long",
            rows.long_prompts(options.long_prompts, seed=seed),
            tokenizer,
            unit="completions",
            count=options.long_prompts,
            max_tokens=limit,
        )
    if "best-of-16-alpaca" in parts:
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


def _started(
    kind: Scored,
    names: Iterable[str],
    folder: Path,
    host: Callable[[Callable[[], Any]], Any],
    stack: ExitStack,
) -> dict[str, Any]:
    """Contenders by name, each in its process until the stack is left."""
    return {
        name: stack.enter_context(
            closing(_hosted(name, partial(Station, kind, name, folder), host))
        )
        for name in names
    }


def _hosted(
    name: str, make: Callable[[], Station], host: Callable[[Callable[[], Any]], Any]
) -> Any:
    """A contender in its process; our engine's is started as the service starts its model's."""
    if name == "engine" and "GOMP_SPINCOUNT" not in os.environ:
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT  # read when torch is imported there
        try:
            return host(make)
        finally:
            del os.environ["GOMP_SPINCOUNT"]
    return host(make)


def _started_matmul(folder: Path) -> Matmul:
    matmul = Matmul()
    matmul.start(folder)
    return matmul
