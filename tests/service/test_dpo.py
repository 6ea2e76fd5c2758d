"""Implicit rewards are what they are defined to be, whatever was computed, cached or shared."""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from safetensors.torch import load_file, save_file
from tests.conftest import running_service

import log_probs
from log_probs import Completion
from reward_client import RewardClient
from reward_client.schema import LogprobsResponse, LogprobsResult
from reward_service.debug_model import write_debug_model
from reward_service.inputs import Conversation
from reward_service.loading import LoadedModel, load_model
from reward_service.model_runner import BatchReadings, Reading
from reward_service.sequences import SequenceGroup
from reward_service.settings import Settings

StartService = Callable[..., str]

PROMPT = "Which is larger, 7 or 11?"
COMPLETIONS = ["11.", "Eleven, né? 😀", "7", "</s> or <|user|>", "11.", "x" * 90]
GROUP = {"prompt": PROMPT, "completions": COMPLETIONS}
HISTORY = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": PROMPT},
]


@dataclass(frozen=True)
class Pair:
    """A policy and its reference, on disk."""

    policy: Path
    reference: Path

    @property
    def settings(self) -> dict[str, str]:
        return {"model_id": str(self.policy), "ref_model_id": str(self.reference)}

    def reward(self, completion: Completion) -> float:
        policy, reference = (
            log_probs.total(one, completion) for one in (self.policy, self.reference)
        )
        return policy - reference

    def completion(self, prompt: str | Sequence[dict[str, str]], text: str) -> Completion:
        return log_probs.completion_of(self.policy, prompt, text)


@pytest.fixture(scope="module")
def pair(debug_dpo_folder: Path) -> Pair:
    return Pair(debug_dpo_folder / "policy", debug_dpo_folder / "reference")


@pytest.fixture(scope="module")
def url(pair: Pair) -> Iterator[str]:
    """A service that caches; tests ask it about prompts of their own, or do not mind."""
    with running_service(**pair.settings) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[RewardClient]:
    with RewardClient(url, max_retries=0) as client:
        yield client


def _near(expected: float | Sequence[float], tolerance: float = 1e-4) -> Any:
    """Within 1e-4, relative to the number or to 1."""
    return pytest.approx(expected, rel=tolerance, abs=tolerance)


def _ask(client: RewardClient, *inputs: Any, **options: Any) -> LogprobsResponse:
    return client.logprobs_many(
        list(inputs), **{"reference": True, "token_logprobs": True, **options}
    )


def _reference_values(response: LogprobsResponse) -> list[Any]:
    return [
        (result.reference_logprobs, result.reference_token_logprobs) for result in response.results
    ]


# ------------------------------------------------------------------------------ the number


def test_a_groups_scores_are_the_rewards(client: RewardClient, pair: Pair) -> None:
    scores = client.score(PROMPT, COMPLETIONS)
    expected = [pair.reward(pair.completion(PROMPT, text)) for text in COMPLETIONS]
    assert scores == _near(expected)
    assert len({round(score, 3) for score in scores}) == len({*COMPLETIONS})
    assert max(map(abs, scores)) > 0.3


def test_a_history_belongs_to_the_prompt(client: RewardClient, pair: Pair) -> None:
    expected = [pair.reward(pair.completion(HISTORY, text)) for text in COMPLETIONS]
    assert client.score(HISTORY, COMPLETIONS) == _near(expected)
    messages = [[*HISTORY, {"role": "assistant", "content": text}] for text in COMPLETIONS]
    answer = client.score_many([{"messages": one} for one in messages])
    assert [result.scores[0] for result in answer.results] == _near(expected)


def test_a_text_is_scored_from_the_character_that_the_caller_names(
    client: RewardClient, pair: Pair
) -> None:
    before, completion = "<s>An “é” before,", " and 😀 behind"
    tokenizer = log_probs.tokenizer_of(pair.policy)
    ids = tokenizer(before + completion, add_special_tokens=False).input_ids
    start = len(tokenizer(before, add_special_tokens=False).input_ids)
    expected = pair.reward(Completion(ids, start, len(ids)))
    one = {"text": before + completion, "completion_start": len(before)}
    assert client.score_many([one]).results[0].scores == _near([expected])
    [result] = _ask(client, one).results
    assert (result.completion_start, result.num_completion_tokens) == ([start], [len(ids) - start])


@pytest.mark.parametrize("start", [1, 2, 30, 59])
def test_token_ids_are_scored_from_the_token_that_the_caller_names(
    client: RewardClient, pair: Pair, start: int
) -> None:
    ids = random.Random(start).choices(range(262), k=60)
    one = {"token_ids": ids, "completion_start": start}
    expected = pair.reward(Completion(ids, start, 60))
    assert client.score_many([one]).results[0].scores == _near([expected])
    [result] = _ask(client, one).results
    assert result.num_completion_tokens == [60 - start]


def test_every_form_of_the_same_completion_has_the_same_numbers(
    client: RewardClient, pair: Pair
) -> None:
    completion = pair.completion(PROMPT, "11.")
    text = log_probs.tokenizer_of(pair.policy).decode(completion.ids[: completion.stop])
    response = _ask(
        client,
        {"prompt": PROMPT, "completions": ["11."]},
        {
            "messages": [
                {"role": "user", "content": PROMPT},
                {"role": "assistant", "content": "11."},
            ]
        },
        {"text": text, "completion_start": text.rindex("11.")},
        {"token_ids": completion.ids[: completion.stop], "completion_start": completion.start},
    )
    for result in response.results:
        _check(result, [completion], pair)


def _check(
    result: LogprobsResult, completions: list[Completion], pair: Pair, beta: float = 1
) -> None:
    """All numbers of a result, against the oracle."""
    policy = [log_probs.of(pair.policy, one) for one in completions]
    reference = [log_probs.of(pair.reference, one) for one in completions]
    assert result.errors is None
    assert result.logprobs == _near([math.fsum(one) for one in policy])
    assert result.reference_logprobs == _near([math.fsum(one) for one in reference])
    assert result.completion_start == [one.start for one in completions]
    assert result.num_completion_tokens == [one.stop - one.start for one in completions]
    assert result.scores == _near(
        [beta * (math.fsum(a) - math.fsum(b)) for a, b in zip(policy, reference, strict=True)]
    )
    for column, expected in (
        (result.token_logprobs, policy),
        (result.reference_token_logprobs, reference),
    ):
        assert column is not None
        for values, right in zip(column, expected, strict=True):
            assert values == _near(right)


def test_logprobs_say_what_the_score_is_made_of(client: RewardClient, pair: Pair) -> None:
    inputs = [GROUP, {"prompt": HISTORY, "completions": COMPLETIONS}]
    response = _ask(client, *inputs)
    scores = [result.scores for result in client.score_many(inputs).results]
    for prompt, result, score in zip((PROMPT, HISTORY), response.results, scores, strict=True):
        _check(result, [pair.completion(prompt, text) for text in COMPLETIONS], pair)
        assert result.scores == _near(score, 1e-5)


@pytest.mark.parametrize("beta", [0.1, 1e-6, 25.0])
def test_beta_is_a_factor(
    start_service: StartService, client: RewardClient, pair: Pair, beta: float
) -> None:
    expected = client.score(PROMPT, COMPLETIONS)
    with RewardClient(start_service(**pair.settings, beta=beta)) as other:
        scores = other.score(PROMPT, COMPLETIONS)
        [result] = _ask(other, GROUP).results
        formula = f"{beta:g} * (sum of log-probs - sum of the reference's log-probs)"
        assert other.info().score_rule == formula
    assert scores == pytest.approx([beta * one for one in expected], rel=1e-4, abs=beta * 1e-4)
    assert result.scores == pytest.approx(scores, rel=1e-6)


def test_a_reference_of_its_own_is_all_zeros(
    start_service: StartService, pair: Pair, tmp_path: Path
) -> None:
    write_debug_model(tmp_path / "again", kind="dpo")
    twin = replace(pair, reference=tmp_path / "again" / "policy")
    with RewardClient(start_service(**twin.settings)) as client:
        assert client.score(PROMPT, COMPLETIONS) == [0.0] * len(COMPLETIONS)


def test_a_sequence_longer_than_a_pass_and_many_at_once(
    start_service: StartService, pair: Pair
) -> None:
    texts = ["long " * 120, "short", "other " * 60]
    inputs = [{"prompt": PROMPT + str(i), "completions": texts} for i in range(4)]
    url = start_service(**pair.settings, max_batch_tokens=300, max_logits_bytes=10_000)
    with RewardClient(url) as client:
        for i, result in enumerate(_ask(client, *inputs).results):
            _check(result, [pair.completion(PROMPT + str(i), text) for text in texts], pair)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near(start_service: StartService, pair: Pair, dtype: str) -> None:
    with RewardClient(start_service(**pair.settings, dtype=dtype)) as client:
        [result] = _ask(client, {"prompt": PROMPT, "completions": ["11.", "x" * 90]}).results
        assert client.info().reference.dtype == dtype
    completions = [pair.completion(PROMPT, text) for text in ("11.", "x" * 90)]
    for folder, values in (
        (pair.policy, result.logprobs),
        (pair.reference, result.reference_logprobs),
    ):
        assert values == pytest.approx(
            [log_probs.total(folder, one) for one in completions], rel=0.02
        )


# ------------------------------------------------------------------ what is not asked again


def _metrics(url: str) -> Counter[str]:
    """Tokens of the reference that were ever computed, and cached."""
    return Counter(
        {
            sample.labels["kind"]: sample.value
            for family in text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
            for sample in family.samples
            if sample.name == "reward_reference_tokens_total"
        }
    )


def _added(url: str, before: Counter[str]) -> dict[str, float]:
    now = _metrics(url)
    return {kind: now[kind] - before[kind] for kind in ("computed", "cached")}


def test_without_reference_it_is_not_run(client: RewardClient, url: str) -> None:
    before = _metrics(url)
    response = _ask(client, {**GROUP, "prompt": "not asked"}, reference=False)
    assert response.usage.computed_tokens > 0
    assert response.usage.reference_computed_tokens == response.usage.reference_cached_tokens == 0
    assert _added(url, before) == {"computed": 0, "cached": 0}
    [result] = response.results
    assert result.reference_logprobs is result.reference_token_logprobs is result.scores is None


def test_the_second_time_nothing_is_computed_and_the_values_are_the_same(
    client: RewardClient, url: str, pair: Pair
) -> None:
    inputs = [{"prompt": f"second time {i}", "completions": COMPLETIONS} for i in range(3)]
    before = _metrics(url)
    first = _ask(client, *inputs)
    # Policy and reference compute the same tree.
    assert first.usage.reference_computed_tokens == first.usage.computed_tokens > 0
    assert first.usage.reference_cached_tokens == 0
    assert _added(url, before) == {"computed": first.usage.computed_tokens, "cached": 0}
    before = _metrics(url)
    second = _ask(client, *inputs)
    tokens = sum(sum(result.num_tokens) for result in second.results)
    assert second.usage.reference_computed_tokens == 0
    assert second.usage.reference_cached_tokens == tokens == second.usage.input_tokens
    assert second.usage.computed_tokens == first.usage.computed_tokens
    assert _added(url, before) == {"computed": 0, "cached": tokens}
    assert _reference_values(second) == _reference_values(first)
    for i, result in enumerate(second.results):
        _check(result, [pair.completion(f"second time {i}", text) for text in COMPLETIONS], pair)


@pytest.mark.parametrize("route", ["score", "compare", "rank"])
def test_every_route_that_scores_fills_and_uses_the_cache(url: str, route: str) -> None:
    body = {"inputs": [{"prompt": f"by {route}", "completions": ["one", "other"]}]}
    with httpx.Client(base_url=url) as http:
        first, second = (http.post(f"/{route}", json=body).json() for _ in range(2))
        asked = http.post("/logprobs", json={**body, "reference": True}).json()
    assert first["usage"]["reference_computed_tokens"] > 0
    for answer in (second, asked):
        assert answer["usage"]["reference_computed_tokens"] == 0
        assert answer["usage"]["reference_cached_tokens"] == answer["usage"]["input_tokens"]
    assert first["results"] == second["results"]


def test_of_a_group_only_what_is_new_is_computed(client: RewardClient, pair: Pair) -> None:
    prompt = "partly known"

    def ask(*texts: str) -> tuple[LogprobsResult, Any]:
        response = _ask(client, {"prompt": prompt, "completions": [*texts]})
        [result] = response.results
        _check(result, [pair.completion(prompt, text) for text in texts], pair)
        return result, response.usage

    known, _ = ask("a", "bb")
    mixed, usage = ask("cc", "bb", "ddd", "a")
    assert mixed.reference_logprobs[1] == known.reference_logprobs[1]
    assert mixed.reference_logprobs[3] == known.reference_logprobs[0]
    assert usage.reference_cached_tokens == mixed.num_tokens[1] + mixed.num_tokens[3]
    # The prompt once, and of each new completion what it does not share.
    assert 0 < usage.reference_computed_tokens < mixed.num_tokens[0] + mixed.num_tokens[2]
    _, usage = ask("ddd", "cc", "bb", "a")
    assert usage.reference_computed_tokens == 0


def test_another_boundary_is_another_question(client: RewardClient, pair: Pair) -> None:
    ids = random.Random(3).choices(range(262), k=30)
    for start in (10, 20, 10):
        response = _ask(client, {"token_ids": ids, "completion_start": start})
        _check(response.results[0], [Completion(ids, start, 30)], pair)
    assert response.usage.reference_computed_tokens == 0


def _trained_further(pair: Pair, folder: Path) -> Pair:
    """Another policy that was trained from the same reference."""
    folder.mkdir()
    for file in pair.policy.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(3)
    for name, values in weights.items():
        weights[name] = values + 0.01 * torch.randn(values.shape, generator=generator)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return replace(pair, policy=folder)


def test_a_file_serves_the_next_start_and_other_policies_of_the_same_reference(
    pair: Pair, tmp_path: Path
) -> None:
    file = tmp_path / "reference.sqlite"
    other = _trained_further(pair, tmp_path / "other")
    first: list[Any] = []
    for which in (pair, pair, other):
        is_known = bool(first)
        with (
            running_service(**which.settings, reference_cache=file) as url,
            RewardClient(url) as client,
        ):
            response = _ask(client, GROUP, {"prompt": HISTORY, "completions": COMPLETIONS})
        first = first or _reference_values(response)
        assert _reference_values(response) == first
        assert (response.usage.reference_computed_tokens == 0) is is_known
        for prompt, result in zip((PROMPT, HISTORY), response.results, strict=True):
            _check(result, [which.completion(prompt, text) for text in COMPLETIONS], which)


def test_what_another_reference_said_is_not_used(pair: Pair, tmp_path: Path) -> None:
    file = tmp_path / "reference.sqlite"
    write_debug_model(tmp_path / "other", kind="dpo", seed=1)
    other = replace(pair, reference=tmp_path / "other" / "reference")
    for which, options in ((pair, {}), (other, {}), (pair, {"dtype": "bfloat16"})):
        with (
            running_service(**which.settings, **options, reference_cache=file) as url,
            RewardClient(url) as client,
        ):
            response = _ask(client, GROUP)
        assert response.usage.reference_cached_tokens == 0
        if not options:
            completions = [which.completion(PROMPT, text) for text in COMPLETIONS]
            _check(response.results[0], completions, which)


def test_two_running_services_share_a_file(
    start_service: StartService, pair: Pair, tmp_path: Path
) -> None:
    urls = [start_service(**pair.settings, reference_cache=tmp_path / "file") for _ in range(2)]
    answers = []
    for url in urls:
        with RewardClient(url) as client:
            answers.append(_ask(client, GROUP))
    assert answers[0].usage.reference_computed_tokens > 0
    assert answers[1].usage.reference_computed_tokens == 0
    assert _reference_values(answers[0]) == _reference_values(answers[1])


def test_no_bytes_keep_nothing(start_service: StartService, pair: Pair) -> None:
    with RewardClient(start_service(**pair.settings, reference_cache_bytes=0)) as client:
        for _ in range(2):
            response = _ask(client, GROUP)
            assert response.usage.reference_computed_tokens > 0
            assert response.usage.reference_cached_tokens == 0
            _check(
                response.results[0], [pair.completion(PROMPT, text) for text in COMPLETIONS], pair
            )


def test_many_callers_at_once_have_their_own_numbers_whatever_is_evicted(
    start_service: StartService, pair: Pair, tmp_path: Path
) -> None:
    # Room for a few answers only; batches of several callers, some of whom want no reference.
    url = start_service(
        **pair.settings,
        reference_cache=tmp_path / "file",
        reference_cache_bytes=1500,
        max_batch_tokens=400,
    )

    def ask(seed: int) -> None:
        rng = random.Random(seed)
        with RewardClient(url) as client:
            for _ in range(6):
                prompt = rng.choice(["p", "another prompt"])
                texts = rng.choices(
                    [chr(code) * 9 for code in range(97, 110)], k=rng.randrange(1, 5)
                )
                completions = [pair.completion(prompt, text) for text in texts]
                if rng.random() < 0.3:
                    assert client.logprobs(prompt, texts) == _near(
                        [log_probs.total(pair.policy, one) for one in completions]
                    )
                else:
                    [result] = _ask(client, {"prompt": prompt, "completions": texts}).results
                    _check(result, completions, pair)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(6)))


def test_a_damaged_file_costs_no_answer(
    pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "reference.sqlite"
    file.write_bytes(random.Random(1).randbytes(20_000))
    with running_service(**pair.settings, reference_cache=file) as url, RewardClient(url) as client:
        for _ in range(2):
            response = _ask(client, GROUP)
            _check(
                response.results[0], [pair.completion(PROMPT, text) for text in COMPLETIONS], pair
            )
    assert response.usage.reference_computed_tokens == 0
    assert "it begins anew" in caplog.text


# --------------------------------------------------------------------- the runner by itself


@pytest.fixture(scope="module", params=["tree", "padded"])
def loaded(request: pytest.FixtureRequest, pair: Pair) -> LoadedModel:
    """The pair with a cache of its own, packed in a tree or padded."""
    loaded = load_model(Settings(**pair.settings, attention=request.param))
    assert loaded.path == request.param
    return loaded


def _encoded(
    loaded: LoadedModel, prompt: str, *texts: str, with_reference: bool = True
) -> SequenceGroup:
    conversation = Conversation([{"role": "user", "content": prompt}], texts)
    [group] = loaded.encoder.encode([conversation], truncation="error", boundary="known")
    return replace(group, with_reference=with_reference)


def _run(loaded: LoadedModel, *groups: SequenceGroup) -> BatchReadings:
    return loaded.runner.run(loaded.runner.prepare(groups))


def _check_readings(readings: BatchReadings, groups: Sequence[SequenceGroup], pair: Pair) -> None:
    for group, row in zip(groups, readings.groups, strict=True):
        for sequence, one in zip(group.sequences, row, strict=True):
            assert isinstance(one, Reading)
            completion = Completion(sequence.token_ids, *sequence.completion)
            assert one.outputs == _near(tuple(log_probs.of(pair.policy, completion)))
            if group.with_reference:
                assert one.reference is not None
                assert one.reference.outputs == _near(
                    tuple(log_probs.of(pair.reference, completion))
                )
            else:
                assert one.reference is None


def test_a_batch_may_mix_groups_with_and_without_reference(loaded: LoadedModel, pair: Pair) -> None:
    groups = [
        _encoded(loaded, "mixed", "a", "b", with_reference=False),
        _encoded(loaded, "mixed", "b", "c"),
        _encoded(loaded, "other", "d"),
        _encoded(loaded, "mixed", "c", with_reference=False),
        _encoded(loaded, "mixed", "e", "b"),
    ]
    readings = _run(loaded, *groups)
    _check_readings(readings, groups, pair)
    assert readings.reference_cached_tokens == 0
    assert 0 < readings.reference_computed_tokens <= readings.computed_tokens
    again = _run(loaded, *groups)
    _check_readings(again, groups, pair)
    assert again.reference_computed_tokens == 0
    assert again.reference_cached_tokens == sum(
        group.input_tokens for group in groups if group.with_reference
    )


def test_whatever_is_known_already_every_reading_is_right(loaded: LoadedModel, pair: Pair) -> None:
    rng = random.Random(11)
    for _ in range(25):
        groups = [
            _encoded(
                loaded,
                rng.choice(["p", "another prompt", "p?"]),
                *rng.choices("abcdefgh", k=rng.randrange(1, 5)),
                with_reference=rng.random() < 0.7,
            )
            for _ in range(rng.randrange(1, 5))
        ]
        readings = _run(loaded, *groups)
        _check_readings(readings, groups, pair)
        wanted = sum(group.input_tokens for group in groups if group.with_reference)
        assert readings.reference_cached_tokens <= wanted


def test_batches_that_are_prepared_ahead_may_run_in_their_turn(
    loaded: LoadedModel, pair: Pair
) -> None:
    """The second is prepared before the first has remembered what they have in common."""
    groups = [_encoded(loaded, "ahead", "a", "b"), _encoded(loaded, "ahead", "b", "c")]
    prepared = [loaded.runner.prepare([group]) for group in groups]
    for group, batch in zip(groups, prepared, strict=True):
        _check_readings(loaded.runner.run(batch), [group], pair)
    assert _run(loaded, *groups).reference_computed_tokens == 0


# ------------------------------------------------------------------------ what goes wrong


def _poisoned(folder: Path, copy: Path, text: str) -> Path:
    """A copy of a model for which this one-token text is no number."""
    copy.mkdir(parents=True)
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = load_file(copy / "model.safetensors")
    [token_id] = log_probs.tokenizer_of(folder)(text, add_special_tokens=False).input_ids
    weights["model.embed_tokens.weight"][token_id] = float("nan")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


@pytest.mark.parametrize("attention", ["tree", "padded"])
def test_poison_in_either_model_fails_one_completion_alone(
    start_service: StartService, pair: Pair, tmp_path: Path, attention: str
) -> None:
    poisoned = Pair(
        _poisoned(pair.policy, tmp_path / "policy", "Z"),
        _poisoned(pair.reference, tmp_path / "reference", "Q"),
    )
    texts = ["fine", "Zip", "Quip", "also fine", "ZQ"]
    expected = [pair.reward(pair.completion(PROMPT, text)) for text in texts]
    url = start_service(**poisoned.settings, attention=attention)
    with RewardClient(url) as client:
        for _ in range(2):  # the second time from the cache
            failed, other = client.score_many(
                [
                    {"prompt": PROMPT, "completions": texts},
                    {"prompt": "Hi", "completions": ["there"]},
                ]
            ).results
            assert [error and error.code for error in failed.errors] == [
                None,
                "non_finite_score",
                "non_finite_score",
                None,
                "non_finite_score",
            ]
            assert [error.completion_index for error in failed.errors if error] == [1, 2, 4]
            assert failed.scores == [_near(expected[0]), None, None, _near(expected[3]), None]
            assert other.errors is None
            assert other.scores == _near([pair.reward(pair.completion("Hi", "there"))])
        # The reference's trouble is no concern of who does not ask it.
        [alone] = _ask(client, {"prompt": PROMPT, "completions": texts}, reference=False).results
        assert [error and error.code for error in alone.errors] == [
            None,
            "non_finite_score",
            None,
            None,
            "non_finite_score",
        ]
        [asked] = _ask(client, {"prompt": PROMPT, "completions": texts}).results
        for column in (asked.logprobs, asked.reference_logprobs, asked.scores):
            assert [one is None for one in column] == [False, True, True, False, True]


# ----------------------------------------------------------------------- compare and rank


def _post(url: str, route: str, *inputs: Any) -> Any:
    answer = httpx.post(f"{url}/{route}", json={"inputs": inputs})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture(params=["dpo", "classifier"])
def scoring_url(request: pytest.FixtureRequest) -> str:
    """A service of either kind that has scores."""
    url: str = request.getfixturevalue({"dpo": "url", "classifier": "service_url"}[request.param])
    return url


PAIRS = [("11.", "7"), ("é" * 40, "x" * 90), ("same", "same")]


def test_a_preference_is_the_logistic_function_of_the_difference(scoring_url: str) -> None:
    inputs = [{"prompt": PROMPT, "completions": [*one]} for one in PAIRS]
    scores = [one["scores"] for one in _post(scoring_url, "score", *inputs)["results"]]
    answer = _post(scoring_url, "compare", *inputs)
    for result, (first, second) in zip(answer["results"], scores, strict=True):
        assert result["scores"] == _near([first, second], 1e-5)
        assert result["preference"] == pytest.approx(1 / (1 + math.exp(second - first)), abs=1e-5)
        assert 0 <= result["preference"] <= 1
        assert result["errors"] is None
    assert answer["results"][-1]["preference"] == 0.5
    swapped = [{**one, "completions": one["completions"][::-1]} for one in inputs]
    for result, other in zip(
        answer["results"], _post(scoring_url, "compare", *swapped)["results"], strict=True
    ):
        assert other["preference"] == pytest.approx(1 - result["preference"], abs=1e-6)
    with RewardClient(scoring_url) as client:
        assert client.compare(PROMPT, *PAIRS[0]) == _near(answer["results"][0]["preference"], 1e-5)


def test_a_rank_is_best_first_and_equals_stay_in_order(scoring_url: str) -> None:
    texts = ["b", "a", "c", "a", "b", "a", "d" * 30]
    [result] = _post(scoring_url, "rank", {"prompt": PROMPT, "completions": texts})["results"]
    scores = result["scores"]
    assert (
        scores
        == _post(scoring_url, "score", {"prompt": PROMPT, "completions": texts})["results"][0][
            "scores"
        ]
    )
    assert sorted(result["order"]) == [*range(len(texts))]
    assert result["order"] == sorted(range(len(texts)), key=lambda place: (-scores[place], place))
    assert [place for place in result["order"] if texts[place] == "a"] == [1, 3, 5]
    assert [place for place in result["order"] if texts[place] == "b"] == [0, 4]
    assert result["errors"] is None
    with RewardClient(scoring_url) as client:
        assert client.rank(PROMPT, texts) == result["order"]


def test_a_margin_of_thousands_is_a_preference_too(start_service: StartService, pair: Pair) -> None:
    url = start_service(**pair.settings, beta=1e4)
    inputs = [
        {"prompt": PROMPT, "completions": one} for one in (["11.", "x" * 90], ["x" * 90, "11."])
    ]
    results = _post(url, "compare", *inputs)["results"]
    assert {result["preference"] for result in results} == {0.0, 1.0}
    assert all((one["preference"] == 1) == (one["scores"][0] > one["scores"][1]) for one in results)


def test_what_has_no_score_is_neither_compared_nor_ranked(
    start_service: StartService, pair: Pair, tmp_path: Path
) -> None:
    reference = _poisoned(pair.reference, tmp_path / "reference", "Z")
    url = start_service(model_id=str(pair.policy), ref_model_id=str(reference))
    sound, broken = _post(
        url,
        "compare",
        {"prompt": PROMPT, "completions": ["a", "b"]},
        {"prompt": PROMPT, "completions": ["a", "Z"]},
    )["results"]
    assert sound["preference"] is not None
    assert sound["errors"] is None
    assert broken["preference"] is None
    assert [one is None for one in broken["scores"]] == [False, True]
    assert [one and one["code"] for one in broken["errors"]] == [None, "non_finite_score"]
    texts = ["a", "Z", "b", "c"]
    [ranked] = _post(url, "rank", {"prompt": PROMPT, "completions": texts})["results"]
    assert sorted(ranked["order"]) == [0, 2, 3]
    assert [one and one["completion_index"] for one in ranked["errors"]] == [None, 1, None, None]


# -------------------------------------------------------------------------- reference-free


def _rewardbench(values: list[float], kind: str) -> float:
    """As `rewardbench/dpo.py` has it, where a mask says which tokens are the completion's."""
    mask = torch.tensor([False] * 5 + [True] * len(values) + [False] * 3)
    per_token = torch.full((len(mask),), 9.0, dtype=torch.float64)
    per_token[mask] = torch.tensor(values, dtype=torch.float64)
    match kind:
        case "avg":
            return float((per_token * mask).sum(-1) / mask.sum(-1))
        case "sum":
            return float((per_token * mask).sum(-1))
    return float(-torch.linalg.norm(per_token * mask, dim=-1))


@pytest.mark.parametrize("kind", ["avg", "sum", "norm"])
def test_without_a_reference_scores_are_rewardbenchs(
    start_service: StartService, pair: Pair, kind: str
) -> None:
    url = start_service(model_id=str(pair.policy), reference_free=kind)
    with RewardClient(url) as client:
        response = client.score_many([GROUP, {"prompt": HISTORY, "completions": COMPLETIONS}])
        info = client.info()
        order = client.rank(PROMPT, COMPLETIONS)
    for prompt, result in zip((PROMPT, HISTORY), response.results, strict=True):
        values = [log_probs.of(pair.policy, pair.completion(prompt, text)) for text in COMPLETIONS]
        assert result.scores == _near([_rewardbench(one, kind) for one in values])
    scores = response.results[0].scores
    assert order == sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    assert response.usage.reference_computed_tokens == response.usage.reference_cached_tokens == 0
    assert info.reference is None
    assert (info.model.kind, info.capabilities) == (
        "dpo",
        ["score", "compare", "rank", "logprobs", "render"],
    )


# --------------------------------------------------------------------------- what is served


def test_info_tells_policy_and_reference(client: RewardClient, pair: Pair) -> None:
    info = client.info()
    assert (info.model.id, info.model.kind) == (str(pair.policy), "dpo")
    assert info.architecture == "LlamaForCausalLM"
    assert info.capabilities == ["score", "compare", "rank", "logprobs", "render"]
    assert (info.labels, info.score_label) == ([], None)
    assert info.score_rule == "1 * (sum of log-probs - sum of the reference's log-probs)"
    assert info.reference is not None
    assert (info.reference.id, info.reference.dtype) == (str(pair.reference), "float32")
    assert len(info.reference.fingerprint) == 16
    assert info.reference.fingerprint != info.model.fingerprint


def test_a_fingerprint_stands_for_beta_and_reference(pair: Pair, tmp_path: Path) -> None:
    write_debug_model(tmp_path / "other", kind="dpo", seed=1)
    choices: list[dict[str, Any]] = [
        pair.settings,
        {**pair.settings, "beta": 0.1},
        {**pair.settings, "ref_model_id": str(tmp_path / "other" / "reference")},
        {"model_id": str(pair.policy)},
        {"model_id": str(pair.policy), "reference_free": "avg"},
        {"model_id": str(pair.policy), "reference_free": "sum"},
    ]
    loaded = [load_model(Settings(**choice)) for choice in choices]
    assert len({one.fingerprint for one in loaded}) == len(choices)
    references = [one.reference.fingerprint for one in loaded if one.reference]
    assert references[0] == references[1] != references[2]
    again = load_model(Settings(**pair.settings, reference_cache_bytes=0, max_batch_tokens=999))
    assert again.fingerprint == loaded[0].fingerprint


def test_the_built_in_policy_has_a_built_in_reference(
    start_service: StartService, pair: Pair
) -> None:
    url = start_service(model_id="debug-policy", ref_model_id="debug-reference")
    with RewardClient(url) as client:
        expected = [pair.reward(pair.completion(PROMPT, text)) for text in COMPLETIONS]
        assert client.score(PROMPT, COMPLETIONS) == _near(expected)
        assert client.info().reference.id == "debug-reference"


def test_in_a_process_of_its_own_the_numbers_are_the_same(pair: Pair, tmp_path: Path) -> None:
    inputs = [GROUP, {"prompt": HISTORY, "completions": COMPLETIONS}]
    answers = []
    for model_process in (False, True):
        options = {"model_process": model_process, "reference_cache": tmp_path / str(model_process)}
        with (
            running_service(**pair.settings, **options) as url,
            RewardClient(url) as client,
        ):
            answers.append([_ask(client, *inputs), _ask(client, *inputs)])
    (here, here_again), (there, there_again) = answers
    assert there.model == here.model
    assert there.results == here.results
    assert there.usage == here.usage
    assert there_again.results == here_again.results
    assert there_again.usage == here_again.usage
    assert there_again.usage.reference_computed_tokens == 0
