"""Candidates for prompts, from a chat endpoint: what is asked, what is kept, and what is written.

Every candidate is a request of its own, with a seed of its own. The protocol's `n` would save the
endpoint reading the prompt again, but some servers ignore it (text-generation-inference, Ollama)
and others refuse it, one seed for all n leaves no way to ask for the missing one of 16 again, and a
request that fails would cost all of them.
"""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from rich.console import Console

from reward_benchmark.chat import Answer, ChatClient, Messages, Sampling
from reward_benchmark.group import Group, Key, Prompt
from reward_benchmark.journal import Journal, write_atomically
from reward_benchmark.json_text import decoded
from reward_benchmark.outcome import Failure
from reward_benchmark.progress import WorkProgress
from reward_benchmark.prompts import Prompts
from reward_benchmark.results import Provenance
from reward_benchmark.resumable_work import do_missing
from reward_benchmark.run_directory import RESULTS_FILE, open_run

ANSWERS_FILE = "answers.jsonl"
"""A line a candidate, as they come: what a run that was ended goes on from."""
CANDIDATES_FILE = "candidates.jsonl"
"""A line a prompt, with all its candidates: what `best-of-n` reads."""

SEED_BITS = 31
"""Every server takes a seed of this many bits, and none takes it for a sign."""


# ----------------------------------------------------------------------------------- candidates


@dataclass(frozen=True, slots=True)
class Place:
    """One candidate that is to be made."""

    group: Group
    index: int
    """Among the candidates of the prompt, from 0."""

    @property
    def key(self) -> tuple[str, int | str, int]:
        """What identifies it in the whole work."""
        return *self.group.key, self.index


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the endpoint said, or the reason why it said nothing."""

    subset: str
    id: int | str
    index: int
    text: str | None = None
    finish_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    error: Failure | None = None

    @property
    def key(self) -> tuple[str, int | str, int]:
        """That of its place."""
        return self.subset, self.id, self.index

    def line(self) -> bytes:
        """One line of JSON, in ASCII: a model may say anything, even half a surrogate pair."""
        fields = asdict(self)
        del fields["error"]
        if self.error is not None:
            fields = {"subset": self.subset, "id": self.id, "index": self.index}
            fields["error"] = asdict(self.error)
        return json.dumps(fields, allow_nan=False).encode() + b"\n"


_CANDIDATE = TypeAdapter(Candidate)


def candidate_from_line(line: bytes) -> Candidate:
    """The candidate that a line holds.

    Raises:
        ValueError: it holds none.
    """
    # Not validate_json, whose parser refuses half a surrogate pair.
    candidate = _CANDIDATE.validate_python(decoded(line))
    if (candidate.error is None) != (candidate.text is not None):
        raise ValueError("it has neither a text nor an error")
    return candidate


def seed_of(seed: int, key: Key, index: int) -> int:
    """The seed of one candidate: the same wherever and whenever it is asked for.

    Args:
        seed: of the whole work.
        key: of the prompt.
    """
    digest = hashlib.sha256(json.dumps([seed, *key, index]).encode()).digest()
    return int.from_bytes(digest[:8]) >> (64 - SEED_BITS)


def messages_of(prompt: Prompt, system: str | None) -> Messages:
    """The conversation that the endpoint continues.

    Args:
        system: begins a conversation that has no system message of its own.
    """
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if system is None or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]


# ----------------------------------------------------------------------------------- generation


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What the user asked for."""

    prompts: Prompts
    out: Path
    chat: Callable[[], ChatClient]
    """Opens the endpoint."""
    model: str
    n: int
    seed: int
    sampling: Sampling
    """Without a seed: every candidate has its own."""
    system: str | None
    concurrency: int
    command: str
    """How the user asked for it, for the record."""

    @property
    def identity(self) -> dict[str, Any]:
        """What the candidates depend on, besides the prompts."""
        return {
            "model": self.model,
            "n": self.n,
            "system": self.system,
            **self.sampling.parameters(),
            "seed": self.seed,
        }


def generate(work: Generation, *, console: Console) -> dict[str, Any]:
    """Make the candidates that are missing, and write all.

    Args:
        console: shows meanwhile what is going on.

    Returns:
        The content of `results.json`.

    Raises:
        BenchmarkError: the work is not complete; it says why in one sentence.
    """
    dataset, selection = work.prompts.dataset, work.prompts.selection
    with console.status(f"Reading {dataset.name}"):
        contents = dataset.scan()
        selection.count(contents)  # refuses an unknown subset
        count = sum(1 for _ in work.prompts)
    identity = {
        "command": "generate",
        "dataset": dataset.name,
        "dataset_sha256": contents.sha256,
        "subsets": sorted(selection.subsets) or None,
        "limit": selection.limit,
        **work.identity,
    }
    journal = Journal(work.out / ANSWERS_FILE, candidate_from_line, noun="candidate")
    with open_run(work.out, identity, journal) as run:
        total = count * work.n
        with WorkProgress(console, total=total, done=journal.done, noun="candidate") as progress:
            asyncio.run(_make_missing(work, journal, progress, total))
        journal.sort()
        tally = Tally()
        write_atomically(work.out / CANDIDATES_FILE, _rows(work, journal, tally))
        provenance = Provenance(
            dataset=dataset,
            identity=identity,
            model=work.model,
            model_type="Generator",
            info=None,
            command=work.command,
            finished_at=datetime.now(UTC),
        )
        document = {
            "model": work.model,
            "dataset": dataset.name,
            **tally.document(),
            "provenance": provenance.document(),
        }
        run.write(RESULTS_FILE, document)
    return document


async def _make_missing(
    work: Generation, journal: Journal[Candidate], progress: WorkProgress, total: int
) -> None:
    places = (Place(group, index) for group in work.prompts for index in range(work.n))

    async with work.chat() as chat:

        async def make(place: Place) -> Candidate:
            messages = messages_of(place.group.prompt, work.system)
            seed = seed_of(work.seed, place.group.key, place.index)
            answer = await chat.answer(messages, replace(work.sampling, seed=seed))
            return _candidate(place, answer)

        await do_missing(
            places,
            make,
            journal,
            progress,
            concurrency=work.concurrency,
            total=total,
            noun="candidate",
        )


def _candidate(place: Place, answer: Answer | Failure) -> Candidate:
    if isinstance(answer, Failure):
        return Candidate(*place.key, error=answer)
    return Candidate(
        *place.key,
        text=answer.text,
        finish_reason=answer.finish_reason,
        input_tokens=answer.input_tokens,
        output_tokens=answer.output_tokens,
    )


@dataclass(slots=True)
class Tally:
    """What a whole work came to."""

    prompts: int = 0
    complete_prompts: int = 0
    candidates: int = 0
    empty: int = 0
    repeated: int = 0
    finish_reasons: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    counted: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, candidates: Iterable[Candidate]) -> None:
        """Count the candidates of one more prompt."""
        texts = set()
        failed = 0
        for candidate in candidates:
            if candidate.error is not None:
                failed += 1
                self.failures[candidate.error.code] += 1
                continue
            self.candidates += 1
            self.empty += not candidate.text
            self.repeated += candidate.text in texts
            texts.add(candidate.text)
            self.finish_reasons[candidate.finish_reason or "none"] += 1
            self.counted += candidate.output_tokens is not None
            self.input_tokens += candidate.input_tokens or 0
            self.output_tokens += candidate.output_tokens or 0
        self.prompts += 1
        self.complete_prompts += not failed

    def document(self) -> dict[str, Any]:
        """The numbers as JSON; tokens are `None` where the endpoint counted none."""
        return {
            "prompts": {"count": self.prompts, "complete": self.complete_prompts},
            "candidates": {
                "count": self.candidates,
                "empty": self.empty,
                "repeated": self.repeated,
                "finish_reasons": dict(sorted(self.finish_reasons.items())),
            },
            "failures": {
                "count": self.failures.total(),
                "by_code": dict(sorted(self.failures.items())),
            },
            "usage": {
                "counted_candidates": self.counted,
                "input_tokens": self.input_tokens if self.counted else None,
                "output_tokens": self.output_tokens if self.counted else None,
            },
        }


def _rows(work: Generation, journal: Journal[Candidate], tally: Tally) -> Iterator[bytes]:
    """The lines of `candidates.jsonl`, out of a sorted journal."""
    records = journal.records()
    for group in work.prompts:
        candidates = list(islice(records, work.n))
        tally.add(candidates)
        yield json.dumps(_row(work, group, candidates)).encode() + b"\n"


def _row(work: Generation, group: Group, candidates: Iterable[Candidate]) -> dict[str, Any]:
    made = [candidate for candidate in candidates if candidate.error is None]
    failed = [(c.index, c.error) for c in candidates if c.error is not None]
    row = {
        "subset": group.subset,
        "id": group.id,
        "prompt": group.prompt,
        "generator": work.model,
        "candidates": [candidate.text for candidate in made],
        "seeds": [seed_of(work.seed, group.key, candidate.index) for candidate in made],
        "finish_reasons": [candidate.finish_reason for candidate in made],
        "input_tokens": [candidate.input_tokens for candidate in made],
        "output_tokens": [candidate.output_tokens for candidate in made],
    }
    if failed:
        row["failures"] = [{"index": index, **asdict(error)} for index, error in failed]
    return row
