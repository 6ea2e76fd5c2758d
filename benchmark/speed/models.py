"""The models that are measured: random weights in real shapes, a tokenizer made on the spot."""

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

VERSION = 3
"""Part of the cached folder's name: raise it when the written files change."""

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>")

CHAT_TEMPLATE = (
    "{{- bos_token -}}{%- for message in messages -%}"
    "{{- '<|' + message.role + '|>\\n' + message.content + eos_token + '\\n' -}}"
    "{%- endfor -%}"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama's dimensions."""

    name: str
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    positions: int = 4096


LLAMA_40M = Shape("Llama, 40M parameters", 32_000, 512, 1408, 8, 8, 4)
LLAMA_40M_50K = Shape("Llama, 75M parameters, 50k vocabulary", 50_000, 512, 1408, 8, 8, 4)
"""The same trunk under a language model's head, which has as much to compute as the trunk."""
LLAMA_152K = Shape("Llama, 2 layers, 152k vocabulary", 151_936, 256, 704, 2, 4, 2, positions=16_384)
"""Qwen's vocabulary on next to no trunk: what takes memory is the head."""
MICRO = Shape("Llama, micro", 4500, 32, 64, 2, 4, 2)
"""For the test of this benchmark."""

Kind = Literal["score", "causal", "dpo"]
"""A model with one score, a language model, or two of those: a DPO policy and its reference."""

POLICY = "policy"
REFERENCE = "reference"
"""The two folders in that of a `dpo` model."""

REFERENCE_DISTANCE = 0.02
"""How far a reference is from its policy: rewards come out of order one."""


def cached_model(shape: Shape, texts: Iterable[str], cache: Path, *, kind: Kind = "score") -> Path:
    """The model's folder in the cache, made on first use; other texts make another tokenizer."""
    texts = list(texts)
    digest = hashlib.sha256(json.dumps([VERSION, asdict(shape)]).encode())
    for text in texts:
        digest.update(text.encode())
    folder = cache / f"{kind}-{shape.hidden}x{shape.layers}-{digest.hexdigest()[:12]}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".building-", dir=cache))
        try:
            _write(building, shape, texts, kind)
            building.rename(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return folder


def _write(folder: Path, shape: Shape, texts: Iterable[str], kind: Kind) -> None:
    if kind != "dpo":
        _write_tokenizer(folder, shape, texts)
        _write_weights(folder, shape, kind)
        return
    _write_tokenizer(folder / POLICY, shape, texts)
    shutil.copytree(folder / POLICY, folder / REFERENCE)
    _write_weights(folder / POLICY, shape, "causal")
    _write_weights(folder / REFERENCE, shape, "causal", distance=REFERENCE_DISTANCE)


def _write_tokenizer(folder: Path, shape: Shape, texts: Iterable[str]) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=shape.vocabulary,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=special,
            show_progress=False,
        ),
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=list(SPECIAL_TOKENS[3:]),
        chat_template=CHAT_TEMPLATE,
        model_max_length=shape.positions,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def _write_weights(
    folder: Path, shape: Shape, kind: Literal["score", "causal"], *, distance: float = 0.0
) -> None:
    """Write random weights, the same ones every time.

    Args:
        distance: from 0, those weights, to 1, others that have nothing to do with them.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        dtype="float32",
    )
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model = (LlamaForCausalLM if kind == "causal" else LlamaForSequenceClassification)(config)
        torch.manual_seed(0)
        # Scores of order one and attention that is not uniform: a wrong token must show.
        weights = [
            (matrix, 1.0 if "embed" in name else shape.hidden**-0.5)
            for name, matrix in model.named_parameters()
            if "norm" not in name
        ]
        for matrix, std in weights:
            torch.nn.init.normal_(matrix, std=std)
        for matrix, std in weights if distance else ():
            noise = torch.empty_like(matrix).normal_(std=std)
            matrix.mul_(math.sqrt(1 - distance**2)).add_(noise, alpha=distance)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What a model must compute for a token, whoever runs it."""

    parameters: int
    linear_parameters: int
    """Weights of the trunk's linear layers."""
    head_parameters: int
    """Weights of the linear layer behind the trunk."""
    layers: int
    attention_width: int
    """Heads times the size of one."""

    def useful_flops(self, *, tokens: int, attended: int, read: int) -> float:
        """Floating point operations.

        Args:
            tokens: distinct tokens.
            attended: keys seen, summed over the distinct tokens (each sees its path and itself).
            read: distinct tokens at which the head is needed.
        """
        return (
            2.0 * self.linear_parameters * tokens
            + 2.0 * self.head_parameters * read
            + 4.0 * self.attention_width * attended * self.layers
        )


def model_class(folder: Path) -> Any:
    """What transformers loads the model in this folder with."""
    import transformers

    [name] = transformers.AutoConfig.from_pretrained(folder).architectures
    return getattr(transformers, name)


def arithmetic(folder: Path) -> Arithmetic:
    """Counted on the model's own modules, without loading weights."""
    import torch
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = model_class(folder)(config)
    trunk, everything = (
        sum(m.weight.numel() for m in part.modules() if isinstance(m, torch.nn.Linear))
        for part in (model.base_model, model)
    )
    head_size = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads
    )
    return Arithmetic(
        parameters=sum(p.numel() for p in model.parameters()),
        linear_parameters=trunk,
        head_parameters=everything - trunk,
        layers=config.num_hidden_layers,
        attention_width=config.num_attention_heads * head_size,
    )
