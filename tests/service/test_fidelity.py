"""The number must be right: each rule against a plain one-by-one transformers forward."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

import oracle
from reward_client import RewardClient
from reward_service.inputs import Conversation, GivenTokens
from reward_service.loading import LoadedModel, load_model
from reward_service.model_runner import Reading, Runner
from reward_service.models.sequence_classifier import DecoderClassifier
from reward_service.sequences import SequenceGroup
from reward_service.settings import Settings

MakeModel = Callable[..., Path]

TOLERANCE = 1e-5
BFLOAT16_BOUND, FLOAT16_BOUND = 0.03, 0.004
"""Stated in docs/architecture.md: |batched - alone|, relative to the largest score."""

DECODERS = ["llama", "mistral", "gemma", "gemma2", "qwen2", "qwen3", "gpt2", "gpt_neox", "opt"]
ENCODERS = ["bert", "roberta", "distilbert", "deberta-v2", "electra", "modernbert"]


def _groups(seed: int, count: int = 12) -> list[Conversation]:
    rng = random.Random(seed)

    def words(most: int) -> str:
        letters = "abc é漢\n0<|"
        return "".join(rng.choice(letters) for _ in range(rng.randrange(1, most)))

    return [
        Conversation(
            [{"role": "user", "content": words(60)}],
            [words(120) for _ in range(rng.randrange(1, 5))] + [""],
        )
        for _ in range(count)
    ]


def _scores(loaded: LoadedModel, groups: list[Conversation]) -> list[list[float]]:
    encoded = loaded.encoder.encode(groups, truncation="error")
    return _read(loaded.runner, encoded)


def _read(runner: Runner[Any], encoded: list[SequenceGroup]) -> list[list[float]]:
    """Scores of every sequence; whatever has none fails the test."""
    read = runner.run(runner.prepare(encoded))
    scores = []
    for group in read.groups:
        assert all(isinstance(one, Reading) for one in group), group
        scores.append([one.outputs[0] for one in group])  # type: ignore[union-attr]
    return scores


# ---------------------------------------------------------------- rule 1: token ids


def test_token_ids_are_the_chat_templates_own(
    loaded_debug: LoadedModel, debug_folder: Path
) -> None:
    for group in _groups(1):
        [encoded] = loaded_debug.encoder.encode([group], truncation="error")
        prompt = group.prompt[0]["content"]
        for completion, sequence in zip(group.completions, encoded.sequences, strict=True):
            expected = oracle.token_ids(debug_folder, prompt, completion)
            assert sequence.token_ids == expected
            assert sequence.token_ids.count(1) == expected.count(1) == 1  # one BOS


def test_completion_starts_where_its_first_character_is(
    loaded_debug: LoadedModel, debug_folder: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(debug_folder)
    for group in _groups(2):
        [encoded] = loaded_debug.encoder.encode([group], truncation="error")
        for completion, sequence in zip(group.completions, encoded.sequences, strict=True):
            assert sequence.completion_start is not None
            tail = tokenizer.decode(sequence.token_ids[sequence.completion_start :])
            assert tail == completion + "</s>\n"


def test_a_rendered_text_scores_like_the_conversation_it_came_from(service_url: str) -> None:
    with RewardClient(service_url) as client:
        rendered = client.render([{"prompt": "Hi", "completions": ["Hello é", ""]}]).results[0]
        as_text = client.score_many([{"text": one.text} for one in rendered])
        as_ids = client.score_many([{"token_ids": one.token_ids} for one in rendered])
        expected = client.score("Hi", ["Hello é", ""])
        assert [r.scores[0] for r in as_text.results] == pytest.approx(expected, abs=TOLERANCE)
        assert [r.scores[0] for r in as_ids.results] == pytest.approx(expected, abs=TOLERANCE)


# -------------------------------------------------- rules 2 and 4: position and neighbours


@pytest.mark.parametrize(
    ("model_type", "path"),
    [*((one, "tree") for one in DECODERS), *((one, "padded") for one in ENCODERS)],
)
def test_batched_scores_equal_plain_transformers(
    make_model: MakeModel, model_type: str, path: str
) -> None:
    folder = make_model(model_type)
    loaded = load_model(Settings(model_id=str(folder), max_batch_tokens=2048))
    assert loaded.runner.path == path
    groups = _groups(3)
    encoded = loaded.encoder.encode(groups, truncation="error")
    for group, scores in zip(encoded, _scores(loaded, groups), strict=True):
        for sequence, score in zip(group.sequences, scores, strict=True):
            [expected] = oracle.outputs_of_ids(folder, sequence.token_ids)
            assert score == pytest.approx(expected, abs=TOLERANCE)


def test_neighbours_and_order_do_not_matter(loaded_debug: LoadedModel) -> None:
    groups = _groups(4, count=20)
    expected = _scores(loaded_debug, groups)
    for seed in range(5):
        order = list(range(len(groups)))
        random.Random(seed).shuffle(order)
        some = order[: 3 + 4 * seed]
        read = _scores(loaded_debug, [groups[i] for i in some])
        for place, scores in zip(some, read, strict=True):
            assert scores == pytest.approx(expected[place], abs=TOLERANCE)


@pytest.mark.parametrize("pad_token", ["</s>", "\u010a", None])
def test_padding_that_is_a_real_token_cannot_move_the_score(
    make_model: MakeModel, pad_token: str | None
) -> None:
    # transformers reads the last token that is not padding: with pad == EOS that is the token
    # before EOS, and with pad == "\n" the one before the newline that ends the template.
    def use_as_padding(tokenizer: object) -> None:
        tokenizer.pad_token = pad_token  # type: ignore[attr-defined]

    pad_id = {"</s>": 2, "\u010a": 204, None: None}[pad_token]
    folder = make_model("llama", edit_tokenizer=use_as_padding, pad_token_id=pad_id)
    loaded = load_model(Settings(model_id=str(folder)))
    groups = _groups(5)
    for group, scores in zip(groups, _scores(loaded, groups), strict=True):
        for completion, score in zip(group.completions, scores, strict=True):
            expected = oracle.score(folder, group.prompt[0]["content"], completion)
            assert score == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("dtype", "bound"), [("bfloat16", BFLOAT16_BOUND), ("float16", FLOAT16_BOUND)]
)
def test_half_precision_stays_within_the_stated_bound(
    make_model: MakeModel, dtype: str, bound: float
) -> None:
    folder = make_model("llama", dtype=getattr(torch, dtype))
    loaded = load_model(Settings(model_id=str(folder)))
    assert (loaded.dtype, loaded.runner.path) == (dtype, "tree")
    groups = _groups(6, count=20)
    together = [score for scores in _scores(loaded, groups) for score in scores]
    alone = [
        oracle.outputs_of_ids(folder, sequence.token_ids)[0]
        for group in loaded.encoder.encode(groups, truncation="error")
        for sequence in group.sequences
    ]
    scale = max(map(abs, alone))
    assert together == pytest.approx(alone, abs=bound * scale)


@pytest.mark.parametrize(
    ("wrong", "path"), [({"outputs"}, "tree"), ({"outputs", "tree_outputs"}, "alone")]
)
def test_a_model_that_packing_changes_is_served_more_slowly_and_right(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, wrong: set[str], path: str
) -> None:
    for name in wrong:
        right = getattr(DecoderClassifier, name)
        monkeypatch.setattr(
            DecoderClassifier, name, lambda *given, right=right: right(*given) * 1.01
        )
    folder = make_model("llama")
    loaded = load_model(Settings(model_id=str(folder)))
    assert loaded.runner.path == path
    encoded = loaded.encoder.encode(_groups(7), truncation="error")
    for group, scores in zip(encoded, _read(loaded.runner, encoded), strict=True):
        for sequence, score in zip(group.sequences, scores, strict=True):
            [expected] = oracle.outputs_of_ids(folder, sequence.token_ids)
            assert score == pytest.approx(expected, abs=TOLERANCE)


def test_64_concurrent_clients_get_their_own_scores_in_order(
    service_url: str, debug_folder: Path
) -> None:
    groups = _groups(8, count=64)

    def ask(group: Conversation) -> list[float]:
        with RewardClient(service_url) as client:
            form = hash(group.completions[0]) % 3
            prompt = group.prompt[0]["content"]
            if form == 0:
                return client.score(prompt, group.completions)
            if form == 1:
                inputs = [
                    {"messages": [*group.prompt, {"role": "assistant", "content": completion}]}
                    for completion in group.completions
                ]
            else:
                inputs = [
                    {"token_ids": oracle.token_ids(debug_folder, prompt, completion)}
                    for completion in group.completions
                ]
            return [result.scores[0] for result in client.score_many(inputs).results]

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(ask, groups))
    for group, scores in zip(groups, answers, strict=True):
        prompt = group.prompt[0]["content"]
        expected = [oracle.score(debug_folder, prompt, one) for one in group.completions]
        assert scores == pytest.approx(expected, abs=TOLERANCE)


# -------------------------------------------------------------- rule 3: truncation


def test_nothing_is_truncated_unless_asked(start_service: Callable[..., str]) -> None:
    with RewardClient(start_service(max_input_tokens=64)) as client:
        fits = client.score_many([{"prompt": "a" * 30, "completions": ["b"]}]).results[0]
        assert fits.truncated_tokens == [0]
        with pytest.raises(Exception, match=r"max_input_tokens=64") as caught:
            client.score("a" * 80, ["b"])
        assert caught.value.error.limit == 64
        assert (caught.value.error.input_index, caught.value.error.completion_index) == (0, 0)


def test_truncation_drops_the_start_of_the_prompt_only(make_model: MakeModel) -> None:
    folder = make_model("llama")
    loaded = load_model(Settings(model_id=str(folder), max_input_tokens=64))
    group = Conversation([{"role": "user", "content": "p" * 90}], ["short", "longer " * 4])
    [encoded] = loaded.encoder.encode([group], truncation="prompt_start")
    for completion, sequence in zip(group.completions, encoded.sequences, strict=True):
        whole = oracle.token_ids(folder, "p" * 90, completion)
        dropped = len(whole) - 64
        assert sequence.truncated_tokens == dropped
        assert sequence.token_ids == whole[:1] + whole[1 + dropped :]  # BOS stays
        assert sequence.completion_start == 64 - len(completion) - 2
    [scores] = _read(loaded.runner, [encoded])
    expected = [oracle.outputs_of_ids(folder, s.token_ids)[0] for s in encoded.sequences]
    assert scores == pytest.approx(expected, abs=TOLERANCE)


def test_a_completion_is_never_truncated(start_service: Callable[..., str]) -> None:
    with (
        RewardClient(start_service(max_input_tokens=64)) as client,
        pytest.raises(Exception, match="a completion is never truncated"),
    ):
        client.score("p", ["c" * 70], truncation="prompt_start")


# --------------------------------------------------------------- rule 5: non-finite


def test_a_non_finite_score_is_that_completions_error_alone(
    make_model: MakeModel, start_service: Callable[..., str]
) -> None:
    folder = make_model("llama")
    _poison_token(folder, token=ord("Z"), text="Z")
    with RewardClient(start_service(model_id=str(folder)), max_retries=0) as client:
        response = client.score_many(
            [
                {"prompt": "Hi", "completions": ["fine", "Z", "also fine"]},
                {"prompt": "Hi", "completions": ["fine"]},
            ]
        )
        poisoned, healthy = response.results
        assert poisoned.scores[1] is None
        assert [error and error.code for error in poisoned.errors] == [
            None,
            "non_finite_score",
            None,
        ]
        assert healthy.errors is None
        expected = oracle.score(folder, "Hi", "fine")
        assert poisoned.scores[0] == pytest.approx(expected, abs=TOLERANCE)
        assert healthy.scores[0] == pytest.approx(expected, abs=TOLERANCE)


def _poison_token(folder: Path, *, token: int, text: str) -> None:
    from safetensors.torch import load_file, save_file

    [token_id] = AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False).input_ids
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][token_id] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


# --------------------------------------------------- rule 6: precision of what is reported


def test_scores_are_reported_in_float32_whatever_the_dtype(make_model: MakeModel) -> None:
    folder = make_model("llama", dtype=torch.bfloat16)
    loaded = load_model(Settings(model_id=str(folder)))
    ids = oracle.token_ids(folder, "Hi", "there")
    encoded = loaded.encoder.encode([GivenTokens(ids)], truncation="error")
    [scores] = _read(loaded.runner, encoded)
    assert scores == pytest.approx(oracle.outputs_of_ids(folder, ids), abs=0.02)


# ------------------------------------------------------------------ several outputs


def test_several_labels_need_a_choice_and_come_back_as_objectives(
    make_model: MakeModel, start_service: Callable[..., str]
) -> None:
    folder = make_model("llama", labels=("helpful", "harmless", "honest"))
    ids = oracle.token_ids(folder, "Hi", "there")
    expected = oracle.outputs_of_ids(folder, ids)
    for choice, index in (("harmless", 1), ("2", 2)):
        url = start_service(model_id=str(folder), score_label=choice)
        with RewardClient(url) as client:
            [plain] = client.score_many([{"token_ids": ids}]).results
            [full] = client.score_many([{"token_ids": ids}], objectives=True).results
            assert plain.objectives is None
            assert plain.scores == pytest.approx([expected[index]], abs=TOLERANCE)
            [objectives] = full.objectives
            assert objectives.names == ["helpful", "harmless", "honest"]
            assert objectives.rewards == pytest.approx(expected, abs=TOLERANCE)
            assert objectives.gating is objectives.coefficients is objectives.distributions is None
