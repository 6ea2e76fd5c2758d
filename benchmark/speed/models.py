"""The models that are measured: random weights in real shapes, a tokenizer made on the spot."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

VERSION = 2
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
MICRO = Shape("Llama, micro", 4500, 32, 64, 2, 4, 2)
"""For the test of this benchmark."""


def cached_model(shape: Shape, texts: Iterable[str], cache: Path) -> Path:
    """The model's folder in the cache, made on first use; other texts make another tokenizer."""
    texts = list(texts)
    digest = hashlib.sha256(json.dumps([VERSION, asdict(shape)]).encode())
    for text in texts:
        digest.update(text.encode())
    folder = cache / f"{shape.hidden}x{shape.layers}-{digest.hexdigest()[:12]}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".building-", dir=cache))
        try:
            _write_tokenizer(building, shape, texts)
            _write_weights(building, shape)
            building.rename(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return folder


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


def _write_weights(folder: Path, shape: Shape) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=shape.positions,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        dtype="float32",
    )
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        model = LlamaForSequenceClassification(config)
        torch.manual_seed(0)
        for name, weights in model.named_parameters():
            if "norm" not in name:
                # Scores of order one and attention that is not uniform: a wrong token must show.
                std = 1.0 if "embed" in name else shape.hidden**-0.5
                torch.nn.init.normal_(weights, std=std)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What a model must compute for a token, whoever runs it."""

    parameters: int
    linear_parameters: int
    """Weights of the trunk's linear layers."""
    layers: int
    attention_width: int
    """Heads times the size of one."""

    def useful_flops(self, *, tokens: int, attended: int) -> float:
        """Floating point operations of the trunk.

        Args:
            tokens: distinct tokens.
            attended: keys seen, summed over the distinct tokens (each sees its path and itself).
        """
        return 2.0 * self.linear_parameters * tokens + (
            4.0 * self.attention_width * attended * self.layers
        )


def arithmetic(folder: Path) -> Arithmetic:
    """Counted on the model's own modules, without loading weights."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config: Any = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    linear = [m for m in model.base_model.modules() if isinstance(m, torch.nn.Linear)]
    head_size = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads
    )
    return Arithmetic(
        parameters=sum(p.numel() for p in model.parameters()),
        linear_parameters=sum(layer.weight.numel() for layer in linear),
        layers=config.num_hidden_layers,
        attention_width=config.num_attention_heads * head_size,
    )
