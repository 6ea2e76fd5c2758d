"""Whatever is wrong with a model is one sentence with the remedy, never a wrong number later."""

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, LlamaForCausalLM

from reward_service.app import create_app
from reward_service.chat_template import built_in_templates
from reward_service.debug_model import write_debug_model
from reward_service.errors import StartupError
from reward_service.inputs import Conversation, EncoderInput, RenderedText
from reward_service.loading import LoadedModel, load_model
from reward_service.model_runner import Reading
from reward_service.score_rule import LabelScore
from reward_service.settings import Settings

MakeModel = Callable[..., Path]

PLAIN = "{{ bos_token }}{% for message in messages %}{{ message.content }}|{% endfor %}"
QUESTION = Conversation([{"role": "user", "content": "Hi"}], ["Hello é"])


@pytest.fixture
def folder(debug_folder: Path, tmp_path: Path) -> Path:
    """A copy of the debug model, to be broken."""
    return shutil.copytree(debug_folder, tmp_path / "model")


def _load(model_id: object, **settings: Any) -> LoadedModel:
    return load_model(Settings(model_id=str(model_id), **settings))


def _refusal(model_id: object, **settings: Any) -> str:
    """The one sentence why a model does not load."""
    with pytest.raises(StartupError) as caught:
        _load(model_id, **settings)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 800
    return sentence


def _score(loaded: LoadedModel, one: EncoderInput = QUESTION) -> float:
    groups = loaded.encoder.encode([one], truncation="error")
    reading = loaded.runner.run(loaded.runner.prepare(groups)).groups[0][0]
    assert isinstance(reading, Reading)
    assert loaded.score_rule is not None
    return loaded.score_rule.score(reading.outputs, None)


def _edit_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


# ---------------------------------------------------------------------- finding the files


def test_a_missing_folder(tmp_path: Path) -> None:
    assert "there is no folder" in _refusal(tmp_path / "nowhere")


def test_a_file_instead_of_a_folder(folder: Path) -> None:
    assert "is a file: pass the folder" in _refusal(folder / "model.safetensors")


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    assert "has no config.json" in _refusal(tmp_path)


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "has no *.safetensors weights" in _refusal(folder)


def test_a_config_that_cannot_be_read(folder: Path) -> None:
    # A link into nothing stays unreadable for root too.
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(folder / "gone.json")
    assert "config.json cannot be read" in _refusal(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read(folder: Path) -> None:
    folder.chmod(0)
    try:
        assert "cannot be read" in _refusal(folder)
    finally:
        folder.chmod(0o755)


def test_a_hub_id_that_is_not_here_while_offline() -> None:
    assert "HF_HUB_OFFLINE is set" in _refusal("nobody/no-such-model")
    assert "at revision v2 is not in the local" in _refusal("nobody/no-such-model", revision="v2")


@pytest.mark.parametrize("model_id", ["a b", "too/many/parts", "nobody/ümläut"])
def test_a_misspelt_id(model_id: str) -> None:
    assert f"{model_id!r} is neither a folder here nor a hub id" in _refusal(model_id)


def test_a_revision_of_a_folder(folder: Path) -> None:
    assert "revision v2 goes with a hub id" in _refusal(folder, revision="v2")


def test_pickle_weights_need_consent_and_then_score_the_same(folder: Path) -> None:
    expected = _score(_load(folder))
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    assert "pass --allow-pickle" in _refusal(folder)
    assert _score(_load(folder, allow_pickle=True)) == expected


# ------------------------------------------------------------------- what is in the files


@pytest.mark.parametrize("damage", ["cut short", "not safetensors", "empty"])
def test_broken_weights(folder: Path, damage: str) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(
        {"cut short": whole[:-1000], "not safetensors": b"<html>" * 99, "empty": b""}[damage]
    )
    assert "cannot be loaded" in _refusal(folder)


def test_a_broken_config_is_not_blamed_on_the_tokenizer(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    sentence = _refusal(folder)
    assert "config" in sentence
    assert "--tokenizer-id" not in sentence


def test_an_unknown_architecture(folder: Path) -> None:
    _edit_config(folder, model_type="nonesuch")
    assert "nonesuch" in _refusal(folder)


def test_a_model_without_a_reward_head_is_never_given_a_random_one(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    LlamaForCausalLM(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    assert "no weights for score.weight: it is not a reward model" in _refusal(
        folder, kind="sequence_classifier"
    )


def test_a_missing_layer_is_never_random(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "no weights for model.layers.1.mlp.up_proj.weight" in _refusal(folder)


def test_a_model_without_a_tokenizer(folder: Path, debug_folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "pass --tokenizer-id" in _refusal(folder)
    assert _score(_load(folder, tokenizer_id=str(debug_folder))) == _score(_load(debug_folder))


def test_several_outputs_need_a_choice(make_model: MakeModel) -> None:
    folder = make_model("llama", labels=("helpful", "harmless"))
    assert "2 outputs (0: helpful, 1: harmless): pass --score-label" in _refusal(folder)
    assert "none of the model's outputs (0: helpful" in _refusal(folder, score_label="honest")
    assert "none of the model's outputs" in _refusal(folder, score_label="2")
    assert _load(folder, score_label="harmless").score_rule == LabelScore(1, "harmless")
    assert _load(folder, score_label="0").score_rule == LabelScore(0, "helpful")


# ---------------------------------------------------------------------------- chat template


def test_a_tokenizer_without_chat_template_and_each_remedy(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    assert "pass --chat-template NAME (Robin, Yi-34b-chat, " in _refusal(folder)
    file = folder / "mine.jinja"
    file.write_text(PLAIN)
    remedies = {"tulu": "tulu", "raw": "raw", str(file): "mine.jinja", PLAIN: "inline"}
    for requested, source in remedies.items():
        loaded = _load(folder, chat_template=requested)
        assert loaded.template.source == source
        [[rendering]] = loaded.encoder.render([QUESTION], truncation="error")
        assert rendering.sequence.token_ids.count(1) == 1
        assert rendering.tokens[0] == "<s>"


def test_an_unknown_template_lists_the_built_in_ones(debug_folder: Path) -> None:
    sentence = _refusal(debug_folder, chat_template="chatml")
    assert all(name in sentence for name in built_in_templates())
    assert "neither a built-in name" in _refusal(debug_folder, chat_template="x" * 500)


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('not today') }}",
        "{% for %}",
        "{{ nothing.at.all }}",
        "{{ 1 // 0 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ '' }}",
    ],
)
def test_a_template_that_cannot_render(debug_folder: Path, template: str) -> None:
    sentence = _refusal(debug_folder, chat_template=template)
    assert "the chat template (inline) cannot render a question and an answer" in sentence


@pytest.mark.parametrize(
    "question",
    [
        "{{ strftime_now('%d %b %Y') }}",
        "{% set form = '%d %b %Y' %}{% if strftime_now %}{{ strftime_now(form) }}{% endif %}",
    ],
)
def test_a_template_that_asks_for_the_date_is_told_the_same_one_always(
    debug_folder: Path, question: str
) -> None:
    loaded = _load(debug_folder, chat_template=PLAIN + question)
    [[rendering]] = loaded.encoder.render([QUESTION], truncation="error")
    assert rendering.text.endswith("26 Jul 2024")
    assert "26 Jul 2024" in rendering.warnings[0]


# ------------------------------------------------------------------------------ one BOS


@pytest.mark.parametrize("template", [None, "raw", PLAIN])
def test_a_text_with_bos_gets_no_second_one(debug_folder: Path, template: str | None) -> None:
    loaded = _load(debug_folder, chat_template=template)
    [group] = loaded.encoder.encode([RenderedText("<s>Hi")], truncation="error")
    assert group.sequences[0].token_ids[0] == 1
    assert group.sequences[0].token_ids.count(1) == 1


def test_two_bos_of_a_template_become_one_and_render_warns(debug_folder: Path) -> None:
    twice = _load(debug_folder, chat_template="{{ bos_token }}" + PLAIN)
    once = _load(debug_folder, chat_template=PLAIN)
    [[rendering]] = twice.encoder.render([QUESTION], truncation="error")
    [[expected]] = once.encoder.render([QUESTION], truncation="error")
    assert rendering.sequence == expected.sequence
    assert rendering.warnings == ["the text started with two BOS tokens: one was dropped"]
    assert expected.warnings == []


def test_a_template_without_bos_is_obeyed_and_render_warns(debug_folder: Path) -> None:
    loaded = _load(debug_folder, chat_template=PLAIN.removeprefix("{{ bos_token }}"))
    [[rendering]] = loaded.encoder.render([QUESTION], truncation="error")
    assert 1 not in rendering.sequence.token_ids
    assert "writes no BOS" in rendering.warnings[0]


def test_an_encoder_gets_its_cls(make_model: MakeModel) -> None:
    def cls_for_bos(tokenizer: Any) -> None:
        tokenizer.cls_token, tokenizer.bos_token = "<s>", None
        tokenizer.chat_template = PLAIN.removeprefix("{{ bos_token }}")

    loaded = _load(make_model("bert", edit_tokenizer=cls_for_bos))
    assert loaded.encoder.special_tokens == "tokenizer"
    [[rendering]] = loaded.encoder.render([QUESTION], truncation="error")
    assert rendering.tokens[0] == "<s>"
    assert rendering.sequence.token_ids.count(1) == 1
    start = rendering.sequence.completion_start
    assert rendering.tokens[start] == "H"
    assert len(rendering.tokens) == 1 + len("Hi|") + len("Hello é|".encode())


# ------------------------------------------------------------------- device and limits


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_a_device_that_cannot_compute(debug_folder: Path, device: str) -> None:
    assert f"--device {device} cannot be used here" in _refusal(debug_folder, device=device)


def test_more_input_tokens_than_the_model_was_made_for(make_model: MakeModel) -> None:
    folder = make_model("llama")
    sentence = _refusal(folder, max_input_tokens=513)
    assert "--max-input-tokens 513 is more than the 512 positions" in sentence
    assert _load(folder).max_input_tokens == 512
    assert _load(folder, max_input_tokens=100).max_input_tokens == 100
    assert "is too small" in _refusal(folder, max_input_tokens=3)


# -------------------------------------------------------------------------- fingerprint


def test_the_same_files_elsewhere_have_the_same_fingerprint(
    debug_folder: Path, folder: Path
) -> None:
    first, second = _load(debug_folder), _load(folder)
    assert first.fingerprint == second.fingerprint
    assert _score(first) == _score(second)


def _change_last_weight(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        [last] = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))


def _change_template(folder: Path) -> None:
    with (folder / "chat_template.jinja").open("a") as file:
        file.write("{{ '' }}")


@pytest.mark.parametrize(
    "change",
    [_change_last_weight, _change_template, lambda folder: _edit_config(folder, rms_norm_eps=1e-5)],
    ids=["weights", "template", "config"],
)
def test_a_change_of_the_files_changes_the_fingerprint(
    debug_folder: Path, folder: Path, change: Callable[[Path], None]
) -> None:
    change(folder)
    assert _load(folder).fingerprint != _load(debug_folder).fingerprint


def test_a_change_of_the_settings_changes_the_fingerprint(make_model: MakeModel) -> None:
    folder = make_model("llama", labels=("helpful", "harmless"))
    choices: list[dict[str, Any]] = [
        {"score_label": "helpful"},
        {"score_label": "harmless"},
        {"score_label": "helpful", "dtype": "bfloat16"},
        {"score_label": "helpful", "chat_template": "tulu"},
    ]
    assert len({_load(folder, **choice).fingerprint for choice in choices}) == len(choices)
    # These say the same thing in other words.
    same = _load(folder, score_label="0", dtype="float32", max_batch_tokens=1000)
    assert same.fingerprint == _load(folder, score_label="helpful").fingerprint


# -------------------------------------------------------------------------- debug model


def test_the_debug_model_depends_on_its_seed_alone(debug_folder: Path, tmp_path: Path) -> None:
    write_debug_model(tmp_path / "again")
    write_debug_model(tmp_path / "other", seed=1)
    files = sorted(file.name for file in debug_folder.iterdir())
    assert files == sorted(file.name for file in (tmp_path / "again").iterdir())
    for name in files:
        assert (debug_folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    weights = "model.safetensors"
    assert (debug_folder / weights).read_bytes() != (tmp_path / "other" / weights).read_bytes()
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_the_debug_model_is_served_by_name(debug_folder: Path) -> None:
    assert _load("debug").fingerprint == _load(debug_folder).fingerprint


# --------------------------------------------------------------- an unexpected failure


def test_a_load_that_fails_in_no_known_way_still_ends_the_service(debug_folder: Path) -> None:
    # More memory than any address space has: nobody lists MemoryError among the ways to say no.
    settings = Settings(model_id=str(debug_folder), chat_template="{{ 'x' * 10000000000000000 }}")
    failures: list[Exception] = []

    async def run() -> None:
        app = create_app(settings, on_failure=failures.append)
        async with app.router.lifespan_context(app):
            for _ in range(1_200):
                await asyncio.sleep(0.05)
                if failures:
                    return

    asyncio.run(run())
    assert len(failures) == 1
