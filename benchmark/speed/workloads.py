"""What one measurement scores: groups as conversations, as texts, and their counts of tokens."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

from speed.rows import Group, Rows


@dataclass(frozen=True, slots=True)
class Distinct:
    """What there is to compute if equal beginnings of texts are computed once."""

    tokens: int
    attended_keys: int
    """Keys that these tokens see, themselves included."""
    completion_tokens: int
    """Those of them that belong to completions."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The same sequences in every form that a contender takes."""

    name: str
    unit: Literal["pairs", "completions"]
    source: str
    groups: tuple[Group, ...]
    texts: tuple[tuple[str, ...], ...]
    """Per group, each completion's formatted text."""
    lengths: tuple[tuple[int, ...], ...]
    """Per group, each text's tokens."""
    spans: tuple[tuple[range, ...], ...]
    """Per group, which of each text's tokens are its completion, the end of its turn included."""
    distinct: Distinct

    @property
    def sequences(self) -> int:
        """Texts."""
        return sum(map(len, self.texts))

    @property
    def units(self) -> int:
        """What rates are given in."""
        return len(self.groups) if self.unit == "pairs" else self.sequences

    @property
    def input_tokens(self) -> int:
        """Tokens of all texts, shared prompts counted once per completion."""
        return sum(map(sum, self.lengths))

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """As RewardBench lays them out: a pair in one row, but every best-of-n candidate alone."""
        if self.unit == "pairs":
            return list(self.texts)
        return [(text,) for group in self.texts for text in group]

    @property
    def flat_texts(self) -> list[str]:
        """All texts, in order."""
        return [text for group in self.texts for text in group]

    def taste(self) -> "Workload":
        """Two texts of it, to warm up with; its counts of tokens stay those of the whole."""
        first = self.groups[0]
        return replace(
            self,
            groups=(Group(first.prompt, first.completions[:2]),),
            texts=(self.texts[0][:2],),
            lengths=(self.lengths[0][:2],),
            spans=(self.spans[0][:2],),
        )


def make_workload(
    name: str,
    rows: Rows,
    tokenizer: Any,
    *,
    unit: Literal["pairs", "completions"],
    count: int,
    max_tokens: int,
) -> Workload:
    """The first `count` groups whose texts all fit into the model."""
    formatted = ((group, _formatted(tokenizer, group)) for group in rows.groups)
    fitting = (
        (group, completions)
        for group, completions in formatted
        if all(len(one.token_ids) <= max_tokens for one in completions)
    )
    taken = [*islice(fitting, count)]
    groups = tuple(group for group, _ in taken)
    per_group = [completions for _, completions in taken]
    return Workload(
        name=name,
        unit=unit,
        source=rows.source,
        groups=groups,
        texts=tuple(tuple(one.text for one in group) for group in per_group),
        lengths=tuple(tuple(len(one.token_ids) for one in group) for group in per_group),
        spans=tuple(tuple(one.span for one in group) for group in per_group),
        distinct=_distinct([one for group in per_group for one in group]),
    )


@dataclass(frozen=True, slots=True)
class _Formatted:
    """A completion behind its prompt."""

    text: str
    token_ids: list[int]
    span: range


def _formatted(tokenizer: Any, group: Group) -> list[_Formatted]:
    texts = [
        tokenizer.apply_chat_template(
            [
                {"role": "user", "content": group.prompt},
                {"role": "assistant", "content": completion},
            ],
            tokenize=False,
        )
        for completion in group.completions
    ]
    encoded = tokenizer(texts, add_special_tokens=False)
    turns = [completion + tokenizer.eos_token for completion in group.completions]
    spans = map(_span, encoded.encodings, texts, turns)
    return [*map(_Formatted, texts, encoded.input_ids, spans)]


def _span(encoding: Any, text: str, turn: str) -> range:
    """The tokens of the last turn and its end, not those of its header or of what follows it."""
    start = text.rindex(turn)
    return range(encoding.char_to_token(start), encoding.char_to_token(start + len(turn) - 1) + 1)


def _distinct(sequences: Iterable[_Formatted]) -> Distinct:
    """Not the engine's own count: this is what the engine is measured with."""
    tokens = attended = completion = 0
    before: list[int] = []
    for sequence in sorted(sequences, key=lambda one: one.token_ids):
        # Sorted, what a sequence shares with any before it, it shares with its neighbour.
        length, shared = len(sequence.token_ids), _shared(before, sequence.token_ids)
        tokens += length - shared
        attended += length * (length + 1) // 2 - shared * (shared + 1) // 2
        completion += len(range(max(sequence.span.start, shared), sequence.span.stop))
        before = sequence.token_ids
    return Distinct(tokens, attended, completion)


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (one, other) in pairs if one != other), min(len(a), len(b)))
