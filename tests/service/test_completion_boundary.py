"""Which tokens count as the completion, template by template: those from header to end of turn."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import running_service
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

import log_probs
from log_probs import Completion
from reward_client import InputTooLongError as RefusedError
from reward_client import RewardClient
from reward_service.chat_template import ChatTemplate, built_in_templates
from reward_service.debug_model import write_debug_model
from reward_service.encoding import Encoder
from reward_service.errors import InputTooLongError, InvalidRequestError
from reward_service.input_form import Truncation
from reward_service.inputs import Boundary, Conversation, EncoderInput, GivenTokens, RenderedText
from reward_service.loading import load_model
from reward_service.sequences import TokenSequence
from reward_service.settings import Settings

StartService = Callable[..., str]
Messages = Sequence[dict[str, str]]

USER = {"role": "user", "content": "Hi é"}
HISTORY: Messages = [
    USER,
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Why?"},
]

# ------------------------------------------------------------------------------- templates


@dataclass(frozen=True)
class Style:
    """A chat template as a family of models has it, with what it should come to."""

    template: str
    special: tuple[str, ...]
    header: str
    """Before the completion."""
    end: str
    """Behind it, as far as it counts."""
    rest: str
    """What the template still writes."""
    bos: str | None = None
    strips: bool = False


def _turns(before: str, after: str, header: str) -> str:
    return (
        "{{ bos_token or '' }}{% for message in messages %}"
        + before
        + "{{ message.content }}"
        + after
        + "{% endfor %}{% if add_generation_prompt %}"
        + header
        + "{% endif %}"
    )


STYLES = {
    "zephyr": Style(
        _turns("{{ '<|' + message.role + '|>\n' }}", "{{ '</s>\n' }}", "{{ '<|assistant|>\n' }}"),
        ("<s>", "</s>", "<|user|>", "<|assistant|>"),
        header="<|assistant|>\n",
        end="</s>",
        rest="\n",
        bos="<s>",
    ),
    "chatml": Style(
        _turns(
            "{{ '<|im_start|>' + message.role + '\n' }}",
            "{{ '<|im_end|>\n' }}",
            "{{ '<|im_start|>assistant\n' }}",
        ),
        ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
        header="<|im_start|>assistant\n",
        end="<|im_end|>",
        rest="\n",
    ),
    "llama-3": Style(
        _turns(
            "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}",
            "{{ '<|eot_id|>' }}",
            "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}",
        ).replace("message.content", "message.content | trim"),
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        header="<|start_header_id|>assistant<|end_header_id|>\n\n",
        end="<|eot_id|>",
        rest="",
        bos="<|begin_of_text|>",
        strips=True,
    ),
    "gemma": Style(
        _turns(
            "{{ '<start_of_turn>' + message.role.replace('assistant', 'model') + '\n' }}",
            "{{ '<end_of_turn>\n' }}",
            "{{ '<start_of_turn>model\n' }}",
        ).replace("message.content", "message.content | trim"),
        ("<bos>", "<start_of_turn>", "<end_of_turn>"),
        header="<start_of_turn>model\n",
        end="<end_of_turn>",
        rest="\n",
        bos="<bos>",
        strips=True,
    ),
    "mistral": Style(
        "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}"
        "{{ '[INST] ' + message.content + '[/INST]' }}"
        "{% else %}{{ ' ' + message.content + '</s>' }}{% endif %}{% endfor %}",
        ("<s>", "</s>", "[INST]", "[/INST]"),
        header="[/INST] ",
        end="</s>",
        rest="",
        bos="<s>",
    ),
    "llama-2": Style(
        "{% for message in messages %}{% if message.role == 'user' %}"
        "{{ ('' if loop.index0 else bos_token) + '[INST] ' + message.content + ' [/INST]' }}"
        "{% else %}{{ ' ' + message.content + ' </s><s>' }}{% endif %}{% endfor %}",
        ("<s>", "</s>"),
        header=" [/INST] ",
        end=" </s>",
        rest="<s>",
        bos="<s>",
    ),
    "phi-3": Style(
        _turns("{{ '<|' + message.role + '|>\n' }}", "{{ '<|end|>\n' }}", "{{ '<|assistant|>\n' }}")
        + "{% if not add_generation_prompt %}<|endoftext|>{% endif %}",
        ("<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"),
        header="<|assistant|>\n",
        end="<|end|>",
        rest="\n<|endoftext|>",
    ),
    "tulu": Style(
        built_in_templates()["tulu"],
        ("<s>", "</s>"),
        header="<|assistant|>\n",
        end="\n",
        rest="",
    ),
    "raw": Style(built_in_templates()["raw"], ("<s>", "</s>"), header="", end="", rest=""),
}


def _tokenizer(
    special: Sequence[str], *, bos: str | None = None, merges: Sequence[tuple[str, str]] = ()
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with these special tokens, which merges these pairs of bytes."""
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(m) for m in merges)]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[*merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in special]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos)


def _encoder(
    template: str,
    tokenizer: Any = None,
    *,
    special: Sequence[str] = (),
    bos: str | None = None,
    limit: int = 4096,
    is_built_in: bool = False,
) -> Encoder:
    tokenizer = tokenizer or _tokenizer(special, bos=bos)
    return Encoder(
        tokenizer,
        ChatTemplate(template, source="inline", is_built_in=is_built_in),
        max_input_tokens=limit,
        vocabulary_size=len(tokenizer),
    )


def _styled(style: Style, **options: Any) -> Encoder:
    return _encoder(style.template, special=style.special, bos=style.bos, **options)


def _encode(
    encoder: Encoder,
    one: EncoderInput,
    *,
    truncation: Truncation = "error",
    boundary: Boundary = "known",
) -> tuple[TokenSequence, ...]:
    [group] = encoder.encode([one], truncation=truncation, boundary=boundary)
    return group.sequences


def _parts(encoder: Encoder, sequence: TokenSequence) -> tuple[str, str, str]:
    """The text before what counts, what counts, and what follows it."""
    start, stop = sequence.completion
    ids = sequence.token_ids
    before, counts, behind = (
        encoder._tokenizer.decode(part) for part in (ids[:start], ids[start:stop], ids[stop:])
    )
    return before, counts, behind


COMPLETIONS = ["Yes.", "Où ça? 😀", "a", "\tx = 1\n\n", " spaced ", "two\nlines", "<|x|>", "x" * 50]


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("prompt", [[USER], HISTORY], ids=["one turn", "several turns"])
def test_from_behind_the_header_to_the_end_of_the_turn(name: str, prompt: Messages) -> None:
    style = STYLES[name]
    encoder = _styled(style)
    sequences = _encode(encoder, Conversation(prompt, COMPLETIONS))
    befores = set()
    for completion, sequence in zip(COMPLETIONS, sequences, strict=True):
        before, counts, behind = _parts(encoder, sequence)
        expected = completion.strip() if style.strips else completion
        assert counts == expected + style.end
        assert behind == style.rest
        assert before.endswith(style.header)
        befores.add(before)
    [rendered] = encoder.render([Conversation(prompt, COMPLETIONS)], truncation="error")
    assert [one.warnings for one in rendered] == [[]] * len(COMPLETIONS)
    # What stands before it is the same for all, and holds the whole history.
    [before] = befores
    assert all(message["content"] in before for message in prompt)


@pytest.mark.parametrize(
    "name", [name for name in STYLES if "{% if add_gen" in STYLES[name].template]
)
def test_what_counts_begins_where_a_model_would_write(name: str) -> None:
    encoder = _styled(STYLES[name])
    prompt = encoder._writer.apply_template([*map(dict, HISTORY)])
    for sequence in _encode(encoder, Conversation(HISTORY, COMPLETIONS)):
        assert _parts(encoder, sequence)[0] == prompt


@pytest.mark.parametrize("name", STYLES)
def test_a_completion_may_contain_what_templates_write(name: str) -> None:
    style = STYLES[name]
    encoder = _styled(style)
    written = [*style.special, style.header, style.end + style.rest, style.end + style.header]
    completions = [text for one in written for text in (f"a{one}b", f"{one}b", f"a{one}") if one]
    completions = [one for one in completions if not (style.strips and one != one.strip())]
    for completion, sequence in zip(
        completions, _encode(encoder, Conversation(HISTORY, completions)), strict=True
    ):
        _, counts, behind = _parts(encoder, sequence)
        assert (counts, behind) == (completion + style.end, style.rest)


@settings(deadline=None, max_examples=150)
@given(
    name=st.sampled_from(sorted(STYLES)),
    history=st.lists(st.text(max_size=8), min_size=2, max_size=6),
    completion=st.text(min_size=1, max_size=12),
)
def test_whatever_is_said_the_parts_are_the_text(
    name: str, history: list[str], completion: str
) -> None:
    style = STYLES[name]
    encoder = _ENCODERS.setdefault(name, _styled(style))
    prompt = [
        {"role": "user" if turn % 2 == 0 else "assistant", "content": text}
        for turn, text in enumerate(history[: 2 * (len(history) // 2) - 1])
    ]
    expected = completion.strip() if style.strips else completion
    one = Conversation(prompt, [completion])
    if not expected:
        with pytest.raises(InvalidRequestError, match="the completion is empty"):
            _encode(encoder, one)
        return
    [sequence] = _encode(encoder, one, boundary="any")
    before, counts, behind = _parts(encoder, sequence)
    if sequence.completion_start:
        assert (counts, behind) == (expected + style.end, style.rest)
        assert before.endswith(style.header)
    [[rendering]] = encoder.render([one], truncation="error")
    assert before + counts + behind == rendering.text


_ENCODERS: dict[str, Encoder] = {}


@pytest.mark.parametrize("name", [name for name in STYLES if STYLES[name].strips])
@pytest.mark.parametrize("completion", ["  ", "\n", " \t "])
def test_what_a_template_strips_to_nothing_is_empty(name: str, completion: str) -> None:
    with pytest.raises(InvalidRequestError, match="the completion is empty") as caught:
        _encode(_styled(STYLES[name]), Conversation([USER], ["fine", completion]))
    assert (caught.value.input_index, caught.value.completion_index) == (0, 1)


@pytest.mark.parametrize("name", STYLES)
def test_an_empty_completion_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError, match="the completion is empty"):
        _encode(_styled(STYLES[name]), Conversation(HISTORY, ["fine", ""]))


# ---------------------------------------------------------------- templates that rewrite

# As Qwen3's: what was thought is cut out of the text and put where it belongs; without a thought
# there is an empty one.
THINKING = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\n' -}}
    {%- if message.role == 'assistant' -%}
        {%- set thought = '' -%}
        {%- set content = message.content -%}
        {%- if '</think>' in content -%}
            {%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') -%}
            {%- set content = content.split('</think>')[-1].lstrip('\n') -%}
        {%- endif -%}
        {%- if loop.last -%}
            {{- '<think>\n' + thought + '\n</think>\n\n' + content -}}
        {%- else -%}
            {{- content -}}
        {%- endif -%}
    {%- else -%}
        {{- message.content -}}
    {%- endif -%}
    {{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""
THOUGHT = "<think>\nWhy not?\n</think>\n\nBecause."
REWRITTEN = "the chat template rewrites this completion: all that follows the prompt for it counts"


@pytest.fixture(scope="module")
def thinking() -> Encoder:
    return _encoder(THINKING, special=("<|im_start|>", "<|im_end|>", "<think>", "</think>"))


def test_a_thought_that_is_moved_counts(thinking: Encoder) -> None:
    untidy = "<think>Why not?</think>Because."
    [[plain, thought, moved]] = thinking.render(
        [Conversation(HISTORY, ["Because.", THOUGHT, untidy])], truncation="error"
    )
    assert _parts(thinking, plain.sequence)[1:] == ("Because.<|im_end|>", "\n")
    assert plain.warnings == []
    for one in (thought, moved):
        before, counts, behind = _parts(thinking, one.sequence)
        assert before.endswith("<|im_start|>assistant\n")
        assert (counts, behind) == (THOUGHT + "<|im_end|>", "\n")
        assert one.warnings == [REWRITTEN]
    # Of an earlier turn it is not in the text at all.
    earlier = [USER, {"role": "assistant", "content": THOUGHT}, USER]
    [sequence] = _encode(thinking, Conversation(earlier, ["Yes."]))
    before, counts, _ = _parts(thinking, sequence)
    assert "Why not?" not in before
    assert counts == "Yes.<|im_end|>"


def test_a_thought_that_is_left_out_is_warned_about() -> None:
    """As DeepSeek-R1's: only what follows the thought is written."""
    style = STYLES["chatml"]
    template = style.template.replace("message.content", "message.content.split('</think>')[-1]")
    encoder = _encoder(template, special=style.special)
    [[rendering]] = encoder.render([Conversation([USER], [THOUGHT])], truncation="error")
    assert "Why not?" not in rendering.text
    assert rendering.warnings == ["the chat template changes the completion's text"]


def test_where_even_the_prompt_is_rewritten_the_caller_must_say() -> None:
    # It writes the last message first.
    template = (
        "{{ messages[-1].content.upper() }}|{% for message in messages %}"
        "{{ message.content }}|{% endfor %}"
    )
    encoder = _encoder(template)
    one = Conversation([USER], ["yes"])
    with pytest.raises(InvalidRequestError, match="send token_ids with completion_start"):
        _encode(encoder, one)
    [[rendering]] = encoder.render([one], truncation="error")
    assert "where the completion starts in this text is not known" in rendering.warnings
    assert rendering.sequence.completion_start is None
    assert _encode(encoder, one, boundary="any")


def test_a_template_without_a_prompt_for_a_completion_says_when_it_does_not_know() -> None:
    template = THINKING.replace(
        "{%- if add_generation_prompt -%}",
        "{%- if add_generation_prompt -%}{{ raise_exception('never') }}",
    )
    encoder = _encoder(template, special=("<|im_start|>", "<|im_end|>"))
    assert _encode(encoder, Conversation([USER], ["Because."]))
    with pytest.raises(InvalidRequestError, match="the chat template rewrites it"):
        _encode(encoder, Conversation([USER], [THOUGHT]))


MARKER = "\ue000completion\ue000"


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("Hi", MARKER),
        ("Hi", f"a{MARKER}b"),
        ("\ue000", "\ue000"),
        (MARKER, "yes"),
        (MARKER, MARKER),
        (MARKER * 3, f"{MARKER}{MARKER}"),
    ],
)
def test_what_looks_like_our_own_marker_is_a_text_like_any_other(
    prompt: str, completion: str
) -> None:
    style = STYLES["chatml"]
    encoder = _styled(style)
    one = Conversation([{"role": "user", "content": prompt}], [completion])
    [sequence] = _encode(encoder, one)
    assert _parts(encoder, sequence)[1:] == (completion + style.end, style.rest)


# -------------------------------------------------------------- tokens across the boundary


def test_a_token_that_reaches_into_the_completion_belongs_to_it() -> None:
    encoder = _encoder(
        built_in_templates()["raw"], _tokenizer(["<s>"], merges=[("a", "b"), ("c", "d")])
    )
    [apart, across, behind] = _encode(
        encoder, Conversation([{"role": "user", "content": "xa"}], ["c", "bc", "cd"])
    )
    assert _parts(encoder, apart)[:2] == ("xa", "c")
    assert _parts(encoder, across)[:2] == ("x", "abc")
    assert _parts(encoder, behind)[:2] == ("xa", "cd")


def test_a_token_across_the_very_start_leaves_nothing_before_it() -> None:
    encoder = _encoder(built_in_templates()["raw"], _tokenizer(["<s>"], merges=[("a", "b")]))
    one = Conversation([{"role": "user", "content": "a"}], ["c", "bc"])
    with pytest.raises(InvalidRequestError, match="completion_start must be at least 1") as caught:
        _encode(encoder, one)
    assert caught.value.completion_index == 1


def test_a_token_that_reaches_out_of_the_completion_counts() -> None:
    encoder = _encoder(
        built_in_templates()["tulu"], _tokenizer(["<s>"], merges=[(".", "Ċ"), ("Ċ", "Ċ")])
    )
    for completion, sequence in zip(
        ("Yes.", "Yes\n", "Yes"),
        _encode(encoder, Conversation([USER], ["Yes.", "Yes\n", "Yes"])),
        strict=True,
    ):
        before, counts, behind = _parts(encoder, sequence)
        assert before.endswith("<|assistant|>\n")
        assert (counts, behind) == (completion + "\n", "")


def test_a_header_that_ends_in_a_space_may_be_part_of_the_first_token() -> None:
    """As sentencepiece has it: the space belongs to the word behind it."""
    letters = [chr(code) for code in range(32, 127) if chr(code) != " "]
    tokens = ["<unk>", "<s>", "</s>", *letters, "▁", "\n", "▁Y"]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "Y")], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Replace("▁", " ")
    tokenizer.add_special_tokens([AddedToken(one, normalized=False) for one in ("<s>", "</s>")])
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")
    encoder = _encoder(STYLES["llama-2"].template, made)
    [joined, apart] = _encode(
        encoder, Conversation([{"role": "user", "content": "Hi"}], ["Yes", "No"])
    )
    assert made.convert_ids_to_tokens(joined.token_ids[slice(*joined.completion)]) == [
        "▁Y",
        "e",
        "s",
        "▁",
        "</s>",
    ]
    assert made.convert_ids_to_tokens(apart.token_ids[slice(*apart.completion)]) == [
        "N",
        "o",
        "▁",
        "</s>",
    ]


def test_a_second_bos_that_is_dropped_moves_the_boundary() -> None:
    style = STYLES["zephyr"]
    once, twice = (
        _encoder(text, special=style.special, bos=style.bos)
        for text in (style.template, "{{ bos_token }}" + style.template)
    )
    assert _encode(twice, Conversation(HISTORY, COMPLETIONS)) == (
        _encode(once, Conversation(HISTORY, COMPLETIONS))
    )
    text = RenderedText("<s><s>ab", completion_start=7)
    [sequence] = _encode(twice, text)
    assert _parts(twice, sequence) == ("<s>a", "b", "")


def test_a_bos_that_the_tokenizer_writes_moves_the_boundary() -> None:
    tokenizer = _tokenizer(["<s>"], bos="<s>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    encoder = _encoder(built_in_templates()["raw"], tokenizer, is_built_in=True)
    assert encoder.special_tokens == "tokenizer"
    [sequence] = _encode(encoder, Conversation([USER], ["Yes."]))
    assert _parts(encoder, sequence) == ("<s>Hi é", "Yes.", "")
    # Even the first character has something before it now.
    [sequence] = _encode(encoder, RenderedText("Yes.", completion_start=0))
    assert _parts(encoder, sequence) == ("<s>", "Yes.", "")


def test_a_tokenizer_that_keeps_no_offsets_needs_token_ids() -> None:
    tokenizer = ByT5Tokenizer()
    encoder = _encoder("{% for message in messages %}{{ message.content }}|{% endfor %}", tokenizer)
    with pytest.raises(InvalidRequestError, match="send token_ids with completion_start"):
        _encode(encoder, Conversation([USER], ["Yes."]))
    with pytest.raises(InvalidRequestError, match="send token_ids with completion_start"):
        _encode(encoder, RenderedText("Hi there", completion_start=3))
    assert _encode(encoder, GivenTokens([5, 6, 7], completion_start=1))
    assert _encode(encoder, RenderedText("Hi there"), boundary="whole")


# ------------------------------------------------------------------- texts and token ids


@pytest.mark.parametrize("start", range(3, 12))
def test_a_texts_completion_goes_to_its_end(start: int) -> None:
    text = "<s>é 😀</s>x\n"
    encoder = _styled(STYLES["zephyr"])
    [sequence] = _encode(encoder, RenderedText(text, completion_start=start))
    before, counts, behind = _parts(encoder, sequence)
    # In the midst of a special token, all of it belongs to the completion.
    first = 6 if 6 <= start < 10 else start
    assert (before, counts, behind) == (text[:first], text[first:], "")


# ------------------------------------------------------------------------------ truncation


@pytest.mark.parametrize("name", STYLES)
def test_truncation_moves_the_boundary_and_keeps_the_completion(name: str) -> None:
    style = STYLES[name]
    prompt = [{"role": "user", "content": "p" * 100}]
    [whole] = _encode(_styled(style), Conversation(prompt, ["Yes, 😀!"]))
    for limit in (len(whole) - 1, len(whole) - 60, len(whole) - 99):
        encoder = _styled(style, limit=limit)
        [sequence] = _encode(encoder, Conversation(prompt, ["Yes, 😀!"]), truncation="prompt_start")
        dropped = len(whole) - limit
        assert sequence.truncated_tokens == dropped
        assert len(sequence) == limit
        start, stop = sequence.completion
        assert (start, stop) == (whole.completion[0] - dropped, whole.completion[1] - dropped)
        assert _parts(encoder, sequence)[1:] == ("Yes, 😀!" + style.end, style.rest)
        kept = 1 if style.bos else 0
        assert sequence.token_ids == whole.token_ids[:kept] + whole.token_ids[kept + dropped :]


FORMS: dict[str, tuple[EncoderInput, Boundary]] = {
    "a conversation": (Conversation([{"role": "user", "content": "ppp"}], ["12345678"]), "known"),
    "a text": (RenderedText("ppp12345678", completion_start=3), "known"),
    "token ids": (GivenTokens([*range(20, 31)], completion_start=3), "known"),
    "a text as a whole": (RenderedText("p12345678"), "whole"),
    "token ids as a whole": (GivenTokens([*range(20, 29)]), "whole"),
}


@pytest.mark.parametrize("form", FORMS)
def test_truncation_leaves_something_before_the_completion(form: str) -> None:
    one, boundary = FORMS[form]
    raw = built_in_templates()["raw"]
    [whole] = _encode(_encoder(raw), one, boundary=boundary)
    start, stop = whole.completion
    completion = whole.token_ids[start:stop]
    # One token of the prompt has room.
    [sequence] = _encode(
        _encoder(raw, limit=len(completion) + 1), one, truncation="prompt_start", boundary=boundary
    )
    start, stop = sequence.completion
    assert start == 1
    assert sequence.token_ids[start:stop] == completion
    # None has: the completion alone is too long.
    with pytest.raises(InputTooLongError, match="a completion is never truncated"):
        _encode(
            _encoder(raw, limit=len(completion)), one, truncation="prompt_start", boundary=boundary
        )


@pytest.mark.parametrize("attention", ["tree", "padded"])
def test_a_prompt_that_is_truncated_to_nothing_is_refused(
    start_service: StartService, folder: Path, attention: str
) -> None:
    url = start_service(model_id=str(folder), attention=attention, max_input_tokens=64)
    one = {"token_ids": random.Random(1).choices(range(20, 262), k=65), "completion_start": 1}
    with RewardClient(url) as client, pytest.raises(RefusedError, match="is never truncated"):
        client.logprobs_many([one], truncation="prompt_start")


# ---------------------------------------------------------------------------- over HTTP


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy."""
    folder = tmp_path_factory.mktemp("models") / "policy"
    write_debug_model(folder, kind="causal")
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[RewardClient]:
    with running_service(model_id=str(folder)) as url, RewardClient(url) as client:
        yield client


def test_render_shows_which_tokens_count(client: RewardClient) -> None:
    [[rendered, other]] = client.render([{"prompt": "Hi", "completions": ["Yo", "Wow."]}]).results
    assert rendered.text == "<s><|user|>\nHi</s>\n<|assistant|>\nYo</s>\n"
    start, end = rendered.completion_start, rendered.completion_end
    assert rendered.tokens[start:end] == ["Y", "o", "</s>"]
    assert rendered.tokens[end:] == ["Ċ"]
    assert rendered.read_position is None
    assert other.completion_start == start
    assert other.completion_end == end + 2
    [result] = client.logprobs_many([{"prompt": "Hi", "completions": ["Yo", "Wow."]}]).results
    assert result.completion_start == [start, start]
    assert result.num_completion_tokens == [3, 5]


def test_render_shows_what_the_caller_said(client: RewardClient) -> None:
    [[text], [ids], [unknown]] = client.render(
        [
            {"text": "<s>Hi there", "completion_start": 6},
            {"token_ids": [1, 50, 51, 52], "completion_start": 2},
            {"text": "<s>Hi"},
        ]
    ).results
    assert (text.tokens[text.completion_start], text.completion_end) == ("t", len(text.tokens))
    assert (ids.completion_start, ids.completion_end) == (2, 4)
    assert (unknown.completion_start, unknown.completion_end) == (None, None)


def test_a_truncated_completion_has_the_numbers_of_what_is_left(
    start_service: StartService, folder: Path
) -> None:
    url = start_service(model_id=str(folder), max_input_tokens=64)
    one = {"prompt": "p" * 100, "completions": ["Yes.", "No, not at all."]}
    with RewardClient(url) as client:
        [rendered] = client.render([one], truncation="prompt_start").results
        [result] = client.logprobs_many([one], truncation="prompt_start").results
    for shown, value, truncated in zip(
        rendered, result.logprobs, result.truncated_tokens, strict=True
    ):
        assert len(shown.token_ids) == 64
        assert shown.token_ids[0] == 1
        assert shown.truncated_tokens == truncated > 0
        completion = Completion(shown.token_ids, shown.completion_start, shown.completion_end)
        assert value == pytest.approx(log_probs.total(folder, completion), rel=1e-4)


def test_a_rewritten_completion_is_scored_as_it_is_rendered(
    start_service: StartService, folder: Path
) -> None:
    url = start_service(model_id=str(folder), chat_template="{{ bos_token }}" + THINKING)
    one = {"prompt": "Hi", "completions": ["Because.", THOUGHT]}
    with RewardClient(url) as client:
        [rendered] = client.render([one]).results
        [result] = client.logprobs_many([one]).results
    assert [shown.warnings for shown in rendered] == [[], [REWRITTEN]]
    for shown, value in zip(rendered, result.logprobs, strict=True):
        completion = Completion(shown.token_ids, shown.completion_start, shown.completion_end)
        assert value == pytest.approx(log_probs.total(folder, completion), rel=1e-4)


@pytest.mark.parametrize("template", ["raw", "tulu"])
def test_the_built_in_templates_have_no_end_of_turn(folder: Path, template: str) -> None:
    loaded = load_model(Settings(model_id=str(folder), chat_template=template))
    [sequence] = _encode(loaded.encoder, Conversation(HISTORY, ["Because."]))
    before, counts, behind = _parts(loaded.encoder, sequence)
    assert before.startswith("<s>")
    assert before.count("<s>") == 1
    assert (counts, behind) == ("Because." + STYLES[template].end, "")
    assert sequence.completion_end is None
