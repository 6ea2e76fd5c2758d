"""One or more judges as a scorer: every group goes before each, and their answers become scores."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

from reward_benchmark.chat import Answer
from reward_benchmark.datasets import PREFERENCES, Benchmark
from reward_benchmark.group import Group, Prompt
from reward_benchmark.judges.answer_form import AnswerForm
from reward_benchmark.judges.judge import Judge, Messages
from reward_benchmark.judges.presentation import seeded_order
from reward_benchmark.judges.prompts import PromptSet, Way
from reward_benchmark.judges.summary import judges_summary
from reward_benchmark.judges.verdicts import LETTERS, TIE, final_rating, final_verdict
from reward_benchmark.model_type import GENERATIVE, GENERATIVE_JURY
from reward_benchmark.outcome import Failure, Outcome, Scores
from reward_client import InfoResponse

Mode = Literal["pairwise", "rating"]
Orders = Literal["both", "seeded-single"]

UNREADABLE = frozenset({"answer_cut_short", "unparsable_rating", "unparsable_verdict"})
"""Codes of failures that are about an answer, and not about having none."""

_EXCERPT = 200
"""Characters of an answer that cannot be read that a message repeats."""


@dataclass(frozen=True, slots=True)
class _Case:
    """A group as it goes before the judges, the same for each."""

    way: Way
    order: tuple[int, ...]
    """The seeded one."""
    shown: tuple[tuple[int, ...], ...]
    """For each question, the indexes of the completions that it shows, in order."""
    questions: tuple[Messages, ...]
    form: AnswerForm | None
    """How the answers are read, where not in the usual way."""


@dataclass(frozen=True, slots=True)
class _Ballot:
    """What one judge said of one case."""

    judge: str
    answers: Sequence[Answer]
    scores: tuple[float, ...]
    """How often each completion was preferred, or how it was rated."""
    reading: Mapping[str, Any]
    """The verdict or rating of each answer, as JSON."""

    def document(self) -> dict[str, Any]:
        """The record of it."""
        return {
            "judge": self.judge,
            **self.reading,
            "texts": [answer.text for answer in self.answers],
            **_usage(self.answers),
        }


class Jury:
    """Scores a group by what judges say about it.

    Compared completions score the number of times that each was preferred, over all orders and
    judges. Rated ones score the mean of their ratings. One answer that cannot be read leaves the
    whole group without scores: half of a jury's answers, or one order of two, would be another
    measurement.

    Args:
        judges: at least one, each with its own name.
        mode: how completions are put before the judges. Groups with several chosen completions are
            rated whatever the mode: there the best one is not a question.
        orders: whether each comparison is asked in two orders, one the other's reverse, or only in
            the seeded one.
        seed: of the order in which completions are shown.
        benchmark: what is judged. Groups of its subsets that are measured together, as RewardBench
            2's Ties, have any number of correct completions and are rated: by what is equally
            correct.
    """

    info: InfoResponse | None = None

    def __init__(
        self,
        judges: Sequence[Judge],
        *,
        prompts: PromptSet,
        mode: Mode = "pairwise",
        orders: Orders = "both",
        seed: int = 0,
        benchmark: Benchmark = PREFERENCES,
    ) -> None:
        self.model = " + ".join(judge.name for judge in judges)
        self.model_type = GENERATIVE if len(judges) == 1 else GENERATIVE_JURY
        sampling = judges[0].sampling
        self.identity: Mapping[str, Any] = {
            "scorer": "judges",
            "judges": [judge.name for judge in judges],
            "mode": mode,
            "orders": orders,
            "seed": seed,
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "system_role": prompts.system_role,
            "prompts": dict(prompts.sha256),
        }
        self._judges = judges
        self._prompts = prompts
        self._mode = mode
        self._both_orders = orders == "both"
        self._seed = seed
        self._benchmark = benchmark

    async def score(self, group: Group) -> Scores | Failure:
        """See `Scorer.score`."""
        case = self._case(group)
        if isinstance(case, Failure):
            return case
        answers = await self._ask(case)
        ballots = []
        for judge, said in zip(self._judges, answers, strict=True):
            ballot = _read(case, judge, said)
            if isinstance(ballot, Failure):
                return replace(ballot, details={"judges": self._bills(answers)})
            ballots.append(ballot)
        merge = fmean if case.way in ("rating", "rating-ties") else sum
        of_each = zip(*(ballot.scores for ballot in ballots), strict=True)
        return Scores(
            tuple(float(merge(scores)) for scores in of_each),
            details={
                "way": case.way,
                "order": case.order,
                "judges": [ballot.document() for ballot in ballots],
            },
        )

    def summary(self, outcomes: Iterable[Outcome]) -> Mapping[str, Any]:
        """Each judge's numbers, how far judges agree, tokens and cost."""
        prices = {judge.name: judge.price for judge in self._judges}
        return {"judges": judges_summary(outcomes, prices, self._benchmark.worth)}

    def _bills(self, answers: Sequence[Sequence[Answer | Failure]]) -> list[dict[str, Any]]:
        """What a case without scores cost, for each judge that answered at all."""
        return [
            {"judge": judge.name, **_usage(given)}
            for judge, said in zip(self._judges, answers, strict=True)
            if (given := [answer for answer in said if isinstance(answer, Answer)])
        ]

    def _case(self, group: Group) -> _Case | Failure:
        if group.subset in self._benchmark.groupwise:
            return self._rated(group, "rating-ties")
        if self._mode == "rating" or group.num_chosen > 1:
            return self._rated(group, "rating")
        return self._compared(group)

    def _rated(self, group: Group, way: Way) -> _Case:
        shown = tuple((index,) for index in range(len(group.completions)))
        questions = (
            self._prompts.messages(way, _prompt_of(group, index), [group.completions[index]])
            for [index] in shown
        )
        order = seeded_order(group, seed=self._seed)
        return _Case(way, order, shown, tuple(questions), self._prompts.forms.get(way))

    def _compared(self, group: Group) -> _Case | Failure:
        count = len(group.completions)
        if group.rejected_prompt is not None:
            return Failure(
                "prompts_differ",
                "completions of two prompts cannot be compared: use --mode rating",
            )
        if not 2 <= count <= len(LETTERS):
            return Failure(
                "not_comparable",
                f"{count} completions cannot be compared, only 2 to {len(LETTERS)}: "
                "use --mode rating",
            )
        order = seeded_order(group, seed=self._seed)
        shown = (order, order[::-1]) if self._both_orders else (order,)
        way: Way = "pairwise" if count == 2 else "best-of-n"
        questions = (
            self._prompts.messages(way, group.prompt, [group.completions[index] for index in one])
            for one in shown
        )
        return _Case(way, order, shown, tuple(questions), self._prompts.forms.get(way))

    async def _ask(self, case: _Case) -> list[list[Answer | Failure]]:
        """Every judge's answers to all questions of a case, which are asked at once."""
        try:
            async with asyncio.TaskGroup() as tasks:
                asked = [
                    [tasks.create_task(judge.ask(messages)) for messages in case.questions]
                    for judge in self._judges
                ]
        except ExceptionGroup as errors:
            # The rest was cancelled because of the first.
            raise errors.exceptions[0] from None
        return [[task.result() for task in tasks_of_judge] for tasks_of_judge in asked]


def _usage(answers: Sequence[Answer]) -> dict[str, Any]:
    return {
        "input_tokens": [answer.input_tokens for answer in answers],
        "output_tokens": [answer.output_tokens for answer in answers],
    }


def _prompt_of(group: Group, index: int) -> Prompt:
    if group.rejected_prompt is not None and index >= group.num_chosen:
        return group.rejected_prompt
    return group.prompt


def _read(case: _Case, judge: Judge, answers: Sequence[Answer | Failure]) -> _Ballot | Failure:
    """What a judge said, or the first reason why that is not known."""
    understood: list[Answer] = []
    read: list[Any] = []
    for messages, answer in zip(case.questions, answers, strict=True):
        if isinstance(answer, Failure):
            return answer
        meaning = _meaning(case, answer)
        if meaning is None:
            return _not_understood(case, judge, messages, answer)
        understood.append(answer)
        read.append(meaning)
    if case.way in ("rating", "rating-ties"):
        return _Ballot(judge.name, understood, tuple(read), {"ratings": read})
    picks = [
        None if _is_tie(case, verdict) else shown[LETTERS.index(verdict)]
        for shown, verdict in zip(case.shown, read, strict=True)
    ]
    scores = tuple(float(picks.count(index)) for index in range(len(case.order)))
    return _Ballot(judge.name, understood, scores, {"verdicts": read, "picks": picks})


def _meaning(case: _Case, answer: Answer) -> str | float | None:
    if answer.cut_short:
        return None
    if case.way in ("rating", "rating-ties"):
        return case.form.rating(answer.text) if case.form else final_rating(answer.text)
    allowed = {*LETTERS[: len(case.order)], TIE}  # C is a completion where there are three
    if case.form:
        return case.form.verdict(answer.text, allowed)
    return final_verdict(answer.text, allowed)


def _is_tie(case: _Case, verdict: str) -> bool:
    return case.way == "pairwise" and verdict == TIE


def _not_understood(case: _Case, judge: Judge, messages: Messages, answer: Answer) -> Failure:
    request = f"request {judge.key(messages)[:12]}"
    if answer.cut_short:
        limit = judge.sampling.max_tokens
        by = "the endpoint's own limit" if limit is None else f"--max-tokens {limit}"
        return Failure(
            "answer_cut_short",
            f"{judge.name}: {request} was cut short by {by}, so its end is not known",
        )
    what = "rating" if case.way in ("rating", "rating-ties") else "verdict"
    return Failure(
        f"unparsable_{what}",
        f"{judge.name}: {request} does not end on a {what}: {answer.text[:_EXCERPT]!r}",
    )
