"""Any `AutoModelForSequenceClassification`: decoders with a `score` head, and encoders."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from reward_service.attention import TreePlan, UnsupportedAttentionError
from reward_service.checkpoint import Checkpoint
from reward_service.device import to_device
from reward_service.models.pretrained import (
    LoadOptions,
    PretrainedModel,
    load_pretrained,
    on_device,
    read_config,
)
from reward_service.models.reward_model import RowsOf, RunnerPath
from reward_service.sequences import TokenSequence


@dataclass(frozen=True, slots=True)
class LabelReads:
    """All labels of each sequence, read at its last token."""

    counts: list[int]
    ends: torch.Tensor
    """[sequences] Packed row of each one's last token."""


class SequenceClassifier(PretrainedModel):
    """A classifier whose raw outputs are the scores.

    A decoder is split into trunk and head: the trunk runs over all tokens, the head only at the
    position that is read, which is the last token of the unpadded sequence. transformers' own
    forward looks for that position by comparing with `pad_token_id`, which goes wrong when
    padding is EOS; here lengths decide. An encoder pools by itself and is run as a whole.
    """

    def __init__(self, model: Any, *, pad_token_id: int) -> None:
        super().__init__(model, pad_token_id=pad_token_id)
        self.labels = tuple(model.config.id2label[i] for i in range(model.config.num_labels))
        self.is_causal = isinstance(getattr(model, "score", None), torch.nn.Module)
        if self.is_causal:
            # Without a pad id, transformers' forward of one sequence reads its last token.
            for config in (model.config, model.config.get_text_config()):
                config.pad_token_id = None

    def attend_by(self, path: RunnerPath) -> None:
        """See `RewardModel.attend_by`."""
        if path == "tree" and not self.is_causal:
            raise UnsupportedAttentionError("an encoder attends in both directions")
        super().attend_by(path)

    def needed_tokens(self, sequence: TokenSequence) -> int:
        """See `RewardModel.needed_tokens`."""
        return len(sequence)

    def reads(self, sequences: Sequence[TokenSequence], rows_of: RowsOf) -> LabelReads:
        """See `RewardModel.reads`."""
        ends = [rows_of(i, len(one) - 1, len(one)).item() for i, one in enumerate(sequences)]
        rows = to_device(torch.tensor(ends, dtype=torch.int64), self.device)
        return LabelReads([len(self.labels)] * len(ends), rows)

    def tree_outputs(self, plan: TreePlan, reads: LabelReads) -> torch.Tensor:
        """See `RewardModel.tree_outputs`."""
        return self._scores(self.run_tree(plan), reads)

    def outputs(
        self, token_ids: torch.Tensor, lengths: torch.Tensor, reads: LabelReads
    ) -> torch.Tensor:
        """See `RewardModel.outputs`."""
        if self.is_causal:
            return self._scores(self.run_padded(token_ids), reads)
        token_ids, lengths = token_ids.to(self.device), lengths.to(self.device)
        positions = torch.arange(token_ids.shape[1], device=self.device)
        mask = (positions[None, :] < lengths[:, None]).long()  # [batch, length]
        logits: torch.Tensor = self._model(input_ids=token_ids, attention_mask=mask).logits
        return logits.float().flatten()

    def plain_outputs(self, token_ids: torch.Tensor, reads: LabelReads) -> torch.Tensor:
        """See `RewardModel.plain_outputs`."""
        logits: torch.Tensor = self._model(input_ids=token_ids.to(self.device)).logits
        return logits.float().flatten()

    def _scores(self, trunk: Any, reads: LabelReads) -> torch.Tensor:
        hidden = trunk.last_hidden_state.flatten(0, 1)  # [tokens, width]
        scores: torch.Tensor = self._model.score(hidden[reads.ends])
        return scores.float().flatten()


def load_sequence_classifier(
    checkpoint: Checkpoint, options: LoadOptions, *, pad_token_id: int
) -> tuple[SequenceClassifier, Any]:
    """The model on its device, ready to run, and its transformers configuration.

    Raises:
        StartupError: the checkpoint is not a sequence classifier, or lacks weights.
    """
    config = read_config(checkpoint, trust_remote_code=options.trust_remote_code)
    model, _ = load_pretrained(
        AutoModelForSequenceClassification, checkpoint, options, config=config, kind="reward model"
    )
    model = on_device(model, options.device)
    return SequenceClassifier(model, pad_token_id=pad_token_id), model.config
