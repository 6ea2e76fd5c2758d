"""What one measurement scores: groups as conversations, as texts, and their counts of tokens."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from speed.rows import Group, Rows


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
    distinct_tokens: int
    attended_keys: int
    """Keys that the distinct tokens see, themselves included."""

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
    groups: list[Group] = []
    texts: list[tuple[str, ...]] = []
    ids: list[list[list[int]]] = []
    for group in rows.groups:
        if len(groups) == count:
            break
        formatted = tuple(_formatted(tokenizer, group))
        token_ids = tokenizer(list(formatted), add_special_tokens=False).input_ids
        if max(map(len, token_ids)) <= max_tokens:
            groups.append(group)
            texts.append(formatted)
            ids.append(token_ids)
    distinct, attended = _distinct([one for group_ids in ids for one in group_ids])
    return Workload(
        name=name,
        unit=unit,
        source=rows.source,
        groups=tuple(groups),
        texts=tuple(texts),
        lengths=tuple(tuple(map(len, group_ids)) for group_ids in ids),
        distinct_tokens=distinct,
        attended_keys=attended,
    )


def _formatted(tokenizer: Any, group: Group) -> Iterable[str]:
    for completion in group.completions:
        messages = [
            {"role": "user", "content": group.prompt},
            {"role": "assistant", "content": completion},
        ]
        yield tokenizer.apply_chat_template(messages, tokenize=False)


def _distinct(sequences: Sequence[list[int]]) -> tuple[int, int]:
    """Distinct tokens (equal prefixes count once) and the keys they see.

    Not the engine's own count: this is what the engine is measured with.
    """
    tokens = attended = 0
    before: list[int] = []
    for sequence in sorted(sequences):
        # Sorted, what a sequence shares with any before it, it shares with its neighbour.
        shared = _shared(before, sequence)
        tokens += len(sequence) - shared
        attended += len(sequence) * (len(sequence) + 1) // 2 - shared * (shared + 1) // 2
        before = sequence
    return tokens, attended


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (one, other) in pairs if one != other), min(len(a), len(b)))
