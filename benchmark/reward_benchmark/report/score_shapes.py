"""What the scores of a set's runs are like: length in them, their margins, and their certainty."""

from collections.abc import Sequence
from functools import partial

from reward_benchmark import plots
from reward_benchmark.report.accuracies import LIMITS, only_some
from reward_benchmark.report.blocks import (
    Block,
    Cell,
    Column,
    Prose,
    Section,
    Table,
    count_cell,
    number_cell,
    percent_cell,
)
from reward_benchmark.report.figures import figure
from reward_benchmark.report.mistakes import score
from reward_benchmark.report.sets import ReportedRun, ReportedSet
from reward_benchmark.statistics import Estimate
from reward_benchmark.statistics.lengths import LengthAccuracy
from reward_benchmark.statistics.margins import Calibration

LENGTH_CLASSES = ("chosen is longer", "about as long", "chosen is shorter", "length-controlled")


def lengths_section(reported: ReportedSet) -> Section:
    """Whether the runs are right because the chosen completion is the longer one."""
    anchor = f"set-{reported.number}-lengths"
    tolerance = reported.runs[0].distributions.lengths.tolerance
    noun = reported.benchmark.noun
    known = [run for run in reported.runs if _counted(run)]
    if not known:
        text = f"The runs do not record how long the completions of their {noun}s are."
        return Section("Length", anchor, [Prose(text)])
    drawing = partial(
        plots.interval_bars,
        LENGTH_CLASSES,
        {
            run.name: [_estimate(one) for one in _classes(run)]
            for run in reported.shown
            if run in known
        },
        title=f"Accuracy by length in {reported.title}",
        value_label="accuracy, %",
        note="lines: 95 % intervals",
        counts=[one.count for one in _classes(known[0])],
        baselines={
            run.name: [one.accuracy for one in _classes(run)]
            for run in reported.baselines
            if run in known
        },
        limits=LIMITS,
        percent=True,
    )
    blocks: list[Block] = [
        Prose(
            "Lengths are characters; two completions are about as long if the shorter one lacks at "
            f"most {100 * tolerance:g} %. Length-controlled is the mean of longer and shorter: as "
            "if the chosen completion were either equally often. The correlations are Spearman's, "
            "of the margin with the difference in length, and of all scores with all lengths; a "
            "score that only counts characters has 1."
        ),
        figure(drawing, "Accuracy where the chosen completion is longer, as long, or shorter."),
        *only_some(reported),
        _lengths_table(known, noun),
    ]
    return Section("Length", anchor, blocks)


def _counted(run: ReportedRun) -> int:
    lengths = run.distributions.lengths
    return lengths.longer.count + lengths.shorter.count + lengths.similar.count


def _estimate(accuracy: LengthAccuracy) -> Estimate | None:
    return None if accuracy.accuracy is None else Estimate(accuracy.accuracy, accuracy.ci95)


def _classes(run: ReportedRun) -> list[LengthAccuracy]:
    lengths = run.distributions.lengths
    return [lengths.longer, lengths.similar, lengths.shorter, lengths.controlled]


def _lengths_table(runs: Sequence[ReportedRun], noun: str) -> Table:
    return Table(
        f"Accuracy in per cent of {noun}s by which completion is longer, with 95 % intervals; "
        "correlations with length",
        [
            Column("model", numeric=False),
            *map(Column, LENGTH_CLASSES),
            Column("margin ~ difference"),
            Column("score ~ length"),
        ],
        [_length_row(run) for run in runs],
        sortable=True,
    )


def _length_row(run: ReportedRun) -> list[Cell]:
    lengths = run.distributions.lengths
    return [
        Cell(run.name),
        *(percent_cell(_estimate(one)) for one in _classes(run)),
        number_cell(lengths.pairs.spearman, "{:+.2f}"),
        number_cell(lengths.completions.spearman, "{:+.2f}"),
    ]


def margins_section(reported: ReportedSet) -> Section:
    """How far apart the runs put chosen and rejected completions."""
    shown = [run for run in reported.shown if run.distributions.margins.count]
    blocks: list[Block] = []
    if shown:
        note = f"{reported.size}; the scales of two models have no common unit"
        blocks += [
            figure(
                partial(
                    plots.margin_histograms,
                    {run.name: run.samples.observations.margins.tolist() for run in shown},
                    title=f"Margins in {reported.title}",
                    note=note,
                ),
                "Histograms of the margins: right of zero, all chosen completions are ahead.",
            ),
            figure(
                partial(
                    plots.score_histograms,
                    {
                        run.name: (run.samples.chosen.tolist(), run.samples.rejected.tolist())
                        for run in shown
                    },
                    title=f"Scores in {reported.title}",
                    note=note,
                ),
                "Histograms of the scores of chosen and of rejected completions.",
            ),
            *only_some(reported),
        ]
    blocks.append(_margins_table(reported.runs))
    return Section("Margins and scores", f"set-{reported.number}-margins", blocks)


def _margins_table(runs: Sequence[ReportedRun]) -> Table:
    return Table(
        "Margins (the lowest chosen score minus the highest rejected one) and scores",
        [
            Column("model", numeric=False),
            Column("mean margin"),
            Column("its standard deviation"),
            Column("ties"),
            Column("median chosen score"),
            Column("median rejected score"),
            Column("lowest score"),
            Column("highest score"),
        ],
        [_margin_row(run) for run in runs],
        sortable=True,
    )


def _margin_row(run: ReportedRun) -> list[Cell]:
    of = run.distributions
    sides = (of.chosen, of.rejected)
    lowest = [side.minimum for side in sides if side.minimum is not None]
    highest = [side.maximum for side in sides if side.maximum is not None]
    return [
        Cell(run.name),
        _score_cell(of.margins.mean),
        _score_cell(of.margins.standard_deviation),
        count_cell(of.margins.ties, of.margins.count),
        _score_cell(of.chosen.median),
        _score_cell(of.rejected.median),
        _score_cell(min(lowest, default=None)),
        _score_cell(max(highest, default=None)),
    ]


def _score_cell(number: float | None) -> Cell:
    return number_cell(number) if number is None else Cell(score(number), number)


def calibration_section(reported: ReportedSet) -> Section | None:
    """Whether the sigmoid of a margin is a probability; `None` where no run means it so."""
    calibrated = {
        run.name: run.distributions.margins.calibration
        for run in reported.models
        if run.states_probabilities and run.distributions.margins.calibration is not None
    }
    if not calibrated:
        return None
    shown = {run.name for run in reported.shown}
    noun = reported.benchmark.noun
    drawing = partial(
        plots.reliability_diagram,
        {name: one.bins for name, one in calibrated.items() if one and name in shown},
        title=f"Calibration on {reported.title}",
        note="lines: 95 % intervals",
        accuracy_label=f"share of {noun}s whose favourite is the chosen one",
    )
    table = Table(
        "Calibration of sigmoid(margin)",
        [
            Column("model", numeric=False),
            Column("expected error, points"),
            Column("Brier score"),
            Column("log loss"),
            Column("best temperature"),
        ],
        [_calibration_row(name, one) for name, one in calibrated.items() if one],
        sortable=True,
    )
    blocks: list[Block] = [
        Prose(
            "Reward models are trained so that the sigmoid of a margin is the probability that the "
            "completion ahead is the chosen one. A calibrated model's points lie on the dotted "
            "line; below it, a model is surer than it is right. A model that is never sure has a "
            "Brier score of 0.25 and a log loss of 0.693; smaller is better. Its margins divided "
            "by the best temperature would have the smallest log loss."
        ),
        figure(drawing, "How often the favourite is the chosen one, by how sure the model is."),
        *only_some(reported),
        table,
    ]
    return Section("Calibration", f"set-{reported.number}-calibration", blocks)


def _calibration_row(name: str, calibration: Calibration) -> list[Cell]:
    return [
        Cell(name),
        number_cell(100 * calibration.expected_error, "{:.1f}"),
        number_cell(calibration.brier),
        number_cell(calibration.log_loss),
        number_cell(calibration.temperature, "{:,.2f}"),
    ]


def counts_section(reported: ReportedSet) -> Section:
    """Ties, errors and texts that were cut: what lies behind losses that are no preference."""
    noun = reported.benchmark.noun
    partial_credit = reported.benchmark.has_partial_credit
    codes = sorted({code for run in reported.runs for code in run.metrics.total.error_codes})
    table = Table(
        f"What became of the {noun}s of each run",
        [
            Column("model", numeric=False),
            Column("won"),
            Column("won in part" if partial_credit else "tied"),
            Column("lost"),
            Column("failed"),
            *(Column(f"failed: {code}") for code in codes),
            Column("prompt truncated"),
        ],
        [_count_row(run, codes, partial_credit=partial_credit) for run in reported.runs],
        sortable=True,
    )
    text = (
        f"{reported.benchmark.tie_rule} A {noun} without scores earns nothing. "
        "A truncated prompt lost its start, because it was longer than the model's limit."
    )
    return Section(
        "Ties, errors, truncation", f"set-{reported.number}-counts", [Prose(text), table]
    )


def _count_row(run: ReportedRun, codes: list[str], *, partial_credit: bool) -> list[Cell]:
    total = run.metrics.total
    between = sum(times for credit, times in total.credits.items() if 0 < credit < 1)
    between = between if partial_credit else total.ties
    lost = total.count - total.wins - between - total.errors
    numbers = (total.wins, between, lost, total.errors)
    return [
        Cell(run.name),
        *(count_cell(number, total.count) for number in numbers),
        *(count_cell(total.error_codes[code]) for code in codes),
        count_cell(total.truncated, total.count),
    ]
