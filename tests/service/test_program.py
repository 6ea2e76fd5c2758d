"""The `reward-service` program as an operator meets it: exit status, one sentence, one log."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from program import COMMAND, Program, fetch, running


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    with ExitStack() as stack:
        yield lambda *flags, **environment: stack.enter_context(
            running(tmp_path / "log", *flags, **environment)
        )


def _run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )


# ----------------------------------------------------------------------------- exit status


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        ([], {}, "--model-id (or REWARD_MODEL_ID) is required"),
        (["--model-id", "debug", "--port", "http"], {}, "--port (or REWARD_PORT) is 'http'"),
        (["--model-id", "debug"], {"REWARD_DTYPE": "int8"}, "REWARD_DTYPE) is 'int8'"),
        (["--model-id", "debug", "--modle", "x"], {}, "--modle"),
        (["debug"], {}, "debug"),
        (["--model-id", "debug", "--host", "no.such.host.invalid"], {}, "cannot listen on no.such"),
    ],
)
def test_a_wrong_setting_is_one_sentence(
    arguments: list[str], environment: dict[str, str], words: str
) -> None:
    done = _run(*arguments, **environment)
    assert done.returncode == 1
    assert done.stdout == ""
    [sentence] = done.stderr.splitlines()
    assert sentence.startswith("reward-service: ")
    assert words in sentence


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = _run("--model-id", "debug", "--port", port)
    assert done.returncode == 1
    [sentence] = done.stderr.splitlines()
    assert f"cannot listen on 127.0.0.1 port {port}: address already in use" in sentence


def test_help_names_the_variables() -> None:
    done = _run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "REWARD_MODEL_ID" in done.stdout
    assert "debug-model" in done.stdout


def test_debug_model_is_written_once(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "model"
    done = _run("debug-model", folder)
    assert (done.returncode, done.stdout) == (0, f"debug model written to {folder}\n")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        file.name for file in folder.iterdir()
    }
    again = _run("debug-model", folder)
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1
    assert "not empty" in again.stderr


# Two seconds of work before the template says no.
SLOW_REFUSAL = (
    "{% for i in range(99) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    "{{ raise_exception('not this one') }}"
)


@pytest.fixture
def slow_broken_model(debug_folder: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(debug_folder, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(SLOW_REFUSAL)
    return folder


def test_health_answers_while_a_model_fails_to_load(
    start: Callable[..., Program], slow_broken_model: Path
) -> None:
    program = start("--model-id", slow_broken_model)
    url = program.url
    assert program.wait_for(lambda: fetch(url, "/health")).status_code == 200
    for path in ("/ready", "/info"):
        refused = httpx.get(url + path)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "not_ready"
        assert int(refused.headers["Retry-After"]) >= 1
    assert program.process.wait(30) == 1
    *log, sentence = program.lines
    assert sentence.startswith("reward-service: ")
    assert sentence.endswith("not this one")
    assert all(json.loads(line) for line in log)


def test_sigterm_while_the_model_loads(
    start: Callable[..., Program], slow_broken_model: Path
) -> None:
    program = start("--model-id", slow_broken_model)
    url = program.url
    program.wait_for(lambda: fetch(url, "/health"))
    assert program.stop() == 0


# ---------------------------------------------------------------------------------- SIGTERM


def test_sigterm_answers_every_request_in_flight(start: Callable[..., Program]) -> None:
    program = start("--model-id", "debug", "--max-input-tokens", "2048")
    program.wait_until_ready()
    url = program.url
    # Some keep the device busy, some the tokenizer: neither kind may be forgotten.
    long = {"prompt": "Hi", "completions": ["x" * 1000] * 16}
    wide = {"prompt": "x" * 400_000, "completions": ["Hello"]}
    bodies = [{"inputs": [long]}] * 6 + [{"inputs": [wide], "truncation": "prompt_start"}] * 12

    def ask(body: dict[str, Any]) -> httpx.Response:
        return httpx.post(f"{url}/score", json=body, timeout=60)

    def open_requests() -> int:
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        [value] = [line.split()[1] for line in lines if line.startswith("reward_open_requests ")]
        return int(float(value)) - 1  # the one that asks

    with ThreadPoolExecutor(len(bodies)) as pool:
        asked: list[Future[httpx.Response]] = [pool.submit(ask, body) for body in bodies]
        program.wait_for(lambda: open_requests() + sum(one.done() for one in asked) >= len(bodies))
        time.sleep(0.3)  # their bodies are read
        assert sum(one.done() for one in asked) < len(bodies) / 2
        program.process.send_signal(signal.SIGTERM)
        program.wait_for(lambda: (late := fetch(url, "/ready")) is None or late.status_code == 503)
        answers = [one.result() for one in asked]
    statuses = [answer.status_code for answer in answers]
    assert statuses == [200] * len(bodies), [a.text for a in answers if a.status_code != 200][:1]
    for body, answer in zip(bodies, answers, strict=True):
        [result] = answer.json()["results"]
        assert len(result["scores"]) == len(body["inputs"][0]["completions"])
    assert program.process.wait(30) == 0
    assert "draining" in {json.loads(line)["event"] for line in program.lines}


# ------------------------------------------------------------------------------------- log


def test_the_log_is_json_with_one_line_per_request_and_no_contents(
    start: Callable[..., Program],
) -> None:
    key, secret = "k3y-of-the-caller", "s3cret-contents"
    program = start("--model-id", "debug", REWARD_API_KEY=key)
    program.wait_until_ready()
    group = {"prompt": secret, "completions": [secret, "No."]}
    bodies: dict[str, object] = {
        "right": {"inputs": [group, group]},
        "unknown-field": {"inputs": [{**group, secret: secret}]},
        "wrong-role": {
            "inputs": [{"prompt": [{"role": secret, "content": secret}], "completions": [secret]}]
        },
        "wrong-type": {"inputs": [group], "timeout_seconds": secret},
        "too-long": {"inputs": [{"text": secret * 2000}]},
    }
    url = program.url
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) as http:
        for name, body in bodies.items():
            http.post("/score", json=body, headers={"X-Request-ID": name})
        http.get(f"/{secret}", params={"q": secret}, headers={"X-Request-ID": "unknown-route"})
        http.get("/info", headers={"Authorization": f"Bearer {secret}", "X-Request-ID": "intruder"})
        for _ in range(3):
            http.get("/health")
    assert program.stop() == 0
    text = "\n".join(program.lines)
    assert secret not in text
    assert key not in text
    events = [json.loads(line) for line in program.lines]
    assert all({"level", "logger", "event", "time"} <= set(event) for event in events)
    assert {"listening", "ready", "draining"} <= {event["event"] for event in events}
    requests = {
        event["request_id"]: event
        for event in events
        if event["event"] == "request" and event["route"] != "/ready"
    }
    codes = {name: (event["status"], event.get("code")) for name, event in requests.items()}
    assert codes == {
        "right": (200, None),
        "unknown-field": (422, "invalid_request"),
        "wrong-role": (422, "template_failed"),
        "wrong-type": (422, "invalid_request"),
        "too-long": (422, "input_too_long"),
        "unknown-route": (404, "not_found"),
        "intruder": (401, "unauthorized"),
    }
    assert (requests["right"]["inputs"], requests["right"]["completions"]) == (2, 4)
    assert requests["right"]["total_seconds"] >= requests["right"]["inference_seconds"] > 0
