"""Turns a prompt with completions into the sequences of a pairwise model: two for every pair.

Stands where `encoding.Encoder` stands for other models, and like it is called from one thread.
"""

from collections.abc import Sequence
from typing import Any, Literal

from reward_service.chat_template import ChatTemplate
from reward_service.errors import (
    InputTooLongError,
    InvalidTokenIdsError,
    NotSupportedError,
    ServiceError,
)
from reward_service.input_form import Truncation
from reward_service.inputs import (
    MAX_CHARACTERS_PER_TOKEN,
    Boundary,
    Conversation,
    EncoderInput,
    Rendering,
    Unit,
)
from reward_service.pair_format import EncodedPair, PairFormat
from reward_service.preference import ordered_pairs
from reward_service.sequences import SequenceGroup, TokenSequence, group_of


class PairEncoder:
    """Encodes for one tokenizer and one family's format of pairs.

    Args:
        tokenizer: a transformers tokenizer.
        template: what the format makes of a prompt, for people and for the fingerprint.
        max_input_tokens: longest sequence, special tokens included.
        vocabulary_size: rows of the model's embedding; ids must lie below.
    """

    special_tokens: Literal["template", "tokenizer"] = "template"

    def __init__(
        self,
        tokenizer: Any,
        pair_format: PairFormat,
        template: ChatTemplate,
        *,
        max_input_tokens: int,
        vocabulary_size: int,
    ) -> None:
        self.template = template
        self.max_input_tokens = max_input_tokens
        self.start_warnings: list[str] = []
        self._tokenizer = tokenizer
        self._format = pair_format
        self._vocabulary_size = vocabulary_size

    def encode(
        self,
        inputs: Sequence[EncoderInput],
        *,
        truncation: Truncation,
        boundary: Boundary = "any",
        unit: Unit = "pairs",
    ) -> list[SequenceGroup]:
        """One group per input: its completions' pairs, in the order of `ordered_pairs`.

        Raises:
            ServiceError: the first input that cannot be encoded, with its index.
        """
        return [
            group_of([_sequence(pair) for pair in pairs])
            for pairs in self._pairs(inputs, truncation)
        ]

    def render(
        self, inputs: Sequence[EncoderInput], *, truncation: Truncation, unit: Unit = "pairs"
    ) -> list[list[Rendering]]:
        """What `encode` makes of each pair, with text and token strings.

        Raises:
            ServiceError: as `encode`.
        """
        return [
            [
                Rendering(
                    text=pair.text,
                    tokens=self._tokenizer.convert_ids_to_tokens(pair.token_ids),
                    sequence=_sequence(pair),
                    warnings=[],
                )
                for pair in pairs
            ]
            for pairs in self._pairs(inputs, truncation)
        ]

    def state(self) -> str:
        """Everything about tokenizer and format that token ids depend on, as text."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        vocabulary = backend.to_str() if backend else sorted(self._tokenizer.get_vocab().items())
        return f"{vocabulary}\n{self._format.name}\n{self.template.text}"

    def _pairs(
        self, inputs: Sequence[EncoderInput], truncation: Truncation
    ) -> list[list[EncodedPair]]:
        encoded = []
        for index, one in enumerate(inputs):
            if not isinstance(one, Conversation):
                raise NotSupportedError(
                    "a pairwise model compares completions of a prompt: send prompt and "
                    "completions",
                    input_index=index,
                )
            encoded.append(
                [
                    self._pair(one, first, second, truncation, index)
                    for first, second in ordered_pairs(len(one.completions))
                ]
            )
        return encoded

    def _pair(
        self,
        conversation: Conversation,
        first: int,
        second: int,
        truncation: Truncation,
        index: int,
    ) -> EncodedPair:
        texts = conversation.completions
        self._check_characters(conversation, first, second, index)
        try:
            pair = self._format.encode(
                conversation.prompt, texts[first], texts[second], truncation=truncation
            )
        except ServiceError as error:
            # The format counts the two that it was given.
            if error.completion_index is not None:
                error.completion_index = (first, second)[error.completion_index]
            raise error.at(input_index=index) from error.__cause__
        if max(pair.token_ids) >= self._vocabulary_size:
            raise InvalidTokenIdsError(
                f"token id {max(pair.token_ids)} is outside the model's vocabulary "
                f"(0 to {self._vocabulary_size - 1})",
                input_index=index,
                limit=self._vocabulary_size - 1,
            )
        return pair

    def _check_characters(
        self, conversation: Conversation, first: int, second: int, index: int
    ) -> None:
        """Refuse what cannot fit before it is tokenised."""
        texts = [message["content"] for message in conversation.prompt]
        texts += [conversation.completions[one] for one in (first, second)]
        if sum(map(len, texts)) > MAX_CHARACTERS_PER_TOKEN * self.max_input_tokens:
            raise InputTooLongError(
                f"a pair of {sum(map(len, texts)):,} characters cannot fit in "
                f"{self.max_input_tokens:,} tokens (over {MAX_CHARACTERS_PER_TOKEN} characters for "
                "each): shorten it",
                input_index=index,
                limit=self.max_input_tokens,
            )


def _sequence(pair: EncodedPair) -> TokenSequence:
    return TokenSequence(pair.token_ids, None, truncated_tokens=pair.truncated_tokens)
