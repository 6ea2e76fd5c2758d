"""A score at every token of a completion, against one plain forward for each of them."""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import families
import log_probs
import oracle
from reward_client import (
    BadRequestError,
    InputTooLongError,
    NotSupportedError,
    RewardClient,
    ScoreResponse,
)
from reward_client.schema import ScoreRequest, ScoreResult
from reward_service.chat_template import ChatTemplate
from reward_service.encoding import MAX_PREFIX_TOKENS, Encoder
from reward_service.engine import ScoredGroup
from reward_service.errors import InputTooLongError as TooLongError
from reward_service.errors import NonFiniteScoreError
from reward_service.input_form import InputForm
from reward_service.inputs import Conversation, EncoderInput, GivenTokens, RenderedText
from reward_service.model_runner import Reading
from reward_service.models.families import FAMILIES
from reward_service.models.ultrarm import UltraRM
from reward_service.routes import wire
from reward_service.scheduler import Work
from reward_service.sequences import SequenceGroup, TokenSequence

StartService = Callable[..., str]
MakeModel = Callable[..., Path]
Messages = list[dict[str, str]]

QUESTION = "Which is larger, 7 or 11?"
COMPLETIONS = ["11.", "Eleven, né? 😀", "11. </s> or <|user|>", "x", "11, for one."]
HISTORY: Messages = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": QUESTION},
]
GROUPS: list[dict[str, Any]] = [
    {"prompt": QUESTION, "completions": COMPLETIONS},
    {"prompt": HISTORY, "completions": ["7, or 11?", "No"]},
    {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "漢字"}]},
]
EOS = 2
ENDING = "</s>\n"


@pytest.fixture
def client(service_url: str) -> Iterator[RewardClient]:
    with RewardClient(service_url, max_retries=0) as client:
        yield client


def _conversations(one: dict[str, Any]) -> list[tuple[Messages, str]]:
    if "messages" in one:
        return [(one["messages"][:-1], one["messages"][-1]["content"])]
    prompt = one["prompt"]
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return [(messages, completion) for completion in one["completions"]]


def _parts(folder: Path, messages: Messages, completion: str) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of its completion's text, each tokenised by itself."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    before = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return tuple(
        tokenizer(text, add_special_tokens=False).input_ids for text in (before, completion)
    )


def _ending(folder: Path) -> list[int]:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    ids: list[int] = tokenizer(ENDING, add_special_tokens=False).input_ids
    return ids


def _throughout(
    folder: Path, messages: Messages, completion: str, *, label: int = 0
) -> list[float]:
    """What the model says when the text ends with each token, the end of turn included."""
    prompt, text = _parts(folder, messages, completion)
    ids = [*prompt, *text, EOS]
    stops = range(len(prompt) + 1, len(ids) + 1)
    return [oracle.outputs_of_ids(folder, ids[:stop])[label] for stop in stops]


def _by_prefix(folder: Path, messages: Messages, completion: str, *, label: int = 0) -> list[float]:
    """What the model says of each prefix, the template's ending behind it."""
    prompt, text = _parts(folder, messages, completion)
    return [
        oracle.outputs_of_ids(folder, [*prompt, *text[:length], *_ending(folder)])[label]
        for length in range(1, len(text) + 1)
    ]


ORACLES = {True: _throughout, "prefix": _by_prefix}


def _one(response: ScoreResponse) -> ScoreResult:
    [result] = response.results
    return result


def _token_scores(client: RewardClient, one: dict[str, Any], how: Any) -> list[list[float]]:
    said = _one(client.score_many([one], token_scores=how)).token_scores
    assert said is not None
    return [scores for scores in said if scores is not None]


def _close(scores: Sequence[float]) -> Any:
    return pytest.approx(scores, rel=1e-5, abs=1e-5)


# --------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize("how", ORACLES)
def test_every_token_has_the_score_of_the_text_up_to_there(
    client: RewardClient, debug_folder: Path, how: Any
) -> None:
    results = client.score_many(GROUPS, token_scores=how).results
    plain = client.score_many(GROUPS).results
    for one, result, without in zip(GROUPS, results, plain, strict=True):
        conversations = _conversations(one)
        assert result.token_scores is not None
        assert result.scores == _close([score or 0 for score in without.scores])
        assert (result.num_tokens, result.errors) == (without.num_tokens, None)
        assert (without.token_scores, without.completion_start) == (None, None)
        for place, (messages, completion) in enumerate(conversations):
            expected = ORACLES[how](debug_folder, messages, completion)
            scores = result.token_scores[place]
            assert scores == _close(expected)
            assert len({round(score, 4) for score in expected}) == len(expected)
        starts = [len(_parts(debug_folder, *conversation)[0]) for conversation in conversations]
        assert result.completion_start == starts


def test_the_scores_are_as_many_as_the_tokens(client: RewardClient) -> None:
    throughout, prefixes = (_token_scores(client, GROUPS[0], how) for how in ORACLES)
    # Bytes, but for the special tokens that the third one names.
    tokens = [len(text.encode()) for text in COMPLETIONS]
    tokens[2] = len("11. ") + 1 + len(" or ") + 1
    assert [len(scores) for scores in prefixes] == tokens
    assert [len(scores) for scores in throughout] == [count + 1 for count in tokens]


def test_the_last_prefix_is_the_completion(client: RewardClient) -> None:
    result = _one(client.score_many(GROUPS[:1], token_scores="prefix"))
    assert result.token_scores is not None
    assert result.scores == [(scores or [None])[-1] for scores in result.token_scores]


def test_a_prompt_is_computed_once_for_all_prefixes(
    client: RewardClient, debug_folder: Path
) -> None:
    one = {"prompt": QUESTION, "completions": ["Eleven.", "Elephant!"]}
    [(messages, first), (_, second)] = _conversations(one)
    prompt, first_ids = _parts(debug_folder, messages, first)
    _, second_ids = _parts(debug_folder, messages, second)
    ending = len(_ending(debug_folder))
    usage = client.score_many([one], token_scores="prefix").usage
    distinct = {tuple(ids[:n]) for ids in (first_ids, second_ids) for n in range(1, len(ids) + 1)}
    assert usage.computed_tokens == len(prompt) + len(distinct) * (1 + ending)
    sequences = [len(prompt) + n + ending for ids in (first_ids, second_ids)
                 for n in range(1, len(ids) + 1)]  # fmt: skip
    assert usage.input_tokens == sum(sequences)
    throughout = client.score_many([one], token_scores=True).usage
    plain = client.score_many([one]).usage
    assert throughout.computed_tokens == plain.computed_tokens


def test_strangers_in_one_batch_keep_their_own(
    service_url: str, client: RewardClient, debug_folder: Path
) -> None:
    rng = random.Random(5)
    texts = ["".join(rng.choices("ab é漢\n<", k=rng.randrange(1, 30))) for _ in range(24)]
    asks = [(text, rng.choice([False, True, "prefix"])) for text in texts]

    def ask(asked: tuple[str, Any]) -> ScoreResult:
        text, how = asked
        with RewardClient(service_url) as own:
            one = {"prompt": QUESTION, "completions": [text]}
            return _one(own.score_many([one], token_scores=how))

    with ThreadPoolExecutor(12) as pool:
        results = [*pool.map(ask, asks)]
    messages = [{"role": "user", "content": QUESTION}]
    for (text, how), result in zip(asks, results, strict=True):
        assert result.scores == [_close(oracle.score(debug_folder, QUESTION, text))]
        if how:
            assert result.token_scores == [_close(ORACLES[how](debug_folder, messages, text))]
        else:
            assert result.token_scores is None


@pytest.mark.parametrize("how", ORACLES)
def test_passes_that_are_too_small_for_a_completion_change_nothing(
    start_service: StartService, debug_folder: Path, how: Any
) -> None:
    url = start_service(max_batch_tokens=64, max_queue_tokens=64)
    messages = [{"role": "user", "content": QUESTION}]
    with RewardClient(url) as client:
        [scores] = _token_scores(
            client, {"prompt": QUESTION, "completions": ["Eleven is larger than seven."]}, how
        )
    assert scores == _close(ORACLES[how](debug_folder, messages, "Eleven is larger than seven."))


@pytest.mark.parametrize("how", ORACLES)
def test_of_several_labels_the_one_that_is_the_score(
    make_model: MakeModel, start_service: StartService, how: Any
) -> None:
    folder = make_model("llama", labels=("helpful", "harmless", "brief"))
    url = start_service(model_id=str(folder), score_label="harmless")
    with RewardClient(url) as client:
        result = _one(client.score_many(GROUPS[1:2], token_scores=how, objectives=True))
    assert result.token_scores is not None
    assert result.objectives is not None
    for place, (messages, completion) in enumerate(_conversations(GROUPS[1])):
        expected = ORACLES[how](folder, messages, completion, label=1)
        assert result.token_scores[place] == _close(expected)
        outputs = oracle.outputs_of_ids(folder, oracle.token_ids(folder, messages, completion))
        objectives = result.objectives[place]
        assert objectives is not None
        assert objectives.rewards == _close(outputs)
        assert result.scores[place] == objectives.rewards[1]


@pytest.mark.parametrize("path", ["padded", "process"])
def test_every_way_to_run_a_model_knows_them(
    start_service: StartService, client: RewardClient, path: str
) -> None:
    settings = {"attention": "padded"} if path == "padded" else {"model_process": True}
    with RewardClient(start_service(**settings)) as other:
        for how in ORACLES:
            for group in GROUPS:
                scores, others = (_token_scores(one, group, how) for one in (client, other))
                assert [_close(one) for one in scores] == others


# --------------------------------------------------------------- texts and token ids


@pytest.mark.parametrize("how", ORACLES)
@pytest.mark.parametrize("start", [9, 8, 1, None])
def test_token_ids_are_scored_from_where_the_completion_starts(
    client: RewardClient, debug_folder: Path, how: Any, start: int | None
) -> None:
    ids = [1, *range(40, 52)]
    one = {"token_ids": ids} if start is None else {"token_ids": ids, "completion_start": start}
    result = _one(client.score_many([one], token_scores=how))
    # Nothing follows a prefix: what a template would write is not known.
    expected = [oracle.outputs_of_ids(debug_folder, ids[:stop])[0]
                for stop in range((start or 1) + 1, len(ids) + 1)]  # fmt: skip
    assert result.token_scores == [_close(expected)]
    assert result.completion_start == [start or 1]
    assert result.scores == [_close(expected[-1])]


@pytest.mark.parametrize("how", ORACLES)
def test_a_text_is_scored_from_where_the_completion_starts(
    client: RewardClient, debug_folder: Path, how: Any
) -> None:
    text = "<s>Say: né 😀!"
    ids = AutoTokenizer.from_pretrained(debug_folder)(text, add_special_tokens=False).input_ids
    for character, token in ((text.index("né"), 6), (text.index("é"), 7), (None, 1)):
        one = {"text": text, **({} if character is None else {"completion_start": character})}
        result = _one(client.score_many([one], token_scores=how))
        expected = [oracle.outputs_of_ids(debug_folder, ids[:stop])[0]
                    for stop in range(token + 1, len(ids) + 1)]  # fmt: skip
        assert result.token_scores == [_close(expected)]
        assert result.completion_start == [token]


@pytest.mark.parametrize("how", ORACLES)
def test_truncation_takes_of_the_prompt_alone(
    start_service: StartService, debug_folder: Path, how: Any
) -> None:
    one = {"prompt": "long " * 30, "completions": ["Short, né?", "No"]}
    with RewardClient(start_service(max_input_tokens=60)) as client:
        with pytest.raises(InputTooLongError, match="max_input_tokens=60"):
            client.score_many([one], token_scores=how)
        result = _one(client.score_many([one], token_scores=how, truncation="prompt_start"))
        [rendered] = client.render([one], truncation="prompt_start").results
        alone = {"text": "é" * 40}
        with pytest.raises(InputTooLongError, match="a completion is never truncated"):
            client.score_many([alone], token_scores=how, truncation="prompt_start")
        metrics = _metrics(client)
    assert result.token_scores is not None
    for place, (cut, completion) in enumerate(zip(rendered, one["completions"], strict=True)):
        ids = cut.token_ids
        assert len(ids) == result.num_tokens[place] == 60
        assert cut.truncated_tokens == result.truncated_tokens[place] > 0
        start, text = 60 - len(completion.encode()) - 2, len(completion.encode())
        assert (result.completion_start or [])[place] == start
        if how is True:
            sequences = [ids[:stop] for stop in range(start + 1, start + text + 2)]
        else:
            sequences = [ids[: start + length] + ids[-2:] for length in range(1, text + 1)]
        expected = [oracle.outputs_of_ids(debug_folder, one)[0] for one in sequences]
        assert result.token_scores[place] == _close(expected)
    # One for each completion, however many prefixes it has.
    assert metrics["reward_truncations"] == 2
    assert metrics["reward_truncated_tokens"] == sum(result.truncated_tokens)


def _metrics(client: RewardClient, **labels: str) -> dict[str, float]:
    """Counters by name, of series with these labels."""
    text = client._http.get(f"{client._settings.base_url}/metrics").text
    return {
        family.name: sum(
            one.value
            for one in family.samples
            if one.name.endswith("_total") and labels.items() <= one.labels.items()
        )
        for family in text_string_to_metric_families(text)
    }


@pytest.mark.parametrize("how", ORACLES)
@pytest.mark.parametrize(
    ("one", "message"),
    [
        ({"prompt": "?", "completions": ["x", ""]}, "the completion is empty"),
        ({"text": "<s>x", "completion_start": 4}, "the completion is empty"),
        ({"token_ids": [1, 40], "completion_start": 2}, "the completion is empty"),
        ({"token_ids": [1, 40], "completion_start": 0}, "completion_start must be at least 1"),
        ({"token_ids": [1]}, "a single token .* nothing stands before it"),
        ({"text": "<s>"}, "a single token .* nothing stands before it"),
    ],
)
def test_what_has_no_token_to_score_is_refused(
    client: RewardClient, how: Any, one: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadRequestError, match=message) as caught:
        client.score_many([GROUPS[0], one], token_scores=how)
    places = (caught.value.error.input_index, caught.value.error.completion_index)
    assert places == (1, len(one.get("completions", "1")) - 1)


# ---------------------------------------------------------------------- other models


@pytest.fixture(scope="module")
def encoder_folder(make_model: MakeModel) -> Path:
    """An encoder whose tokenizer writes CLS and SEP around a text."""

    def with_sep(tokenizer: Any) -> None:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>",
            pair="<s> $A </s> $B </s>",
            special_tokens=[("<s>", 1), ("</s>", 2)],
        )
        tokenizer.chat_template = None
        tokenizer.sep_token = "</s>"

    return make_model("deberta-v2", edit_tokenizer=with_sep, type_vocab_size=0)


def test_an_encoder_scores_prefixes_and_their_separator_stays(
    encoder_folder: Path, start_service: StartService
) -> None:
    text = "Which? né."
    url = start_service(model_id=str(encoder_folder), chat_template="raw")
    with RewardClient(url) as client:
        assert client.info().runner == "padded"
        with pytest.raises(NotSupportedError, match='send "token_scores": "prefix"'):
            client.score_many([GROUPS[0]], token_scores=True)
        results = client.score_many(
            [
                {"prompt": "Which? ", "completions": ["né."]},
                {"text": text, "completion_start": 7},
                {"text": text},
            ],
            token_scores="prefix",
        )
    ids = AutoTokenizer.from_pretrained(encoder_folder)(text).input_ids
    assert (ids[0], ids[-1], len(ids)) == (1, EOS, 2 + len(text.encode()))
    for result, start in zip(results.results, (8, 8, 1), strict=True):
        expected = [
            oracle.outputs_of_ids(encoder_folder, [*ids[:stop], EOS])[0]
            for stop in range(start + 1, len(ids))
        ]
        assert result.token_scores == [_close(expected)]
        assert result.completion_start == [start]
        assert result.scores == [_close(oracle.outputs_of_ids(encoder_folder, ids)[0])]
    rows = [*range(10, 14), *range(10, 14), *range(3, 14)]
    assert results.usage.input_tokens == sum(rows)
    assert results.usage.computed_tokens >= results.usage.input_tokens


def test_an_answer_in_a_segment_of_its_own_is_cut_within_it(
    encoder_folder: Path, start_service: StartService
) -> None:
    ids = AutoTokenizer.from_pretrained(encoder_folder)("Why? </s>né").input_ids
    url = start_service(model_id=str(encoder_folder), chat_template="two-segments")
    with RewardClient(url) as client:
        one = {"prompt": "Why? ", "completions": ["né"]}
        result = _one(client.score_many([one], token_scores="prefix"))
    expected = [oracle.outputs_of_ids(encoder_folder, [*ids[:stop], EOS])[0] for stop in (8, 9, 10)]
    assert result.token_scores == [_close(expected)]
    assert result.completion_start == [ids.index(EOS) + 1] == [7]


class Ending(UltraRM):
    """A family that reads at a token of its own, as InternLM2's reward models do."""

    family = "ending"
    ending = 7

    @property
    def input_form(self) -> InputForm:
        """See `RewardHead`."""
        return InputForm(ending_token=self.ending)


def test_a_token_that_ends_every_sequence_ends_every_prefix(
    tmp_path: Path, start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES, "ending", Ending)  # type: ignore[misc]
    trunk = families.random_trunk("llama")
    head = families.random_weights({"regression_head.weight": (1, families.WIDTH)})
    folder = families.write_checkpoint(
        tmp_path / "m",
        {**families.SMALL, "model_type": "llama", "architectures": ["LlamaRewardModel"]},
        {**families.named(trunk, "model."), **head},
    )

    def score(ids: list[int]) -> float:
        states = families.states_alone(trunk, ids)
        return (states[-1] @ head["regression_head.weight"][0]).item()

    user = [{"role": "user", "content": QUESTION}]
    prompt, text = _parts(folder, user, "Né 1")
    letters, mark = (_parts(folder, user, one)[1] for one in ("ab", "!"))
    ending = _ending(folder)
    whole = [*prompt, *text, *ending, Ending.ending]
    with RewardClient(start_service(model_id=str(folder), family="ending")) as client:
        with pytest.raises(NotSupportedError, match='send "token_scores": "prefix"'):
            client.score_many([GROUPS[0]], token_scores=True)
        rendered = client.render([{"prompt": QUESTION, "completions": ["Né 1"]}]).results[0][0]
        assert rendered.token_ids == whole
        inputs = [
            {"prompt": QUESTION, "completions": ["Né 1"]},
            {"token_ids": [*prompt, *text, Ending.ending], "completion_start": len(prompt)},
            {"text": "<s>ab"},
            {"token_ids": [1, 40, 41, Ending.ending]},
        ]
        results = client.score_many(inputs, token_scores="prefix").results
        [written] = client.score_many(
            [{"text": rendered.text + "!", "completion_start": len(rendered.text)}],
            token_scores="prefix",
        ).results
    expected = [
        [[*prompt, *text[:n], *ending, Ending.ending] for n in range(1, len(text) + 1)],
        [[*prompt, *text[:n], Ending.ending] for n in range(1, len(text) + 1)],
        [[1, *letters[:n], Ending.ending] for n in (1, 2)],
        [[1, 40, Ending.ending], [1, 40, 41, Ending.ending]],
    ]
    for result, sequences in zip(results, expected, strict=True):
        assert result.token_scores == [_close([score(ids) for ids in sequences])]
        assert result.scores == [_close(score(sequences[-1]))]
    assert written.token_scores == [
        _close([score([*prompt, *text, *ending, *mark, Ending.ending])])
    ]


def test_prefixes_of_a_policy_have_their_implicit_rewards(
    debug_dpo_folder: Path, start_service: StartService
) -> None:
    policy, reference = debug_dpo_folder / "policy", debug_dpo_folder / "reference"
    url = start_service(model_id=str(policy), ref_model_id=str(reference), beta=0.5)
    one = {"prompt": QUESTION, "completions": ["11, né?", "No"]}
    with RewardClient(url) as client:
        with pytest.raises(NotSupportedError, match=r"behind /logprobs\): send .* \"prefix\""):
            client.score_many([one], token_scores=True)
        results = [_one(client.score_many([one], token_scores="prefix")) for _ in range(2)]
        plain = client.score(QUESTION, one["completions"])
    for place, (messages, completion) in enumerate(_conversations(one)):
        prompt, text = _parts(policy, messages, completion)
        expected = []
        for length in range(1, len(text) + 1):
            ids = [*prompt, *text[:length], *_ending(policy)]
            counted = log_probs.Completion(ids, len(prompt), len(prompt) + length + 1)
            rewards = [log_probs.total(folder, counted) for folder in (policy, reference)]
            expected.append(0.5 * (rewards[0] - rewards[1]))
        for result in results:  # the second one's reference comes from the cache
            assert result.token_scores is not None
            assert result.token_scores[place] == pytest.approx(expected, abs=1e-4)
            assert result.scores[place] == pytest.approx(plain[place], abs=1e-4)


def test_a_model_without_scores_has_none_of_tokens(
    debug_dpo_folder: Path, start_service: StartService
) -> None:
    with RewardClient(start_service(model_id=str(debug_dpo_folder / "policy"))) as client:
        for how in ORACLES:
            with pytest.raises(NotSupportedError, match="causal language model without scores"):
                client.score_many([GROUPS[0]], token_scores=how)


# ------------------------------------------------------------------- failures and limits


@pytest.mark.parametrize("how", ORACLES)
def test_a_poisoned_completion_leaves_the_others(
    tmp_path: Path, debug_folder: Path, start_service: StartService, how: Any
) -> None:
    folder = families.write_checkpoint(tmp_path / "m", {}, {"unused": torch.zeros(1)})
    weights = load_file(debug_folder / "model.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(debug_folder)
    [poison] = tokenizer("#", add_special_tokens=False).input_ids
    weights["model.embed_tokens.weight"][poison] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text((debug_folder / "config.json").read_text())
    one = {"prompt": QUESTION, "completions": ["fine", "a # b", "good", "no #"]}
    with RewardClient(start_service(model_id=str(folder)), max_retries=0) as client:
        others, result = client.score_many([GROUPS[1], one], token_scores=how).results
        counted = _metrics(client, code="non_finite_score")
    assert others.errors is None
    assert result.errors is not None
    assert result.token_scores is not None
    failed = [error and (error.code, error.input_index, error.completion_index)
              for error in result.errors]  # fmt: skip
    assert failed == [None, ("non_finite_score", 1, 1), None, ("non_finite_score", 1, 3)]
    for place, (messages, completion) in enumerate(_conversations(one)):
        expected = None if place % 2 else _close(ORACLES[how](debug_folder, messages, completion))
        assert result.token_scores[place] == expected
        assert (result.scores[place] is None) is bool(place % 2)
    assert len(result.num_tokens) == len(result.completion_start or []) == 4
    assert counted["reward_errors"] == 2


class _Loaded:
    """As much of a loaded model as a result needs."""

    kind = "sequence_classifier"
    objectives = None

    class score_rule:  # noqa: N801
        @staticmethod
        def score(outputs: Sequence[float], reference: Any) -> float:
            return outputs[0]


def test_a_completion_fails_with_any_of_its_prefixes() -> None:
    sequences = [TokenSequence([1, *range(5, 6 + length)], 1) for length in (0, 1, 2, 0, 1)]
    readings: list[Any] = [Reading((float(place),), 1) for place in range(5)]
    readings[1] = NonFiniteScoreError("no number").at(input_index=4, completion_index=1)
    readings[0] = NonFiniteScoreError("nor this").at(input_index=4, completion_index=0)
    group = SequenceGroup(tuple(sequences), 1, parts=(3, 2))
    body = ScoreRequest.model_validate(
        {"inputs": [{"prompt": "", "completions": ["", ""]}], "token_scores": "prefix"}
    )
    result = wire.score_result(ScoredGroup(group, readings), _Loaded, body)  # type: ignore[arg-type]
    assert result.token_scores == [None, [3.0, 4.0]]
    assert result.scores == [None, 4.0]
    assert result.num_tokens == [4, 3]
    assert result.errors is not None
    [error, nothing] = result.errors
    assert nothing is None
    assert error is not None
    assert (error.input_index, error.completion_index, error.message) == (4, 0, "nor this")


def test_more_prefixes_than_fit_are_refused(client: RewardClient, loaded_debug: Any) -> None:
    encode = partial(loaded_debug.encoder.encode, truncation="error", unit="prefixes")
    prompt = [{"role": "user", "content": "?"}]
    # The prefixes of n tokens have about n * n / 2.
    most = int((2 * MAX_PREFIX_TOKENS) ** 0.5) - 30
    [group] = encode([Conversation(prompt, ["x" * most])])
    assert 0.9 * MAX_PREFIX_TOKENS < group.input_tokens <= MAX_PREFIX_TOKENS
    third = Conversation(prompt, ["x", "x" * (most // 2)])
    encode([third, third, third])
    with pytest.raises(TooLongError) as caught:
        encode([third, third, third, third, third])
    assert (caught.value.input_index, caught.value.completion_index) == (4, 1)
    assert caught.value.limit == MAX_PREFIX_TOKENS
    with pytest.raises(InputTooLongError, match="have more than 4,000,000 tokens: send fewer"):
        client.score_many(
            [{"prompt": "?", "completions": ["x" * (most + 60)]}], token_scores="prefix"
        )
    [scores] = _token_scores(client, {"prompt": "?", "completions": ["x" * 500]}, True)
    assert len(scores) == 501


def test_prefixes_wait_in_the_queue_as_what_they_cost(loaded_debug: Any) -> None:
    one = Conversation([{"role": "user", "content": QUESTION}], ["x" * 100])
    [group] = loaded_debug.encoder.encode([one], truncation="error", unit="prefixes")
    prompt = len(group.sequences[0]) - 3
    assert Work(group, 0).tokens == prompt + 100 + 2 * 100


# ------------------------------------------------------------- where a prefix is cut


def _merging_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and tokens that reach over both seams of a completion."""
    merges = [("Ċ", "a"), ("b", "Ċ"), (".", "<")]
    tokens = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ċa", "bĊ", ".<"]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(one, special=True) for one in ("<s>", "</s>")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ message.role[0] + '\n' + message.content + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'a\n' }}{% endif %}"
)


@pytest.mark.parametrize(
    ("completion", "texts"),
    [
        ("xyz", ["x", "xy", "xyz"]),
        # The first token begins in the header, the last one ends in what follows: neither is cut.
        ("a", ["a"]),
        ("ax", ["a", "ax"]),
        ("xyb", ["x", "xy", "xyb"]),
        ("b", ["b"]),
        ("", None),
    ],
)
def test_tokens_over_a_seam_are_whole(completion: str, texts: list[str] | None) -> None:
    tokenizer = _merging_tokenizer()
    encoder = Encoder(
        tokenizer, ChatTemplate(TEMPLATE, "tokenizer"), max_input_tokens=99, vocabulary_size=300
    )
    one = Conversation([{"role": "user", "content": "q"}], [completion])
    if texts is None:
        with pytest.raises(Exception, match="the completion is empty"):
            encoder.encode([one], truncation="error", boundary="whole", unit="prefixes")
        return
    [group] = encoder.encode([one], truncation="error", boundary="whole", unit="prefixes")
    whole = tokenizer.encode(f"<s>u\nq\na\n{completion}\n")
    assert group.sequences[-1].token_ids == whole
    assert group.parts == (len(texts),)
    for sequence, prefix in zip(group.sequences, texts, strict=True):
        assert tokenizer.decode(sequence.token_ids) == f"<s>u\nq\na\n{prefix}\n"
        assert sequence.completion == (group.sequences[0].completion[0], len(sequence))


@pytest.mark.parametrize("how", ["completions", "tokens", "prefixes"])
def test_units_agree_on_the_whole_completion(loaded_debug: Any, how: Any) -> None:
    inputs: list[EncoderInput] = [
        Conversation(HISTORY, ["né", "x </s> y"]),
        RenderedText("<s>abc", 4),
        GivenTokens([1, 2, 40, 41], 2),
        GivenTokens([1, 2, 40, 41]),
    ]
    plain = loaded_debug.encoder.encode(inputs, truncation="error", boundary="whole")
    groups = loaded_debug.encoder.encode(inputs, truncation="error", boundary="whole", unit=how)
    for expected, group in zip(plain, groups, strict=True):
        ends, last = [], -1
        for count in group.parts or [1] * len(group.sequences):
            last += count
            ends.append(group.sequences[last])
        assert [one.token_ids for one in ends] == [one.token_ids for one in expected.sequences]
        assert [one.completion for one in ends] == [one.completion for one in expected.sequences]


LONGROPE = {
    "original_max_position_embeddings": 64,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 64,
    },
}


@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        ("phi3", LONGROPE),  # of a long text, the first tokens have other positions than alone
        ("gemma3_text", {"use_bidirectional_attention": True}),
    ],
)
def test_where_a_token_depends_on_what_follows_only_prefixes_have_scores(
    make_model: MakeModel,
    start_service: StartService,
    model_type: str,
    config: dict[str, Any],
) -> None:
    folder = make_model(model_type, **config)
    with RewardClient(start_service(model_id=str(folder)), max_retries=0) as client:
        group = {"prompt": QUESTION, "completions": ["11, for one."]}
        with pytest.raises(NotSupportedError, match='"token_scores": "prefix"'):
            client.score_many([group], token_scores=True)
        [result] = client.score_many([group], token_scores="prefix").results
        assert result.token_scores is not None
        [said] = result.token_scores
        assert said is not None
        assert said[-1] == pytest.approx(result.scores[0], abs=1e-5)
