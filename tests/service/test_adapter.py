"""A LoRA adapter is served as its merged weights would be, and its base as if it were not there."""

import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from peft import (
    AdaptionPromptConfig,
    IA3Config,
    LoHaConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from tests.conftest import running_service
from transformers import AutoModelForCausalLM, AutoTokenizer

import oracle
from reward_client import RewardClient
from reward_client.schema import LogprobsResponse
from reward_service.checkpoint import find_adapter
from reward_service.errors import StartupError
from reward_service.loading import LoadedModel, load_model
from reward_service.models.adapter import put_adapter
from reward_service.reference_runner import ReferenceRunner
from reward_service.settings import Settings

StartService = Callable[..., str]

pytestmark = [
    # PEFT's, about its own use of transformers, and about what it writes into an adapter.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning"),
]

WEIGHTS = "adapter_model.safetensors"

INPUTS = [
    {
        "prompt": "Which is larger, 7 or 11?",
        "completions": ["11.", "Eleven, né? 😀", "7", "x" * 90],
    },
    {"prompt": "Hi", "completions": ["Hello.", "No."]},
]

LORA: dict[str, Any] = {"r": 4, "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"]}

ADAPTERS: dict[str, Any] = {
    "two projections": LoraConfig(**LORA),
    "all linear layers": LoraConfig(**{**LORA, "target_modules": "all-linear"}),
    "one layer": LoraConfig(**LORA, layers_to_transform=[1]),
    "the head, trained as a whole": LoraConfig(**LORA, modules_to_save=["lm_head"]),
    "embedding and norm, trained as a whole": LoraConfig(
        **LORA, modules_to_save=["embed_tokens", "norm"]
    ),
    "the head": LoraConfig(**{**LORA, "target_modules": ["q_proj", "lm_head"]}),
    "ranks of their own": LoraConfig(
        **LORA, rank_pattern={"v_proj": 7}, alpha_pattern={"q_proj": 3}
    ),
    "rank-stabilised": LoraConfig(**LORA, use_rslora=True),
    "weight-decomposed": LoraConfig(**LORA, use_dora=True),
    "dropout in training": LoraConfig(**LORA, lora_dropout=0.5),
    "no task": LoraConfig(**{**LORA, "task_type": None}),
    "IA3": IA3Config(
        task_type="CAUSAL_LM",
        target_modules=["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
    ),
    "LoHa": LoHaConfig(r=4, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]),
    "VeRA": VeraConfig(r=4, task_type="CAUSAL_LM", target_modules=["q_proj"]),
}


@dataclass(frozen=True)
class Trained:
    """An adapter, and the model that it makes of its base."""

    base: Path
    adapter: Path
    merged: Path

    @property
    def settings(self) -> dict[str, str]:
        return {"model_id": str(self.base), "kind": "dpo", "adapter": str(self.adapter)}

    @property
    def merged_settings(self) -> dict[str, str]:
        return {"model_id": str(self.merged), "ref_model_id": str(self.base)}


def _train(base: Path, folder: Path, config: Any) -> Any:
    """A PEFT model over the base, changed as training would; its adapter is in the folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        for weights in adapted.parameters():
            if weights.requires_grad:
                weights.data += 0.05 * torch.randn(weights.shape)
    adapted.save_pretrained(folder)
    return adapted.eval()


@pytest.fixture(scope="module")
def base(debug_dpo_folder: Path) -> Path:
    return debug_dpo_folder / "reference"


@pytest.fixture(scope="module")
def train(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    """Trains one of `ADAPTERS`, once."""
    done: dict[str, Trained] = {}

    def train(name: str) -> Trained:
        if name not in done:
            folder = tmp_path_factory.mktemp("adapter")
            made = Trained(base, folder / "adapter", folder / "merged")
            merged = _train(base, made.adapter, ADAPTERS[name]).merge_and_unload()
            merged.save_pretrained(made.merged)
            AutoTokenizer.from_pretrained(base).save_pretrained(made.merged)
            done[name] = made
        return done[name]

    return train


@pytest.fixture
def trained(train: Callable[[str], Trained]) -> Trained:
    return train("two projections")


@pytest.fixture(scope="module")
def base_url(base: Path) -> Iterator[str]:
    """A service of the base by itself."""
    with running_service(model_id=str(base)) as url:
        yield url


def _ask(url: str, *, reference: bool = True) -> LogprobsResponse:
    with RewardClient(url, max_retries=0) as client:
        return client.logprobs_many(INPUTS, token_logprobs=True, reference=reference)


def _scores(url: str) -> list[float]:
    with RewardClient(url, max_retries=0) as client:
        results = client.score_many(INPUTS).results
    return [score for result in results for score in result.scores]


def _flat(response: LogprobsResponse, column: str) -> list[float]:
    """All numbers of a column of token log-probabilities."""
    return [
        value
        for result in response.results
        for values in getattr(result, column)
        for value in values
    ]


# ------------------------------------------------------------------------------ the numbers


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_is_its_merged_weights_and_its_reference_is_its_base(
    start_service: StartService, train: Callable[[str], Trained], base_url: str, name: str
) -> None:
    trained = train(name)
    adapted, merged = start_service(**trained.settings), start_service(**trained.merged_settings)
    served, expected, of_base = _ask(adapted), _ask(merged), _ask(base_url, reference=False)
    for column in ("token_logprobs", "reference_token_logprobs"):
        assert _flat(served, column) == pytest.approx(_flat(expected, column), abs=1e-5)
    # Not merely near: it is the same model, and no trace of the adapter.
    assert _flat(served, "reference_token_logprobs") == _flat(of_base, "token_logprobs")
    scores = _scores(adapted)
    assert scores == pytest.approx(_scores(merged), abs=2e-4)
    assert scores == pytest.approx([one for r in served.results for one in r.scores], abs=1e-6)
    assert max(map(abs, scores)) > 0.05
    assert served.usage == expected.usage


@pytest.mark.parametrize("options", [{"attention": "padded"}, {"dtype": "bfloat16"}])
def test_its_reference_is_its_base_on_every_path(
    start_service: StartService, trained: Trained, options: dict[str, Any]
) -> None:
    served = _ask(start_service(**trained.settings, **options))
    of_base = _ask(start_service(model_id=str(trained.base), **options), reference=False)
    assert _flat(served, "reference_token_logprobs") == _flat(of_base, "token_logprobs")
    assert _flat(served, "token_logprobs") != _flat(of_base, "token_logprobs")


def test_the_adapter_is_on_again_after_its_base_was_asked(
    start_service: StartService, trained: Trained
) -> None:
    url = start_service(**trained.settings, reference_cache_bytes=0)
    first = _ask(url, reference=False)
    with_reference = _ask(url)
    again = _ask(url, reference=False)
    for response in (with_reference, again):
        assert _flat(response, "token_logprobs") == _flat(first, "token_logprobs")
    assert with_reference.usage.reference_computed_tokens > 0


def test_the_adapter_is_on_again_after_a_failure(trained: Trained) -> None:
    model = AutoModelForCausalLM.from_pretrained(trained.base).eval()
    source = find_adapter(str(trained.adapter), allow_pickle=False)
    adapter = put_adapter(model, source, base_id="base")
    ids = torch.tensor([[1, 40, 50, 60]])

    @torch.inference_mode()
    def logits() -> torch.Tensor:
        logits: torch.Tensor = model(input_ids=ids).logits
        return logits

    adapted = logits()
    with suppress(ValueError), adapter.switched_off():
        assert not torch.equal(logits(), adapted)
        raise ValueError("no memory")
    assert torch.equal(logits(), adapted)


def test_base_and_policy_are_one_model_in_memory(trained: Trained) -> None:
    runner = load_model(Settings(**trained.settings)).runner
    assert isinstance(runner, ReferenceRunner)
    policy, reference = (
        {weights.data_ptr() for weights in one._model._model.parameters()}
        for one in (runner._policy, runner._reference)
    )
    assert policy == reference


# ---------------------------------------------------------------------------- what is served


def test_without_a_reward_the_adapted_log_probs_are_served(
    start_service: StartService, trained: Trained
) -> None:
    url = start_service(model_id=str(trained.base), kind="causal", adapter=str(trained.adapter))
    expected = _ask(start_service(model_id=str(trained.merged)), reference=False)
    served = _ask(url, reference=False)
    assert _flat(served, "token_logprobs") == pytest.approx(
        _flat(expected, "token_logprobs"), abs=1e-5
    )
    answer = httpx.post(f"{url}/logprobs", json={"inputs": INPUTS, "reference": True})
    assert answer.json()["error"]["code"] == "not_supported"
    assert httpx.post(f"{url}/score", json={"inputs": INPUTS}).status_code == 422


def test_another_reference_takes_the_bases_place(
    start_service: StartService, trained: Trained
) -> None:
    other = str(trained.base.parent / "policy")
    served = _ask(start_service(**trained.settings, ref_model_id=other))
    expected = _ask(start_service(model_id=str(trained.merged), ref_model_id=other))
    for column in ("token_logprobs", "reference_token_logprobs"):
        assert _flat(served, column) == pytest.approx(_flat(expected, column), abs=1e-5)


def test_without_a_reference_the_adapted_log_probs_are_scored(
    start_service: StartService, trained: Trained
) -> None:
    served = _scores(start_service(**trained.settings, reference_free="avg"))
    expected = _scores(start_service(model_id=str(trained.merged), reference_free="avg"))
    assert served == pytest.approx(expected, abs=1e-5)


def test_a_model_with_an_adapter_is_a_policy_by_itself(
    start_service: StartService, trained: Trained
) -> None:
    settings = {**trained.settings, "kind": "auto"}
    with RewardClient(start_service(**settings)) as client:
        info = client.info()
    assert info.model.kind == "dpo"
    assert info.model.id == f"{trained.base} + {trained.adapter}"
    assert info.reference is not None
    assert info.reference.id == str(trained.base)
    assert "peft" in info.versions


def _load(trained: Trained, **settings: Any) -> LoadedModel:
    return load_model(Settings(**{**trained.settings, **settings}))


def test_adapters_differ_in_their_fingerprints_but_not_in_their_references(
    train: Callable[[str], Trained],
) -> None:
    all_loaded = [_load(train(name)) for name in ("two projections", "the head", "IA3")]
    merged = load_model(Settings(**train("two projections").merged_settings))
    assert len({one.fingerprint for one in [*all_loaded, merged]}) == 4
    fingerprints = {one.reference and one.reference.fingerprint for one in [*all_loaded, merged]}
    assert len(fingerprints) == 1


def test_what_the_base_said_is_shared_by_all_its_policies(
    train: Callable[[str], Trained], tmp_path: Path
) -> None:
    file = tmp_path / "reference.sqlite"
    answers = []
    for settings in (
        train("two projections").settings,
        train("the head").settings,
        train("two projections").merged_settings,
    ):
        with running_service(**settings, reference_cache=file) as url:
            answers.append(_ask(url))
    assert answers[0].usage.reference_computed_tokens > 0
    for answer in answers[1:]:
        assert answer.usage.reference_computed_tokens == 0
        assert _flat(answer, "reference_token_logprobs") == (
            _flat(answers[0], "reference_token_logprobs")
        )


def test_an_adapter_in_a_pickle_needs_consent(trained: Trained, tmp_path: Path) -> None:
    folder = shutil.copytree(trained.adapter, tmp_path / "adapter")
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()
    assert "see --allow-pickle" in _refusal(trained.base, folder)
    loaded = _load(trained, adapter=str(folder), allow_pickle=True)
    assert loaded.reference is not None


# --------------------------------------------------------------------------------- refusals


def _refusal(base: Path, adapter: Path | str, **settings: Any) -> str:
    """The one sentence why an adapter is not served."""
    chosen = Settings(model_id=str(base), adapter=str(adapter), **settings)
    # In these tests a warning is an error; in the program it is a line of the log.
    with warnings.catch_warnings(action="ignore"), pytest.raises(StartupError) as caught:
        load_model(chosen)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 800
    return sentence


@pytest.fixture
def adapter(trained: Trained, tmp_path: Path) -> Path:
    """A copy of an adapter, to be broken."""
    return shutil.copytree(trained.adapter, tmp_path / "adapter")


def _edit_config(adapter: Path, **changes: object) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _edit_weights(adapter: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(adapter / WEIGHTS)
    edit(weights)
    save_file(weights, adapter / WEIGHTS, metadata={"format": "pt"})


def test_an_adapter_that_is_not_there(base: Path, tmp_path: Path) -> None:
    assert "there is no folder" in _refusal(base, tmp_path / "nowhere")
    assert "is not in the local cache" in _refusal(base, "nobody/no-such-adapter")
    (tmp_path / "empty").mkdir()
    sentence = _refusal(base, tmp_path / "empty")
    assert "has no adapter_config.json: it is not a PEFT adapter" in sentence


def test_a_model_is_no_adapter(base: Path) -> None:
    sentence = _refusal(base, base.parent / "policy")
    assert "has no adapter_config.json: it is not a PEFT adapter" in sentence


def test_an_adapter_is_no_model(trained: Trained) -> None:
    with pytest.raises(StartupError, match=r"has no config\.json"):
        load_model(Settings(model_id=str(trained.adapter)))


def test_an_adapter_without_weights(base: Path, adapter: Path) -> None:
    (adapter / WEIGHTS).unlink()
    assert f"has no {WEIGHTS}" in _refusal(base, adapter)


@pytest.mark.parametrize("content", [b"", b"<html>" * 99, "cut short"])
def test_an_adapter_with_broken_weights(base: Path, adapter: Path, content: bytes | str) -> None:
    file = adapter / WEIGHTS
    file.write_bytes(content if isinstance(content, bytes) else file.read_bytes()[:-100])
    assert "does not fit" in _refusal(base, adapter)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"peft_type": "NONESUCH"}'])
def test_an_adapter_with_a_broken_configuration(base: Path, adapter: Path, content: str) -> None:
    (adapter / "adapter_config.json").write_text(content)
    assert "has no adapter_config.json that can be read: " in _refusal(base, adapter)


def test_an_adapter_of_another_architecture(base: Path, adapter: Path) -> None:
    _edit_config(adapter, target_modules=["c_attn"])
    sentence = _refusal(base, adapter)
    assert f"the adapter {adapter} does not fit {base}: " in sentence
    assert "c_attn" in sentence


def _other_base(folder: Path, base: Path, **config: int) -> Path:
    """A model as the base, but of another size."""
    made = AutoModelForCausalLM.from_config(
        type(AutoModelForCausalLM.from_pretrained(base).config)(
            **{**json.loads((base / "config.json").read_text()), **config}
        )
    )
    made.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"hidden_size": 128, "head_dim": 16}, "size mismatch"),
        ({"num_hidden_layers": 3}, r"the model has no place for .*layers\.2"),
        ({"num_hidden_layers": 1}, "missing adapter keys"),
    ],
)
def test_an_adapter_of_a_base_of_another_size(
    base: Path, tmp_path: Path, config: dict[str, int], words: str
) -> None:
    other = _other_base(tmp_path / "other", base, **config)
    _train(other, tmp_path / "adapter", LoraConfig(**LORA))
    sentence = _refusal(base, tmp_path / "adapter")
    assert f"the adapter {tmp_path / 'adapter'} does not fit {base}: " in sentence
    assert re.search(words, sentence), sentence


def test_an_adapter_that_lacks_a_weight(base: Path, adapter: Path) -> None:
    _edit_weights(
        adapter,
        lambda weights: weights.pop(
            "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"
        ),
    )
    sentence = _refusal(base, adapter)
    assert "does not fit" in sentence
    assert "layers.1.self_attn.q_proj.lora_B" in sentence


def test_an_adapter_that_lacks_a_head_that_it_trained(
    base: Path, train: Callable[[str], Trained], tmp_path: Path
) -> None:
    adapter = shutil.copytree(train("the head, trained as a whole").adapter, tmp_path / "adapter")
    _edit_weights(adapter, lambda weights: weights.pop("base_model.model.lm_head.weight"))
    assert "lm_head" in _refusal(base, adapter)


def test_an_adapter_with_a_weight_too_many(base: Path, adapter: Path) -> None:
    name = "base_model.model.model.layers.1.self_attn.o_proj.lora_A.weight"
    _edit_weights(adapter, lambda weights: weights.update({name: torch.zeros(4, 64)}))
    assert f"the model has no place for {name}" in _refusal(base, adapter)


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_an_adapter_that_changes_biases_of_its_base(base: Path, tmp_path: Path, bias: Any) -> None:
    _train(base, tmp_path / "adapter", LoraConfig(**LORA, bias=bias))
    sentence = _refusal(base, tmp_path / "adapter")
    assert f"bias='{bias}'" in sentence
    assert (
        "merge it into a model of its own, and pass that as --model-id and the base as" in sentence
    )


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), "PROMPT_TUNING"),
        (PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), "PREFIX_TUNING"),
        (
            AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=3, adapter_layers=1),
            "ADAPTION_PROMPT",
        ),
    ],
)
def test_an_adapter_that_adds_tokens(base: Path, tmp_path: Path, config: Any, words: str) -> None:
    _train(base, tmp_path / "adapter", config)
    sentence = _refusal(base, tmp_path / "adapter")
    assert f"adds tokens to the prompt ({words})" in sentence
    assert "only adapters that change weights, such as LoRA, are served" in sentence


def test_an_adapter_of_a_classifier(base: Path, adapter: Path) -> None:
    _edit_config(adapter, task_type="SEQ_CLS")
    sentence = _refusal(base, adapter)
    assert "was trained for SEQ_CLS, not as a policy (CAUSAL_LM)" in sentence


def test_an_adapter_over_a_classifier(debug_folder: Path, trained: Trained) -> None:
    sentence = _refusal(debug_folder, trained.adapter)
    assert "--adapter has no meaning with --kind sequence_classifier" in sentence
    sentence = _refusal(debug_folder, trained.adapter, kind="dpo")
    assert "is not a causal language model" in sentence


# Of these the base is hard to get back: switched off, they leave another model than the one that
# they were trained from. They may be refused, or served right.


def _check_served_or_refused(base: Path, adapter: Path, adapted: Any, of_base_url: str) -> None:
    """Refused, or policy and reference are what PEFT and the base by itself say."""
    try:
        load_model(Settings(model_id=str(base), adapter=str(adapter)))
    except StartupError as error:
        assert str(adapter) in str(error)  # noqa: PT017 - the other way is right too
        return
    with running_service(model_id=str(base), adapter=str(adapter)) as url:
        served = _ask(url)
        with RewardClient(url) as client:
            rendered = client.render(INPUTS).results
    of_base = _ask(of_base_url, reference=False)
    assert _flat(served, "reference_token_logprobs") == _flat(of_base, "token_logprobs")
    expected = [
        value
        for group in rendered
        for one in group
        for value in oracle.log_probs_alone(
            adapted, one.token_ids, one.completion_start, one.completion_end
        )
    ]
    assert _flat(served, "token_logprobs") == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("initial", ["pissa", "olora", "pissa_niter_4"])
def test_an_adapter_that_was_taken_out_of_the_bases_weights(
    base: Path, base_url: str, tmp_path: Path, initial: Any
) -> None:
    adapted = _train(base, tmp_path / "adapter", LoraConfig(**LORA, init_lora_weights=initial))
    _check_served_or_refused(base, tmp_path / "adapter", adapted, base_url)


def test_an_adapter_that_repeats_layers(base: Path, base_url: str, tmp_path: Path) -> None:
    config = LoraConfig(**LORA, layer_replication=[[0, 2], [0, 2]])
    adapted = _train(base, tmp_path / "adapter", config)
    _check_served_or_refused(base, tmp_path / "adapter", adapted, base_url)


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(**{**LORA, "target_modules": ["q_proj", "embed_tokens"]}),
        LoraConfig(**LORA, trainable_token_indices=[5, 70]),
    ],
    ids=["adapted", "some tokens"],
)
def test_an_adapter_of_the_embedding(
    base: Path, base_url: str, tmp_path: Path, config: Any
) -> None:
    adapted = _train(base, tmp_path / "adapter", config)
    _check_served_or_refused(base, tmp_path / "adapter", adapted, base_url)


def test_an_adapter_that_waits_for_its_invocation(
    base: Path, base_url: str, tmp_path: Path
) -> None:
    [invocation] = AutoTokenizer.from_pretrained(base)("H", add_special_tokens=False).input_ids
    config = LoraConfig(**LORA, alora_invocation_tokens=[invocation])
    adapted = _train(base, tmp_path / "adapter", config)
    _check_served_or_refused(base, tmp_path / "adapter", adapted, base_url)


def _train_beside(
    base: Path, folder: Path, targets: list[str], *, rows: Sequence[int] | slice = slice(None)
) -> Any:
    """An adapter that was saved with embedding and head, whose rows are not this base's."""
    config = LoraConfig(**{**LORA, "target_modules": targets})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        for layer in (adapted.get_input_embeddings(), adapted.get_output_embeddings()):
            layer.weight.data[rows] += 0.1 * torch.randn(layer.weight[rows].shape)
    adapted.save_pretrained(folder, save_embedding_layers=True)
    return adapted.eval()


def test_an_adapter_that_brings_an_embedding(base: Path, tmp_path: Path) -> None:
    _train_beside(base, tmp_path / "adapter", ["q_proj"])
    assert "the model has no place for" in _refusal(base, tmp_path / "adapter")


def test_an_adapter_of_the_head_that_brings_a_head(
    base: Path, base_url: str, tmp_path: Path
) -> None:
    adapted = _train_beside(base, tmp_path / "adapter", ["q_proj", "lm_head"])
    _check_served_or_refused(base, tmp_path / "adapter", adapted, base_url)


def test_an_adapter_of_the_head_that_brings_a_few_rows_of_its_own(
    base: Path, base_url: str, tmp_path: Path
) -> None:
    """As where new special tokens were given a start before training."""
    rows = AutoTokenizer.from_pretrained(base)("He", add_special_tokens=False).input_ids
    adapted = _train_beside(base, tmp_path / "adapter", ["q_proj", "lm_head"], rows=rows)
    _check_served_or_refused(base, tmp_path / "adapter", adapted, base_url)
