"""Whatever a caller sends: one clear answer in the wire shape, and a service that still scores."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from reward_client import AuthenticationError, RewardClient
from reward_client.schema import ERROR_RULES
from reward_service.app import create_app
from reward_service.engine import Engine, Scored
from reward_service.errors import InferenceFailedError
from reward_service.settings import Settings

GROUP = {"prompt": "Hi", "completions": ["Hello", "No."]}
COMPUTE_ROUTES = ("/score", "/logprobs", "/compare", "/rank")

ROUTES = {
    **dict.fromkeys(COMPUTE_ROUTES, "post"),
    "/render": "post",
    "/info": "get",
    "/health": "get",
    "/ready": "get",
    "/metrics": "get",
}


@pytest.fixture(scope="module")
def http(service_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service_url, timeout=60) as client:
        yield client


def _post(http: httpx.Client, body: object, route: str = "/score", **headers: str) -> Any:
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    return http.post(
        route, content=content, headers={"Content-Type": "application/json", **headers}
    )


def _error(response: httpx.Response, code: str) -> dict[str, Any]:
    """The error of a refusal, after checking all that every refusal has in common."""
    error = response.json()["error"]
    assert error["code"] == code, error
    assert response.status_code == ERROR_RULES[error["code"]].status
    assert set(response.json()) == {"error"}
    assert set(error) == {"code", "message", "input_index", "completion_index", "limit"}
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["X-Request-ID"]
    assert "Traceback" not in error["message"]
    assert "{{" not in error["message"]
    assert len(error["message"]) < 500
    return error


def _scores(http: httpx.Client, one: object = GROUP, **options: object) -> list[float]:
    response = _post(http, {"inputs": [one], **options})
    assert response.status_code == 200, response.text
    return response.json()["results"][0]["scores"]


# ------------------------------------------------------------------------------- refusals

REFUSED = {
    "broken JSON": ('{"inputs": [', "invalid_json", "not JSON"),
    "no UTF-8": (b'{"inputs": "\xff"}', "invalid_json", ""),
    "nested too deep": ('{"inputs":' + "[" * 100_000, "invalid_json", ""),
    "a number of 5000 digits": ('{"inputs":[%s]}' % ("9" * 5000), "invalid_json", ""),
    "no body": ("", "invalid_request", "body"),
    "a list": ("[]", "invalid_request", "body"),
    "null": ("null", "invalid_request", "body"),
    "no inputs": ({}, "invalid_request", "inputs"),
    "empty inputs": ({"inputs": []}, "invalid_request", "inputs: .*at least 1"),
    "an input of no known form": ({"inputs": [{}]}, "invalid_request", "one of {prompt, compl"),
    "no completions": (
        {"inputs": [{"prompt": "Hi", "completions": []}]},
        "invalid_request",
        r"inputs\[0\]\.completions: .*at least 1",
    ),
    "unknown field": ({"inputs": [GROUP], "scroes": 1}, "invalid_request", "^scroes: "),
    "unknown field of an input": (
        {"inputs": [GROUP, {**GROUP, "responses": []}]},
        "invalid_request",
        r"^inputs\[1\]\.responses: ",
    ),
    "unknown field of a message": (
        {
            "inputs": [
                {"prompt": [{"role": "user", "content": "Hi", "name": "x"}], "completions": ["a"]}
            ]
        },
        "invalid_request",
        r"^inputs\[0\]\.prompt\[0\]\.name: ",
    ),
    "the last message is not the assistant's": (
        {"inputs": [{"messages": [{"role": "user", "content": "Hi"}]}]},
        "invalid_request",
        "role 'assistant', not 'user'",
    ),
    "a number for a text": (
        {"inputs": [{"prompt": "Hi", "completions": ["a", 1]}]},
        "invalid_request",
        r"inputs\[0\]\.completions\[1\]: .*string",
    ),
    "lone surrogate": (
        r'{"inputs":[{"prompt":"Hi","completions":["a","b\ud800"]}]}',
        "invalid_request",
        r"completions\[1\]: character 1 is a lone surrogate \(U\+D800\)",
    ),
    "lone surrogate in a role": (
        r'{"inputs":[{"prompt":[{"role":"\udfff","content":""}],"completions":["a"]}]}',
        "invalid_request",
        r"prompt\[0\]\.role: .*U\+DFFF",
    ),
    "lone surrogate in a field name": (
        r'{"inputs":[{"prompt":"Hi","completions":["a"],"\ud800":1}]}',
        "invalid_request",
        r"inputs\[0\]",
    ),
    "a role that the template does not know": (
        {"inputs": [{"prompt": [{"role": "tool", "content": "x"}], "completions": ["a"]}]},
        "template_failed",
        r"roles: tool, assistant\): no role 'tool': use system, user or assistant",
    ),
    "token id beyond the vocabulary": (
        {"inputs": [{"token_ids": [1, 262]}]},
        "invalid_token_ids",
        r"262 is outside the model's vocabulary \(0 to 261\)",
    ),
    "negative token id": ({"inputs": [{"token_ids": [1, -1]}]}, "invalid_token_ids", "id -1 is"),
    "token id beyond 64 bits": (
        {"inputs": [{"token_ids": [10**40]}]},
        "invalid_token_ids",
        "outside the model's vocabulary",
    ),
    "no token ids": ({"inputs": [{"token_ids": []}]}, "invalid_request", "at least 1"),
    "completion start beyond the end": (
        {"inputs": [{"token_ids": [1, 2], "completion_start": 3}]},
        "invalid_request",
        "completion_start is 3, but there are only 2 token ids",
    ),
    "negative completion start": (
        {"inputs": [{"token_ids": [1, 2], "completion_start": -1}]},
        "invalid_request",
        "completion_start: .*greater than or equal to 0",
    ),
    "NaN": (
        '{"inputs":[{"text":"Hi"}],"timeout_seconds":NaN}',
        "invalid_request",
        "timeout_seconds: .*finite",
    ),
    "Infinity": (
        '{"inputs":[{"text":"Hi"}],"timeout_seconds":Infinity}',
        "invalid_request",
        "timeout_seconds: .*finite",
    ),
    "zero timeout": (
        {"inputs": [GROUP], "timeout_seconds": 0},
        "invalid_request",
        "timeout_seconds: .*greater than 0",
    ),
    "priority out of range": (
        {"inputs": [GROUP], "priority": 101},
        "invalid_request",
        "priority: .*less than or equal to 100",
    ),
    "token scores": (
        {"inputs": [GROUP], "token_scores": "prefixes"},
        "invalid_request",
        "^token_scores: .*'prefix'",
    ),
    "vLLM's /score": (
        {"queries": "Hi", "documents": ["a", "b"]},
        "invalid_request",
        r"vLLM's /score \(queries, documents\).*"
        r'send {"inputs": \[{"prompt": …, "completions": \[…\]}\]}',
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_request_is_one_clear_error(http: httpx.Client, case: str) -> None:
    body, code, words = REFUSED[case]
    expected = _scores(http)
    error = _error(_post(http, body), code)
    assert re.search(words, error["message"]), error["message"]
    assert _scores(http) == expected


def test_a_body_of_another_type_says_which_one_to_send(http: httpx.Client) -> None:
    body = json.dumps({"inputs": [GROUP]})
    for sent in ("application/x-www-form-urlencoded", "text/plain", None):
        headers = {"Content-Type": sent} if sent else {}
        error = _error(http.post("/score", content=body, headers=headers), "invalid_request")
        assert "application/json" in error["message"]
        assert (sent or "missing") in error["message"]


def test_an_error_says_which_input_and_completion(http: httpx.Client) -> None:
    error = _error(_post(http, {"inputs": [GROUP, {"token_ids": [999]}]}), "invalid_token_ids")
    assert (error["input_index"], error["completion_index"], error["limit"]) == (1, 0, 261)
    body = r'{"inputs":[{"text":"a"},{"prompt":"Hi","completions":["a","\ud800"]}]}'
    error = _error(_post(http, body), "invalid_request")
    assert (error["input_index"], error["completion_index"]) == (1, 1)


def test_ten_megabytes_of_text_are_refused_before_they_are_tokenised(http: httpx.Client) -> None:
    body = json.dumps({"inputs": [{"prompt": "Hi", "completions": ["fine", "x" * 10_000_000]}]})
    error = _error(_post(http, body), "input_too_long")
    assert re.search(r"10,000,\d\d\d characters .* 16,384 tokens", error["message"])
    assert (error["input_index"], error["completion_index"]) == (0, 1)
    assert error["limit"] == 16384
    assert _scores(http)


def test_too_long_an_input_says_how_long_and_the_limit(http: httpx.Client) -> None:
    body = {"inputs": [GROUP, {"prompt": "Hi", "completions": ["", "x" * 20_000]}]}
    for route in ("/score", "/render"):
        error = _error(_post(http, body, route), "input_too_long")
        assert re.search(r"20,0\d\d tokens exceed max_input_tokens=16,384", error["message"])
        assert (error["input_index"], error["completion_index"]) == (1, 1)


def test_a_deadline_is_kept(http: httpx.Client) -> None:
    response = _post(http, {"inputs": [GROUP], "timeout_seconds": 1e-6})
    error = _error(response, "deadline_exceeded")
    assert "timeout_seconds" in error["message"]
    assert _scores(http)


def test_limits_are_named_when_they_are_exceeded(start_service: Callable[..., str]) -> None:
    url = start_service(max_client_batch_size=3, max_request_bytes=10_000)
    with httpx.Client(base_url=url) as http:
        error = _error(_post(http, {"inputs": [GROUP] * 4}), "too_many_inputs")
        assert re.search(r"4 inputs .* limit is 3 \(max_client_batch_size\)", error["message"])
        assert error["limit"] == 3
        for body in (b"x" * 5_000_000, iter([b"x" * 1000] * 5000)):  # iter: chunked, no length
            response = http.post("/score", content=body)
            error = _error(response, "request_too_large")
            assert "max_request_bytes=10,000" in error["message"]
            assert error["limit"] == 10_000
        assert len(_post(http, {"inputs": [GROUP] * 3}).json()["results"]) == 3


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/score", "method_not_allowed"),
        ("DELETE", "/health", "method_not_allowed"),
        ("GET", "/docs", "not_found"),
        ("GET", "/redoc", "not_found"),
        ("POST", "/v1/score", "not_found"),
    ],
)
def test_wrong_methods_and_routes(http: httpx.Client, method: str, path: str, code: str) -> None:
    error = _error(http.request(method, path), code)
    assert f"{method} {path}" in error["message"]


def test_a_bug_of_the_service_is_an_internal_error_that_is_counted() -> None:
    app = create_app(Settings(model_id="debug"))

    @app.get("/broken")
    async def broken() -> None:
        raise KeyError("contents of a request")

    async def ask() -> tuple[httpx.Response, str]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
            return await http.get("/broken"), (await http.get("/metrics")).text

    response, metrics = asyncio.run(ask())
    error = _error(response, "internal_error")
    assert "contents of a request" not in error["message"]
    assert 'reward_requests_total{code="500",route="unmatched"} 1.0' in metrics
    assert 'reward_errors_total{code="internal_error"} 1.0' in metrics


# -------------------------------------------------------------------------------- API key


def test_without_the_api_key_only_probes_are_answered(start_service: Callable[..., str]) -> None:
    key = "s3cret-key"
    url = start_service(api_key=key, max_request_bytes=10_000)
    answers = []
    with httpx.Client(base_url=url) as http:
        for path in ("/health", "/ready", "/metrics", "/openapi.json"):
            answers.append(http.get(path))
            assert answers[-1].status_code == 200
        # 401 whatever the body is: it is not looked at.
        for body in (json.dumps({"inputs": [GROUP]}), "{", "x" * 100_000):
            for sent in ({}, {"Authorization": "Bearer s3cret"}, {"Authorization": key}):
                response = _post(http, body, **sent)
                error = _error(response, "unauthorized")
                assert response.headers["WWW-Authenticate"] == "Bearer"
                assert ("is wrong" if sent else "wants an API key") in error["message"]
                answers.append(response)
        for path in ("/info", "/nowhere"):
            _error(http.get(path), "unauthorized")
        right = _post(http, {"inputs": [GROUP]}, Authorization=f"Bearer {key}")
        assert right.status_code == 200
        answers += [right, http.get("/info", headers={"Authorization": f"Bearer {key}"})]
        answers.append(http.get("/metrics"))
    assert not [answer for answer in answers if key in f"{answer.text}{answer.headers}"]
    with RewardClient(url, api_key=key) as client:
        assert len(client.score("Hi", ["a", "b"])) == 2
    with RewardClient(url) as client, pytest.raises(AuthenticationError):
        client.score("Hi", ["a"])


# -------------------------------------------------------------------------------- answers


def test_the_example_of_the_design_is_accepted_verbatim(http: httpx.Client) -> None:
    body = """{"inputs":
               [{"prompt":"How do I detail a car?","completions":["Wash it first …","No."]}],
               "token_scores":false, "objectives":false, "truncation":"error",
               "timeout_seconds":30, "priority":0}"""
    answer = _post(http, body).json()
    assert set(answer) == {"model", "results", "usage", "timing"}
    assert set(answer["model"]) == {"id", "revision", "kind", "dtype", "fingerprint"}
    [result] = answer["results"]
    assert [isinstance(score, float) for score in result["scores"]] == [True, True]
    assert result["token_scores"] is result["objectives"] is result["errors"] is None
    assert answer["usage"]["input_tokens"] == sum(result["num_tokens"])
    # Both completions share the prompt, which is computed once.
    assert 0 < answer["usage"]["computed_tokens"] < answer["usage"]["input_tokens"]
    timing = answer["timing"]
    parts = timing["encoding_seconds"] + timing["queue_seconds"] + timing["inference_seconds"]
    assert 0 < parts <= timing["total_seconds"]


@pytest.mark.parametrize("completion", ["", "\0", "a\0b", "\ufffe", "🦀é漢", "<s>", "</s>"])
def test_any_text_is_scored(http: httpx.Client, completion: str) -> None:
    [score] = _scores(http, {"prompt": completion, "completions": [completion]})
    assert isinstance(score, float)


def test_every_form_of_input_is_scored(http: httpx.Client) -> None:
    user, assistant = ({"role": role, "content": "Hi"} for role in ("user", "assistant"))
    [expected] = _scores(http, {"prompt": "Hi", "completions": ["Hi"]})
    [rendered] = _post(http, {"inputs": [{"messages": [user, assistant]}]}, "/render").json()[
        "results"
    ][0]
    for one in (
        {"prompt": [user], "completions": ["Hi"]},
        {"messages": [user, assistant]},
        {"text": rendered["text"]},
        {"token_ids": rendered["token_ids"]},
        {"token_ids": rendered["token_ids"], "completion_start": rendered["completion_start"]},
    ):
        assert _scores(http, one) == pytest.approx([expected], abs=1e-5)


@pytest.mark.parametrize("priority", [-100, 100])
def test_priority_does_not_change_a_score(http: httpx.Client, priority: int) -> None:
    assert _scores(http, priority=priority) == pytest.approx(_scores(http), abs=1e-5)


def test_objectives_name_every_label(http: httpx.Client) -> None:
    [result] = _post(http, {"inputs": [GROUP], "objectives": True}).json()["results"]
    nothing = {"gating": None, "coefficients": None, "distributions": None}
    assert result["objectives"] == [
        {"names": ["LABEL_0"], "rewards": [score], **nothing} for score in result["scores"]
    ]


def test_a_completion_that_failed_leaves_its_neighbours_their_scores(
    start_service: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = []
    really_score = Engine.score

    async def score(self: Engine, *args: Any, client: str, **options: Any) -> Scored:
        clients.append(client)
        scored = await really_score(self, *args, client=client, **options)
        failure = InferenceFailedError("the pass raised", input_index=0, completion_index=1)
        scored.groups[0].readings[1] = failure
        return scored

    monkeypatch.setattr(Engine, "score", score)
    with httpx.Client(base_url=start_service()) as http:
        answer = _post(http, {"inputs": [GROUP], "objectives": True}).json()
        metrics = http.get("/metrics").text
    [result] = answer["results"]
    assert [isinstance(score, float) for score in result["scores"]] == [True, False]
    assert result["scores"][1] is result["objectives"][1] is result["errors"][0] is None
    assert result["errors"][1] == {
        "code": "inference_failed",
        "message": "the pass raised",
        "input_index": 0,
        "completion_index": 1,
        "limit": None,
    }
    assert 'reward_errors_total{code="inference_failed"} 1.0' in metrics
    assert clients == ["127.0.0.1"]


def test_render_shows_what_is_scored(http: httpx.Client) -> None:
    answer = _post(http, {"inputs": [{"prompt": "Hi", "completions": ["Yo", ""]}]}, "/render")
    first, second = answer.json()["results"][0]
    assert first["text"] == "<s><|user|>\nHi</s>\n<|assistant|>\nYo</s>\n"
    assert first["tokens"][:2] == ["<s>", "<|user|>"]
    assert first["token_ids"][0] == 1
    assert len(first["tokens"]) == len(first["token_ids"]) == first["read_position"] + 1
    assert first["tokens"][first["completion_start"] :] == ["Y", "o", "</s>", "Ċ"]
    assert second["completion_start"] == first["completion_start"]
    assert (first["truncated_tokens"], first["warnings"]) == (0, [])


def test_info_tells_model_template_limits_and_versions(start_service: Callable[..., str]) -> None:
    info = httpx.get(start_service(max_input_tokens=100, max_queue_tokens=5000) + "/info").json()
    assert info["model"]["id"] == "debug"
    assert info["architecture"] == "LlamaForSequenceClassification"
    assert (info["labels"], info["score_label"]) == (["LABEL_0"], "LABEL_0")
    assert info["capabilities"] == ["score", "compare", "rank", "render"]
    assert (info["device"], info["model"]["dtype"], info["runner"]) == ("cpu", "float32", "tree")
    assert info["template"]["source"] == "tokenizer"
    assert re.fullmatch("[0-9a-f]{64}", info["template"]["sha256"])
    assert info["limits"]["max_input_tokens"] == 100
    assert info["limits"]["max_queue_tokens"] == 5000
    assert {"rewardserve", "torch", "transformers", "tokenizers"} <= set(info["versions"])


def test_a_request_id_comes_back_and_a_hostile_one_is_replaced(http: httpx.Client) -> None:
    def answered(*given: bytes | str) -> str:
        headers = [(b"X-Request-ID", one) for one in given]
        return http.get("/info", headers=headers).headers["X-Request-ID"]

    assert answered("step-17/batch 3") == "step-17/batch 3"
    hostile = ["x" * 10_000, "é".encode(), b"a\tb", b""]
    made = [answered(), *map(answered, hostile)]
    assert len(set(made)) == len(made)
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)


# ------------------------------------------------------------------------------ OpenAPI


def test_openapi_documents_every_route_and_every_error_status(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    assert {path: [*methods] for path, methods in paths.items()} == {
        path: [method] for path, method in ROUTES.items()
    }
    for path in (*COMPUTE_ROUTES, "/render", "/info", "/ready"):
        documented = set(paths[path][ROUTES[path]]["responses"])
        assert documented == {"200", *(str(rule.status) for rule in ERROR_RULES.values())}


@pytest.fixture(scope="module")
def api(service_url: str) -> BaseSchema:
    return schemathesis.openapi.from_url(f"{service_url}/openapi.json")


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("route", [*COMPUTE_ROUTES, "/render"])
def test_whatever_is_sent_is_answered_as_documented(
    api: BaseSchema, route: str, mode: GenerationMode
) -> None:
    # schemathesis' own list of checks calls a 504 a crash; for an impossible deadline it is right.
    checks = [status_code_conformance, content_type_conformance, response_schema_conformance]

    @given(api[route]["POST"].as_strategy(generation_mode=mode))
    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def check(case: schemathesis.Case) -> None:
        response = case.call(timeout=60)
        assert response.status_code not in (500, 503), response.text
        case.validate_response(response, checks=checks)

    check()
