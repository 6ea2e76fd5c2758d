"""The speed benchmark in small: every contender gives the same scores, and the results are whole.

It asserts nothing about time.
"""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from rich.console import Console

from speed.bars import BARS
from speed.contenders import CONTENDERS
from speed.experiment import PARTS, Options, run
from speed.load import LoadGenerator
from speed.models import MICRO
from speed.table import results_tables
from speed.worker import Here, Worker

TOLERANCE = 1e-4
REPETITIONS = 2


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
        tiny_repetitions=1,
        tiny_seconds=0.3,
        matmul_seconds=0.01,
        shape=MICRO,
        data=folder / "no-data",
    )
    document = run(options, cache=folder / "models", host=Here, advance=steps.append)
    assert len(steps) == options.steps
    assert options.is_complete
    return document


def test_all_contenders_give_the_same_scores(document: dict[str, Any]) -> None:
    for scoring in document["scoring"].values():
        assert [*scoring["contenders"]] == [*CONTENDERS]
        for name, contender in scoring["contenders"].items():
            assert contender["max_score_difference"] <= TOLERANCE, name
    assert document["tiny"]["max_score_difference"] <= TOLERANCE


def test_results_are_whole(document: dict[str, Any]) -> None:
    assert json.loads(json.dumps(document, allow_nan=False))
    assert set(document) == {
        *("date", "environment", "options", "complete", "model", "engine"),
        *("scoring", "growth", "tiny", "bars"),
    }
    assert {*document["scoring"], "growth", "tiny"} == set(PARTS)
    for scoring in document["scoring"].values():
        assert scoring["workload"]["distinct_tokens"] < scoring["workload"]["input_tokens"]
        for name, contender in scoring["contenders"].items():
            assert len(contender["repetitions"]) == REPETITIONS
            assert set(contender["ratio_to"]) == set(CONTENDERS) - {name}
            has_requests = name in ("one-forward-server", "engine", "service")
            assert (contender["latency_p99"] is not None) == has_requests
    assert [bar["name"] for bar in document["bars"]] == [bar.name for bar in BARS]


def test_padding_is_counted(document: dict[str, Any]) -> None:
    pairs = document["scoring"]["rewardbench"]["contenders"]
    assert pairs["one-by-one"]["padding_share"] == 0
    assert pairs["loop-8"]["padding_share"] > 0
    assert pairs["length-sorted"]["padding_share"] > 0


def test_tiny_servers_answer(document: dict[str, Any]) -> None:
    for server in document["tiny"]["servers"].values():
        assert server["failures"] == 0
        assert server["requests_per_second"]["median"] > 0


def test_tables_can_be_shown(document: dict[str, Any]) -> None:
    console = Console(width=130, record=True, file=io.StringIO())
    console.print(results_tables(document))
    text = console.export_text()
    assert all(name in text for name in CONTENDERS)


def test_a_worker_calls_its_object_in_another_process() -> None:
    worker = Worker(LoadGenerator)
    try:
        assert worker.call("stop") is None
        with pytest.raises(RuntimeError, match="has no attribute 'missing'"):
            worker.call("missing")
        assert worker.call("stop") is None
    finally:
        worker.close()
