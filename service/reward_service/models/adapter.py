"""A PEFT adapter over a causal language model: two policies in the memory of one."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError

from reward_service.checkpoint import ADAPTER_WEIGHTS, Checkpoint
from reward_service.errors import StartupError, one_line

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of a number → the integer that has as many."""

_MERGE = (
    "merge it into a model of its own, and pass that as --model-id and the base as --ref-model-id"
)


class Adapter:
    """The adapter, put into the model's own layers."""

    def __init__(self, adapted: Any) -> None:
        self._adapted = adapted

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """Inside, the model is its base: the reference of a policy that was trained as adapter."""
        layers = self._adapted.base_model
        layers.disable_adapter_layers()
        try:
            yield
        finally:
            layers.enable_adapter_layers()


def put_adapter(model: Any, source: Checkpoint, *, base_id: str) -> Adapter:
    """Load an adapter into a transformers model, which computes with it from then on.

    Args:
        base_id: the model's id, to be named in errors.

    Raises:
        StartupError: the adapter does not fit, is incomplete, or is of a kind that cannot be
            switched off without a trace.
    """
    try:
        from peft import PeftConfig, PeftModel, get_peft_model_state_dict
    except ImportError as error:
        raise StartupError(
            f"--adapter needs peft ({one_line(error)}): pip install 'rewardserve[service]'"
        ) from error
    try:
        config = PeftConfig.from_pretrained(str(source.folder))
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise StartupError(
            f"{source.model_id} has no adapter_config.json that can be read: {one_line(error)}"
        ) from error
    _check_kind(config, source)
    before = _checksums(model)
    try:
        with warnings.catch_warnings():
            # It would go on with adapter weights that do nothing.
            warnings.filterwarnings("error", message="Found missing adapter keys")
            adapted = PeftModel.from_pretrained(model, str(source.folder), config=config)
    except (ValueError, RuntimeError, OSError, KeyError, SafetensorError, UserWarning) as error:
        raise StartupError(
            f"the adapter {source.model_id} does not fit {base_id}: {one_line(error)}"
        ) from error
    if unused := sorted(_saved_names(source) - set(get_peft_model_state_dict(adapted))):
        raise StartupError(
            f"the adapter {source.model_id} does not fit {base_id}: "
            f"the model has no place for {unused[0]}"
        )
    if any(_checksum(weights) != checksum for weights, checksum in before):
        raise StartupError(
            f"the adapter {source.model_id} changes weights of its base, which stay changed when "
            f"it is switched off: {_MERGE}"
        )
    return Adapter(adapted)


def _check_kind(config: Any, source: Checkpoint) -> None:
    if config.peft_type is None:
        raise StartupError(
            f"{source.model_id} has no adapter_config.json that can be read: it names no peft_type"
        )
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise StartupError(
            f"the adapter {source.model_id} adds tokens to the prompt ({config.peft_type.value}): "
            "only adapters that change weights, such as LoRA, are served"
        )
    if config.task_type not in (None, "CAUSAL_LM"):
        raise StartupError(
            f"the adapter {source.model_id} was trained for {config.task_type}, "
            "not as a policy (CAUSAL_LM)"
        )
    if (bias := getattr(config, "bias", "none")) != "none":
        raise StartupError(
            f"the adapter {source.model_id} also changes biases of its base (bias={bias!r}), "
            f"which stay changed when it is switched off: {_MERGE}"
        )
    if getattr(config, "layer_replication", None):
        raise StartupError(
            f"the adapter {source.model_id} repeats layers of its base (layer_replication), "
            f"which stay repeated when it is switched off: {_MERGE}"
        )
    if getattr(config, "alora_invocation_tokens", None):
        raise StartupError(
            f"the adapter {source.model_id} begins to work at its invocation tokens (aLoRA), "
            "which is not served"
        )


def _checksums(model: Any) -> list[tuple[torch.Tensor, int]]:
    """Every weight of the model, with the sum of its bits as they are now."""
    return [(weights, _checksum(weights)) for weights in model.parameters()]


def _checksum(weights: torch.Tensor) -> int:
    """Sum of the numbers' bits as integers: exact, whatever the order, NaN or not."""
    return int(weights.detach().view(_BITS[weights.dtype.itemsize]).sum(dtype=torch.int64))


def _saved_names(source: Checkpoint) -> set[str]:
    from safetensors import safe_open

    file = source.folder / ADAPTER_WEIGHTS
    if not file.exists():  # a pickle, which the user has allowed
        return set()
    with safe_open(file, framework="pt") as weights:
        return set(weights.keys())
