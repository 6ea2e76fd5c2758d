"""A run's numbers on their way to a stand-in for Weights & Biases over HTTP."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from reward_benchmark.cli import app

from .fake_wandb import FakeRun, FakeWandb
from .scored_runs import finished_run, pair_rows, random_judge, write_rows

RUN = "me/training/abc123"
API_KEY = "0123456789" * 4


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rows = write_rows(tmp_path / "rows.jsonl", pair_rows({"hep-go": 6, "hep-cpp": 5}))
    return finished_run(tmp_path / "run", f"rewardbench={rows}", random_judge(1))


@pytest.fixture
def export(run: Path, tmp_path: Path) -> Callable[..., Result]:
    def export(*options: str, to: str = RUN) -> Result:
        arguments = ["export", str(run), "--out", str(tmp_path / "files"), "--wandb-run", to]
        result = CliRunner().invoke(app, [*arguments, *options], env={"COLUMNS": "200"})
        assert API_KEY not in result.output
        return result

    return export


@pytest.fixture
def weights_and_biases(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeWandb]:
    """What the real client of wandb talks to."""
    wandb = pytest.importorskip("wandb")
    fake = FakeWandb()
    with fake.serve() as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", API_KEY)
        for folder in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            monkeypatch.setenv(folder, str(tmp_path))
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        monkeypatch.delenv("WANDB_MODE", raising=False)
        yield fake
        wandb.teardown()


def test_the_summary_gets_upstreams_keys_and_keeps_its_own(
    export: Callable[..., Result], run: Path, weights_and_biases: FakeWandb
):
    training = {"loss": 0.5, "_step": 7, "val": {"loss": 0.25, "worst": "NaN"}}
    weights_and_biases.runs[RUN] = FakeRun(summary=dict(training))
    result = export("--json")
    assert result.exit_code == 0, result.stderr
    uploads = json.loads(result.stdout.splitlines()[-1])["uploads"]
    assert uploads[RUN].endswith("/me/training/runs/abc123")
    results = json.loads((run / "results.json").read_text())
    rewardbench = {
        "accuracy": results["counts"]["wins"] / 11,
        "num_prompts": 11,
        "model": "org/model",
        "ref_model": None,
        "chat_template": None,
        "extra_results": {
            "hep-go": results["subsets"]["hep-go"]["accuracy"],
            "hep-cpp": results["subsets"]["hep-cpp"]["accuracy"],
        },
        "overall": results["overall"],
        "Reasoning": results["sections"]["Reasoning"]["score"],
    }
    assert rewardbench["accuracy"] not in (0, 1)
    assert weights_and_biases.runs[RUN].summary == training | {
        f"rewardbench/{key}": value for key, value in rewardbench.items()
    }
    assert export().exit_code == 0
    assert weights_and_biases.writes == 1, "the same numbers are nothing to write"


def test_other_numbers_are_not_replaced_unasked(
    export: Callable[..., Result], weights_and_biases: FakeWandb
):
    theirs: dict[str, Any] = {"rewardbench/extra_results": {"hep-go": 2.0, "math-prm": 1.0}}
    weights_and_biases.runs[RUN] = FakeRun(summary=dict(theirs))
    refused = export()
    assert refused.exit_code == 2
    assert f"{RUN} has another rewardbench/extra_results already" in refused.stderr
    assert weights_and_biases.writes == 0
    assert export("--overwrite").exit_code == 0
    summary = weights_and_biases.runs[RUN].summary
    assert summary["rewardbench/extra_results"].keys() == {"hep-go", "hep-cpp"}


@pytest.mark.parametrize("state", ["running", "pending", "preempting", "preempted"])
def test_a_run_that_still_logs_would_lose_the_numbers(
    export: Callable[..., Result], weights_and_biases: FakeWandb, state: str
):
    weights_and_biases.runs[RUN] = FakeRun(state=state)
    refused = export("--overwrite")
    assert refused.exit_code == 2
    assert f"{RUN} is {state} and may write over the numbers" in refused.stderr
    assert weights_and_biases.writes == 0


@pytest.mark.parametrize("state", ["finished", "failed", "crashed", "killed"])
def test_a_run_that_has_ended_gets_them(
    export: Callable[..., Result], weights_and_biases: FakeWandb, state: str
):
    weights_and_biases.runs[RUN] = FakeRun(state=state)
    assert export().exit_code == 0
    assert weights_and_biases.writes == 1


def test_a_dpo_runs_reference_is_named(
    export: Callable[..., Result], run: Path, weights_and_biases: FakeWandb
):
    document = json.loads((run / "results.json").read_text())
    service = {"model": {}, "template": {"source": "tulu"}, "reference": {"id": "org/base"}}
    document["provenance"]["info"] = service
    (run / "results.json").write_text(json.dumps(document))
    weights_and_biases.runs[RUN] = FakeRun()
    assert export().exit_code == 0
    summary = weights_and_biases.runs[RUN].summary
    assert summary["rewardbench/ref_model"] == "org/base"
    assert summary["rewardbench/chat_template"] == "tulu"


def test_the_accuracy_is_what_prompts_earn(
    export: Callable[..., Result], run: Path, weights_and_biases: FakeWandb
):
    document = json.loads((run / "results.json").read_text())
    # As RewardBench 2 and RM-Bench have parts of a point.
    document["counts"]["credit"] = 6.875
    (run / "results.json").write_text(json.dumps(document))
    weights_and_biases.runs[RUN] = FakeRun()
    assert export().exit_code == 0
    assert weights_and_biases.runs[RUN].summary["rewardbench/accuracy"] == 0.625


@pytest.mark.parametrize(
    "path", ["abc123", "training/abc123", "me//abc123", "me/../abc123", "me/a\nb/abc123"]
)
def test_a_path_names_all_three(export: Callable[..., Result], path: str, tmp_path: Path):
    refused = export("--model-card", "org/model", to=path)
    assert refused.exit_code == 2
    assert f"{path!r} is no run of W&B: ENTITY/PROJECT/RUN_ID is" in refused.stderr
    assert not (tmp_path / "files").exists(), "nothing is made or uploaded before"


def test_a_refusal_is_a_sentence(export: Callable[..., Result], weights_and_biases: FakeWandb):
    unknown = export()
    assert unknown.exit_code == 1
    assert f"W&B refused {RUN}: Could not find run" in unknown.stderr
    assert "set WANDB_API_KEY, as somebody who may write there" in unknown.stderr
    weights_and_biases.runs[RUN] = FakeRun()
    for refused in ("viewer", "project(", "upsertBucket"):
        weights_and_biases.refuses = refused
        result = export()
        assert result.exit_code == 1
        assert f"W&B refused {RUN}: " in result.stderr
        assert "permission denied; log in" in result.stderr


@pytest.mark.usefixtures("weights_and_biases")
def test_a_login_is_not_asked_for(export: Callable[..., Result], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WANDB_API_KEY")
    refused = export()
    assert refused.exit_code == 1
    assert "nobody is logged in to W&B (No API key configured" in refused.stderr
    assert "run `wandb login` or set WANDB_API_KEY" in refused.stderr


@pytest.mark.usefixtures("weights_and_biases")
def test_no_network_is_a_sentence(export: Callable[..., Result], monkeypatch: pytest.MonkeyPatch):
    import wandb

    monkeypatch.setattr(wandb.Api, "_HTTP_TIMEOUT", 1)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    lost = export()
    assert lost.exit_code == 1
    assert "W&B cannot be reached: " in lost.stderr


@pytest.mark.parametrize("mode", ["offline", "dryrun", "disabled"])
@pytest.mark.usefixtures("weights_and_biases")
def test_offline_is_a_sentence(
    export: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, mode: str
):
    monkeypatch.setenv("WANDB_MODE", mode)
    refused = export()
    assert refused.exit_code == 2
    assert f"nothing can be uploaded while wandb is {mode}: unset WANDB_MODE" in refused.stderr


@pytest.mark.usefixtures("weights_and_biases")
def test_a_wrong_setting_is_named(export: Callable[..., Result], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_BASE_URL", "nowhere")
    refused = export()
    assert refused.exit_code == 2
    assert "wandb's settings are wrong: base_url: Input should be a valid URL" in refused.stderr
    assert "nowhere" not in refused.stderr


def test_without_the_package_there_is_a_remedy(
    export: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.delitem(sys.modules, "reward_benchmark.wandb_upload", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", None)
    refused = export()
    assert refused.exit_code == 2
    assert not (tmp_path / "files").exists(), "nothing is made or uploaded before"
    assert "pip install 'rewardserve[wandb]'" in refused.stderr
