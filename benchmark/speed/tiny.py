"""Requests per second where the model costs next to nothing: what HTTP and the engine cost.

Three servers with the same debug model: ours, ours with an engine that does no work, and one
forward per request behind FastAPI.
"""

import json
import random
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from speed.load import LoadGenerator, LoadResult, prepared_request
from speed.process import Server
from speed.rows import Words
from speed.station import percentile, spread

CONNECTIONS = 32
REQUESTS = 64
WARM_UP_SECONDS = 0.5


def load_servers(
    folder: Path,
    *,
    host: Callable[[Callable[[], Any]], Any],
    repetitions: int,
    seconds: float,
    advance: Callable[[str], None],
) -> dict[str, Any]:
    """Requests per second of each server, round robin, as a JSON object.

    Args:
        folder: of the debug model, which is written there unless it is there.
        host: `Worker`, or `Here` in a test.
    """
    from transformers import AutoTokenizer

    from reward_service.debug_model import write_debug_model

    if not folder.exists():
        write_debug_model(folder)
    bodies = request_bodies(AutoTokenizer.from_pretrained(folder))
    ours = ["--model-id", str(folder), "--device", "cpu"]
    servers = {
        "one-forward-server": Server(
            "baselines.one_forward_server", ["--model", str(folder)], ready_path="/openapi.json"
        ),
        "constant": Server("speed.constant_server", ours, ready_path="/ready"),
        "service": Server("reward_service", ours, ready_path="/ready"),
    }
    requests = {
        name: [
            prepared_request("/get_reward" if name == "one-forward-server" else "/score", body)
            for body in bodies["query" if name == "one-forward-server" else "inputs"]
        ]
        for name in servers
    }
    generator = host(LoadGenerator)
    results: dict[str, list[LoadResult]] = {name: [] for name in servers}
    try:
        for server in servers.values():
            server.wait_until_ready()
        difference = _largest_difference(servers, bodies)
        for repetition in range(repetitions):
            for name in [*servers] if repetition % 2 == 0 else [*reversed(servers)]:
                advance(f"tiny: {name}")
                result = generator.call(
                    "run",
                    servers[name].port,
                    requests[name],
                    connections=CONNECTIONS,
                    warm_up_seconds=WARM_UP_SECONDS,
                    seconds=seconds,
                )
                results[name].append(result)
    finally:
        generator.close()
        for server in servers.values():
            server.stop()
    return {
        "connections": CONNECTIONS,
        "seconds": seconds,
        "max_score_difference": difference,
        "servers": {name: _server(name, results) for name in servers},
    }


def request_bodies(tokenizer: Any) -> dict[str, list[dict[str, Any]]]:
    """The same conversations for both protocols, of 30 to 100 tokens of the debug model's."""
    rng = random.Random(0)
    words = Words(seed=0)
    bodies: dict[str, list[dict[str, Any]]] = {"inputs": [], "query": []}
    while len(bodies["query"]) < REQUESTS:
        prompt, completion = (words.text(rng.randint(1, 8), rng) for _ in range(2))
        messages = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": completion},
        ]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        if 30 <= len(tokenizer(text, add_special_tokens=False).input_ids) <= 100:
            bodies["inputs"].append({"inputs": [{"prompt": prompt, "completions": [completion]}]})
            bodies["query"].append({"query": [text]})
    return bodies


def _largest_difference(
    servers: dict[str, Server], bodies: dict[str, list[dict[str, Any]]]
) -> float:
    """Between our scores and the baseline's: a fast wrong answer is no answer."""
    ours = [
        _post(f"{servers['service'].url}/score", body)["results"][0]["scores"][0]
        for body in bodies["inputs"]
    ]
    theirs = [
        _post(f"{servers['one-forward-server'].url}/get_reward", body)["rewards"][0]
        for body in bodies["query"]
    ]
    return max(abs(float(a) - float(b)) for a, b in zip(ours, theirs, strict=True))


def _post(url: str, body: object) -> dict[str, Any]:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def _server(name: str, results: Mapping[str, Sequence[LoadResult]]) -> dict[str, Any]:
    own = results[name]
    rates = [one.requests / one.seconds for one in own]
    return {
        "repetitions": [
            {
                "requests": one.requests,
                "failures": one.failures,
                "seconds": one.seconds,
                "latency_p50": percentile(one.latencies, 50),
                "latency_p99": percentile(one.latencies, 99),
            }
            for one in own
        ],
        "requests_per_second": spread(rates),
        "failures": sum(one.failures for one in own),
        "ratio_to": {
            other: spread(
                [
                    rate * theirs.seconds / max(theirs.requests, 1)
                    for rate, theirs in zip(rates, results[other], strict=True)
                ]
            )
            for other in results
            if other != name
        },
    }
