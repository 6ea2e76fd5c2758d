"""Tiny models with random weights: the true transformers path, no network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.modeling_layers import GenericForSequenceClassification

from reward_service.loading import LoadedModel, load_model
from reward_service.settings import Settings

MakeModel = Callable[..., Path]

RandomModel = Callable[..., PreTrainedModel]

_SMALL = {
    "vocab_size": 262,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "embedding_size": 32,
    "word_embed_proj_dim": 32,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture(scope="session")
def random_model() -> RandomModel:
    """Makes a classifier of any architecture, the same one each time it is asked.

    What its configuration does not let one set is given as `...`.
    """

    def make(
        model_type: str,
        *,
        labels: tuple[str, ...] = ("LABEL_0",),
        dtype: torch.dtype = torch.float32,
        **config: object,
    ) -> PreTrainedModel:
        given = {name: value for name, value in {**_SMALL, **config}.items() if value is not ...}
        model_config = AutoConfig.for_model(model_type, **given)
        model_config.id2label = dict(enumerate(labels))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            model: Any = _classifier(model_config)
            for name, weights in model.named_parameters():
                if "norm" not in name.lower():
                    torch.nn.init.normal_(weights, std=0.15)
        made: PreTrainedModel = model.to(dtype).eval().requires_grad_(False)
        return made

    return make


@pytest.fixture(scope="session")
def random_language_model() -> RandomModel:
    """Makes a language model of any architecture, the same one each time it is asked.

    Its predictions are far from uniform. What its configuration does not let one set is given as
    `...`.
    """

    def make(
        model_type: str,
        *,
        tied: bool = False,
        dtype: torch.dtype = torch.float32,
        **config: object,
    ) -> PreTrainedModel:
        """Args: tied: whether its head is its embedding."""
        given = {**_SMALL, "tie_word_embeddings": tied, **config}
        model_config = AutoConfig.for_model(
            model_type, **{name: value for name, value in given.items() if value is not ...}
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            model: Any = AutoModelForCausalLM.from_config(model_config)
            for name, weights in model.named_parameters():
                if weights.dim() > 1 or name.endswith("bias"):
                    torch.nn.init.normal_(weights, std=0.15)
            # Log-probs from -15 to -1. Larger ones, and rounding to float32 alone changes them by
            # more than the tests allow.
            torch.nn.init.normal_(model.get_output_embeddings().weight, std=0.3)
        made: PreTrainedModel = model.to(dtype).eval().requires_grad_(False)
        assert (made.get_output_embeddings().weight is made.get_input_embeddings().weight) is tied
        return made

    return make


def _classifier(config: Any) -> Any:
    try:
        return AutoModelForSequenceClassification.from_config(config)
    except ValueError:
        # transformers has no such class for this architecture (Cohere, Granite, ...): made here the
        # way transformers makes them.
        parent = type(AutoModel.from_config(config)).__bases__[0]
        return type("Classifier", (GenericForSequenceClassification, parent), {})(config)


@pytest.fixture(scope="session")
def make_model(
    tmp_path_factory: pytest.TempPathFactory, debug_folder: Path, random_model: RandomModel
) -> MakeModel:
    """Writes a checkpoint of any architecture with the debug model's tokenizer."""

    def make(
        model_type: str = "llama",
        *,
        edit_tokenizer: Callable[[object], None] | None = None,
        **config: object,
    ) -> Path:
        folder = tmp_path_factory.mktemp(model_type)
        random_model(model_type, **config).save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(debug_folder)
        if edit_tokenizer is not None:
            edit_tokenizer(tokenizer)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def loaded_debug(debug_folder: Path) -> LoadedModel:
    """The debug model, loaded as the service loads it."""
    return load_model(Settings(model_id=str(debug_folder)))
