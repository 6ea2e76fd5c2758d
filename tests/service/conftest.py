"""Tiny models with random weights, written to disk: the true transformers path, no network."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from reward_service.loading import LoadedModel, load_model
from reward_service.settings import Settings

MakeModel = Callable[..., Path]

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
def make_model(tmp_path_factory: pytest.TempPathFactory, debug_folder: Path) -> MakeModel:
    """Writes a checkpoint of any architecture with the debug model's tokenizer."""

    def make(
        model_type: str = "llama",
        *,
        labels: tuple[str, ...] = ("LABEL_0",),
        dtype: torch.dtype = torch.float32,
        edit_tokenizer: Callable[[object], None] | None = None,
        **config: object,
    ) -> Path:
        folder = tmp_path_factory.mktemp(model_type)
        model_config = AutoConfig.for_model(model_type, **{**_SMALL, **config})
        model_config.id2label = dict(enumerate(labels))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            model = AutoModelForSequenceClassification.from_config(model_config)
            for name, weights in model.named_parameters():
                if "norm" not in name.lower():
                    torch.nn.init.normal_(weights, std=0.15)
        model.to(dtype).save_pretrained(folder)
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
