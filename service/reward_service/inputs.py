"""What a caller may give to be read, and what is asked of the encoder that makes tokens of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from reward_service.chat_template import ChatTemplate
from reward_service.input_form import Truncation
from reward_service.sequences import SequenceGroup, TokenSequence

MAX_CHARACTERS_PER_TOKEN = 250
"""A text longer than this for every token of the limit is refused before it is tokenised."""

TEMPLATE_CHARACTERS = 200
"""Rendering the template for one completion takes as long as encoding so much text."""

Boundary = Literal["any", "known", "whole"]
"""What must be known of where a completion starts: nothing at all; the very token; or that too, but
a text or token ids of which the caller says nothing are a completion as a whole."""

Unit = Literal["completions", "tokens", "prefixes", "pairs"]
"""What gets a reading of its own: each completion as a whole; each of its tokens too; each of its
prefixes, with the template's ending; or every two completions, in both orders."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt with its completions, to be put through the chat template."""

    prompt: Sequence[Mapping[str, str]]
    """Messages (role, content) before the completion."""
    completions: Sequence[str]


@dataclass(frozen=True, slots=True)
class RenderedText:
    """A text in which the template has already been applied."""

    text: str
    completion_start: int | None = None
    """Index of the completion's first character."""


@dataclass(frozen=True, slots=True)
class GivenTokens:
    """Token ids exactly as the model should see them."""

    token_ids: Sequence[int]
    completion_start: int | None = None


EncoderInput = Conversation | RenderedText | GivenTokens
"""One input of a request, whichever form it has."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """One sequence as the model would see it, for people to check."""

    text: str
    tokens: list[str]
    sequence: TokenSequence
    warnings: list[str]


def count_characters(one: EncoderInput, unit: Unit = "completions") -> int:
    """How much there is to encode, in characters; the prompt counts with every completion."""
    match one:
        case Conversation():
            prompt = sum(len(message["content"]) for message in one.prompt) + TEMPLATE_CHARACTERS
            count = prompt * len(one.completions) + sum(map(len, one.completions))
            # Of n completions, each is in 2 · (n - 1) pairs.
            count *= 2 * (len(one.completions) - 1) if unit == "pairs" else 1
        case RenderedText():
            count = len(one.text)
        case GivenTokens():
            count = len(one.token_ids)
    # Every prefix is written out.
    return count**2 if unit == "prefixes" else count


class InputEncoder(Protocol):
    """Makes token sequences of inputs, as one model wants them."""

    template: ChatTemplate
    max_input_tokens: int
    special_tokens: Literal["template", "tokenizer"]
    start_warnings: list[str]

    def encode(
        self,
        inputs: Sequence[EncoderInput],
        *,
        truncation: Truncation,
        boundary: Boundary = "any",
        unit: Unit = "completions",
    ) -> list[SequenceGroup]:
        """One group per input, in order; blocking.

        Raises:
            ServiceError: the first input that cannot be encoded, with its index.
        """
        ...

    def render(
        self, inputs: Sequence[EncoderInput], *, truncation: Truncation, unit: Unit = "completions"
    ) -> list[list[Rendering]]:
        """What `encode` makes of each input, for people.

        Raises:
            ServiceError: as `encode`.
        """
        ...

    def state(self) -> str:
        """Everything that token ids depend on, as text."""
        ...
