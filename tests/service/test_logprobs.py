"""Log-probabilities are those of plain float64 transformers, whoever shares the pass."""

import copy
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertConfig,
    BertLMHeadModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaForCausalLM,
)

import oracle
from reward_service.attention import BLOCK_TOKENS
from reward_service.debug_model import write_debug_model
from reward_service.errors import (
    InferenceFailedError,
    NonFiniteScoreError,
    ServiceError,
    StartupError,
)
from reward_service.inputs import Conversation
from reward_service.loading import load_model
from reward_service.model_runner import ModelRunner, Outputs, Reading
from reward_service.models.causal_lm import (
    CausalLM,
    _answering,
    _read_log_softmax,
    check_causality,
    is_language_model,
)
from reward_service.sequences import SequenceGroup, TokenSequence
from reward_service.settings import Settings

RandomModel = Callable[..., PreTrainedModel]
MakeModel = Callable[..., Path]

TOLERANCE = 1e-5
"""Of one token's log-probability, in float32."""
SUM_TOLERANCE = 1e-4
"""Of a completion's, relative."""

BFLOAT16_BOUND = 0.01
"""|ours - transformers' own in the same format| of a token, relative to the largest log-prob. Of a
completion's sum, relative to that or to itself, whichever is larger."""
FLOAT16_BOUND = 0.003

VOCABULARY = 262
PLENTY = 1 << 28
"""Bytes for logits, the setting's default."""

WINDOW = 24
SLIDING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
# All experts are used: near a tie, rounding alone decides which of them a token goes to.
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 4, "moe_intermediate_size": 16}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 4}
SOFT_CAP = {"query_pre_attn_scalar": 8, "final_logit_softcapping": 4.0, **SLIDING}
EYE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
SEEING = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    **SOFT_CAP,
}
LONGROPE_BOUNDARY = 60
LONGROPE = {
    "original_max_position_embeddings": LONGROPE_BOUNDARY,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 3.0, 4.0, 5.0],
        "original_max_position_embeddings": LONGROPE_BOUNDARY,
    },
}
GPTJ = {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 512}

Architectures = dict[str, tuple[str, dict[str, Any]]]

TREE: Architectures = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "qwen3-moe": ("qwen3_moe", EXPERTS),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral with a window": ("mistral", {"sliding_window": WINDOW}),
    "mixtral": ("mixtral", {"sliding_window": None, **LOCAL_EXPERTS}),
    "gemma": ("gemma", {}),
    "gemma2 with soft caps": ("gemma2", {"attn_logit_softcapping": 0.8, **SOFT_CAP}),
    "gemma3 with a soft cap": ("gemma3_text", SOFT_CAP),
    "gemma3 that also sees": ("gemma3", {"text_config": SEEING, "vision_config": EYE}),
    "gpt2": ("gpt2", {}),
    "gpt-neox": ("gpt_neox", {}),
    "gpt-oss": ("gpt_oss", {"rope_parameters": None, **LOCAL_EXPERTS, **SLIDING}),
    "stablelm": ("stablelm", {}),
    "opt": ("opt", {"ffn_dim": 48}),
    "cohere with a scale": ("cohere", {"logit_scale": 1.5}),
    "cohere2 with a scale": ("cohere2", {"logit_scale": 1.5, **SLIDING}),
    "granite with multipliers": (
        "granite",
        {"logits_scaling": 1.4, "embedding_multiplier": 2.0, "residual_multiplier": 0.5},
    ),
    "granite-moe with multipliers": ("granitemoe", {"logits_scaling": 1.4, **LOCAL_EXPERTS}),
    "nanochat with a soft cap": ("nanochat", {"final_logit_softcapping": 4.0}),
    "phi with a bias": ("phi", {}),
    "phi3": ("phi3", {}),
    "phi3 longrope": ("phi3", LONGROPE),
    "glm": ("glm", {}),
    "glm4": ("glm4", {}),
    "olmo2": ("olmo2", {}),
    "exaone4": ("exaone4", SLIDING),
    "starcoder2": ("starcoder2", {"sliding_window": None}),
    "smollm3": ("smollm3", {}),
}

PADDED: Architectures = {
    "gpt-j with a bias": ("gptj", GPTJ),
    "codegen with a bias": ("codegen", GPTJ),
    "bloom": ("bloom", {"n_head": 4, "n_layer": 2}),
    "falcon": ("falcon", {"alibi": False, "new_decoder_architecture": True, "head_dim": ...}),
    "falcon with alibi": ("falcon", {"alibi": True, "head_dim": ...}),
    "mpt": ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 512}),
    "llama4": ("llama4_text", {"attention_chunk_size": WINDOW, "intermediate_size_mlp": 48}),
    "mamba": ("mamba", {"state_size": 8}),
    "falcon-h1 with multipliers": (
        "falcon_h1",
        {
            "lm_head_multiplier": 1.5,
            "embedding_multiplier": 2.0,
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_n_groups": 1,
            "mamba_d_state": 8,
            "mamba_chunk_size": 16,
        },
    ),
}

PATHS = {
    **dict.fromkeys(TREE, ("tree", "padded", "alone")),
    **dict.fromkeys(PADDED, ("padded", "alone")),
}
"""Which ways give an architecture's own log-probs, the fastest first."""


# ------------------------------------------------------------------------------------ batches


def _words(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(3, 128) for _ in range(count)]


def _everything() -> list[TokenSequence]:
    """Every case that completions in a tree have."""
    rng = random.Random(0)
    question, answer, header = _words(rng, 40), _words(rng, 30), _words(rng, 3)
    conversation = question + answer + _words(rng, 12)
    sequences = [
        *(TokenSequence(question + _words(rng, 2 + i % 5), 40) for i in range(12)),
        *(TokenSequence([*question, token], 40) for token in (50, 51, 52, 52)),
        *(TokenSequence(question + answer + _words(rng, 4), 40) for _ in range(3)),
        TokenSequence(question + answer, 40),
        TokenSequence(question + answer, 40),
        TokenSequence(question + answer, 40, 45),
        TokenSequence(question + answer, 40, 41),
        TokenSequence(question + answer, 55),  # the same tokens, another completion
        TokenSequence(question + answer, None),
        *(TokenSequence(conversation + _words(rng, 3 + i), 82) for i in range(3)),
        TokenSequence(conversation + _words(rng, 6), 40, 70),  # an earlier turn
        TokenSequence(conversation, 81),
        TokenSequence(question + _words(rng, BLOCK_TOKENS + 50), 40, 150),
        TokenSequence(_words(rng, 2 * BLOCK_TOKENS + 1), 100),
        TokenSequence(_words(rng, BLOCK_TOKENS + 1), None),
        TokenSequence([5, 6], None),
        TokenSequence([5, 6], 1),
        # Too little to share, and not read.
        *(TokenSequence(header + _words(rng, 6), 4) for _ in range(3)),
    ]
    rng.shuffle(sequences)
    return sequences


EVERYTHING = _everything()


@st.composite
def _batches(draw: st.DrawFn) -> list[TokenSequence]:
    """Each text continues a prefix of an earlier one; completions are anywhere."""
    rng = random.Random(draw(st.integers(0, 2**16)))
    added = st.one_of(st.integers(1, 9), st.integers(20, 120))
    texts: list[list[int]] = []
    sequences = []
    for _ in range(draw(st.integers(1, 12))):
        goes_on: bool = draw(st.booleans())
        base = draw(st.sampled_from(texts)) if texts and goes_on else _words(rng, 1)
        kept = base[: draw(st.sampled_from([len(base), len(base) // 2 + 1]))]
        texts.append((kept + _words(rng, draw(added)))[:200])
        length = len(texts[-1])
        start = draw(st.one_of(st.none(), st.integers(1, length - 1)))
        stop = draw(st.one_of(st.none(), st.integers((start or 1) + 1, length)))
        sequences.append(TokenSequence(texts[-1], start, stop))
    return draw(st.permutations(sequences))


def _group(sequences: Sequence[TokenSequence]) -> SequenceGroup:
    return SequenceGroup(tuple(sequences), shared_tokens=0)


def _probes() -> list[SequenceGroup]:
    """Prompts to share, longer than any window."""
    rng = random.Random(1)
    groups = []
    for length in (30, 70):
        prompt = _words(rng, length)
        groups.append(
            _group([TokenSequence(prompt + _words(rng, more), None) for more in (3, 11, 40)])
        )
    return groups


# ---------------------------------------------------------------------------------- contestants


@dataclass(frozen=True)
class Served:
    """A model behind its runner."""

    model: CausalLM
    runner: ModelRunner

    def read(self, sequences: Sequence[TokenSequence]) -> list[Reading | ServiceError]:
        [readings] = self.runner.run(self.runner.prepare([_group(sequences)])).groups
        return readings

    def log_probs(self, sequences: Sequence[TokenSequence]) -> list[Outputs]:
        readings = self.read(sequences)
        assert all(isinstance(one, Reading) for one in readings), readings
        return [one.outputs for one in readings if isinstance(one, Reading)]

    @property
    def head(self) -> Any:
        return self.model._model.get_output_embeddings()


def _serve(
    plain: PreTrainedModel, path: str = "auto", *, budget: int = 10_000, logits_bytes: int = PLENTY
) -> Served:
    """A copy of the model, served by one path."""
    model = CausalLM(copy.deepcopy(plain), pad_token_id=0, max_logits_bytes=logits_bytes)
    runner = ModelRunner(model, max_batch_tokens=budget)
    if path != "alone":
        runner.prove(_probes(), attention=path)  # type: ignore[arg-type]
    assert path in ("auto", runner.path)
    return Served(model, runner)


@cache
def _expected(plain: PreTrainedModel, token_ids: tuple[int, ...], start: int, stop: int) -> Any:
    return torch.tensor(oracle.log_probs_alone(plain, token_ids, start, stop), dtype=torch.float64)


def _oracle(plain: PreTrainedModel, sequences: Sequence[TokenSequence]) -> list[torch.Tensor]:
    return [
        _expected(
            plain,
            tuple(one.token_ids),
            1 if one.completion_start is None else one.completion_start,
            len(one.token_ids) if one.completion_end is None else one.completion_end,
        )
        for one in sequences
    ]


def _largest_difference(
    ours: Sequence[Outputs], expected: Sequence[torch.Tensor] | Sequence[Outputs]
) -> float:
    """Of any token's log-probability."""
    assert [*map(len, ours)] == [*map(len, expected)]
    # A tensor's maximum is NaN where anything is, which no bound allows.
    flat = [
        torch.cat([torch.as_tensor(one, dtype=torch.float64) for one in side])
        for side in (ours, expected)
    ]
    return (flat[0] - flat[1]).abs().max().item()


def _check(ours: Sequence[Outputs], expected: Sequence[torch.Tensor]) -> None:
    assert _largest_difference(ours, expected) <= TOLERANCE
    for log_probs, own in zip(ours, expected, strict=True):
        assert math.fsum(log_probs) == pytest.approx(own.sum().item(), rel=SUM_TOLERANCE, abs=0)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    # Threads of a tiny matrix product wait for each other longer than they compute.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


MakePlain = Callable[..., PreTrainedModel]


@pytest.fixture(scope="module")
def plain(random_language_model: RandomModel) -> MakePlain:
    """A model of the tables, as transformers runs it."""

    @cache
    def make(
        name: str, tied: bool = False, dtype: torch.dtype = torch.float32, **config: object
    ) -> PreTrainedModel:
        model_type, own = {**TREE, **PADDED}[name]
        return random_language_model(model_type, tied=tied, dtype=dtype, **own, **config)

    return make


@pytest.fixture(scope="module")
def serve(plain: MakePlain) -> Callable[..., Served]:
    """A model of the tables behind a runner of its own, the same each time it is asked."""

    @cache
    def make(name: str, path: str, budget: int = 10_000) -> Served:
        return _serve(plain(name), path, budget=budget)

    return make


Serve = Callable[..., Served]


# ----------------------------------------------------------------- what plain transformers says


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("name", PATHS)
def test_every_path_gives_the_log_probs_of_plain_float64(
    plain: MakePlain, name: str, tied: bool
) -> None:
    model = plain(name, tied)
    check_causality(model, model_id=name)
    expected = _oracle(model, EVERYTHING)
    flat = torch.cat(expected)
    assert flat.std() > 1  # a uniform prediction could be right by chance
    assert flat.max() - flat.min() > 5
    assert _serve(model).runner.path == PATHS[name][0]
    for path in PATHS[name]:
        _check(_serve(model, path).log_probs(EVERYTHING), expected)


@pytest.mark.parametrize("name", ["llama", "gemma2 with soft caps", "gpt2", "phi with a bias"])
@pytest.mark.parametrize("budget", [64, 10_000])
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@example(EVERYTHING)
@given(_batches())
def test_whatever_is_in_the_batch(
    plain: MakePlain, serve: Serve, name: str, budget: int, batch: list[TokenSequence]
) -> None:
    expected = _oracle(plain(name), batch)
    for path in PATHS[name]:
        _check(serve(name, path, budget).log_probs(batch), expected)


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.integers(LONGROPE_BOUNDARY - 3, LONGROPE_BOUNDARY + 4),
            st.sampled_from([50, LONGROPE_BOUNDARY - 3, None]),
        ),
        min_size=1,
        max_size=8,
    )
)
@example([(LONGROPE_BOUNDARY, None), (LONGROPE_BOUNDARY + 1, None), (LONGROPE_BOUNDARY + 1, 50)])
def test_the_length_of_the_whole_sequence_decides_about_its_positions(
    plain: MakePlain, serve: Serve, ends: list[tuple[int, int | None]]
) -> None:
    """Of the completion's last token and what follows it, only that they are there counts."""
    rng = random.Random(2)
    prompt = _words(rng, 40)
    batch = [TokenSequence(prompt + _words(rng, length - 40), 40, stop) for length, stop in ends]
    for path in ("tree", "padded"):
        served = serve("phi3 longrope", path)
        _check(served.log_probs(batch), _oracle(plain("phi3 longrope"), batch))


def test_without_a_known_completion_all_tokens_but_the_first_are_read(serve: Serve) -> None:
    token_ids = EVERYTHING[0].token_ids
    for path in PATHS["llama"]:
        served = serve("llama", path)
        [whole] = served.log_probs([TokenSequence(token_ids, None)])
        [named] = served.log_probs([TokenSequence(token_ids, 1)])
        assert len(whole) == len(token_ids) - 1
        assert whole == named


def test_a_conversation_of_several_turns_from_its_text_on(
    tmp_path: Path, random_language_model: RandomModel
) -> None:
    folder = tmp_path / "policy"
    write_debug_model(folder, kind="causal")
    loaded = load_model(Settings(model_id=str(folder), kind="causal"))
    plain = type(random_language_model("llama")).from_pretrained(folder)
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Name a river."},
        {"role": "assistant", "content": "The Danube."},
        {"role": "user", "content": "Another one?"},
    ]
    groups = loaded.encoder.encode(
        [Conversation(turns, ["The Rhine.", "The Rhône.", "No."]), Conversation(turns[:2], ["?"])],
        truncation="error",
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    readings = loaded.runner.run(loaded.runner.prepare(groups)).groups
    for group, read in zip(groups, readings, strict=True):
        for sequence, reading in zip(group.sequences, read, strict=True):
            assert isinstance(reading, Reading)
            _check([reading.outputs], _oracle(plain, [sequence]))
            counted = sequence.token_ids[slice(*sequence.completion)]
            assert tokenizer.decode(counted[-1:]) == "</s>"


# ------------------------------------------------------------------------------------ neighbours


@pytest.mark.parametrize("name", ["llama", "gemma2 with soft caps", "gpt2", "falcon with alibi"])
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    members=st.lists(st.sampled_from(range(len(EVERYTHING))), min_size=1, max_size=40),
    budget=st.sampled_from([100, 10_000]),
)
def test_log_probs_do_not_change_with_their_neighbours(
    serve: Serve, name: str, members: list[int], budget: int
) -> None:
    batch = [EVERYTHING[member] for member in members]
    for path in PATHS[name][:-1]:
        without = [serve(name, path, budget).log_probs([one])[0] for one in batch]
        among = serve(name, path, budget).log_probs(batch)
        assert _largest_difference(among, without) < TOLERANCE


def test_completions_that_are_equal_have_equal_log_probs(serve: Serve) -> None:
    """To the bit: a tie is a tie."""
    served = serve("llama", "tree")
    by_content: dict[tuple[Any, ...], set[Outputs]] = {}
    for one, outputs in zip(EVERYTHING, served.log_probs(EVERYTHING), strict=True):
        by_content.setdefault((*one.token_ids, *one.completion), set()).add(outputs)
    assert len(by_content) < len(EVERYTHING)
    assert all(len(values) == 1 for values in by_content.values())


# -------------------------------------------------------------------------- rows of the vocabulary


def _bytes_per_row(dtype: torch.dtype = torch.float32) -> int:
    return VOCABULARY * (dtype.itemsize + 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_how_many_rows_fit_into_the_bytes(plain: MakePlain, dtype: torch.dtype) -> None:
    def rows(max_logits_bytes: int) -> int:
        model = plain("llama", dtype=dtype)
        return CausalLM(model, pad_token_id=0, max_logits_bytes=max_logits_bytes).rows_at_once

    one = _bytes_per_row(dtype)
    assert [rows(size) for size in (7 * one, 8 * one - 1, 8 * one)] == [7, 7, 8]
    assert [rows(size) for size in (1, one - 1)] == [1, 1]  # less cannot be computed


def _predicting(sequences: Sequence[TokenSequence]) -> set[tuple[int, ...]]:
    """All texts of which the next token is asked."""
    return {tuple(one.token_ids[:place]) for one in sequences for place in range(*one.completion)}


@dataclass
class Projected:
    """What the head was given."""

    parts: list[int]
    """Rows of each call."""

    def watch(self, served: Served) -> None:
        served.head.register_forward_hook(
            lambda _, given, __: self.parts.append(given[0].flatten(0, -2).shape[0])
        )


@pytest.mark.parametrize("name", ["llama", "gemma2 with soft caps", "phi with a bias"])
@pytest.mark.parametrize("path", ["tree", "padded"])
@pytest.mark.parametrize("rows", [1, 2, 7, 10_000])
def test_parts_of_any_size_give_the_same_and_are_no_larger(
    plain: MakePlain, name: str, path: str, rows: int
) -> None:
    served = _serve(plain(name), path, logits_bytes=(rows + 1) * _bytes_per_row() - 1)
    projected = Projected([])
    projected.watch(served)
    _check(served.log_probs(EVERYTHING), _oracle(plain(name), EVERYTHING))
    if path == "tree":
        asked = len(_predicting(EVERYTHING))  # each once
    else:
        asked = sum(one.completion[1] - one.completion[0] for one in EVERYTHING)
    assert sum(projected.parts) == asked
    if path == "tree":  # one pass
        assert projected.parts == [rows] * (asked // rows) + [asked % rows] * (asked % rows > 0)
    assert max(projected.parts) <= rows


def test_of_one_token_answers_to_a_question_one_row_is_projected(serve: Serve) -> None:
    prompt = _words(random.Random(5), 50)
    projected = Projected([])
    served = serve("gpt-neox", "tree")
    projected.watch(served)
    readings = served.read([TokenSequence([*prompt, token], 50) for token in range(VOCABULARY)])
    assert projected.parts == [1]
    assert sum(one.computed_tokens for one in readings if isinstance(one, Reading)) == 50


@pytest.mark.parametrize("rows", [VOCABULARY - 20, VOCABULARY + 38])
def test_a_vocabulary_is_what_both_embedding_and_head_know(
    random_language_model: RandomModel, rows: int
) -> None:
    model = random_language_model("llama", bos_token_id=None)
    head = torch.nn.Linear(32, rows, bias=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        torch.nn.init.normal_(head.weight, std=0.3)
    model.set_output_embeddings(head.eval().requires_grad_(False))
    for path in PATHS["llama"]:
        served = _serve(model, path)
        assert served.model.vocabulary_size == min(rows, VOCABULARY)
        assert served.model.rows_at_once == PLENTY // (8 * rows)
        _check(served.log_probs(EVERYTHING), _oracle(model, EVERYTHING))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(batch=_batches(), rows=st.integers(1, 40))
def test_parts_of_any_size_of_any_batch(
    plain: MakePlain, serve: Serve, batch: list[TokenSequence], rows: int
) -> None:
    served = serve("qwen2", "tree")
    served.model.rows_at_once = rows
    _check(served.log_probs(batch), _oracle(plain("qwen2"), batch))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0, 1e4])
def test_log_softmax_of_logits_of_any_size(dtype: torch.dtype, scale: float) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = (scale * torch.randn(5, 40, generator=generator)).to(dtype)
    logits[1, 3] = -torch.inf
    rows, tokens = torch.arange(5).repeat(3).sort().values, torch.arange(15)
    expected = torch.log_softmax(logits.double(), dim=1)[rows, tokens]
    ours = _read_log_softmax(logits.clone(), rows, tokens)
    assert ours.dtype == torch.float32
    assert torch.allclose(ours.double(), expected, rtol=1e-6, atol=1e-6)
    assert ours[3] == -torch.inf


# ------------------------------------------------------------------------------------------ memory

LARGE_VOCABULARY = 20_000
LOGITS_BYTES = 4 << 20
TRUNK_BYTES = 1 << 20
"""More than the trunk's own states take."""
LONG = TokenSequence(_words(random.Random(6), 300), None)
"""Its logits are 24 MB in float32."""


@dataclass(frozen=True)
class Allocations:
    """What a computation asked torch for."""

    peak: int
    """Most bytes at once."""
    largest: int
    """Bytes of the largest tensor."""


def _allocations(compute: Callable[[], object]) -> Allocations:
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        compute()
    changes = [
        (event.start_ns(), event.nbytes())
        for event in profile.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    held = peak = 0
    for _, change in sorted(changes, key=lambda change: change[0]):
        held += change
        peak = max(peak, held)
    return Allocations(peak, max(change for _, change in changes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "name",
    ["llama", "gemma2 with soft caps", "cohere with a scale", "granite with multipliers"],
)
@pytest.mark.parametrize("path", ["tree", "padded"])
def test_logits_never_take_more_memory_than_the_setting(
    plain: MakePlain, name: str, path: str, dtype: torch.dtype
) -> None:
    model = plain(name, dtype=dtype, vocab_size=LARGE_VOCABULARY)
    served = _serve(model, path, logits_bytes=LOGITS_BYTES)
    ours = _allocations(lambda: served.log_probs([LONG]))
    assert ours.largest <= LOGITS_BYTES
    assert LOGITS_BYTES / 2 < ours.peak <= LOGITS_BYTES + TRUNK_BYTES  # and it is made use of


# ---------------------------------------------------------------------------------- half precision


HALF = pytest.mark.parametrize(
    ("dtype", "bound"),
    [(torch.bfloat16, BFLOAT16_BOUND), (torch.float16, FLOAT16_BOUND)],
    ids=["bfloat16", "float16"],
)


@HALF
@pytest.mark.parametrize("name", ["llama", "gemma2 with soft caps", "gpt-neox", "bloom"])
def test_log_probs_of_half_precision_logits_are_taken_and_summed_in_more(
    plain: MakePlain, name: str, dtype: torch.dtype, bound: float
) -> None:
    """Beside the float64 log-softmax of the very logits that the served model made."""
    sequence = TokenSequence(_words(random.Random(7), 200), 50)
    for path in PATHS[name]:
        served = _serve(plain(name, dtype=dtype), path, logits_bytes=30 * _bytes_per_row(dtype))
        logits: list[torch.Tensor] = []
        served.model._model.register_forward_hook(
            lambda _, __, output, logits=logits: logits.append(output.logits[0].clone())
        )
        [ours] = served.log_probs([sequence])
        assert {one.dtype for one in logits} == {dtype}
        made = torch.cat(logits).double()
        if path == "alone":
            made = made[49:199]
        else:
            assert len(logits) == 5
        own = torch.log_softmax(made, dim=1)[range(150), sequence.token_ids[50:]]
        assert _largest_difference([ours], [own]) <= TOLERANCE / 2
        assert math.fsum(ours) == pytest.approx(own.sum().item(), rel=1e-6)


@HALF
@pytest.mark.parametrize("name", ["llama", "gemma2 with soft caps", "mistral with a window"])
def test_half_precision_stays_within_the_stated_bound_of_the_plain_forward(
    plain: MakePlain, name: str, dtype: torch.dtype, bound: float
) -> None:
    model = plain(name, dtype=dtype)
    expected = _serve(model, "alone").log_probs(EVERYTHING)
    scale = max(abs(value) for outputs in expected for value in outputs)
    for path in ("tree", "padded"):
        ours = _serve(model, path).log_probs(EVERYTHING)
        assert _largest_difference(ours, expected) <= bound * scale
        for log_probs, own in zip(ours, expected, strict=True):
            total = math.fsum(own)
            assert abs(math.fsum(log_probs) - total) <= bound * max(abs(total), scale)


# ------------------------------------------------------------------------ the trunk and its answer


@pytest.mark.parametrize("path", ["tree", "padded", "alone"])
def test_the_scope_is_around_trunk_and_head_of_every_pass(plain: MakePlain, path: str) -> None:
    inside = False
    seen: list[bool] = []

    @contextmanager
    def scope() -> Iterator[None]:
        nonlocal inside
        inside = True
        try:
            yield
        finally:
            inside = False

    raw = copy.deepcopy(plain("llama"))
    for module in (raw.get_input_embeddings(), raw.get_output_embeddings()):
        module.register_forward_hook(lambda *_: seen.append(inside))
    model = CausalLM(raw, pad_token_id=0, max_logits_bytes=PLENTY, scope=scope)
    runner = ModelRunner(model, max_batch_tokens=10_000)
    if path != "alone":
        runner.prove(_probes(), attention=path)  # type: ignore[arg-type]
    runner.run(runner.prepare([_group(EVERYTHING)]))
    assert len(seen) > 1
    assert all(seen)
    assert not inside


def _trunk(served: Served) -> torch.nn.Module:
    trunk: torch.nn.Module = served.model._model.base_model
    return trunk


@pytest.mark.parametrize("fails", [False, True])
def test_a_trunk_that_was_answered_for_computes_again_afterwards(fails: bool) -> None:
    trunk = torch.nn.Identity()
    with suppress(ValueError), _answering(trunk, "given"):
        assert trunk(1) == trunk(input_ids=2) == "given"
        if fails:
            raise ValueError
    assert trunk(1) == 1
    assert "forward" not in vars(trunk)


def test_a_forward_that_was_put_onto_the_trunk_before_stays_on_it() -> None:
    """accelerate puts one there."""
    trunk: Any = torch.nn.Identity()
    trunk.forward = own = lambda _: "its own"
    with _answering(trunk, "given"):
        assert trunk(1) == "given"
    assert trunk.forward is own
    assert trunk(1) == "its own"


@pytest.mark.parametrize("path", ["tree", "padded"])
def test_a_head_that_fails_once_costs_no_completion(plain: MakePlain, path: str) -> None:
    served = _serve(plain("llama"), path, logits_bytes=20 * _bytes_per_row())
    project = served.head.forward
    calls: list[int] = []

    def fails_at_the_third_part(states: torch.Tensor) -> torch.Tensor:
        calls.append(len(states))
        if len(calls) == 3:
            raise RuntimeError("no")
        projected: torch.Tensor = project(states)
        return projected

    served.head.forward = fails_at_the_third_part
    _check(served.log_probs(EVERYTHING), _oracle(plain("llama"), EVERYTHING))
    assert len(calls) > 3
    assert "forward" not in vars(_trunk(served))


# -------------------------------------------------------------------------------------- poison

RAISES = VOCABULARY
"""A token that the embedding has no row for."""
IMPOSSIBLE, UNDEFINED, INFINITE = 200, 201, 202
"""A token that can never follow, and two after which nothing is known."""

FAILURES: dict[int, type[ServiceError]] = {
    RAISES: InferenceFailedError,
    IMPOSSIBLE: NonFiniteScoreError,
    UNDEFINED: NonFiniteScoreError,
    INFINITE: NonFiniteScoreError,
}


@pytest.fixture(scope="module")
def poisonous(random_language_model: RandomModel) -> PreTrainedModel:
    model = random_language_model("phi")
    model.get_output_embeddings().bias[IMPOSSIBLE] = -torch.inf
    model.get_input_embeddings().weight[UNDEFINED] = torch.nan
    model.get_input_embeddings().weight[INFINITE] = torch.inf
    return model


@pytest.mark.parametrize("path", PATHS["phi with a bias"])
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(
    poison=st.dictionaries(
        st.sampled_from(range(len(EVERYTHING))), st.sampled_from([*FAILURES]), max_size=5
    ),
    budget=st.sampled_from([150, 10_000]),
)
@example(poison={0: RAISES, 3: IMPOSSIBLE, 7: UNDEFINED, 11: INFINITE}, budget=10_000)
def test_a_completion_with_poison_fails_alone(
    poisonous: PreTrainedModel, path: str, poison: dict[int, int], budget: int
) -> None:
    batch = [*EVERYTHING]
    for place, token in poison.items():
        ids = batch[place].token_ids
        # In the middle of its completion: what comes last is not computed.
        batch[place] = TokenSequence([*ids, token, 9, 10], len(ids))
    readings = _serve(poisonous, path, budget=budget).read(batch)
    for place, (sequence, reading) in enumerate(zip(batch, readings, strict=True)):
        if place in poison:
            assert type(reading) is FAILURES[poison[place]]
        else:
            assert isinstance(reading, Reading), (place, reading)
            _check([reading.outputs], _oracle(poisonous, [sequence]))


@pytest.mark.parametrize("path", PATHS["phi with a bias"])
def test_a_token_that_can_never_follow_is_harmless_in_a_prompt(
    poisonous: PreTrainedModel, path: str
) -> None:
    sequences = [TokenSequence([5, IMPOSSIBLE, *range(20, 40), token], 10) for token in (7, 8)]
    _check(_serve(poisonous, path).log_probs(sequences), _oracle(poisonous, sequences))


# ----------------------------------------------------------------------------------- what is served


def _small_bert(config_class: Any, **config: object) -> Any:
    return config_class(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
        **config,
    )


@pytest.mark.parametrize(
    ("model_class", "config_class"),
    [(BertLMHeadModel, BertConfig), (RobertaForCausalLM, RobertaConfig)],
)
def test_a_language_model_that_sees_what_follows_is_refused(
    model_class: Any, config_class: Any
) -> None:
    check_causality(model_class(_small_bert(config_class, is_decoder=True)).eval(), model_id="x")
    seeing = model_class(_small_bert(config_class, is_decoder=False)).eval()
    with pytest.raises(StartupError, match="bert-seeing is not a causal language model: it sees"):
        check_causality(seeing, model_id="bert-seeing")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "qwen3-moe", "mixtral", "gpt-oss", "mamba"])
def test_rounding_is_not_taken_for_seeing_what_follows(
    plain: MakePlain, name: str, dtype: torch.dtype
) -> None:
    check_causality(plain(name, dtype=dtype), model_id=name)


@pytest.mark.parametrize(
    ("architectures", "is_one"),
    [
        (["LlamaForCausalLM"], True),
        (["GPT2LMHeadModel"], True),
        (["BertLMHeadModel"], True),  # `check_causality` looks at it
        (["Gemma3ForConditionalGeneration"], True),
        (["SomethingElse", "Qwen2ForCausalLM"], True),
        ([], True),
        (None, True),  # its weights will tell
        (["LlamaForSequenceClassification"], False),
        (["Qwen2ForRewardModel"], False),
        (["Qwen2ForTokenClassification"], False),
        (["BertForMaskedLM"], False),
        (["LlamaModel"], False),
    ],
)
def test_what_says_of_itself_that_it_is_a_language_model(
    architectures: list[str] | None, is_one: bool
) -> None:
    fields = {"architectures": architectures, "is_encoder_decoder": False}
    assert is_language_model(fields) is is_one
    assert not is_language_model({**fields, "is_encoder_decoder": True})


@pytest.mark.parametrize("name", PATHS)
def test_every_architecture_here_says_so(plain: MakePlain, name: str) -> None:
    assert is_language_model({"architectures": [type(plain(name)).__name__]})


@pytest.fixture
def written(debug_folder: Path, tmp_path: Path) -> Callable[[PreTrainedModel], Path]:
    """Writes a checkpoint with the debug model's tokenizer."""

    def write(model: PreTrainedModel) -> Path:
        model.save_pretrained(tmp_path / "model")
        AutoTokenizer.from_pretrained(debug_folder).save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return write


Write = Callable[[PreTrainedModel], Path]


def _refusal(folder: Path) -> str:
    with pytest.raises(StartupError) as caught:
        load_model(Settings(model_id=str(folder), kind="causal"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_encoder_is_refused(written: Write) -> None:
    model = AutoModelForMaskedLM.from_config(_small_bert(BertConfig))
    refusal = _refusal(written(model))
    assert "is not a causal language model (architectures: BertForMaskedLM)" in refusal


def test_an_encoder_that_calls_itself_a_language_model_is_refused(written: Write) -> None:
    model = BertLMHeadModel(_small_bert(BertConfig))
    assert "it sees the tokens that follow" in _refusal(written(model))


def test_an_encoder_with_a_decoder_is_refused(written: Write) -> None:
    config = AutoConfig.for_model(
        "t5", vocab_size=VOCABULARY, d_model=32, d_ff=48, num_layers=2, num_heads=4, d_kv=8
    )
    refusal = _refusal(written(AutoModelForSeq2SeqLM.from_config(config)))
    assert "is not a causal language model (architectures: T5ForConditionalGeneration)" in refusal


def test_a_classifier_whose_head_would_be_its_embedding_is_refused(make_model: MakeModel) -> None:
    """As a language model, it would lack no weights."""
    refusal = _refusal(make_model("qwen2", tie_word_embeddings=True))
    assert (
        "is not a causal language model (architectures: Qwen2ForSequenceClassification): "
        "log-probabilities need one, a reward model is served with --kind sequence_classifier"
    ) in refusal


@pytest.mark.parametrize("tied", [False, True])
def test_a_classifier_that_does_not_say_what_it_is_is_refused(
    make_model: MakeModel, tied: bool
) -> None:
    folder = make_model("qwen2", tie_word_embeddings=tied)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "architectures": None}))
    assert "is not a causal language model" in _refusal(folder)


@pytest.mark.parametrize("name", ["llama", "gemma2 with soft caps"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_written_language_model_loads_with_its_bound(
    plain: MakePlain, written: Write, name: str, tied: bool
) -> None:
    folder = written(plain(name, tied))
    loaded = load_model(
        Settings(model_id=str(folder), kind="causal", max_logits_bytes=5 * _bytes_per_row())
    )
    assert loaded.path == "tree"
    served = Served(loaded.runner._model, loaded.runner)  # type: ignore[attr-defined, arg-type]
    assert served.model.rows_at_once == 5
    _check(served.log_probs(EVERYTHING), _oracle(plain(name, tied), EVERYTHING))


def test_the_bound_is_256_mebibytes_where_nothing_else_is_said() -> None:
    assert Settings(model_id="x").max_logits_bytes == 256 * 1024 * 1024
