"""The GPU benchmark, with a tiny model on the CPU, and where hardly any package is installed."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reward_service.prefix_tree import build_tree

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmark" / "gpu" / "run.py"

ABSENT = (
    "datasets fastapi httpx jinja2 prometheus_client pyarrow pydantic pydantic_core "
    "pydantic_settings pythonjsonlogger reward_benchmark reward_client rich scipy stamina "
    "starlette typer uvicorn"
)

WITHOUT_PACKAGES = f"""
import runpy, sys
from importlib.machinery import PathFinder

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT.split()!r}:
            return None
        return PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(autouse=True)
def gpu_package_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmark")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads wait for each other where other work has the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run in bfloat16 writes, on a machine with torch, transformers and numpy alone."""
    out = tmp_path_factory.mktemp("gpu") / "gpu.json"
    arguments = ["--shape", "tiny", "--device", "cpu", "--out", str(out), "--profile"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGES, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        cwd=out.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Equality: the proof chose 'tree'" in done.stdout
    content: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return content


def test_the_tree_is_as_close_to_the_truth_as_plain_transformers(document: dict[str, Any]) -> None:
    equality = document["equality"]
    assert equality["path"] == "tree"
    assert equality["truth"] == "one by one, eager attention, float32"
    assert 0 < equality["plain_against_truth"]["largest"] < 0.1
    assert equality["tree_error_over_plain_error"] < 1.5
    assert equality["largest_score"] > 0.1
    assert equality["spread_of_scores"] > 0.1


def test_every_budget_and_section_is_there(document: dict[str, Any]) -> None:
    assert [load["max_batch_tokens"] for load in document["budgets"]] == [1024, 4096]
    for section, unit, units in (("rewardbench", "pairs", 24), ("best_of_16", "completions", 16)):
        load = document[section]
        assert (load["unit"], load["units"], load["failed"]) == (unit, units, 0)
        assert load["path"] == "tree"
        assert 0 < load["distinct_tokens"] <= load["computed_tokens"] < load["input_tokens"]
        assert load["seconds"] >= load["run_seconds"] > 0
        assert load["prepare_seconds"] > 0
        assert load["useful_flops_per_second"] == pytest.approx(
            load["share_of_ceiling"] * document["ceiling"]["flops"]
        )
        assert [padded["batch_size"] for padded in load["padded_loop"]] == [8, 64]
    assert document["rewardbench"]["seconds_for_2985_pairs"] == pytest.approx(
        2985 / document["rewardbench"]["units_per_second"]
    )


def test_log_probabilities_are_those_of_plain_transformers(document: dict[str, Any]) -> None:
    measured = document["log_probs"]
    assert measured["path"] == "tree"
    assert measured["against_plain"]["largest_of_a_token"] < 0.1  # the logits are bfloat16
    assert measured["against_plain"]["largest_log_prob"] > 5
    assert measured["rewardbench"]["failed"] == 0
    assert measured["long_completion"]["tokens"] == 8192


def test_the_padded_loop_gives_the_same_scores(document: dict[str, Any]) -> None:
    for section in ("rewardbench", "best_of_16"):
        for padded in document[section]["padded_loop"]:
            assert padded["largest_relative_difference_of_scores"] < 0.05
            assert padded["computed_tokens"] > padded["input_tokens"]
            assert padded["tree_times_faster"] > 0


def test_the_ceiling_names_the_shapes_it_measured(document: dict[str, Any]) -> None:
    shapes = document["ceiling"]["before"]["shapes"]
    assert {(shape["in"], shape["out"]) for shape in shapes} == {
        (64, 64),  # queries and outputs
        (64, 32),  # keys and values
        (64, 128),
        (128, 64),
    }
    assert all(shape["flops"] > 0 for shape in shapes)


def test_the_document_says_where_it_comes_from(document: dict[str, Any]) -> None:
    environment = document["environment"]
    assert environment["device"] == "cpu"
    assert environment["versions"]["torch"] == torch.__version__
    assert document["command"].startswith("python benchmark/gpu/run.py --shape tiny")
    assert {goal["goal"].split(" ")[0] for goal in document["goals"]} >= {"the", "share"}
    assert document["profile"][0]["seconds"] > 0


def test_float32_is_held_against_float64_in_fewer_layers_where_memory_is_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gpu import equality, experiment, shapes, workloads
    from gpu.pair_lengths import read_pair_lengths

    monkeypatch.setattr(equality, "free_memory_bytes", lambda device: 0)
    monkeypatch.setattr(equality, "CUT_LAYERS", 1)
    tiny = shapes.SHAPES["tiny"]
    pairs = workloads.rewardbench_pairs(
        read_pair_lengths(), count=3, vocabulary=tiny.vocabulary, seed=1
    )
    measured = equality.measure_equality(
        tiny, pairs.groups, dtype=torch.float32, device="cpu", seed=experiment.SEED
    )
    assert measured["layers"] == 1
    assert measured["truth"].endswith("float64")
    for packing in ("plain", "tree", "padded"):
        assert measured[f"{packing}_against_truth"]["largest"] < 1e-5


def test_a_limit_of_no_time_still_writes_a_document() -> None:
    from gpu import experiment, shapes

    saved: list[set[str]] = []
    experiment.run(
        experiment.Options(
            shapes.SHAPES["tiny"], torch.float32, "cpu", limit_seconds=0.0, profile=False
        ),
        save=lambda document: saved.append(set(document)),
    )
    assert "rewardbench" not in saved[0]
    assert {"equality", "rewardbench", "best_of_16", "goals"} <= saved[-1]


def test_drawn_pairs_are_as_long_as_real_ones() -> None:
    from gpu.pair_lengths import read_pair_lengths

    lengths = read_pair_lengths()
    drawn = lengths.draw(lengths.pairs, seed=0)
    assert drawn.shape == (2985, 3)
    assert drawn.min() >= 1
    np.testing.assert_allclose(drawn.mean(axis=0), lengths.mean_tokens, rtol=0.01)
    np.testing.assert_allclose(
        lengths.draw(300, seed=1).mean(axis=0), lengths.mean_tokens, rtol=0.02
    )
    assert (drawn == lengths.draw(lengths.pairs, seed=0)).all()


def test_distinct_tokens_are_counted_without_the_engine_and_agree_with_it() -> None:
    from gpu import workloads
    from gpu.pair_lengths import read_pair_lengths

    for workload in (
        workloads.rewardbench_pairs(read_pair_lengths(), count=40, vocabulary=50, seed=3),
        workloads.best_of_16(prompts=2, vocabulary=50, seed=3),
    ):
        keys = [sequence.key for group in workload.groups for sequence in group.sequences]
        tree = build_tree(keys)
        assert workload.distinct_tokens == len(tree)
        assert workload.attended_keys == int((tree.positions + 1).sum())
        assert workload.input_tokens == tree.input_tokens
