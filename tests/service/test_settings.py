"""Settings come from flags and environment, and a wrong one is named."""

import pytest

from reward_service.errors import StartupError
from reward_service.settings import Settings, read_settings


def test_a_flag_beats_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARD_MODEL_ID", "of/environment")
    monkeypatch.setenv("REWARD_PORT", "9000")
    assert read_settings([]).port == 9000
    settings = read_settings(["--port", "9001", "--trust-remote-code"])
    assert (settings.model_id, settings.port) == ("of/environment", 9001)
    assert settings.trust_remote_code


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("REWARD_PORT", "http", "--port (or REWARD_PORT) is 'http': input should be a valid int"),
        ("REWARD_PORT", "70000", "--port (or REWARD_PORT) is '70000'"),
        ("REWARD_DTYPE", "int8", "--dtype (or REWARD_DTYPE) is 'int8': input should be 'auto', "),
        ("REWARD_MAX_BATCH_TOKENS", "0", "--max-batch-tokens (or REWARD_MAX_BATCH_TOKENS) is '0'"),
        ("REWARD_ALLOW_PICKLE", "perhaps", "REWARD_ALLOW_PICKLE) is 'perhaps'"),
        ("REWARD_MODEL_ID", "", "REWARD_MODEL_ID) is ''"),
        ("REWARD_API_KEY", "", "REWARD_API_KEY) is ''"),
        ("REWARD_MAX_BATCH_TOKENS", "2000000", "max_queue_tokens (1000000) must be at least"),
    ],
)
def test_a_bad_value_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv("REWARD_MODEL_ID", "debug")
    monkeypatch.setenv(name, value)
    with pytest.raises(StartupError) as caught:
        read_settings([])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_bad_values_are_named_at_once() -> None:
    with pytest.raises(StartupError, match=r"--port .*; --dtype |--dtype .*; --port "):
        read_settings(["--model-id", "debug", "--port", "-1", "--dtype", "int8"])


def test_an_unknown_flag_is_named() -> None:
    with pytest.raises(StartupError, match=r"--max-bs.*see reward-service --help"):
        read_settings(["--model-id", "debug", "--max-bs", "8"])


def test_the_model_is_required() -> None:
    with pytest.raises(StartupError, match=r"--model-id \(or REWARD_MODEL_ID\) is required"):
        read_settings([])


def test_the_api_key_is_masked() -> None:
    settings = read_settings(["--model-id", "debug", "--api-key", "s3cret"])
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "s3cret"
    for shown in (repr(settings), str(settings), settings.model_dump_json()):
        assert "s3cret" not in shown


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_described(name: str) -> None:
    description = Settings.model_fields[name].description
    assert description
    assert description.rstrip().endswith(".")
