"""How a judge with a form of its own ends its answers, as the file that asks it says."""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

import regex

from reward_benchmark.errors import BenchmarkError
from reward_benchmark.judges.verdicts import LETTERS, conclusion_of

MATCHING_SECONDS = 10.0
"""For one answer: an expression that takes longer will not end in any useful time."""

_LETTER_OF = {
    name: letter for number, letter in enumerate(LETTERS, 1) for name in (letter, str(number))
}
_NUMBER = regex.compile(r"[-+]?[0-9]{1,15}(?:\.[0-9]{1,15})?")
_REST_OF_A_WORD = regex.compile(r"(?<=[0-9A-Za-z])(?:[0-9A-Za-z]|[.,][0-9])")
"""In ASCII: a language without spaces may go on right after the letter."""


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """A regular expression with one group, of which the last match in an answer counts.

    Only what a reasoning model says after its thoughts is read. Where that match ends inside a word
    or a number, nothing is, so that `Result: ([AB])` finds no B in "Result: Both".
    """

    pattern: regex.Pattern[str]
    place: str
    """Where it stands, for messages."""

    def verdict(self, answer: str, allowed: Collection[str]) -> str | None:
        """The letter that the group holds, in any case or as its number, where 1 is A.

        Args:
            allowed: the letters that mean something.

        Raises:
            BenchmarkError: the search takes too long.
        """
        letter = _LETTER_OF.get(self._said(answer).upper())
        return letter if letter in allowed else None

    def rating(self, answer: str) -> float | None:
        """The number that the group holds, on whatever scale the expression lets through.

        Raises:
            BenchmarkError: the search takes too long.
        """
        said = self._said(answer)
        return float(said) if _NUMBER.fullmatch(said) else None

    def _said(self, answer: str) -> str:
        text = conclusion_of(answer)
        try:
            matches = deque(self.pattern.finditer(text, timeout=MATCHING_SECONDS), maxlen=1)
        except TimeoutError as error:
            raise BenchmarkError(
                f"{self.place} takes more than {MATCHING_SECONDS:g} s to search an answer of "
                f"{len(text)} characters: write it without repetitions inside repetitions"
            ) from error
        if not matches or _REST_OF_A_WORD.match(text, matches[0].end()):
            return ""
        return (matches[0][1] or "").strip()


def answer_form(expression: str, place: str) -> AnswerForm:
    """The form that an expression describes.

    Args:
        place: where it stands, for messages.

    Raises:
        BenchmarkError: it is no regular expression, has not one group, matches an empty text, or
            searches backwards.
    """
    try:
        pattern = regex.compile(expression)
    except (regex.error, OverflowError, RecursionError, ValueError) as error:
        raise BenchmarkError(
            f"{place} is no regular expression: {error} in {expression}"
        ) from error
    if pattern.groups != 1:
        raise BenchmarkError(
            f"{place} has {pattern.groups} groups, but needs exactly one, around what is read; "
            f"write others as (?:...): {expression}"
        )
    if pattern.flags & regex.REVERSE:
        raise BenchmarkError(
            f"{place} searches backwards, so that the first match would count and not the last: "
            f"leave (?r) out of {expression}"
        )
    if pattern.search(""):
        raise BenchmarkError(f"{place} matches an answer that says nothing: {expression}")
    return AnswerForm(pattern, place)
