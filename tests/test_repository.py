"""The repository keeps its promises to readers: docs, tables and code say the same."""

import importlib.util
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from reward_client.schema import ErrorCode
from reward_service import errors

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_python_blocks_run(
    service_url: str, start_service: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dpo_url = start_service(model_id="debug-policy", ref_model_id="debug-reference")
    names: dict[str, object] = {}
    for block in PYTHON_BLOCKS:  # one reads on where the other ended
        monkeypatch.setenv("REWARD_SERVICE_URL", dpo_url if "logprobs" in block else service_url)
        exec(compile(block, "README.md", "exec"), names)


def test_readme_has_a_python_example() -> None:
    assert PYTHON_BLOCKS


def test_readme_opens_with_the_two_commands() -> None:
    first_block = README.split("```")[1]
    assert [line.split("#")[0].strip() for line in first_block.splitlines()[1:]] == [
        "make demo",
        "make test",
    ]


def test_readme_settings_table_is_current() -> None:
    assert _script("settings_table").with_table(README) == README, "run make format"


def test_readme_speed_table_is_rendered_from_the_newest_result() -> None:
    assert _script("speed_table").with_table(README) == README, "run make format"


def test_readme_and_docs_link_to_files_that_exist() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_changelog_names_the_packages_version() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == version


def test_every_service_error_has_a_code_of_the_wire_contract() -> None:
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.ServiceError)
    ]
    assert len(classes) > 10
    assert {cls.code for cls in classes} <= set(ErrorCode)
    assert len({cls.code for cls in classes}) == len(classes)


def test_constraints_pin_torch_and_name_no_address() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert "\ntorch==2.13.0\n" in pins
    assert "://" not in pins
    assert " @ " not in pins


def test_ci_runs_the_two_commands_and_nothing_else() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("make")] == ["make test", "make demo"]


def test_compose_passes_every_setting_on() -> None:
    from reward_service.settings import ENV_PREFIX, Settings

    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    for name in set(Settings.model_fields) - {"host", "port"}:
        assert f"      {ENV_PREFIX}{name.upper()}:" in compose
