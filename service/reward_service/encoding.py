"""Turns inputs into token sequences: tokens, completion boundary, truncation.

Blocking and not thread-safe (a fast tokenizer must not be used from two threads): the engine calls
it from one thread of its own. It knows nothing about HTTP and nothing about the model's layers.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from reward_service.chat_template import ChatTemplate
from reward_service.drafts import PINNED_DATE, Draft, DraftWriter
from reward_service.errors import (
    InputTooLongError,
    InvalidRequestError,
    InvalidTokenIdsError,
    ServiceError,
    StartupError,
    TemplateFailedError,
)
from reward_service.input_form import InputForm, Truncation
from reward_service.inputs import Boundary, EncoderInput, Rendering, Unit
from reward_service.sequences import SequenceGroup, TokenSequence, group_of

MAX_PREFIX_TOKENS = 4_000_000
"""Of all prefixes that a request wants scored: they are as many sequences as the completions have
tokens, each with the whole prompt, so what they take grows with the square."""


class Encoder:
    """Encodes for one tokenizer and one template.

    Args:
        tokenizer: a transformers tokenizer.
        template: the chat template in force.
        max_input_tokens: longest sequence, special tokens included.
        vocabulary_size: rows of the model's embedding; ids must lie below.
        reads_first_token: the model is an encoder, whose head needs the tokenizer's CLS.
        form: what the model's family asks of its input.

    Raises:
        StartupError: the template cannot render even one plain question and answer.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: ChatTemplate,
        *,
        max_input_tokens: int,
        vocabulary_size: int,
        reads_first_token: bool = False,
        form: InputForm | None = None,
    ) -> None:
        self.template = template
        self._form = form or InputForm()
        self._writer = DraftWriter(
            tokenizer,
            template.text,
            max_input_tokens=max_input_tokens,
            steps=self._form.steps,
        )
        self.max_input_tokens = max_input_tokens
        self._tokenizer = tokenizer
        self._vocabulary_size = vocabulary_size
        ids_of_nothing = tokenizer("").input_ids
        self._leading_special = {
            token_id
            for token_id in (tokenizer.bos_token_id, tokenizer.cls_token_id, *ids_of_nothing[:1])
            if token_id is not None
        }
        self._control_tokens = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        self._tokenizer_leads = bool(ids_of_nothing) and ids_of_nothing[0] in self._leading_special
        self.special_tokens: Literal["template", "tokenizer"] = "template"
        self.start_warnings: list[str] = []
        template_leads = self._template_writes_leading_token()
        if not template_leads and (template.is_built_in or reads_first_token):
            self.special_tokens = "tokenizer"
        elif not template_leads and self._tokenizer_leads:
            self.start_warnings.append(
                "the chat template writes no BOS although this tokenizer adds one to plain text: "
                "the sequence starts without it"
            )
        if "strftime_now" in template.text:
            self.start_warnings.append(
                "the chat template asks for today's date: it is told "
                f"{PINNED_DATE:%d %b %Y} always, so that scores do not change overnight"
            )

    def encode(
        self,
        inputs: Sequence[EncoderInput],
        *,
        truncation: Truncation,
        boundary: Boundary = "any",
        unit: Unit = "completions",
    ) -> list[SequenceGroup]:
        """One group per input, in order.

        A completion begins behind the header that the template writes before it, and ends with the
        end-of-turn token, the first control token behind its text. Where a template has none, all
        that it writes there counts.

        Raises:
            ServiceError: the first input that cannot be encoded, with its index.
        """
        drafted = self._drafts(inputs)
        sequences = [
            [self._sequence(draft, truncation, boundary, i, j) for j, draft in enumerate(drafts)]
            for i, drafts in enumerate(drafted)
        ]
        if unit == "prefixes":
            return self._prefix_groups(drafted, sequences)
        if unit == "tokens":
            sequences = [
                [replace(one, is_read_throughout=True) for one in group] for group in sequences
            ]
        return [group_of(group) for group in sequences]

    def _prefix_groups(
        self, drafted: list[list[Draft]], sequences: list[list[TokenSequence]]
    ) -> list[SequenceGroup]:
        """Each input's completions as all of their prefixes."""
        groups = []
        room = MAX_PREFIX_TOKENS
        for i, (drafts, completions) in enumerate(zip(drafted, sequences, strict=True)):
            prefixes: list[list[TokenSequence]] = []
            for j, (draft, sequence) in enumerate(zip(drafts, completions, strict=True)):
                stops, ending = self._cuts(draft, sequence)
                room -= sum(stops) + len(stops) * len(ending) + len(sequence)
                if room < 0:
                    raise _too_many_prefixes(input_index=i, completion_index=j)
                prefixes.append(_prefixes(sequence, stops, ending))
            group = group_of([prefix for part in prefixes for prefix in part])
            groups.append(replace(group, parts=tuple(map(len, prefixes))))
        return groups

    def render(
        self, inputs: Sequence[EncoderInput], *, truncation: Truncation, unit: Unit = "completions"
    ) -> list[list[Rendering]]:
        """What `encode` makes of each completion, with text, token strings and warnings.

        Raises:
            ServiceError: as `encode`.
        """
        return [
            [
                self._rendering(draft, self._sequence(draft, truncation, "any", i, j))
                for j, draft in enumerate(drafts)
            ]
            for i, drafts in enumerate(self._drafts(inputs))
        ]

    def state(self) -> str:
        """Everything about tokenizer and template that token ids depend on, as text."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        vocabulary = backend.to_str() if backend else sorted(self._tokenizer.get_vocab().items())
        special = sorted((k, str(v)) for k, v in self._tokenizer.special_tokens_map.items())
        return "\n".join(
            map(
                str,
                (vocabulary, special, self.template.text, self.special_tokens, self._form),
            )
        )

    # ------------------------------------------------------------------- from input to draft

    def _drafts(self, inputs: Sequence[EncoderInput]) -> list[list[Draft]]:
        drafts: list[list[Draft]] = []
        for index, one in enumerate(inputs):
            try:
                drafts.append(self._writer.drafts(one))
            except ServiceError as error:
                raise error.at(input_index=index) from error.__cause__
        self._tokenize([draft for group in drafts for draft in group if not draft.token_ids])
        return drafts

    # ------------------------------------------------------------------ from draft to sequence

    def _tokenize(self, drafts: list[Draft]) -> None:
        """Fill in token ids, in one call: the tokenizer works on the texts in parallel."""
        if not drafts:
            return
        encoded = self._tokenizer(
            [draft.text for draft in drafts],
            add_special_tokens=self.special_tokens == "tokenizer",
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        for index, draft in enumerate(drafts):
            draft.token_ids = encoded["input_ids"][index]
            if self._tokenizer.is_fast:
                self._find_completion(draft, encoded.encodings[index])
            self._drop_second_leading_token(draft)
            self._append_ending(draft)

    def _find_completion(self, draft: Draft, encoding: Any) -> None:
        """Which tokens are the completion; one that reaches into its text belongs to it."""
        end = len(draft.text)
        draft.text_end = len(draft.token_ids)
        if self.special_tokens == "tokenizer":
            draft.text_end -= _trailing(encoding.special_tokens_mask)
        if draft.first_character is None:
            return
        draft.completion_start = _token_at(encoding, draft.first_character, end)
        if draft.last_character is None:
            return
        draft.text_end = min(draft.text_end, _token_at(encoding, draft.last_character, end))
        first, last = encoding.token_to_chars(draft.text_end) or (end, end)
        if first < draft.last_character < last:
            draft.text_end += 1
            rest = draft.text[draft.last_character : last]
            draft.cut_off = self._tokenizer(rest, add_special_tokens=False).input_ids
        for index in range(draft.text_end, len(draft.token_ids)):
            if draft.token_ids[index] in self._control_tokens:
                draft.completion_end = index + 1
                return

    def _drop_second_leading_token(self, draft: Draft) -> None:
        ids = draft.token_ids
        if len(ids) > 1 and ids[0] == ids[1] and ids[0] in self._leading_special:
            draft.token_ids = ids[1:]
            if draft.completion_start:
                draft.completion_start -= 1
            if draft.completion_end:
                draft.completion_end -= 1
            if draft.text_end:
                draft.text_end -= 1
            draft.warnings.append("the text started with two BOS tokens: one was dropped")

    def _append_ending(self, draft: Draft) -> None:
        ending = self._form.ending_token
        if ending is None or draft.token_ids[-1:] == [ending]:
            return
        tokens = len(draft.token_ids)
        draft.completion_end = draft.completion_end or tokens
        draft.text_end = draft.text_end or tokens
        draft.token_ids = [*draft.token_ids, ending]

    def _sequence(
        self,
        draft: Draft,
        truncation: Truncation,
        boundary: Boundary,
        input_index: int,
        completion_index: int,
    ) -> TokenSequence:
        try:
            self._check_ids(draft)
            if boundary != "any":
                _check_completion(draft, boundary)
            sequence = self._fitted(draft, truncation, boundary)
            self._form.check(
                sequence.token_ids,
                sequence.completion,
                draft.steps,
                first_read=None if boundary == "any" else sequence.completion[0],
            )
            return sequence
        except ServiceError as error:
            raise error.at(input_index=input_index, completion_index=completion_index) from None

    def _check_ids(self, draft: Draft) -> None:
        if not draft.token_ids:
            raise InvalidTokenIdsError("the text has no tokens, so there is nothing to read")
        low, high = min(draft.token_ids), max(draft.token_ids)
        if low < 0 or high >= self._vocabulary_size:
            raise InvalidTokenIdsError(
                f"token id {low if low < 0 else high} is outside the model's vocabulary "
                f"(0 to {self._vocabulary_size - 1})",
                limit=self._vocabulary_size - 1,
            )

    def _fitted(self, draft: Draft, truncation: Truncation, boundary: Boundary) -> TokenSequence:
        """The sequence, shortened at the start of its prompt where that is needed and allowed."""
        ids, start, end = draft.token_ids, draft.completion_start, draft.completion_end
        excess = len(ids) - self.max_input_tokens
        if excess <= 0:
            return TokenSequence(ids, start, end)
        if truncation == "error":
            raise InputTooLongError(
                f"{len(ids):,} tokens exceed max_input_tokens={self.max_input_tokens:,}: shorten "
                'the input, or send "truncation": "prompt_start" to drop the start of its prompt',
                limit=self.max_input_tokens,
            )
        # BOS (or CLS) is not part of the prompt: models fall apart without it.
        kept = 1 if ids[0] in self._leading_special else 0
        prompt_tokens = start
        if prompt_tokens is None:
            prompt_tokens = 1 if boundary == "whole" else len(ids) - 1
        # A completion's first token has a log-probability only behind another token.
        least = kept if boundary == "any" else 1
        droppable = max(0, prompt_tokens - least)
        if excess > droppable:
            raise InputTooLongError(
                f"the completion alone exceeds max_input_tokens={self.max_input_tokens:,} "
                f"({len(ids):,} tokens, of which {droppable:,} are prompt): "
                "a completion is never truncated, shorten it",
                limit=self.max_input_tokens,
            )
        return TokenSequence(
            ids[:kept] + ids[kept + excess :],
            None if start is None else start - excess,
            None if end is None else end - excess,
            truncated_tokens=excess,
        )

    def _cuts(self, draft: Draft, sequence: TokenSequence) -> tuple[range, list[int]]:
        """Where a completion's text is cut, and what then stands behind it."""
        ids = sequence.token_ids
        text_end = len(ids)
        if draft.text_end is not None:
            text_end = draft.text_end - sequence.truncated_tokens
        if text_end == len(ids) and ids[-1] == self._form.ending_token:
            text_end -= 1
        return range(sequence.completion[0] + 1, text_end), [*draft.cut_off, *ids[text_end:]]

    def _rendering(self, draft: Draft, sequence: TokenSequence) -> Rendering:
        ids = list(sequence.token_ids)
        start_warnings = self.start_warnings if draft.is_conversation else ()
        named = zip(ids, self._tokenizer.convert_ids_to_tokens(ids), strict=True)
        return Rendering(
            text=draft.text or self._tokenizer.decode(ids),
            # Models often have more embeddings than their tokenizer has tokens.
            tokens=[f"<{token_id}>" if token is None else token for token_id, token in named],
            sequence=sequence,
            warnings=[*start_warnings, *draft.warnings],
        )

    def _template_writes_leading_token(self) -> bool:
        try:
            text = self._writer.apply_template([{"role": "user", "content": "Hi"}], "Hello")
        except TemplateFailedError as error:
            raise StartupError(
                f"the chat template ({self.template.source}) cannot render a question and an "
                f"answer: {error.__cause__}"
            ) from error
        if not text:
            raise StartupError(
                f"the chat template ({self.template.source}) cannot render a question and an "
                "answer: it renders nothing"
            )
        ids = self._tokenizer(text, add_special_tokens=False).input_ids
        return bool(ids) and ids[0] in self._leading_special


def _prefixes(
    sequence: TokenSequence, stops: Sequence[int], ending: list[int]
) -> list[TokenSequence]:
    """A completion's prefixes, one token longer each, the whole one last."""
    ids, (start, end) = sequence.token_ids, sequence.completion
    return [
        TokenSequence(
            one, start, end - len(ids) + len(one), truncated_tokens=sequence.truncated_tokens
        )
        for one in [*(ids[:stop] + ending for stop in stops), ids]
    ]


def _too_many_prefixes(*, input_index: int, completion_index: int) -> ServiceError:
    return InputTooLongError(
        f"the prefixes of this request's completions have more than {MAX_PREFIX_TOKENS:,} tokens: "
        'send fewer or shorter completions at once, or "token_scores": true',
        input_index=input_index,
        completion_index=completion_index,
        limit=MAX_PREFIX_TOKENS,
    )


def _trailing(mask: Sequence[int]) -> int:
    """How many tokens the tokenizer has added at the end."""
    return next((count for count, added in enumerate(reversed(mask)) if not added), len(mask))


def _check_completion(draft: Draft, boundary: Boundary) -> None:
    """See that the completion has a beginning, something before it, and something in it."""
    start, end = draft.completion_start, draft.completion_end
    if start is None and (draft.is_conversation or draft.first_character is not None):
        raise InvalidRequestError(
            "where the completion starts among these tokens is not known (the chat template "
            "rewrites it, or the tokenizer does not say which token is which text): send token_ids "
            "with completion_start"
        )
    if start is None and boundary == "known":
        raise InvalidRequestError(
            "where the completion starts is not known: send completion_start with it, or send "
            "prompt and completions"
        )
    if start is None and len(draft.token_ids) == 1:
        raise InvalidRequestError(
            "a single token has no log-probability, and no score as a completion: nothing stands "
            "before it"
        )
    if start == 0:
        raise InvalidRequestError(
            "the completion starts with the first token, so nothing stands before it that predicts "
            "it: completion_start must be at least 1",
            limit=1,
        )
    is_blank = draft.first_character is not None and draft.first_character == (
        len(draft.text) if draft.last_character is None else draft.last_character
    )
    if is_blank or start == (len(draft.token_ids) if end is None else end):
        raise InvalidRequestError(
            "the completion is empty: it has no token to read a number at, leave it out"
        )


def _token_at(encoding: Any, character: int, end: int) -> int:
    """Index of the first token that covers a character at or after `character`."""
    for position in range(character, end):
        token = encoding.char_to_token(position)
        if token is not None:
            return int(token)
    return len(encoding)
