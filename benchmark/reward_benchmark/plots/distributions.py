"""How scores, margins and accuracies are spread: histograms, violins and boxes."""

from collections.abc import Mapping, Sequence
from math import ceil, floor, isqrt

import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from reward_benchmark.plots.style import (
    CHOSEN,
    GREY,
    REJECTED,
    VERMILLION,
    WIDTH,
    SeriesStyle,
    add_legend,
    check_aligned,
    house_style,
    label,
    literal,
    new_figure,
    row_labels,
    series_style,
    swatch,
)

MAX_BINS = 40
PANELS_PER_ROW = 3
PANEL_INCHES = (3.4, 2.9, 2.6)
"""Height of a panel where one, two or three stand side by side."""
TITLE_CHARACTERS = (80, 38, 36)
"""Room for a panel's name, likewise."""
LEAST_VALUES = 5
"""With fewer values there is no violin, only the values."""
FEW_VALUES = 12
"""Up to so many values are shown one by one."""

ABOVE = SeriesStyle(CHOSEN.colour, "", "o", "-")
ZERO = SeriesStyle(GREY, "xxxx", "s", "--")
BELOW = SeriesStyle(VERMILLION, "////", "^", "-.")

_Values = NDArray[numpy.float64]


@house_style()
def score_histograms(
    panels: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    score_label: str = "score",
    note: str | None = None,
) -> Figure:
    """Scores of chosen completions against those of rejected ones, a panel per model.

    Args:
        panels: name → scores of the chosen completions, scores of the rejected ones. Each panel has
            a range of its own: raw scores of two models have no common unit.
        score_label: what a score is, with its unit.
    """
    figure, grid = _panels(list(panels), title=title, note=note)
    for axes, both in zip(grid, panels.values(), strict=True):
        sides = [numpy.asarray(side, float) for side in both]
        edges = _edges(numpy.concatenate(sides))
        for side, style in zip(sides, (CHOSEN, REJECTED), strict=True):
            if not side.size:
                continue
            axes.hist(
                side,
                list(edges),
                weights=numpy.full(side.size, 100 / side.size),
                histtype="stepfilled",
                facecolor=style.colour + "80",
                edgecolor=style.colour,
                hatch=style.hatch,
            )
            axes.axvline(float(numpy.median(side)), color=style.colour, linestyle=style.line)
        _count(axes, f"n = {sides[0].size:,} chosen, {sides[1].size:,} rejected")
        axes.set_xlabel(literal(score_label))
        axes.set_ylabel("share of completions, %")
    add_legend(
        figure,
        [swatch(CHOSEN), swatch(REJECTED)],
        ["chosen (solid line: median)", "rejected (dashed line: median)"],
    )
    return figure


@house_style()
def margin_histograms(
    panels: Mapping[str, Sequence[float]],
    *,
    title: str,
    margin_label: str = "margin (lowest chosen score - highest rejected score)",
    note: str | None = None,
) -> Figure:
    """How far chosen completions score above rejected ones, a panel per model.

    Args:
        panels: name → margins; above 0, every chosen completion is ahead of the others.
    """
    figure, grid = _panels(list(panels), title=title, note=note)
    for axes, values in zip(grid, panels.values(), strict=True):
        margins = numpy.asarray(values, float)
        if margins.size:
            split = [margins[margins < 0], margins[margins == 0], margins[margins > 0]]
            axes.hist(
                split,
                list(_edges(margins, through_zero=True)),
                weights=[numpy.full(part.size, 100 / margins.size) for part in split],
                stacked=True,
                color=[style.colour for style in (BELOW, ZERO, ABOVE)],
                hatch=[style.hatch for style in (BELOW, ZERO, ABOVE)],
                edgecolor="white",
                linewidth=0.3,
            )
            below, zero, above = (100 * part.size / margins.size for part in split)
            shares = f"\n{above:.1f} % above 0, {zero:.1f} % at 0, {below:.1f} % below 0"
        else:
            shares = ""
        axes.axvline(0, color="black", linewidth=0.9)
        _count(axes, f"n = {margins.size:,}{shares}")
        axes.set_xlabel(literal(margin_label))
        axes.set_ylabel("share, %")
    styles = [swatch(style) for style in (ABOVE, ZERO, BELOW)]
    add_legend(figure, styles, ["above 0", "0", "below 0"])
    return figure


@house_style()
def violins(
    labels: Sequence[str],
    series: Mapping[str, Sequence[Sequence[float]]],
    *,
    title: str,
    value_label: str,
    note: str | None = None,
    zero_line: bool = False,
) -> Figure:
    """Distributions, a group per label from top to bottom, a violin per series.

    The white point is the median, the bar goes from the first to the third quartile.

    Args:
        labels: the groups, such as subsets.
        series: name → the values of each label; there may be none.
        zero_line: mark 0, for margins.
    """
    check_aligned(labels, **series)
    thickness = 0.86 / max(1, len(series))
    group_inches = max(0.34, 0.26 * len(series))
    figure = new_figure(1.5 + group_inches * len(labels), title=title, note=note)
    axes = figure.subplots()
    for index, columns in enumerate(series.values()):
        style = series_style(index)
        for row, column in enumerate(columns):
            if len(column):
                place = row - 0.43 + thickness * (index + 0.5)
                _draw_violin(axes, numpy.asarray(column, float), place, thickness, style)
    if zero_line:
        axes.axvline(0, color="black", linewidth=0.9)
    sizes = [[len(columns[row]) for columns in series.values()] for row in range(len(labels))]
    row_labels(axes, labels, sizes)
    axes.set_xlabel(literal(value_label))
    if len(series) > 1:
        styles = [series_style(index) for index in range(len(series))]
        add_legend(figure, [swatch(style) for style in styles], list(series))
    return figure


@house_style()
def boxes(
    labels: Sequence[str],
    values: Sequence[Sequence[float]],
    *,
    title: str,
    value_label: str,
    note: str | None = None,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Boxes with whiskers, one per label from top to bottom, such as accuracies over runs.

    A box goes from the first to the third quartile, its whiskers to the farthest values within 1.5
    times its length; every value is a point.
    """
    check_aligned(labels, values=values)
    figure = new_figure(1.2 + 0.3 * len(labels), title=title, note=note)
    axes = figure.subplots()
    # By hand: `Axes.boxplot` imports pyplot, which looks for a display.
    for row, column in enumerate(values):
        if not len(column):
            continue
        first, middle, third = numpy.quantile(column, [0.25, 0.5, 0.75])
        reach = 1.5 * (third - first)
        ends = [one for one in column if first - reach <= one <= third + reach]
        low, high = min(*ends, first), max(*ends, third)
        axes.plot([low, first], [row] * 2, color="black", linewidth=0.9)
        axes.plot([third, high], [row] * 2, color="black", linewidth=0.9)
        for end in (low, high):
            axes.plot([end] * 2, [row - 0.15, row + 0.15], color="black", linewidth=0.9)
        axes.barh(
            row,
            third - first,
            0.6,
            left=first,
            color=series_style(4).colour,
            edgecolor="black",
            linewidth=0.8,
        )
        axes.plot([middle] * 2, [row - 0.3, row + 0.3], color="black", linewidth=1.6)
        axes.plot(column, [row] * len(column), "o", color="black", markersize=2.5)
    row_labels(axes, labels, [[len(column)] for column in values])
    axes.set_xlabel(literal(value_label))
    if limits is not None:
        axes.set_xlim(limits)
    return figure


def _draw_violin(
    axes: Axes, values: _Values, place: float, thickness: float, style: SeriesStyle
) -> None:
    """One distribution at its place; with few values the values, too or alone."""
    if values.size >= LEAST_VALUES and not _all_equal(values):
        parts = axes.violinplot(
            [values],
            [place],
            orientation="horizontal",
            widths=thickness * 0.95,
            showextrema=False,
        )
        for body in parts["bodies"]:  # type: ignore[attr-defined]
            body.set(
                facecolor=style.colour,
                edgecolor="black",
                linewidth=0.5,
                alpha=0.75,
                hatch=style.hatch,
            )
    if values.size <= FEW_VALUES:
        axes.plot(values, [place] * values.size, "|", color="black", markersize=5)
    low, middle, high = numpy.quantile(values, [0.25, 0.5, 0.75])
    axes.plot([low, high], [place] * 2, color="black", linewidth=2.5)
    axes.plot(middle, place, style.marker, color="white", markeredgecolor="black", markersize=4)


def _all_equal(values: _Values) -> bool:
    # A density needs a spread that the numbers' precision can carry.
    return float(numpy.ptp(values)) <= 1e-9 * max(1.0, float(numpy.abs(values).max()))


def _panels(names: list[str], *, title: str, note: str | None) -> tuple[Figure, list[Axes]]:
    columns = min(PANELS_PER_ROW, max(1, len(names)))
    rows = ceil(len(names) / columns)
    width = WIDTH if columns < PANELS_PER_ROW else 1.35 * WIDTH
    figure = new_figure(1.1 + PANEL_INCHES[columns - 1] * rows, title=title, note=note, width=width)
    grid = list(figure.subplots(max(1, rows), columns, squeeze=False).flat)
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    grid = grid[: len(names)]
    for axes, name in zip(grid, names, strict=True):
        axes.set_title(
            label(name, TITLE_CHARACTERS[columns - 1]), loc="left", fontweight="bold", pad=16
        )
        axes.grid(axis="y")
    return figure, grid


def _count(axes: Axes, text: str) -> None:
    lines = text.count("\n") + 1
    axes.set_title(axes.get_title(loc="left"), loc="left", fontweight="bold", pad=5 + 11 * lines)
    axes.annotate(
        text, (0, 1), (0, 4), xycoords="axes fraction", textcoords="offset points", fontsize=8
    )


def _edges(values: _Values, *, through_zero: bool = False) -> _Values:
    """Edges of equally wide bins over all values; `through_zero` makes 0 one of them."""
    if not values.size:
        return numpy.array([0.0, 1.0])
    low, high = float(values.min()), float(values.max())
    if through_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        spread = max(0.5, abs(low) * 0.1)
        low, high = low - spread, high + spread
    count = min(MAX_BINS, max(10, isqrt(values.size)))
    if not through_zero:
        return numpy.linspace(low, high, count + 1)
    step = (high - low) / count
    # The last edge lies above every value: the last bin alone would take one that equals it.
    return step * numpy.arange(floor(low / step), floor(high / step) + 2, dtype=float)
