"""Tiny random models that need no network: to try the service, and to test it.

A reward model, a policy and the reference that it seems to have been trained from. Each is a
two-layer Llama with a byte-level tokenizer and a chat template. The tokenizer also adds BOS by
itself, as Llama's does, so the double-BOS trap is really there to be avoided.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

DebugKind = Literal["sequence_classifier", "causal", "dpo"]

DEBUG_MODELS: Mapping[str, str] = {
    "debug": "sequence_classifier",
    "debug-policy": "policy",
    "debug-reference": "reference",
}
"""Model id → which of the models it is."""

POLICY_FOLDER, REFERENCE_FOLDER = "policy", "reference"

_LAYOUT_VERSION = 2
"""Part of the cache folder's name: raise it when the written files change."""

_TRAINED = 0.02
"""How far the policy is from its reference, in standard deviations of the weights."""

_SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>")

_CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message.role not in ('system', 'user', 'assistant') -%}
        {{- raise_exception("no role '" + message.role + "': use system, user or assistant") -}}
    {%- endif -%}
    {{- '<|' + message.role + '|>\\n' + message.content + eos_token + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}
"""


def cached_debug_model(model_id: str) -> Path:
    """A debug model's folder in the user's cache, made on first use."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "rewardserve" / f"{model_id}-model-{_LAYOUT_VERSION}"
    if not folder.exists():
        _write_whole(folder, partial(_write_model, which=DEBUG_MODELS[model_id], seed=0))
    return folder


def write_debug_model(
    folder: Path, *, kind: DebugKind = "sequence_classifier", seed: int = 0
) -> None:
    """Write a model to a folder that must not exist yet; it appears whole or not at all.

    Args:
        kind: `dpo` writes a policy and its reference, each to a folder inside.

    Raises:
        FileExistsError: the folder is there and not empty.
    """

    def write(building: Path) -> None:
        if kind != "dpo":
            _write_model(building, which="policy" if kind == "causal" else kind, seed=seed)
            return
        for which in (POLICY_FOLDER, REFERENCE_FOLDER):
            (building / which).mkdir()
            _write_model(building / which, which=which, seed=seed)

    _write_whole(folder, write)


def _write_whole(folder: Path, write: Callable[[Path], None]) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} exists and is not empty")
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write(building)
        building.chmod(0o755)
        try:
            building.rename(folder)
        except OSError:
            # Another process made the same files first; theirs are as good as ours.
            if not any(folder.glob("**/config.json")):
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    bytes_as_text = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate((*_SPECIAL_TOKENS, *bytes_as_text))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in _SPECIAL_TOKENS]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=list(_SPECIAL_TOKENS[3:]),
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def _write_model(folder: Path, *, which: str, seed: int) -> None:
    _write_tokenizer(folder)
    _write_weights(folder, which=which, seed=seed)


def _write_weights(folder: Path, *, which: str, seed: int) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=256 + len(_SPECIAL_TOKENS),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16384,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        dtype="float32",
    )
    config.num_labels = 1
    is_classifier = which == "sequence_classifier"
    with torch.random.fork_rng(devices=[]):
        model = (LlamaForSequenceClassification if is_classifier else LlamaForCausalLM)(config)
        torch.manual_seed(seed)
        for name, weights in model.named_parameters():
            if "norm" not in name:
                # Far from the usual 0.02: scores of order one, attention that is not uniform.
                torch.nn.init.normal_(weights, std=1.0 if "embed" in name else 0.15)
        if which == "policy":
            # As if trained from the reference: close to it, with rewards of order one.
            for name, weights in model.named_parameters():
                if "norm" not in name:
                    weights.data += _TRAINED * weights.data.std() * torch.randn_like(weights)
    # What `save_pretrained` writes, without its progress bar.
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
