"""Real model shapes, and sequence classifiers of these shapes with random weights."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, Qwen3Config

PAD_TOKEN_ID = 0
"""No workload has it, so RewardBench's loop finds the last token by it."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder's dimensions, and how much of it a run measures by default."""

    name: str
    family: Literal["llama", "qwen3"]
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    rope_theta: float
    budgets: tuple[int, ...]
    """Values of `max_batch_tokens` to try."""
    pairs: int = 2985
    baseline_pairs: int = 384
    """The padded loop is scaled up from these: it is several times slower."""
    prompts: int = 24
    """Of best-of-16."""
    goal_seconds: float | None = None
    """For RewardBench's 2,985 pairs."""

    def cut(self, *, layers: int) -> "Shape":
        """The same widths in fewer layers, where a float32 copy must fit beside little else."""
        return replace(self, layers=min(self.layers, layers))


SHAPES = {
    shape.name: shape
    for shape in (
        Shape(
            name="llama-3-8b",
            family="llama",
            vocabulary=128_256,
            hidden=4096,
            intermediate=14_336,
            layers=32,
            heads=32,
            key_value_heads=8,
            head_size=128,
            rope_theta=500_000.0,
            budgets=(16_384, 32_768, 65_536),
            goal_seconds=35.0,
        ),
        Shape(
            name="qwen3-0.6b",
            family="qwen3",
            vocabulary=151_936,
            hidden=1024,
            intermediate=3072,
            layers=28,
            heads=16,
            key_value_heads=8,
            head_size=128,
            rope_theta=1_000_000.0,
            budgets=(32_768, 65_536, 131_072),
        ),
        Shape(
            name="tiny",
            family="llama",
            vocabulary=1000,
            hidden=64,
            intermediate=128,
            layers=2,
            heads=4,
            key_value_heads=2,
            head_size=16,
            rope_theta=10_000.0,
            budgets=(1024, 4096),
            pairs=24,
            baseline_pairs=8,
            prompts=1,
        ),
    )
}


def make_model(
    shape: Shape,
    *,
    dtype: torch.dtype,
    device: str,
    seed: int,
    auto_class: Any = AutoModelForSequenceClassification,
) -> Any:
    """A model, made on its device in its number format: a classifier with one label, or another.

    The layers' last projections are drawn smaller the more layers there are, as GPT-2 does:
    otherwise a deep model of random weights is chaotic and tells rounding from nothing. Embeddings
    are of order one, so every token shows in the score.
    """
    make_config = {"llama": LlamaConfig, "qwen3": Qwen3Config}[shape.family]
    config = make_config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        head_dim=shape.head_size,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        pad_token_id=PAD_TOKEN_ID,
        bos_token_id=1,
        eos_token_id=2,
        num_labels=1,
        tie_word_embeddings=False,
    )
    with torch.device(device):
        model = auto_class.from_config(config, dtype=dtype, attn_implementation="sdpa")
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.dim() < 2:
                continue  # the norms' ones
            std = 1.0 if "embed_tokens" in name else weights.shape[1] ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std *= (2 * shape.layers) ** -0.5
            weights.normal_(std=std, generator=generator)
    return model.eval().requires_grad_(False)


def linear_layers(model: Any) -> list[torch.nn.Linear]:
    """Of the trunk."""
    return [part for part in model.base_model.modules() if isinstance(part, torch.nn.Linear)]


def useful_flops(shape: Shape, model: Any, *, distinct_tokens: int, attended_keys: int) -> float:
    """What must be computed, whoever does it: the trunk's products, on distinct tokens alone.

    Args:
        attended_keys: keys seen, summed over the distinct tokens (each sees its path and itself).
    """
    linear = sum(layer.weight.numel() for layer in linear_layers(model))
    attention = 4.0 * shape.heads * shape.head_size * shape.layers * attended_keys
    return 2.0 * linear * distinct_tokens + attention
