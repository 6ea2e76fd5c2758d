"""What /metrics says is well-formed and true."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

GROUP = {"prompt": "Hi", "completions": ["a", "bb", "a much longer completion"]}
COUNTS = {"reward_open_requests", "reward_queue_requests", "reward_ready"}
UNITS = ("_seconds", "_tokens", "_bytes", "_total", "_info")

Sample = tuple[str, frozenset[tuple[str, str]]]


class Exposition:
    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url)

    def families(self) -> list[Any]:
        return list(text_string_to_metric_families(self.http.get("/metrics").text))

    def read(self) -> Counter[Sample]:
        return Counter(
            {
                (sample.name, frozenset(sample.labels.items())): sample.value
                for family in self.families()
                for sample in family.samples
            }
        )

    def score(self, *inputs: object, **options: object) -> httpx.Response:
        return self.http.post("/score", json={"inputs": inputs, **options})


def _sample(name: str, **labels: str) -> Sample:
    return f"reward_{name}", frozenset(labels.items())


@pytest.fixture(scope="module")
def service(service_url: str) -> Iterator[Exposition]:
    exposition = Exposition(service_url)
    with exposition.http:
        exposition.score(GROUP)
        exposition.score()
        yield exposition


def test_every_family_is_explained_and_in_base_units(service: Exposition) -> None:
    families = service.families()
    assert len(families) >= 15
    for family in families:
        assert family.name.startswith("reward_")
        assert family.documentation.endswith(".") or ":" in family.documentation, family.name
        full_name = f"{family.name}_total" if family.type == "counter" else family.name
        assert full_name.endswith(UNITS) or full_name in COUNTS, full_name
        for sample in family.samples:
            assert not sample.name.endswith("_created")


def test_content_type_is_prometheus_text(service: Exposition) -> None:
    assert service.http.get("/metrics").headers["Content-Type"].startswith("text/plain; version=")


def test_counters_say_what_was_done(service: Exposition) -> None:
    before = service.read()
    answers = [service.score(GROUP), service.score(GROUP, GROUP)]
    service.score()
    service.http.post("/score", content="{", headers={"Content-Type": "application/json"})
    change = service.read()
    change.subtract(before)
    assert change[_sample("requests_total", route="/score", code="200")] == 2
    assert change[_sample("requests_total", route="/score", code="422")] == 1
    assert change[_sample("requests_total", route="/score", code="400")] == 1
    assert change[_sample("errors_total", code="invalid_request")] == 1
    assert change[_sample("errors_total", code="invalid_json")] == 1
    usage = [answer.json()["usage"] for answer in answers]
    tokens = {
        kind: change[_sample("batch_tokens_total", kind=kind)]
        for kind in ("input", "computed", "padded")
    }
    assert tokens["input"] == sum(one["input_tokens"] for one in usage)
    assert tokens["computed"] == sum(one["computed_tokens"] for one in usage)
    assert tokens["computed"] < tokens["input"]
    assert tokens["padded"] == 0
    assert change[_sample("batch_size_tokens_sum")] == tokens["input"]
    for histogram in ("encoding_seconds", "queue_seconds", "inference_seconds"):
        assert change[_sample(f"{histogram}_count")] == 2
    timings = [answer.json()["timing"]["inference_seconds"] for answer in answers]
    assert change[_sample("inference_seconds_sum")] == pytest.approx(sum(timings))
    assert change[_sample("truncations_total")] == 0


def test_gauges_come_back_to_rest(service: Exposition) -> None:
    service.score(GROUP)
    now = service.read()
    assert now[_sample("queue_requests")] == now[_sample("queue_tokens")] == 0
    assert now[_sample("open_requests")] == 1  # the one that reads them
    assert now[_sample("ready")] == 1


def test_the_model_is_named(service: Exposition) -> None:
    [labels] = [dict(labels) for name, labels in service.read() if name == "reward_model_info"]
    model = service.http.get("/info").json()["model"]
    assert labels == {
        "model_id": "debug",
        "revision": "",
        "kind": "sequence_classifier",
        "dtype": "float32",
        "device": "cpu",
        "fingerprint": model["fingerprint"],
        "runner": "tree",
        "reference": "",
    }


def test_unknown_paths_share_one_label(service: Exposition) -> None:
    unmatched = _sample("requests_total", route="unmatched", code="404")
    before = service.read()[unmatched]
    for path in ("/nowhere", "/nowhere/else", "/score/1"):
        service.http.get(path)
    after = service.read()
    assert after[unmatched] - before == 3
    assert "nowhere" not in str(after)


def test_truncation_is_counted(start_service: Callable[..., str]) -> None:
    service = Exposition(start_service(max_input_tokens=64))
    with service.http:
        answer = service.score(
            {"prompt": "p" * 100, "completions": ["a", "b"]}, truncation="prompt_start"
        )
        [result] = answer.json()["results"]
        now = service.read()
    assert now[_sample("truncations_total")] == 2
    assert now[_sample("truncated_tokens_total")] == sum(result["truncated_tokens"]) > 0
