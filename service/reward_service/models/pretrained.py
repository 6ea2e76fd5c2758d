"""A transformers model as every family's file starts from: loaded whole, its trunk run packed."""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig

from reward_service.attention import (
    PREFIX_TREE,
    TreePlan,
    check_layers,
)
from reward_service.checkpoint import Checkpoint
from reward_service.errors import StartupError, one_line
from reward_service.models.reward_model import RunnerPath

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How weights are loaded, whatever the family."""

    dtype: str
    """`auto` keeps the checkpoint's."""
    device: str
    trust_remote_code: bool
    allow_pickle: bool


class PretrainedModel:
    """The trunk of a transformers model and what the runner asks about it."""

    def __init__(self, model: Any, *, pad_token_id: int) -> None:
        embedding = model.get_input_embeddings()
        self.vocabulary_size = rows(embedding, model)
        self.parameters = (
            sum(weights.numel() for weights in model.parameters() if weights.dim() > 1)
            - embedding.weight.numel()
        )
        self.pad_token_id = pad_token_id
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.position_boundary = _position_boundary(model.config.get_text_config())
        self._model = model
        base = model.base_model
        # Some classes name their trunk otherwise than where it is.
        self._trunk = getattr(model, "model", model) if base is model else base
        self._own_attention = model.config._attn_implementation

    def attend_by(self, path: RunnerPath) -> None:
        """See `RewardModel.attend_by`."""
        wanted = PREFIX_TREE if path == "tree" else self._own_attention
        self._model.set_attn_implementation(wanted)

    def run_tree(self, plan: TreePlan) -> Any:
        """The trunk over a packed tree: transformers' output, its states [1, tokens, width]."""
        with plan.active():
            output = self._trunk(
                input_ids=plan.token_ids, position_ids=plan.positions, use_cache=False
            )
        check_layers(self._model.config.get_text_config(), plan.windows)
        return output

    def run_padded(self, token_ids: torch.Tensor) -> Any:
        """The causal trunk over rows padded on the right, its states [batch, length, width]."""
        # No mask: a causal trunk never looks right, where the padding is, and without one the
        # attention kernels take their fast path (measured: up to twice as fast on a CPU).
        return self._trunk(input_ids=token_ids.to(self.device), use_cache=False)


def load_pretrained(
    auto_class: Any, checkpoint: Checkpoint, options: LoadOptions, *, config: Any, kind: str
) -> tuple[Any, list[str]]:
    """The model, on the CPU still, with every one of its weights from the checkpoint.

    Returns:
        The model, and the names of the checkpoint's weights for which it has no place.

    Args:
        auto_class: the class of transformers' that adds the head.
        kind: what the model is wanted for, to be named in errors.

    Raises:
        StartupError: the checkpoint is not of that kind, or lacks weights.
    """
    try:
        model, report = auto_class.from_pretrained(
            checkpoint.folder,
            config=config,
            dtype=options.dtype,
            use_safetensors=None if options.allow_pickle else True,
            trust_remote_code=options.trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
        )
    except (ValueError, OSError, RuntimeError, KeyError, SafetensorError) as error:
        raise StartupError(
            f"{checkpoint.model_id} cannot be loaded as a {kind}: {one_line(error)}"
        ) from error
    # transformers fills what is missing with random numbers: a random head says nothing.
    if missing := sorted(report["missing_keys"]):
        raise StartupError(
            f"{checkpoint.model_id} has no weights for {_named(missing)}: "
            f"it is not a {kind} (architectures: {architectures(config)})"
        )
    unused = sorted(report["unexpected_keys"])
    if unused:
        logger.warning("%s has weights that nothing uses: %s", checkpoint.model_id, _named(unused))
    return model, unused


def _named(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def rows(layer: Any, model: Any) -> int:
    """How many tokens an embedding or a head knows; adapters put layers of their own around it."""
    weight = getattr(layer, "weight", None)
    if isinstance(weight, torch.Tensor) and weight.dim() == 2:
        return weight.shape[0]
    return int(model.config.get_text_config().vocab_size)


def on_device(model: Any, device: str) -> Any:
    """The model where it will run, ready to: no dropout, no gradients."""
    return model.to(device).eval().requires_grad_(False)


def read_config(checkpoint: Checkpoint, *, trust_remote_code: bool) -> Any:
    """The checkpoint's transformers configuration.

    Raises:
        StartupError: it cannot be read, or needs code that may not be run.
    """
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


def architectures(config: Any) -> str:
    """What the configuration says the checkpoint is, for people."""
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
