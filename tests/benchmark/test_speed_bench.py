"""The speed benchmark in small: every contender gives the same scores, and the results are whole.

It asserts nothing about time.
"""

import importlib.util
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from speed import rows
from speed.bars import BARS, Bar
from speed.contenders import CONTENDERS, DpoLoop
from speed.experiment import PARTS, SCORING, Options, run
from speed.load import LoadGenerator
from speed.models import MICRO, POLICY, REFERENCE, cached_model
from speed.table import results_tables
from speed.worker import Here, Worker
from speed.workloads import make_workload

TOLERANCE = {"score": 1e-4, "dpo": 2e-3}
"""A DPO reward is the difference of two sums of thousands, which the loop forms in float32."""
REPETITIONS = 2
MEMORY_TOKENS = 200


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other make small models slow on a busy machine."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def document(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run of everything, with a micro model and synthetic rows, in this process."""
    folder = tmp_path_factory.mktemp("speed")
    steps: list[str] = []
    options = Options(
        pairs=4,
        long_prompts=1,
        alpaca_prompts=1,
        growth=(1, 2, 4),
        repetitions=REPETITIONS,
        growth_repetitions=1,
        dpo_pairs=8,
        dpo_repetitions=REPETITIONS,
        memory_tokens=MEMORY_TOKENS,
        tiny_repetitions=1,
        tiny_seconds=0.3,
        matmul_seconds=0.01,
        shape=MICRO,
        dpo_shape=MICRO,
        memory_shape=MICRO,
        data=folder / "no-data",
    )
    document = run(options, cache=folder / "models", host=Here, advance=steps.append)
    assert len(steps) == options.steps
    assert options.is_complete
    return document


def test_all_contenders_give_the_same_scores(document: dict[str, Any]) -> None:
    for part, scoring in document["scoring"].items():
        kind = SCORING[part]
        assert [*scoring["contenders"]] == [*CONTENDERS[kind]]
        for name, contender in scoring["contenders"].items():
            assert contender["max_score_difference"] <= TOLERANCE[kind], name
    assert document["tiny"]["max_score_difference"] <= TOLERANCE["score"]


def test_both_ways_give_the_same_log_probs(document: dict[str, Any]) -> None:
    memory = document["logprob-memory"]
    assert memory["completion_tokens"] == MEMORY_TOKENS
    assert memory["formats"]["float32"]["max_difference"] <= 1e-4
    assert memory["formats"]["bfloat16"]["max_difference"] <= 0.2


def test_results_are_whole(document: dict[str, Any]) -> None:
    assert json.loads(json.dumps(document, allow_nan=False))
    assert set(document) == {
        *("date", "environment", "options", "complete", "model", "engine"),
        *("scoring", "growth", "logprob-memory", "tiny", "bars"),
    }
    assert {*document["scoring"], "growth", "logprob-memory", "tiny"} == set(PARTS)
    for part, scoring in document["scoring"].items():
        assert scoring["workload"]["distinct_tokens"] < scoring["workload"]["input_tokens"]
        for name, contender in scoring["contenders"].items():
            assert len(contender["repetitions"]) == REPETITIONS
            assert set(contender["ratio_to"]) == set(CONTENDERS[SCORING[part]]) - {name}
            has_requests = name in ("one-forward-server", "engine", "service")
            assert (contender["latency_p99"] is not None) == has_requests
    assert [bar["name"] for bar in document["bars"]] == [bar.name for bar in BARS]


def test_padding_is_counted(document: dict[str, Any]) -> None:
    pairs = document["scoring"]["rewardbench"]["contenders"]
    assert pairs["one-by-one"]["padding_share"] == 0
    assert pairs["loop-8"]["padding_share"] > 0
    assert pairs["length-sorted"]["padding_share"] > 0
    dpo = document["scoring"]["dpo"]["contenders"]
    assert dpo["dpo-loop-6"]["padding_share"] > dpo["dpo-loop-6-sorted"]["padding_share"] > 0
    assert dpo["service"]["padding_share"] == 0


def test_tiny_servers_answer(document: dict[str, Any]) -> None:
    for server in document["tiny"]["servers"].values():
        assert server["failures"] == 0
        assert server["requests_per_second"]["median"] > 0


def test_tables_can_be_shown(document: dict[str, Any]) -> None:
    console = Console(width=130, record=True, file=io.StringIO())
    console.print(results_tables(document))
    text = console.export_text()
    assert all(name in text for contenders in CONTENDERS.values() for name in contenders)
    assert "full-logits" in text
    assert "≤ 1 GiB" in text


def test_readme_can_show_every_part_and_do_without_new_ones(document: dict[str, Any]) -> None:
    path = Path(__file__).parents[2] / "scripts" / "speed_table.py"
    spec = importlib.util.spec_from_file_location("speed_table", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text = script.table(document, "today.json")
    assert "RewardBench's DPO loop" in text
    assert "GiB" in text
    scoring = {part: one for part, one in document["scoring"].items() if part != "dpo"}
    old = {name: one for name, one in document.items() if name != "logprob-memory"}
    text = script.table({**old, "scoring": scoring}, "today.json")
    assert "DPO" not in text
    assert "GiB" not in text


def test_the_dpo_loop_gives_the_rewards_of_one_by_one(one_thread: None, tmp_path: Path) -> None:
    texts = rows.training_texts(seed=0, data=tmp_path)
    folder = cached_model(MICRO, texts, tmp_path, kind="dpo")
    tokenizer = AutoTokenizer.from_pretrained(folder / POLICY)
    sample = rows.rewardbench(seed=0, data=tmp_path)
    workload = make_workload("dpo", sample, tokenizer, unit="pairs", count=7, max_tokens=512)
    expected = _one_by_one(folder, workload.groups, tokenizer)
    assert max(map(abs, expected)) > 0.1  # policy and reference are not the same
    for sort in (False, True):
        loop = DpoLoop(sort=sort)
        loop.start(folder)
        assert loop.score(workload).scores == pytest.approx(expected, abs=TOLERANCE["dpo"])


@torch.inference_mode()
def _one_by_one(folder: Path, groups: Any, tokenizer: Any) -> list[float]:
    """Rewards in float64; what is scored is put together by hand, not cut out of a whole."""
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float64)
        for name in (POLICY, REFERENCE)
    )

    def log_prob(model: Any, prompt: list[int], answer: list[int]) -> float:
        log_probs = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        return math.fsum(
            log_probs[len(prompt) - 1 + position, token].item()
            for position, token in enumerate(answer)
        )

    rewards = []
    for group in groups:
        prompt = tokenizer(f"<s><|user|>\n{group.prompt}</s>\n<|assistant|>\n").input_ids
        for completion in group.completions:
            answer = [*tokenizer(completion).input_ids, tokenizer.eos_token_id]
            rewards.append(log_prob(policy, prompt, answer) - log_prob(reference, prompt, answer))
    return rewards


def test_a_bar_is_met_on_its_side() -> None:
    least, most = (Bar("", (), 2, sense=sense) for sense in ("at least", "at most"))
    assert [least.met_by(value) for value in (1, 2, 3)] == [False, True, True]
    assert [most.met_by(value) for value in (1, 2, 3)] == [True, True, False]
    assert not least.met_by(math.nan)
    assert not most.met_by(math.nan)
    assert Bar("", (), None).met_by(1) is None


def test_a_worker_calls_its_object_in_another_process() -> None:
    worker = Worker(LoadGenerator)
    try:
        assert worker.call("stop") is None
        with pytest.raises(RuntimeError, match="has no attribute 'missing'"):
            worker.call("missing")
        assert worker.call("stop") is None
    finally:
        worker.close()
