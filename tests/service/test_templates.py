"""The built-in chat templates: RewardBench's strings to the byte, alone and through the encoder."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    DebertaV2Tokenizer,
    PreTrainedTokenizerFast,
)

from reward_service.chat_template import ChatTemplate, built_in_templates, choose_template
from reward_service.encoding import Encoder
from reward_service.errors import StartupError, TemplateFailedError
from reward_service.inputs import Conversation, Rendering

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Format:
    """A template's strings, as FastChat 0.2.36 (conversation.py) and RewardBench
    (rewardbench/chattemplates.py) render them."""

    one: str
    """U and A."""
    two: str
    """U, A, V and B."""
    three: str
    """U, A, V, B, W and C."""
    system: str | None
    """U, A, V and B behind the system message S."""
    empty_system: str | None
    """U and A behind an empty system message."""
    opening: str
    user: tuple[str, str]
    """What stands before and behind a user's message."""
    assistant: tuple[str, str]
    llama_end: str = ""
    """As far as what stands behind an answer counts, for a tokenizer with Llama's special tokens;
    nothing where all of it does."""
    other_end: str = ""
    """For one with those of Pythia and Yi."""


_ROBIN = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the human's questions."
)

FORMATS = {
    "tulu": Format(
        one="<|user|>\nU\n<|assistant|>\nA\n",
        two="<|user|>\nU\n<|assistant|>\nA\n<|user|>\nV\n<|assistant|>\nB\n",
        three="<|user|>\nU\n<|assistant|>\nA\n<|user|>\nV\n<|assistant|>\nB\n"
        "<|user|>\nW\n<|assistant|>\nC\n",
        system="<|system|>\nS\n<|user|>\nU\n<|assistant|>\nA\n<|user|>\nV\n<|assistant|>\nB\n",
        empty_system="<|system|>\n\n<|user|>\nU\n<|assistant|>\nA\n",
        opening="",
        user=("<|user|>\n", "\n"),
        assistant=("<|assistant|>\n", "\n"),
    ),
    "raw": Format(
        one="UA",
        two="UAVB",
        three="UAVBWC",
        system="SUAVB",
        empty_system="UA",
        opening="",
        user=("", ""),
        assistant=("", ""),
    ),
    "oasst_pythia": Format(
        one="<|prompter|>U<|endoftext|><|assistant|>A<|endoftext|>",
        two="<|prompter|>U<|endoftext|><|assistant|>A<|endoftext|>"
        "<|prompter|>V<|endoftext|><|assistant|>B<|endoftext|>",
        three="<|prompter|>U<|endoftext|><|assistant|>A<|endoftext|>"
        "<|prompter|>V<|endoftext|><|assistant|>B<|endoftext|>"
        "<|prompter|>W<|endoftext|><|assistant|>C<|endoftext|>",
        system=None,
        empty_system=None,
        opening="",
        user=("<|prompter|>", "<|endoftext|>"),
        assistant=("<|assistant|>", "<|endoftext|>"),
        other_end="<|endoftext|>",
    ),
    "Robin": Format(
        one="A chat between a curious human and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the human's questions.\n"
        "###Human:\nU\n###Assistant:\nA\n",
        two=_ROBIN + "\n###Human:\nU\n###Assistant:\nA\n###Human:\nV\n###Assistant:\nB\n",
        three=_ROBIN + "\n###Human:\nU\n###Assistant:\nA\n###Human:\nV\n###Assistant:\nB\n"
        "###Human:\nW\n###Assistant:\nC\n",
        system="S\n###Human:\nU\n###Assistant:\nA\n###Human:\nV\n###Assistant:\nB\n",
        empty_system="\n###Human:\nU\n###Assistant:\nA\n",
        opening=_ROBIN + "\n",
        user=("###Human:\n", "\n"),
        assistant=("###Assistant:\n", "\n"),
    ),
    "llama-2": Format(
        one="[INST] U [/INST] A </s><s>",
        two="[INST] U [/INST] A </s><s>[INST] V [/INST] B </s><s>",
        three="[INST] U [/INST] A </s><s>[INST] V [/INST] B </s><s>[INST] W [/INST] C </s><s>",
        system="[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] A </s><s>[INST] V [/INST] B </s><s>",
        empty_system="[INST] U [/INST] A </s><s>",
        opening="",
        user=("[INST] ", " "),
        assistant=("[/INST] ", " </s><s>"),
        llama_end=" </s>",
    ),
    "mistral": Format(
        one="[INST] U [/INST] A</s>",
        two="[INST] U [/INST] A</s>[INST] V [/INST] B</s>",
        three="[INST] U [/INST] A</s>[INST] V [/INST] B</s>[INST] W [/INST] C</s>",
        system="[INST] S\nU [/INST] A</s>[INST] V [/INST] B</s>",
        empty_system="[INST] U [/INST] A</s>",
        opening="",
        user=("[INST] ", " "),
        assistant=("[/INST] ", "</s>"),
        llama_end="</s>",
    ),
    "Yi-34b-chat": Format(
        one="<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n",
        two="<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
        "<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n",
        three="<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
        "<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
        "<|im_start|>user\nW<|im_end|>\n<|im_start|>assistant\nC<|im_end|>\n",
        # FastChat writes no header before it; the model's own template does.
        system="<|im_start|>system\nS<|im_end|>\n"
        "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
        "<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n",
        empty_system="<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n",
        opening="",
        user=("<|im_start|>user\n", "<|im_end|>\n"),
        assistant=("<|im_start|>assistant\n", "<|im_end|>\n"),
        other_end="<|im_end|>",
    ),
    "zephyr": Format(
        one="<|system|>\n</s>\n<|user|>\nU</s>\n<|assistant|>\nA</s>\n",
        two="<|system|>\n</s>\n<|user|>\nU</s>\n<|assistant|>\nA</s>\n"
        "<|user|>\nV</s>\n<|assistant|>\nB</s>\n",
        three="<|system|>\n</s>\n<|user|>\nU</s>\n<|assistant|>\nA</s>\n"
        "<|user|>\nV</s>\n<|assistant|>\nB</s>\n<|user|>\nW</s>\n<|assistant|>\nC</s>\n",
        system="<|system|>\nS</s>\n<|user|>\nU</s>\n<|assistant|>\nA</s>\n"
        "<|user|>\nV</s>\n<|assistant|>\nB</s>\n",
        empty_system="<|system|>\n</s>\n<|user|>\nU</s>\n<|assistant|>\nA</s>\n",
        opening="<|system|>\n</s>\n",
        user=("<|user|>\n", "</s>\n"),
        assistant=("<|assistant|>\n", "</s>\n"),
        llama_end="</s>",
    ),
    "pku-align": Format(
        one="BEGINNING OF CONVERSATION: USER: U ASSISTANT: A ",
        two="BEGINNING OF CONVERSATION: USER: U ASSISTANT: A USER: V ASSISTANT: B ",
        three="BEGINNING OF CONVERSATION: USER: U ASSISTANT: A USER: V ASSISTANT: B "
        "USER: W ASSISTANT: C ",
        system=None,
        empty_system=None,
        opening="BEGINNING OF CONVERSATION: ",
        user=("USER: ", " "),
        assistant=("ASSISTANT: ", " "),
    ),
    "openbmb": Format(
        one="User: U\n\nAssistant: A\n\n",
        two="User: U\n\nAssistant: A\n\nUser: V\n\nAssistant: B\n\n",
        three="User: U\n\nAssistant: A\n\nUser: V\n\nAssistant: B\n\nUser: W\n\nAssistant: C\n\n",
        system=None,
        empty_system=None,
        opening="",
        user=("User: ", "\n\n"),
        assistant=("Assistant: ", "\n\n"),
    ),
    "Ziya": Format(
        one="\n\nHuman: U\n\nAssistant: A\n\n",
        two="\n\nHuman: U\n\nAssistant: A\n\nHuman: V\n\nAssistant: B\n\n",
        three="\n\nHuman: U\n\nAssistant: A\n\nHuman: V\n\nAssistant: B\n\n"
        "Human: W\n\nAssistant: C\n\n",
        system="S\n\nHuman: U\n\nAssistant: A\n\nHuman: V\n\nAssistant: B\n\n",
        empty_system="\n\nHuman: U\n\nAssistant: A\n\n",
        opening="\n\n",
        user=("Human: ", "\n\n"),
        assistant=("Assistant: ", "\n\n"),
    ),
    "billa": Format(
        one="\nHuman: U\nAssistant: A\n",
        two="\nHuman: U\nAssistant: A\nHuman: V\nAssistant: B\n",
        three="\nHuman: U\nAssistant: A\nHuman: V\nAssistant: B\nHuman: W\nAssistant: C\n",
        system="S\nHuman: U\nAssistant: A\nHuman: V\nAssistant: B\n",
        empty_system="\nHuman: U\nAssistant: A\n",
        opening="\n",
        user=("Human: ", "\n"),
        assistant=("Assistant: ", "\n"),
    ),
}

CHECKED = [name for name in FORMATS if name != "raw"]
"""Those that look at the roles."""


def _byte_tokenizer(
    special: Sequence[str] = (), *, merges: Sequence[tuple[str, str]] = ()
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that adds nothing to a text."""
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(m) for m in merges)]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[*merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in special]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


PLAIN = _byte_tokenizer(
    ["<|endoftext|>", "<|prompter|>", "<|assistant|>", "<|im_start|>", "<|im_end|>"]
)


@pytest.fixture(scope="module")
def llama(debug_folder: Path) -> PreTrainedTokenizerFast:
    """The debug model's tokenizer: it adds BOS to a text, as Llama's does."""
    tokenizer = AutoTokenizer.from_pretrained(debug_folder)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert tokenizer("").input_ids == [1]
    return tokenizer


def _chat(*contents: str, system: str | None = None) -> Messages:
    turns = [
        {"role": "assistant" if turn % 2 else "user", "content": content}
        for turn, content in enumerate(contents)
    ]
    return turns if system is None else [{"role": "system", "content": system}, *turns]


def _roles(*roles: str) -> Messages:
    return [{"role": role, "content": "x"} for role in roles]


def _render(name: str, messages: Messages, *, tokenizer: Any = PLAIN, opens: bool = False) -> str:
    """Args: opens: whether the answer's header is asked for."""
    return str(
        tokenizer.apply_chat_template(
            messages,
            chat_template=built_in_templates()[name],
            add_generation_prompt=opens,
            tokenize=False,
        )
    )


def _joined(name: str, contents: Sequence[str]) -> str:
    """What a conversation should come to, put together without any template."""
    one = FORMATS[name]
    text = one.opening
    for turn, content in enumerate(contents):
        before, behind = one.assistant if turn % 2 else one.user
        text = text + before + content + behind
    return text


def _encoder(name: str, tokenizer: Any, **options: Any) -> Encoder:
    return Encoder(
        tokenizer,
        choose_template(name, of_tokenizer=tokenizer.chat_template, tokenizer_id="it"),
        max_input_tokens=8192,
        vocabulary_size=len(tokenizer),
        **options,
    )


def _renderings(encoder: Encoder, prompt: Messages, completions: list[str]) -> list[Rendering]:
    [renderings] = encoder.render([Conversation(prompt, completions)], truncation="error")
    [group] = encoder.encode(
        [Conversation(prompt, completions)], truncation="error", boundary="known"
    )
    assert [one.sequence for one in renderings] == [*group.sequences]
    return renderings


# ------------------------------------------------------------------------- to the byte


def test_every_template_is_tested_here() -> None:
    assert {*built_in_templates()} == {*FORMATS, "two-segments", "math-shepherd"}


@pytest.mark.parametrize("name", FORMATS)
def test_one_turn_is_rewardbenchs_string(name: str) -> None:
    assert _render(name, _chat("U", "A")) == FORMATS[name].one


@pytest.mark.parametrize("name", FORMATS)
def test_further_turns_repeat_the_unit(name: str) -> None:
    assert _render(name, _chat("U", "A", "V", "B")) == FORMATS[name].two
    assert _render(name, _chat("U", "A", "V", "B", "W", "C")) == FORMATS[name].three


@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS[name].system is not None])
def test_a_system_message_has_its_place(name: str) -> None:
    assert _render(name, _chat("U", "A", "V", "B", system="S")) == FORMATS[name].system
    assert _render(name, _chat("U", "A", system="")) == FORMATS[name].empty_system


@pytest.mark.parametrize("name", FORMATS)
def test_special_tokens_of_the_tokenizer_do_not_show(
    name: str, llama: PreTrainedTokenizerFast
) -> None:
    assert llama.bos_token is not None
    assert PLAIN.bos_token is None
    conversations = [_chat("U", "A", "V")]
    if FORMATS[name].system is not None:
        conversations.append(_chat("U", "A", "V", system="S"))
    for messages in conversations:
        for opens in (False, True):
            text = _render(name, messages, tokenizer=llama, opens=opens)
            assert text == _render(name, messages, opens=opens)


SAID = st.one_of(
    st.text(max_size=12),
    st.lists(
        st.sampled_from(
            [
                *"{}%#<>'\"\\ \n\r\t\u2028é漢😀",
                "{{ bos_token }}",
                "{% raw %}",
                "{#",
                "</s>",
                "<s>",
                "<|user|>\n",
                "\n\nHuman: ",
                "[/INST] ",
                "%s{0}",
            ]
        ),
        max_size=6,
    ).map("".join),
)


@settings(deadline=None, max_examples=300)
@given(name=st.sampled_from(sorted(FORMATS)), contents=st.lists(SAID, min_size=1, max_size=7))
def test_what_is_said_stands_there_as_it_was_said(name: str, contents: list[str]) -> None:
    assert _render(name, _chat(*contents)) == _joined(name, contents)


@settings(deadline=None, max_examples=300)
@given(
    name=st.sampled_from([name for name in sorted(FORMATS) if FORMATS[name].system is not None]),
    system=SAID.filter(bool),
    contents=st.lists(SAID, min_size=1, max_size=4),
)
def test_a_system_message_stands_there_as_it_was_said(
    name: str, system: str, contents: list[str]
) -> None:
    known = _render(name, _chat("\ue001", *contents[1:], system="\ue000"))
    expected = known.replace("\ue000", system, 1).replace("\ue001", contents[0], 1)
    if "\ue000" not in system + contents[0] and "\ue001" not in system:
        assert _render(name, _chat(*contents, system=system)) == expected


# ------------------------------------------------------------- where the answer begins


SLOTS = {
    "tulu": "<|user|>\nU\n<|assistant|>\n",
    "raw": "U",
    "oasst_pythia": "<|prompter|>U<|endoftext|><|assistant|>",
    "Robin": _ROBIN + "\n###Human:\nU\n###Assistant:\n",
    "llama-2": "[INST] U [/INST] ",
    "mistral": "[INST] U [/INST] ",
    "Yi-34b-chat": "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n",
    "zephyr": "<|system|>\n</s>\n<|user|>\nU</s>\n<|assistant|>\n",
    "pku-align": "BEGINNING OF CONVERSATION: USER: U ASSISTANT: ",
    "openbmb": "User: U\n\nAssistant: ",
    "Ziya": "\n\nHuman: U\n\nAssistant: ",
    "billa": "\nHuman: U\nAssistant: ",
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_prompt_ends_where_the_answer_begins(name: str) -> None:
    assert _render(name, _chat("U"), opens=True) == SLOTS[name]
    if FORMATS[name].system is not None:
        whole = _render(name, _chat("U", "A", system="S"))
        prompt = _render(name, _chat("U", system="S"), opens=True)
        assert whole == prompt + "A" + FORMATS[name].assistant[1]


@settings(deadline=None, max_examples=300)
@given(
    name=st.sampled_from(sorted(FORMATS)),
    history=st.lists(SAID, min_size=1, max_size=5).filter(lambda said: len(said) % 2 == 1),
    completion=SAID,
)
def test_prompt_completion_and_ending_are_the_whole_text(
    name: str, history: list[str], completion: str
) -> None:
    prompt = _render(name, _chat(*history), opens=True)
    ending = FORMATS[name].assistant[1]
    assert _render(name, _chat(*history, completion)) == prompt + completion + ending


# ------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("name", CHECKED)
@pytest.mark.parametrize(
    ("roles", "turn", "role"),
    [
        (("user", "user"), 2, "user"),
        (("user", "assistant", "assistant"), 3, "assistant"),
        (("assistant",), 1, "assistant"),
        (("assistant", "user"), 1, "assistant"),
        (("tool",), 1, "tool"),
        (("user", "tool", "assistant"), 2, "tool"),
        (("user", "Assistant"), 2, "Assistant"),
        (("user", "assistant", "user", "user"), 4, "user"),
    ],
)
def test_a_role_out_of_turn_is_refused(
    name: str, roles: tuple[str, ...], turn: int, role: str
) -> None:
    rule = f"{name} takes user and assistant in turn, the user first"
    sentence = f"{rule}: turn {turn} has the role '{role}'"
    with pytest.raises(jinja2.TemplateError, match=f"^{re.escape(sentence)}$"):
        _render(name, _roles(*roles))
    if FORMATS[name].system is not None:
        with pytest.raises(jinja2.TemplateError, match=f"^{re.escape(sentence)}$"):
            _render(name, _roles("system", *roles))


@pytest.mark.parametrize("name", [name for name in CHECKED if FORMATS[name].system is not None])
@pytest.mark.parametrize(
    ("roles", "turn"),
    [(("user", "system", "assistant"), 2), (("user", "assistant", "system"), 3)],
)
def test_a_system_message_comes_first(name: str, roles: tuple[str, ...], turn: int) -> None:
    with pytest.raises(jinja2.TemplateError, match=f"^{name} .*turn {turn} has the role 'system'$"):
        _render(name, _roles(*roles))
    with pytest.raises(jinja2.TemplateError, match=f"^{name} .*turn 1 has the role 'system'$"):
        _render(name, _roles("system", "system", "user"))


@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS[name].system is None])
@pytest.mark.parametrize(
    "roles", [("system", "user"), ("user", "system"), ("user", "assistant", "system", "user")]
)
def test_a_system_message_without_a_place_is_refused(name: str, roles: tuple[str, ...]) -> None:
    sentence = (
        f"{name} has no place for the role 'system': put what it says into the first user message"
    )
    with pytest.raises(jinja2.TemplateError, match=f"^{re.escape(sentence)}$"):
        _render(name, _roles(*roles))


@pytest.mark.parametrize("name", CHECKED)
def test_an_answer_follows_a_question(name: str) -> None:
    prompts: list[tuple[str, ...]] = [("user", "assistant")]
    if FORMATS[name].system is not None:
        prompts += [("system",), ("system", "user", "assistant")]
    sentence = (
        f"{name} takes user and assistant in turn, the user first: "
        "a completion must follow a user's message"
    )
    for roles in prompts:
        with pytest.raises(jinja2.TemplateError, match=f"^{re.escape(sentence)}$"):
            _render(name, _roles(*roles), opens=True)


def test_raw_takes_anything() -> None:
    messages = _roles("assistant", "assistant", "tool", "system", "user", "user")
    assert _render("raw", messages) == "xxxxxx"
    assert _render("raw", messages, opens=True) == "xxxxxx"


def test_the_encoder_hands_the_refusal_on() -> None:
    encoder = _encoder("pku-align", PLAIN)
    with pytest.raises(TemplateFailedError, match="pku-align has no place for the role 'system'"):
        encoder.encode([Conversation(_roles("system", "user"), ["A"])], truncation="error")
    with pytest.raises(TemplateFailedError, match="pku-align takes user and assistant in turn"):
        encoder.encode([Conversation(_roles("user", "assistant"), ["A"])], truncation="error")


# -------------------------------------------------------------------- through the encoder


HISTORIES = [["Hi é"], ["Hi é", "Hello.", "Why?"], ["a", "b", " c\n", "{{ d }}", "e"]]

COMPLETIONS = ["Yes.", "Où ça? 😀", "a", "\tx = 1\n\n", " spaced ", "two\nlines", "{% x %}"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("history", HISTORIES, ids=["one turn", "two turns", "three turns"])
def test_a_tokenizer_that_adds_bos(
    name: str, history: list[str], llama: PreTrainedTokenizerFast
) -> None:
    one = FORMATS[name]
    encoder = _encoder(name, llama)
    assert encoder.start_warnings == []
    for rendering, completion in zip(
        _renderings(encoder, _chat(*history), COMPLETIONS), COMPLETIONS, strict=True
    ):
        text = _joined(name, [*history, completion])
        ids = rendering.sequence.token_ids
        assert rendering.text == text
        assert rendering.warnings == []
        assert ids == [1, *llama(text, add_special_tokens=False).input_ids]
        assert ids.count(1) == 1 + text.count("<s>")
        assert (1, 1) not in pairwise(ids)
        start, stop = rendering.sequence.completion
        end = one.llama_end or one.assistant[1]
        assert llama.decode(ids[:start]) == "<s>" + _joined(name, history) + one.assistant[0]
        assert llama.decode(ids[start:stop]) == completion + end
        assert llama.decode(ids[stop:]) == one.assistant[1].removeprefix(end)
        assert (rendering.sequence.completion_end is None) is (one.llama_end == "")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("history", HISTORIES, ids=["one turn", "two turns", "three turns"])
def test_a_tokenizer_that_adds_nothing(name: str, history: list[str]) -> None:
    one = FORMATS[name]
    encoder = _encoder(name, PLAIN)
    for rendering, completion in zip(
        _renderings(encoder, _chat(*history), COMPLETIONS), COMPLETIONS, strict=True
    ):
        text = _joined(name, [*history, completion])
        ids = rendering.sequence.token_ids
        assert rendering.text == text
        assert rendering.warnings == []
        assert ids == PLAIN(text).input_ids
        start, stop = rendering.sequence.completion
        end = one.other_end or one.assistant[1]
        assert PLAIN.decode(ids[:start]) == _joined(name, history) + one.assistant[0]
        assert PLAIN.decode(ids[start:stop]) == completion + end
        assert PLAIN.decode(ids[stop:]) == one.assistant[1].removeprefix(end)
        assert (rendering.sequence.completion_end is None) is (one.other_end == "")


@settings(deadline=None, max_examples=150)
@given(
    name=st.sampled_from(sorted(FORMATS)),
    question=SAID.filter(bool),
    answers=st.lists(SAID, min_size=1, max_size=3),
)
def test_whatever_is_said_the_parts_are_the_text(
    name: str, question: str, answers: list[str]
) -> None:
    one = FORMATS[name]
    encoder = _ENCODERS.setdefault(name, _encoder(name, PLAIN))
    [group] = encoder.encode([Conversation(_chat(question), answers)], truncation="error")
    for sequence, answer in zip(group.sequences, answers, strict=True):
        ids = sequence.token_ids
        start, stop = sequence.completion
        end = one.other_end or one.assistant[1]
        assert PLAIN.decode(ids[:start]) == one.opening + question.join(one.user) + one.assistant[0]
        assert PLAIN.decode(ids[start:stop]) == answer + end
        assert PLAIN.decode(ids[stop:]) == one.assistant[1].removeprefix(end)


_ENCODERS: dict[str, Encoder] = {}


@pytest.mark.parametrize("name", FORMATS)
def test_two_bos_never_stand_at_the_start(name: str, llama: PreTrainedTokenizerFast) -> None:
    encoder = _encoder(name, llama)
    [rendering] = _renderings(encoder, _chat("<s>Hi"), ["<s>Yes."])
    ids = rendering.sequence.token_ids
    assert ids[0] == 1
    assert ids[1] != 1
    start, stop = rendering.sequence.completion
    end = FORMATS[name].llama_end or FORMATS[name].assistant[1]
    assert llama.decode(ids[start:stop]) == "<s>Yes." + end
    # Only where nothing is written before the question do the two meet.
    assert len(rendering.warnings) == (name == "raw")


@pytest.mark.parametrize(
    "name", [name for name in FORMATS if FORMATS[name].assistant[0].endswith(" ")]
)
def test_a_token_of_the_header_that_reaches_into_the_answer_is_the_answers(name: str) -> None:
    tokenizer = _byte_tokenizer(merges=[("Ġ", "Y")])
    [rendering] = _renderings(_encoder(name, tokenizer), _chat("Hi"), ["Yes."])
    ids = rendering.sequence.token_ids
    start, stop = rendering.sequence.completion
    before, behind = FORMATS[name].assistant
    assert tokenizer.decode(ids[start:stop]) == " Yes." + behind
    assert tokenizer.decode(ids[:start]) == _joined(name, ["Hi"]) + before.removesuffix(" ")


# -------------------------------------------------------------------- which one is in force


@pytest.mark.parametrize("name", FORMATS)
def test_the_tokenizers_own_template_wins_unless_one_is_asked_for(
    name: str, llama: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file of that name does not come before the template.
    monkeypatch.chdir(tmp_path)
    Path(name).write_text("{{ 'a file' }}")
    own = llama.chat_template
    unasked = choose_template(None, of_tokenizer=own, tokenizer_id="it")
    assert unasked == ChatTemplate(own, source="tokenizer", is_built_in=False)
    asked = choose_template(name, of_tokenizer=own, tokenizer_id="it")
    assert asked == ChatTemplate(built_in_templates()[name], source=name, is_built_in=True)
    assert asked == choose_template(name, of_tokenizer=None, tokenizer_id="it")
    # A default of the model's family comes last.
    assert unasked == choose_template(None, of_tokenizer=own, tokenizer_id="it", default=name)
    assert asked == choose_template(None, of_tokenizer=None, tokenizer_id="it", default=name)
    assert asked == choose_template(name, of_tokenizer=None, tokenizer_id="it", default="tulu")
    texts = []
    for template in (unasked, asked):
        encoder = Encoder(llama, template, max_input_tokens=999, vocabulary_size=len(llama))
        [rendering] = _renderings(encoder, _chat("U"), ["A"])
        texts.append(rendering.text)
    assert texts == ["<s><|user|>\nU</s>\n<|assistant|>\nA</s>\n", FORMATS[name].one]


@pytest.mark.parametrize("name", ["robin", "RAW", "ziya", "yi-34b-chat", "zephyr.jinja", "chatgpt"])
def test_a_name_is_meant_to_the_letter(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StartupError, match="neither a built-in name") as caught:
        choose_template(name, of_tokenizer="{{ 1 }}", tokenizer_id="it")
    assert all(known in str(caught.value) for known in FORMATS)


# ---------------------------------------------------------------------------- two segments

_PIECES = ["▁", *"abcdefghijklmnopqrstuvwxyzABCDEHINOSTUVY.,?!'0123é", "▁the", "▁Yes", "▁No", "in"]


def _deberta(**options: Any) -> Any:
    special = [(token, 0.0) for token in ("[PAD]", "[CLS]", "[SEP]", "[UNK]")]
    pieces = [(piece, -1.0 - index / 10) for index, piece in enumerate(_PIECES)]
    return DebertaV2Tokenizer(vocab=[*special, *pieces, ("[MASK]", 0.0)], **options)


def _converted_deberta() -> Any:
    """As transformers 4 writes it from a SentencePiece model, to a tokenizer.json."""
    special = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
    vocabulary = [(token, 0.0) for token in special] + [(piece, -2.0) for piece in _PIECES]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Strip(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    names = dict(zip(("pad_token", "cls_token", "sep_token", "unk_token"), special, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="[CLS]", eos_token="[SEP]", **names
    )


def _bert() -> Any:
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    letters = "abcdefghijklmnopqrstuvwxyz.,?!'0123é"
    tokens = [*special, *letters, *(f"##{letter}" for letter in letters), "the", "yes", "##ing"]
    return BertTokenizer(vocab={token: token_id for token_id, token in enumerate(tokens)})


ENCODERS = {
    "deberta": _deberta(),
    "deberta in lower case": _deberta(do_lower_case=True, split_by_punct=True),
    "deberta of transformers 4": _converted_deberta(),
    "bert": _bert(),
}

PAIRS = [
    ("Is it the one?", "Yes, the one."),
    ("Hi", "No"),
    (" spaced  out ", " in and out \n"),
    ("two\nlines", "\n\nthree\nlines\n"),
    ("", "Yes"),
    ("What?", ""),
    ("a [SEP] b", "c[SEP]"),
    ("漢 😀", "{{ sep_token }}"),
]


def _check_segments(name: str, question: str, answer: str) -> None:
    tokenizer = ENCODERS[name]
    encoder = _TWO_SEGMENTS.setdefault(
        name, _encoder("two-segments", tokenizer, reads_first_token=True)
    )
    # In lists: of a lone pair whose answer is empty, transformers makes one segment.
    pair = tokenizer([question], [answer])
    [group] = encoder.encode([Conversation(_chat(question), [answer])], truncation="error")
    [sequence] = group.sequences
    assert sequence.token_ids == pair.input_ids[0]
    assert sequence.token_ids[0] == tokenizer.cls_token_id
    assert sequence.token_ids[-1] == tokenizer.sep_token_id
    segments = pair.encodings[0].sequence_ids
    if answer.strip() and 1 in segments:
        assert sequence.completion == (segments.index(1), len(segments))


_TWO_SEGMENTS: dict[str, Encoder] = {}


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize(("question", "answer"), PAIRS)
def test_two_segments_are_the_tokenizers_own_pair(name: str, question: str, answer: str) -> None:
    _check_segments(name, question, answer)


@settings(deadline=None, max_examples=300)
@given(
    name=st.sampled_from(sorted(ENCODERS)),
    question=st.one_of(SAID, st.text(alphabet="".join(_PIECES) + " \n")),
    answer=st.one_of(SAID, st.text(alphabet="".join(_PIECES) + " \n")),
)
def test_two_segments_are_the_pair_whatever_they_say(name: str, question: str, answer: str) -> None:
    _check_segments(name, question, answer)


def test_two_segments_to_the_letter() -> None:
    tokenizer = ENCODERS["bert"]
    messages = _chat(" What {x}?\n", " That. ")
    assert _render("two-segments", messages, tokenizer=tokenizer) == " What {x}?\n[SEP] That. "
    prompt = _render("two-segments", messages[:1], tokenizer=tokenizer, opens=True)
    assert prompt == " What {x}?\n[SEP]"


@pytest.mark.parametrize(
    ("roles", "reason"),
    [
        (("user", "assistant", "user", "assistant"), "takes one question and its answer"),
        (("user", "user"), "takes one question .* not the roles 'user', 'user'$"),
        (("assistant",), "takes one question .* not the roles 'assistant'$"),
        (("user",), "takes one question .* not the roles 'user'$"),
        (("tool", "assistant"), "takes one question .* not the roles 'tool', 'assistant'$"),
        (("system", "user", "assistant"), "has no place for the role 'system'"),
    ],
)
def test_two_segments_are_two(roles: tuple[str, ...], reason: str) -> None:
    with pytest.raises(jinja2.TemplateError, match=f"^two-segments {reason}"):
        _render("two-segments", _roles(*roles), tokenizer=ENCODERS["bert"])


@pytest.mark.parametrize("roles", [("user", "assistant"), ("assistant",), ("user", "user")])
def test_an_answer_in_two_segments_follows_one_question(roles: tuple[str, ...]) -> None:
    with pytest.raises(jinja2.TemplateError, match=r"^two-segments takes one question"):
        _render("two-segments", _roles(*roles), tokenizer=ENCODERS["bert"], opens=True)


def test_two_segments_need_a_sep_token(llama: PreTrainedTokenizerFast) -> None:
    with pytest.raises(StartupError, match="two-segments needs a tokenizer that has a SEP token"):
        _encoder("two-segments", llama)
