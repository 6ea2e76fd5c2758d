"""The benchmark against a real service."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from reward_benchmark.cli import app
from reward_benchmark.datasets import open_dataset
from reward_client import RewardClient


@pytest.fixture(scope="module")
def out(service_url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over the bundled sample."""
    out = tmp_path_factory.mktemp("runs") / "sample"
    arguments = ["run", "--dataset", "sample", "--url", service_url, "--out", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    return out


def test_the_sample_is_scored_without_a_failure(out: Path, service_url: str):
    document = json.loads((out / "results.json").read_text())
    with RewardClient(service_url) as client:
        info = client.info()
    assert document["model"] == info.model.id
    assert document["provenance"]["fingerprint"] == info.model.fingerprint
    assert document["counts"]["errors"] == 0
    assert document["sections"].keys() == {"Chat", "Chat Hard", "Safety", "Reasoning"}


def test_the_recorded_scores_are_the_services(out: Path, service_url: str):
    lines = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    pairs = list(open_dataset("sample"))
    assert [(line["subset"], line["id"]) for line in lines] == [pair.key for pair in pairs]
    with RewardClient(service_url) as client:
        for line, pair in list(zip(lines, pairs, strict=True))[:5]:
            scores = client.score(pair.prompt, pair.completions)
            assert line["scores"] == pytest.approx(scores, abs=1e-5)
            assert line["win"] == (scores[0] > scores[1])
