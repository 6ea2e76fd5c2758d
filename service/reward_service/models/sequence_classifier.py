"""Any `AutoModelForSequenceClassification`: decoders with a `score` head, and encoders."""

from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification

from reward_service.attention import (
    PREFIX_TREE,
    TreePlan,
    UnsupportedAttentionError,
    check_layers,
)
from reward_service.checkpoint import Checkpoint
from reward_service.errors import StartupError, one_line
from reward_service.models.reward_model import RunnerPath


class SequenceClassifier:
    """A classifier whose raw outputs are the scores.

    A decoder is split into trunk and head: the trunk runs over all tokens, the head only at the
    position that is read, which is the last token of the unpadded sequence. transformers' own
    forward looks for that position by comparing with `pad_token_id`, which goes wrong when
    padding is EOS; here lengths decide. An encoder pools by itself and is run as a whole.
    """

    def __init__(self, model: Any, *, pad_token_id: int) -> None:
        self.labels = tuple(model.config.id2label[i] for i in range(model.config.num_labels))
        self.vocabulary_size = int(model.get_input_embeddings().num_embeddings)
        self.parameters = (
            sum(weights.numel() for weights in model.parameters() if weights.dim() > 1)
            - model.get_input_embeddings().weight.numel()
        )
        self.pad_token_id = pad_token_id
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.reads_last_token = isinstance(getattr(model, "score", None), torch.nn.Module)
        self.position_boundary = _position_boundary(model.config.get_text_config())
        self._model = model
        self._own_attention = model.config._attn_implementation
        if self.reads_last_token:
            # Without a pad id, transformers' forward of one sequence reads its last token.
            for config in (model.config, model.config.get_text_config()):
                config.pad_token_id = None

    def attend_by(self, path: RunnerPath) -> None:
        """See `RewardModel.attend_by`."""
        if path == "tree" and not self.reads_last_token:
            raise UnsupportedAttentionError("an encoder attends in both directions")
        wanted = PREFIX_TREE if path == "tree" else self._own_attention
        self._model.set_attn_implementation(wanted)

    def tree_outputs(self, plan: TreePlan) -> torch.Tensor:
        """See `RewardModel.tree_outputs`."""
        with plan.active():
            hidden = self._model.base_model(
                input_ids=plan.token_ids, position_ids=plan.positions, use_cache=False
            ).last_hidden_state[0]  # [tokens, width]
        check_layers(self._model.config.get_text_config(), plan.windows)
        scores: torch.Tensor = self._model.score(hidden[plan.ends])
        return scores.float()

    def outputs(self, token_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """See `RewardModel.outputs`."""
        token_ids, lengths = token_ids.to(self.device), lengths.to(self.device)
        if not self.reads_last_token:
            positions = torch.arange(token_ids.shape[1], device=self.device)
            mask = (positions[None, :] < lengths[:, None]).long()  # [batch, length]
            logits: torch.Tensor = self._model(input_ids=token_ids, attention_mask=mask).logits
            return logits.float()
        # No mask: a causal trunk never looks right, where the padding is, and without one the
        # attention kernels take their fast path (measured: up to twice as fast on a CPU).
        hidden = self._model.base_model(
            input_ids=token_ids, use_cache=False
        ).last_hidden_state  # [batch, length, width]
        rows = torch.arange(len(lengths), device=self.device)
        scores: torch.Tensor = self._model.score(hidden[rows, lengths - 1])
        return scores.float()

    def plain_outputs(self, token_ids: torch.Tensor) -> torch.Tensor:
        """See `RewardModel.plain_outputs`."""
        logits: torch.Tensor = self._model(input_ids=token_ids.to(self.device)).logits
        return logits.float()


def load_sequence_classifier(
    checkpoint: Checkpoint,
    *,
    dtype: str,
    device: str,
    pad_token_id: int,
    trust_remote_code: bool,
    allow_pickle: bool,
) -> tuple[SequenceClassifier, Any]:
    """The model on its device, ready to run, and its transformers configuration.

    Raises:
        StartupError: the checkpoint is not a sequence classifier, or lacks weights.
    """
    config = _read_config(checkpoint, trust_remote_code=trust_remote_code)
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            checkpoint.folder,
            config=config,
            dtype=dtype,
            use_safetensors=None if allow_pickle else True,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
        )
    except (ValueError, OSError, RuntimeError, KeyError, SafetensorError) as error:
        raise StartupError(
            f"{checkpoint.model_id} cannot be loaded as a sequence classifier: {one_line(error)}"
        ) from error
    # transformers fills what is missing with random numbers: a random reward head is no reward.
    if missing := sorted(report["missing_keys"]):
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise StartupError(
            f"{checkpoint.model_id} has no weights for {shown}: "
            f"it is not a reward model (architectures: {_architectures(config)})"
        )
    model = model.to(device).eval().requires_grad_(False)
    return SequenceClassifier(model, pad_token_id=pad_token_id), model.config


def _read_config(checkpoint: Checkpoint, *, trust_remote_code: bool) -> Any:
    try:
        return AutoConfig.from_pretrained(
            checkpoint.folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except (ValueError, OSError, KeyError) as error:
        if "trust_remote_code" in str(error):
            raise StartupError(
                f"{checkpoint.model_id} brings its own Python code: read it, then pass "
                "--trust-remote-code if you trust it"
            ) from error
        raise StartupError(
            f"the configuration of {checkpoint.model_id} cannot be read: {one_line(error)}"
        ) from error


def _architectures(config: Any) -> str:
    return ", ".join(config.architectures or []) or "not named"


def position_limit(config: Any, *, tokenizer_limit: int, is_decoder: bool) -> int | None:
    """Longest sequence the model was made for, `None` where its configuration does not say.

    Encoders of the RoBERTa family name more positions than a text may use; there the tokenizer's
    limit is the true one. A decoder's tokenizer often carries a stale limit, so it is not asked.
    """
    text_config = config.get_text_config()
    limits = [
        value
        for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
        if isinstance(value := getattr(text_config, name, None), int) and value > 0
    ][:1]
    if not is_decoder or not limits:
        limits += [tokenizer_limit] if tokenizer_limit < 10**9 else []
    return min(limits, default=None)


def _position_boundary(text_config: Any) -> int | None:
    """Where transformers switches a whole pass to the factors for long texts (longrope)."""
    parameters = getattr(text_config, "rope_parameters", None) or {}
    # One set for all layers, or one for each type of layer.
    sets = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    boundaries = [
        int(one["original_max_position_embeddings"])
        for one in sets
        if one.get("rope_type") == "longrope"
    ]
    return min(boundaries, default=None)
