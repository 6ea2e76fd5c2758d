"""What a model says of a text word by word: allenai/reward-bench's `get_per_token_reward`.

That tool sends every prefix of a text through the model by itself. The service scores all prefixes
of a text in one request, in which a decoder computes what they share once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, FiniteFloat, ValidationError

from reward_benchmark.analysis.words import Span, substrings, token_spans, word_scores
from reward_benchmark.errors import BenchmarkError, ServiceError
from reward_benchmark.json_text import decoded, first_reason
from reward_client import NotSupportedError, RewardClient
from reward_client.schema import (
    PromptInput,
    RenderedCompletion,
    ScoreResult,
    TextInput,
    TokenIdsInput,
    TokenScores,
)

Mode = Literal["prefix", "one pass"]


@dataclass(frozen=True, slots=True)
class ScoredTokens:
    """A text's tokens with their scores by one model; all lists are aligned."""

    model: str
    url: str
    mode: Mode
    """Whether each prefix was scored by itself, or all tokens in one pass as if none followed."""
    tokens: list[str]
    """As the vocabulary spells them."""
    substrings: list[str]
    """The text up to the end of each token."""
    scores: list[FiniteFloat]
    """Of those substrings: raw model output."""
    word_scores: list[FiniteFloat | None]
    """Of each word the mean score of its tokens, aligned with the text's words."""


def score_tokens(
    client: RewardClient,
    url: str,
    text: str,
    words: Sequence[Span],
    *,
    prompt: str | None = None,
    one_pass: bool = False,
) -> ScoredTokens:
    """Score a text token by token.

    Args:
        text: scored as it is; after `prompt`, a completion in the model's chat template.
        words: where the text's words are.
        one_pass: ask for all tokens from one pass; a model that cannot scores every prefix.

    Raises:
        RewardServiceError, ServiceError: the service scores no text, or not this one.
    """
    info = client.info()
    if "score" not in info.capabilities:
        raise ServiceError(f"{info.model.id} at {url} gives no scores: there is nothing to show")
    asked = _Asked(client, text, prompt)
    rendered = asked.rendered()
    mode: Mode = "one pass" if one_pass else "prefix"
    try:
        start, scores = asked.token_scores(mode, rendered)
    except NotSupportedError:
        if mode == "prefix":
            raise
        mode = "prefix"
        start, scores = asked.token_scores(mode, rendered)
    spans = token_spans(rendered.tokens[start : start + len(scores)], text)
    return ScoredTokens(
        model=info.model.id,
        url=url,
        mode=mode,
        tokens=rendered.tokens[start : start + len(scores)],
        substrings=substrings(text, spans),
        scores=scores,
        word_scores=word_scores(words, spans, scores),
    )


class _Saved(BaseModel):
    """What is read of a file that `analyze per-token` has written."""

    text: str
    prompt: str | None
    models: list[ScoredTokens]


def read_saved(
    path: Path, text: str, words: Sequence[Span], *, prompt: str | None
) -> list[ScoredTokens]:
    """What models said of a text earlier, each while its service ran.

    Args:
        path: a file that `analyze per-token` has written.
        text: what it must be about.
        words: where the text's words are.
        prompt: what it must stand behind.

    Raises:
        BenchmarkError: the file holds something else, or is about another text.
    """
    try:
        saved = _Saved.model_validate(decoded(path.read_bytes(), finite=True))
    except ValidationError as error:
        raise BenchmarkError(f"{path} is no per-token.json ({first_reason(error)})") from error
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{path} is no per-token.json: {error}") from error
    if (saved.text, saved.prompt) != (text, prompt):
        what = "text" if saved.text != text else "prompt"
        raise BenchmarkError(
            f"{path} is about another {what}: what stands side by side must be of one"
        )
    for one in saved.models:
        aligned = len(one.tokens) == len(one.substrings) == len(one.scores)
        if not aligned or len(one.word_scores) != len(words):
            raise BenchmarkError(f"{path} is damaged: {one.model} has lists of unequal lengths")
    return saved.models


@dataclass(frozen=True, slots=True)
class _Asked:
    client: RewardClient
    text: str
    prompt: str | None

    @property
    def input(self) -> PromptInput | TextInput:
        if self.prompt is None:
            return TextInput(text=self.text)
        return PromptInput(prompt=self.prompt, completions=[self.text])

    def rendered(self) -> RenderedCompletion:
        [[rendered]] = self.client.render([self.input]).results
        return rendered

    def token_scores(self, mode: Mode, rendered: RenderedCompletion) -> tuple[int, list[float]]:
        """Index of the first token that has a score, and the scores from there on."""
        ids = rendered.token_ids
        if len(ids) == 1:
            return 0, [self._score(self.input)]
        wanted: TokenScores = True if mode == "one pass" else "prefix"
        result = self._result(self.input, wanted)
        assert result.token_scores is not None
        assert result.completion_start is not None
        [scores], [start] = result.token_scores, result.completion_start
        assert scores is not None
        assert start is not None
        first, *_ = token_spans(rendered.tokens[: start + len(scores)], self.text)
        if self.prompt is None and start == 1 and first is not None:
            # The service counts a text without a prompt from its second token: of the first one it
            # could not say a log-probability. It has a score like any other prefix.
            ending = ids[start + len(scores) :] if mode == "prefix" else []
            return 0, [self._score(TokenIdsInput(token_ids=[ids[0], *ending])), *scores]
        return start, scores

    def _score(self, one: PromptInput | TextInput | TokenIdsInput) -> float:
        [score] = self._result(one, False).scores
        assert score is not None
        return score

    def _result(
        self, one: PromptInput | TextInput | TokenIdsInput, token_scores: TokenScores
    ) -> ScoreResult:
        [result] = self.client.score_many([one], token_scores=token_scores).results
        if result.errors is not None and (error := result.errors[0]) is not None:
            raise ServiceError(f"the text has no score: {error.message} [{error.code}]")
        return result
