"""Scores the candidates of every prompt, and writes what follows from their order."""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from rich.console import Console

from reward_benchmark.best_of_n.pictures import draw
from reward_benchmark.best_of_n.rankings import Ranking, Tally, best_of_n_document
from reward_benchmark.candidates import Candidates, CandidateSelection, read_candidates
from reward_benchmark.evaluation import OpenScorer, Work, score_dataset
from reward_benchmark.group import Group
from reward_benchmark.journal import write_atomically
from reward_benchmark.outcome import Failure, Outcome, Scores
from reward_benchmark.results import Provenance
from reward_benchmark.run_directory import RESULTS_FILE, RunDirectory
from reward_benchmark.scorers import Scorer

RANKING_FILE = "ranking.jsonl"
ALPACA_EVAL_FILE = "alpaca_eval.json"


def best_of_n(
    work: Work,
    open_scorer: OpenScorer,
    *,
    best_of: int | None,
    gold: str | None,
    generator: str | None,
    pictures: bool,
    console: Console,
) -> dict[str, Any]:
    """Score the candidates of an opened candidate file, rank them, and write what follows.

    Args:
        best_of: how many candidates of each prompt take part, the first ones; `None` means all.
        gold: the column of known values, as the file was opened with.
        generator: what the picks are called in AlpacaEval's file.
        pictures: whether to draw the curves.

    Returns:
        The content of `results.json`.

    Raises:
        BenchmarkError: there are no results; it says why in one sentence.
    """

    def finish(
        run: RunDirectory[Outcome], scorer: Scorer, provenance: Provenance
    ) -> dict[str, Any]:
        def rankings() -> Iterator[Ranking]:
            rows = read_candidates(work.dataset, gold)
            return _joined(run.journal.records(), (row.first(best_of) for row in rows))

        tally = Tally(best_of)
        write_atomically(run.path / RANKING_FILE, _counted(rankings(), tally))
        name = generator or f"best-of-{best_of or 'n'} {scorer.model}"
        run.write(ALPACA_EVAL_FILE, [*_alpaca_eval(rankings(), name)])
        document = {
            **best_of_n_document(tally, provenance, gold),
            **scorer.summary(run.journal.records()),
        }
        if pictures:
            draw(document, run.path)
        run.write(RESULTS_FILE, document)
        return document

    @asynccontextmanager
    async def open_candidate_scorer(console: Console) -> AsyncIterator[Scorer]:
        async with open_scorer(console) as scorer:
            yield CandidateScorer(scorer, best_of)

    selection = CandidateSelection(work.selection.subsets, work.selection.limit, best_of)
    work = replace(work, selection=selection)
    return score_dataset(work, open_candidate_scorer, finish, console=console)


class CandidateScorer:
    """Spares a scorer the prompts that have no candidates, because `generate` got none."""

    def __init__(self, scorer: Scorer, best_of: int | None) -> None:
        self.model = scorer.model
        self.model_type = scorer.model_type
        self.info = scorer.info
        # A pairwise model's win rates depend on which candidates meet.
        self.identity: Mapping[str, Any] = {"best_of": best_of, **scorer.identity}
        self.summary = scorer.summary
        self._scorer = scorer

    async def score(self, group: Group) -> Scores | Failure:
        """See `Scorer.score`."""
        if not group.completions:
            return Failure("no_candidates", "this prompt has no candidates")
        return await self._scorer.score(group)


def _joined(outcomes: Iterable[Outcome], candidates: Iterator[Candidates]) -> Iterator[Ranking]:
    """Outcomes with their rows; both are in the file's order, but not every row was selected."""
    for outcome in outcomes:
        yield Ranking(next(row for row in candidates if row.group.key == outcome.key), outcome)


def _counted(rankings: Iterable[Ranking], tally: Tally) -> Iterator[bytes]:
    for ranking in rankings:
        tally.add(ranking)
        yield ranking.line()


def _alpaca_eval(rankings: Iterable[Ranking], generator: str) -> Iterator[dict[str, str]]:
    """The picks as https://github.com/tatsu-lab/alpaca_eval reads the outputs of a model."""
    for ranking in rankings:
        if ranking.outcome.scores is not None:
            yield {
                "instruction": ranking.candidates.instruction,
                "output": ranking.candidates.group.completions[ranking.order[0]],
                "generator": generator,
                "dataset": ranking.outcome.subset,
            }
