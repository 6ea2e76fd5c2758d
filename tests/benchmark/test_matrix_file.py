"""What a file of models says, and what is wrong with one that says nothing."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from reward_benchmark.cli.matrix import run_options
from reward_benchmark.datasets import BENCHMARKS
from reward_benchmark.errors import BenchmarkError
from reward_benchmark.matrix.eval_configs import IGNORED
from reward_benchmark.matrix.known_sets import with_known_sets
from reward_benchmark.matrix.model import SERVICE_SETTINGS
from reward_benchmark.matrix.models_file import ModelsFile, read_models
from reward_benchmark.matrix.run_arguments import dataset_folder
from reward_service.known_models import known_models
from reward_service.settings import ENV_PREFIX, Settings

Read = Callable[..., ModelsFile]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(text: str, *datasets: str) -> ModelsFile:
        path = tmp_path / "models.yaml"
        path.write_text(text)
        return read_models(path, datasets=datasets, arguments=run_options)

    return read


def test_the_settings_of_a_model_are_those_of_the_service_but_its_address_and_its_key():
    assert set(SERVICE_SETTINGS) == set(Settings.model_fields) - {"host", "port", "api_key"}


def test_a_model_reaches_the_service_as_its_settings(read: Read):
    # The service reads the very variables, so that a name that it does not know would show.
    [model] = read(
        "- model_id: owner/policy\n  ref_model_id: owner/reference\n  beta: 0.1\n"
        "  trust_remote_code: true\n  max_batch_tokens: 2048\n  revision: 12e4567\n"
    ).models
    with pytest.MonkeyPatch.context() as patch:
        for name, value in model.environment.items():
            assert name.startswith(ENV_PREFIX)
            patch.setenv(name, value)
        settings = Settings()
    assert settings.model_fields_set == set(model.settings)
    assert (settings.model_id, settings.ref_model_id) == ("owner/policy", "owner/reference")
    assert (settings.beta, settings.max_batch_tokens) == (0.1, 2048)
    assert settings.trust_remote_code is True
    assert settings.revision == "12e4567"


def test_values_are_taken_as_they_are_written(read: Read):
    written = {"revision": "0123456", "score_label": "no", "dtype": "~", "chat_template": "1_000"}
    lines = [f"  {name}: {value}\n" for name, value in written.items()]
    [model] = read("- model_id: 2024-01-01\n" + "".join(lines)).models
    del written["dtype"]
    assert model.settings == {"model_id": "2024-01-01", **written}


def test_defaults_are_every_models_that_says_nothing_else(read: Read):
    first, second, third = read(
        """
defaults:
  dtype: float32
  device: cpu
  datasets: [sample, rewardbench]
  options: {limit: 5, truncation: prompt_start}
models:
  - model_id: a/one
  - {model_id: a/two, dtype: bfloat16, device: null, datasets: rm-bench}
  - {model_id: a/three, options: {limit: 7, subset: [x, y], truncation: ~}}
"""
    ).models
    assert first.settings == {"model_id": "a/one", "dtype": "float32", "device": "cpu"}
    assert first.datasets == ("sample", "rewardbench")
    assert first.options == ("--limit", "5", "--truncation", "prompt_start")
    assert second.settings == {"model_id": "a/two", "dtype": "bfloat16"}
    assert second.datasets == ("rm-bench",)
    assert third.options == ("--limit", "7", "--subset", "x", "--subset", "y")


def test_datasets_of_the_command_line_win_over_the_files_defaults_but_not_over_a_model(read: Read):
    text = "defaults: {datasets: sample}\nmodels: [{model_id: a}, {model_id: b, datasets: [c]}]"
    assert [model.datasets for model in read(text).models] == [("sample",), ("c",)]
    assert [model.datasets for model in read(text, "x", "y").models] == [("x", "y"), ("c",)]
    [model] = read("- model_id: a").models
    assert model.datasets == ("rewardbench",)


@pytest.mark.parametrize(
    ("model_id", "name"),
    [
        ("owner/name", "owner--name"),
        ("./models/my model", "models--my-model"),
        ("/data/x.y_z/", "data--x.y_z"),
        ("debug", "debug"),
    ],
)
def test_a_model_is_called_after_its_id(read: Read, model_id: str, name: str):
    [model] = read(f"- model_id: {model_id}").models
    assert model.name == name


@pytest.mark.parametrize(
    ("dataset", "folder"),
    [
        ("sample", "sample"),
        ("owner/name:test", "owner--name-test"),
        ("rewardbench=/data/copy.jsonl.gz", "rewardbench"),
        (str(Path(__file__)), "test_matrix_file.py"),
    ],
)
def test_a_run_is_called_after_its_data(dataset: str, folder: str):
    assert dataset_folder(dataset) == folder


def test_all_stands_for_every_known_set(read: Read):
    [model] = read("- model_id: a\n  datasets: [all, sample, rm-bench=copy]").models
    console = Console(file=io.StringIO())
    [model] = with_known_sets([model], opened=False, console=console)
    known = list(BENCHMARKS)
    expected = ["rm-bench=copy" if name == "rm-bench" else name for name in known]
    assert model.datasets == (*expected, "sample")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", None, "is empty"),
        ("# nothing\n", None, "is empty"),
        ("[]", 1, "the list of models is empty"),
        ("models:\n", 1, "there is no list of models"),
        ("just words", 1, "there is no list of models"),
        ("model_id: a/b", 1, "there is no list of models"),
        ("a: [", 1, "expected the node content"),
        ("- model_id: a\n\tdtype: b", 2, "'\\t'"),
        ("- model_id: a\n- words", 2, "a model is a mapping"),
        ("- model_id: a\n- name: b\n", 2, "model_id is missing"),
        ("- name: b\n  model_id: [a]\n", 2, "model_id is ['a']"),
        ("- model_id: a\n\n  dtyp: float32\n", 3, "'dtyp' is not known (did you mean dtype?)"),
        ("- model_id: a\n  port: 1\n", 2, "'port' is not known: a model may have model_id, name"),
        ("- model_id: a\n  api_key: k\n", 2, "set REWARD_API_KEY in the environment"),
        ("- model_id: a\n  dtype: [x]\n", 2, "dtype is ['x']: input should be a valid string"),
        ("- model_id: a\n  dtype: x\n  dtype: y\n", 3, "'dtype' is there twice, first in line 2"),
        ("- model_id: a/b\n- model_id: A/b\n", 2, "a model before it is called a--b too"),
        ("- model_id: a\n- model_id: b\n  name: a\n", 3, "a model before it is called a too"),
        ("- model_id: a\n  name: ../b\n", 2, "no folder can be called '../b'"),
        ("- model_id: a\n  name: rows.json\n", 2, "no folder can be called 'rows.json'"),
        ("- model_id: //\n", 1, "no folder can be called ''"),
        ("- model_id: a\n  datasets: []\n", 2, "at least 1"),
        ("- model_id: a\n  datasets: [a/b.jsonl, rewardbench=x, rewardbench]\n", 2, "called rewa"),
        ("- model_id: a\n  options: [limit]\n", 2, "options is ['limit']"),
        ("- model_id: a\n  options: {limt: 1}\n", 2, "'limt' is no option of"),
        ("- model_id: a\n  options: {limit: 0}\n", 2, "'--limit'"),
        ("- model_id: a\n  options: {limit: [1, 2]}\n", 2, "it takes one value"),
        ("- model_id: a\n  options: {out: x}\n", 2, "the matrix sets it itself"),
        ("- model_id: a\n  options: {api_key: x}\n", 2, "the matrix sets it itself"),
        ("defaults: {dtyp: x}\nmodels: [{model_id: a}]", 1, "'dtyp' is not known"),
        ("defaults:\n  name: x\nmodels: [{model_id: a}]", 2, "name is a model's own"),
        ("defaults: words\nmodels: [{model_id: a}]", 1, "a mapping of settings is expected"),
        ("models: [{model_id: a}]\ndefault: {}", 2, "'default' is neither `models` nor"),
        ("- &a [*a]", 1, "a model is a mapping"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(read: Read, text: str, line: int | None, words: str):
    with pytest.raises(BenchmarkError) as caught:
        read(text)
    sentence = str(caught.value)
    assert words in sentence
    assert "models.yaml" in sentence
    assert "\n" not in sentence
    assert line is None or f"models.yaml, line {line}: " in sentence


def test_a_file_of_brackets_is_refused(tmp_path: Path):
    (tmp_path / "models.yaml").write_text("[" * 5_000)
    with pytest.raises(BenchmarkError, match=r"models\.yaml is nested too deeply"):
        read_models(tmp_path / "models.yaml", datasets=(), arguments=run_options)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path):
    path = tmp_path / "models.yaml"
    path.write_bytes(b"- model_id: \xff\xfe")
    with pytest.raises(BenchmarkError, match="is not text in UTF-8"):
        read_models(path, datasets=(), arguments=run_options)
    path.write_bytes(b"- model_id: a\x00")
    with pytest.raises(BenchmarkError, match="is not YAML") as caught:
        read_models(path, datasets=(), arguments=run_options)
    assert "\n" not in str(caught.value)


EVAL_CONFIGS = """
openbmb/UltraRM-13b:
  model: openbmb/UltraRM-13b
  tokenizer: openbmb/UltraRM-13b
  chat_template: openbmb
  batch_size: 8
  trust_remote_code: False
  dpo: False
Nexusflow/Starling-RM-34B:
  model: Nexusflow/Starling-RM-34B
  tokenizer: 01-ai/Yi-34B-Chat
  chat_template: Yi-34b-chat
  batch_size: 2
  num_gpus: 2
  trust_remote_code: False
  dpo: False
Qwen/WorldPM-72B:
  model: Qwen/WorldPM-72B
  tokenizer: Qwen/WorldPM-72B
  chat_template:
  trust_remote_code: True
  quantized: False
  torch_dtype": bfloat16
  dpo: False
HFXM/RAMO-Llama3.1-8B:
  model: HFXM/RAMO-Llama3.1-8B
  tokenizer:
  chat_template: Ziya
  dpo: False
stabilityai/stablelm-zephyr-3b:
  model: stabilityai/stablelm-zephyr-3b
  ref_model: stabilityai/stablelm-3b-4e1t
  tokenizer: stabilityai/stablelm-zephyr-3b
  quantized: True
  max_length: 4096
  attention_implementation: flash_attention_2
  dpo: True
short-name:
  model: owner/model
  surprise: 1
owner/judge:
  model: owner/judge
  generative: True
"""


def test_rewardbenchs_own_list_is_translated(read: Read):
    file = read(EVAL_CONFIGS)
    assert {model.name: model.settings for model in file.models} == {
        "openbmb--UltraRM-13b": {"model_id": "openbmb/UltraRM-13b"},
        "Nexusflow--Starling-RM-34B": {
            "model_id": "Nexusflow/Starling-RM-34B",
            "tokenizer_id": "01-ai/Yi-34B-Chat",
        },
        "Qwen--WorldPM-72B": {
            "model_id": "Qwen/WorldPM-72B",
            "trust_remote_code": "True",
            "dtype": "bfloat16",
        },
        "HFXM--RAMO-Llama3.1-8B": {"model_id": "HFXM/RAMO-Llama3.1-8B"},
        "stabilityai--stablelm-zephyr-3b": {
            "model_id": "stabilityai/stablelm-zephyr-3b",
            "ref_model_id": "stabilityai/stablelm-3b-4e1t",
            "quantization": "bitsandbytes-8bit",
            "kind": "dpo",
        },
        "short-name": {"model_id": "owner/model"},
    }
    remarks = "\n".join(file.remarks)
    assert f"chat_template of 3 models is ignored: {IGNORED['chat_template']}" in remarks
    assert "batch_size of 2 models is ignored" in remarks
    assert "num_gpus of 1 models is ignored" in remarks
    assert "surprise of 1 models is ignored: it is not known here" in remarks
    assert "generative models are judges: owner/judge" in remarks


def test_all_of_rewardbenchs_models_can_be_named_as_it_names_them(read: Read):
    # The service's own table says what RewardBench's file says of its 122 models.
    known = [model for model in known_models().values() if model.in_rewardbench]
    configs = {
        model.model_id: {
            "model": model.model_id,
            "tokenizer": model.tokenizer or model.model_id,
            "chat_template": model.template,
            "batch_size": 4,
            "trust_remote_code": False,
            "dpo": model.kind == "dpo",
            **({"ref_model": model.reference} if model.reference else {}),
        }
        for model in known
    }
    models = read(yaml.safe_dump(configs, sort_keys=False)).models
    assert len(models) == 122
    for model, fact in zip(models, known, strict=True):
        assert model.settings["model_id"] == fact.model_id
        assert model.settings.get("ref_model_id") == fact.reference
        assert model.settings.get("kind") == ("dpo" if fact.kind == "dpo" else None)
        assert model.settings.get("tokenizer_id") == fact.tokenizer
