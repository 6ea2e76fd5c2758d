"""Writes inputs as texts, with the chat template, and finds the completion in them."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import jinja2

from reward_service.errors import (
    InputTooLongError,
    InvalidRequestError,
    TemplateFailedError,
)
from reward_service.input_form import StepFormat
from reward_service.inputs import (
    MAX_CHARACTERS_PER_TOKEN,
    Conversation,
    EncoderInput,
    GivenTokens,
    RenderedText,
)

PINNED_DATE = datetime(2024, 7, 26)
"""What a template that asks for today's date is told (the date Llama's templates fall back to):
the same conversation must have the same score tomorrow."""

_DATE_DIRECTIVES = "aAbBdHIjmMpSUwWyYcxX"

# Survives templates that strip or inspect their messages, and no tokenizer normalises it away
# because it is only searched for in the rendered text.
_MARKER = "\ue000completion\ue000"

_TEMPLATE_FAILURES = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RecursionError,
)
"""A chat template is a program of the checkpoint's: these are the ways it says no."""


@dataclass(slots=True)
class Draft:
    """A sequence on its way from text to tokens.

    Its text and where the completion lies in it are the writer's to say, the rest the encoder's.
    """

    text: str
    is_conversation: bool = False
    """The template was applied here, so the completion's place is ours to know."""
    first_character: int | None = None
    """Where the completion starts in the text."""
    last_character: int | None = None
    """Where the template goes on after it."""
    token_ids: list[int] = field(default_factory=list)
    completion_start: int | None = None
    completion_end: int | None = None
    text_end: int | None = None
    """Index of the first token behind the completion's text, which the template wrote."""
    cut_off: list[int] = field(default_factory=list)
    """What the template wrote of the last token of the text, where that reaches so far."""
    steps: int | None = None
    """Steps of a solution, where its tags were put here."""
    warnings: list[str] = field(default_factory=list)


class DraftWriter:
    """Writes inputs as the chat template in force would have them.

    Args:
        tokenizer: a transformers tokenizer, for its environment of templates.
        template: the text of the chat template.
        max_input_tokens: longest sequence; what cannot fit by far is refused here.
        steps: how the steps of a completion are marked, where the model reads steps.
    """

    def __init__(
        self, tokenizer: Any, template: str, *, max_input_tokens: int, steps: StepFormat | None
    ) -> None:
        self._tokenizer = tokenizer
        self._template = _with_pinned_date(template)
        self._max_input_tokens = max_input_tokens
        self._steps = steps

    def drafts(self, one: EncoderInput) -> list[Draft]:
        """One draft for each completion; given token ids are in it as they are.

        Raises:
            ServiceError: the input cannot be written, or is too long by far.
        """
        match one:
            case Conversation():
                return self._conversation(one)
            case RenderedText():
                self._check_characters(one.text, completion_index=0)
                return [Draft(one.text, first_character=one.completion_start)]
            case GivenTokens():
                return [
                    Draft("", token_ids=[*one.token_ids], completion_start=one.completion_start)
                ]

    def _conversation(self, conversation: Conversation) -> list[Draft]:
        prompt = [dict(message) for message in conversation.prompt]
        marker = _MARKER
        while any(marker in message["content"] for message in prompt):
            marker += _MARKER
        before, found, after = self.apply_template(prompt, marker).partition(marker)
        drafts = []
        for index, given in enumerate(conversation.completions):
            completion, steps = self._with_steps(given, completion_index=index)
            text = self.apply_template(prompt, completion)
            self._check_characters(text, completion_index=index)
            draft = Draft(text, is_conversation=True, steps=steps)
            first, last = len(before), len(text) - len(after)
            if found and first <= last and text.startswith(before) and text.endswith(after):
                draft.first_character, draft.last_character = first, last
                if text[first:last].strip() != completion.strip():
                    draft.warnings.append("the chat template changes the completion's text")
            else:
                self._find_rewritten(draft, prompt, after)
            drafts.append(draft)
        return drafts

    def _with_steps(self, completion: str, *, completion_index: int) -> tuple[str, int | None]:
        if self._steps is None:
            return completion, None
        try:
            return self._steps.tagged(completion)
        except InvalidRequestError as error:
            error.completion_index = completion_index
            raise

    def _find_rewritten(self, draft: Draft, prompt: list[dict[str, str]], after: str) -> None:
        """The place of a completion that the template looks into and writes in its own way.

        Templates of reasoning models move what was thought. What a model would have written itself
        begins where the prompt for it ends.
        """
        try:
            before = self.apply_template(prompt)
        except TemplateFailedError:
            before = ""
        if not before or not draft.text.startswith(before):
            draft.warnings.append("where the completion starts in this text is not known")
            return
        draft.warnings.append(
            "the chat template rewrites this completion: all that follows the prompt for it counts"
        )
        draft.first_character = len(before)
        ends_alike = after and draft.text.endswith(after)
        draft.last_character = len(draft.text) - len(after) if ends_alike else None

    def apply_template(self, prompt: list[dict[str, str]], completion: str | None = None) -> str:
        """The conversation as text; without a completion up to where one would begin.

        Raises:
            TemplateFailedError: the template refuses it.
        """
        messages = [*prompt]
        if completion is not None:
            messages.append({"role": "assistant", "content": completion})
        try:
            rendered = self._tokenizer.apply_chat_template(
                messages,
                chat_template=self._template,
                add_generation_prompt=completion is None,
                tokenize=False,
            )
        except _TEMPLATE_FAILURES as error:
            roles = ", ".join(message["role"] for message in messages)
            raise TemplateFailedError(
                f"the model's chat template refuses this conversation (roles: {roles}): {error}"
            ) from error
        return str(rendered)

    def _check_characters(self, text: str, *, completion_index: int) -> None:
        if len(text) > MAX_CHARACTERS_PER_TOKEN * self._max_input_tokens:
            raise InputTooLongError(
                f"a text of {len(text):,} characters cannot fit in {self._max_input_tokens:,} "
                f"tokens (over {MAX_CHARACTERS_PER_TOKEN} characters for each): shorten it",
                completion_index=completion_index,
                limit=self._max_input_tokens,
            )


def _with_pinned_date(template: str) -> str:
    """The template, with a macro of its own in place of transformers' `strftime_now`.

    A macro, because transformers turns arguments of a template into plain data, functions too.
    """
    if "strftime_now" not in template:
        return template
    replacements = "".join(
        f".replace('%{directive}', '{PINNED_DATE.strftime('%' + directive)}')"
        for directive in _DATE_DIRECTIVES
    )
    # The empty expression keeps the tag from swallowing white space of the template's own.
    return (
        "{%- macro strftime_now(format) -%}{{- format"
        + replacements
        + " -}}{%- endmacro -%}{{ '' }}"
        + template
    )
