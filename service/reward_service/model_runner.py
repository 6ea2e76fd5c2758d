"""The only part that runs the model: groups of sequences in, raw outputs out.

Blocking; called from the engine's device thread alone. Today it sorts sequences by length and runs
padded batches within the token budget; what calls it already says which tokens are shared.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from reward_service.errors import StartupError
from reward_service.models.reward_model import RewardModel
from reward_service.sequences import SequenceGroup, TokenSequence

logger = logging.getLogger(__name__)

MAX_PADDING = 1 / 8
"""Share of padding at which a padded batch is cut, once it is worth running."""

MIN_BATCH_TOKENS = 512
"""Below this, one forward pass costs more than the padding that cutting would save."""

PROOF_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
"""How far a padded score may be from one computed alone, relative to the largest, at start-up."""

HALF_PRECISION_TOLERANCE = 0.05

RunnerPath = Literal["padded", "alone"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What the model says about one sequence."""

    outputs: tuple[float, ...]
    """Raw outputs, one per label."""
    computed_tokens: int
    """Tokens computed for it, its padding included."""

    @property
    def is_finite(self) -> bool:
        """Whether every output is a number."""
        return all(map(math.isfinite, self.outputs))


@dataclass(frozen=True, slots=True)
class BatchReadings:
    """Readings of a batch: a list per group, aligned with its sequences."""

    groups: list[list[Reading]]
    input_tokens: int
    padded_tokens: int
    """Padding among the computed tokens."""

    @property
    def computed_tokens(self) -> int:
        """All tokens that went through the model."""
        return sum(reading.computed_tokens for group in self.groups for reading in group)


class ModelRunner:
    """Runs one reward model.

    Args:
        max_batch_tokens: most tokens of one forward pass, padding included; a longer sequence
            runs alone.
    """

    def __init__(self, model: RewardModel, *, max_batch_tokens: int) -> None:
        self.path: RunnerPath = "padded"
        self.max_batch_tokens = max_batch_tokens
        self._model = model

    def prepare(self, groups: Sequence[SequenceGroup]) -> Sequence[SequenceGroup]:
        """What can be done before the device is free; callable from any thread."""
        return groups

    @torch.inference_mode()
    def run(self, groups: Sequence[SequenceGroup]) -> BatchReadings:
        """Raw outputs for every sequence of every group."""
        sequences = [sequence for group in groups for sequence in group.sequences]
        readings: list[Reading | None] = [None] * len(sequences)
        cuts = [*self._cut(sequences)]
        outputs = [self._forward([sequences[i] for i in cut]) for cut in cuts]
        # The one host-device synchronisation of the batch.
        values = torch.cat(outputs).tolist() if outputs else []
        rows = iter(values)
        padded_tokens = 0
        for cut in cuts:
            longest = len(sequences[cut[-1]])
            for i in cut:
                readings[i] = Reading(tuple(next(rows)), computed_tokens=longest)
                padded_tokens += longest - len(sequences[i])
        in_order = iter(readings)
        return BatchReadings(
            groups=[[_present(next(in_order)) for _ in group.sequences] for group in groups],
            input_tokens=sum(map(len, sequences)),
            padded_tokens=padded_tokens,
        )

    @torch.inference_mode()
    def prove(self, probes: Sequence[SequenceGroup]) -> None:
        """Compare padded batches with transformers' plain forward, and stop padding if they differ.

        An architecture that lets padding leak into the score must never serve a wrong number; it is
        served one sequence at a time instead.

        Args:
            probes: groups with shared prompts and different lengths.
        """
        sequences = [sequence for group in probes for sequence in group.sequences]
        alone = torch.cat([self._plain(sequence) for sequence in sequences])
        tolerance = PROOF_TOLERANCE.get(self._model.dtype, HALF_PRECISION_TOLERANCE)
        try:
            together = self._forward(sequences)
            scale = max(1.0, alone.abs().max().item())
            difference = (together - alone).abs().max().item() / scale
        except (RuntimeError, ValueError, IndexError) as error:
            logger.warning("the model refuses padded batches: %s", error)
            difference = math.nan
        # Written so that NaN fails the proof.
        if not difference <= tolerance:
            self.path = "alone"
            logger.warning(
                "padded batches differ from transformers' plain forward "
                "(by %.1e, allowed %.1e): serving one sequence at a time",
                difference,
                tolerance,
            )

    def _cut(self, sequences: Sequence[TokenSequence]) -> Iterator[list[int]]:
        """Indices of sequences for one forward pass each, shortest first."""
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        if self.path == "alone":
            yield from ([i] for i in order)
            return
        cut: list[int] = []
        tokens = 0
        for i in order:
            length = len(sequences[i])
            padded = length * (len(cut) + 1)
            padding = padded - tokens - length
            over_budget = padded > self.max_batch_tokens
            wasteful = tokens >= MIN_BATCH_TOKENS and padding > MAX_PADDING * padded
            if cut and (over_budget or wasteful):
                yield cut
                cut, tokens = [], 0
            cut.append(i)
            tokens += length
        if cut:
            yield cut

    def _forward(self, sequences: Sequence[TokenSequence]) -> torch.Tensor:
        """Outputs of one pass, [sequences, labels]."""
        if self.path == "alone":
            return torch.cat([self._plain(sequence) for sequence in sequences])
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        token_ids = torch.full((len(sequences), int(lengths.max())), self._model.pad_token_id)
        for row, sequence in zip(token_ids, sequences, strict=True):
            row[: len(sequence)] = torch.tensor(sequence.token_ids)
        device = self._model.device
        return self._model.outputs(token_ids.to(device), lengths.to(device))

    def _plain(self, sequence: TokenSequence) -> torch.Tensor:
        token_ids = torch.tensor([[*sequence.token_ids]], device=self._model.device)
        return self._model.plain_outputs(token_ids)


def choose_device(requested: str) -> str:
    """The device to run on; `auto` takes a GPU where there is one.

    Raises:
        StartupError: this machine has no such device.
    """
    if requested == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(requested)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise StartupError(f"--device {requested} cannot be used here: {reason}") from error
    return requested


def _present(reading: Reading | None) -> Reading:
    assert reading is not None
    return reading
