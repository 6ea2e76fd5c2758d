"""Bars: estimates with their intervals, and how often models were used."""

from collections.abc import Mapping, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from reward_benchmark.plots.style import (
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
from reward_benchmark.statistics import Estimate

BAR_INCHES = 0.17
"""Of each bar of a group."""


@house_style()
def interval_bars(
    labels: Sequence[str],
    series: Mapping[str, Sequence[Estimate | None]],
    *,
    title: str,
    value_label: str,
    note: str | None = None,
    counts: Sequence[int] | None = None,
    baselines: Mapping[str, Sequence[float | None]] | None = None,
    limits: tuple[float, float] | None = None,
    percent: bool = False,
) -> Figure:
    """Bars with intervals, a group per label from top to bottom, a bar per series.

    Args:
        labels: the groups, such as subsets.
        series: name, such as a run's model → one estimate per label; `None` where there is none.
        value_label: what is measured, with its unit.
        note: stands below the title, such as the number of pairs.
        counts: how many pairs each label stands for.
        baselines: name → one value per label, drawn as a mark across the group.
        limits: of the value axis.
        percent: the values are fractions, and the axis says per cent.
    """
    baselines = baselines or {}
    check_aligned(labels, **series, **baselines)
    legend_inches = 0.2 * (len(series) + len(baselines))
    group_inches = _group_inches(len(series))
    figure = new_figure(1.3 + legend_inches + group_inches * len(labels), title=title, note=note)
    axes = figure.subplots()
    handles: list[Artist] = [*_draw_bars(axes, list(series.values()))]
    for index, baseline in enumerate(baselines.values()):
        handles.append(_draw_baseline(axes, baseline, series_style(index + 3)))
    row_labels(axes, labels, None if counts is None else [[count] for count in counts])
    axes.set_xlabel(literal(value_label))
    if limits is not None:
        axes.set_xlim(limits)
    if percent:
        axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=None))
    if len(handles) > 1:
        add_legend(figure, handles, [*series, *baselines])
    return figure


@house_style()
def sectioned_bars(
    sections: Mapping[str, Sequence[str]],
    series: Mapping[str, Mapping[str, Estimate]],
    *,
    title: str,
    value_label: str,
    note: str | None = None,
    limits: tuple[float | None, float | None] | None = None,
) -> Figure:
    """Bars with intervals as of `interval_bars`, a panel per section over a common axis.

    Args:
        sections: name, which stands above its panel → its labels, such as subsets. There must be
            a section, and a label in each.
        series: name → label → estimate, as far as there is one.
        value_label: what is measured, with its unit.
        note: stands below the title, such as the number of pairs.
        limits: of the value axis; `None` leaves an end to the values.
    """
    rows = sum(map(len, sections.values()))
    height = 1.3 + 0.2 * len(series) + 0.4 * len(sections) + _group_inches(len(series)) * rows
    figure = new_figure(height, title=title, note=note)
    panels = figure.subplots(
        len(sections),
        sharex=True,
        squeeze=False,
        height_ratios=list(map(len, sections.values())),
    )[:, 0]
    for axes, (name, labels) in zip(panels, sections.items(), strict=True):
        handles = _draw_bars(axes, [[one.get(row) for row in labels] for one in series.values()])
        row_labels(axes, labels)
        axes.set_title(label(name), loc="left", fontweight="bold")
    panels[-1].set_xlabel(literal(value_label))
    if limits is not None:
        panels[-1].set_xlim(limits)
    if len(series) > 1:
        add_legend(figure, handles, list(series))
    return figure


@house_style()
def usage_bars(
    labels: Sequence[str],
    usage: Mapping[str, Sequence[float]],
    *,
    title: str,
    value_label: str,
    note: str | None = None,
    log_scale: bool = False,
) -> Figure:
    """How often each model was used, a group of bars per model, a bar per column.

    Args:
        labels: models, most used first.
        usage: column, such as `chosen_model` → one number per model.
        value_label: what is counted, with its unit.
        log_scale: for counts of very different sizes.
    """
    check_aligned(labels, **usage)
    thickness = 0.8 / max(1, len(usage))
    group_inches = max(0.22, 0.13 * len(usage) / 0.8)
    figure = new_figure(1.5 + group_inches * len(labels), title=title, note=note)
    axes = figure.subplots()
    for index, numbers in enumerate(usage.values()):
        style = series_style(index)
        axes.barh(
            [row - 0.4 + thickness * (index + 0.5) for row in range(len(labels))],
            numbers,
            thickness * 0.92,
            color=style.colour,
            hatch=style.hatch,
            edgecolor="white",
            linewidth=0.3,
        )
    if log_scale and any(number > 0 for numbers in usage.values() for number in numbers):
        axes.set_xscale("log")
    row_labels(axes, labels)
    axes.set_xlabel(literal(value_label))
    add_legend(figure, [swatch(series_style(index)) for index in range(len(usage))], list(usage))
    return figure


def _group_inches(num_series: int) -> float:
    return max(0.28, BAR_INCHES * num_series / 0.8)


def _draw_bars(axes: Axes, series: Sequence[Sequence[Estimate | None]]) -> list[Patch]:
    """A group of bars per row, a bar per series; what stands for the series in a legend."""
    thickness = 0.8 / max(1, len(series))
    styles = [series_style(index) for index in range(len(series))]
    for index, (style, estimates) in enumerate(zip(styles, series, strict=True)):
        known = [(row, one) for row, one in enumerate(estimates) if one is not None]
        axes.barh(
            [row - 0.4 + thickness * (index + 0.5) for row, _ in known],
            [one.value for _, one in known],
            thickness * 0.92,
            xerr=_reach([one for _, one in known]),
            color=style.colour,
            hatch=style.hatch,
            edgecolor="white",
            linewidth=0.3,
            error_kw={"elinewidth": 0.9, "capsize": 1.8, "ecolor": "black"},
        )
    return [swatch(style) for style in styles]


def _draw_baseline(axes: Axes, values: Sequence[float | None], style: SeriesStyle) -> Line2D:
    """Mark each row's value across its bars; what stands for the marks in a legend."""
    for row, value in enumerate(values):
        if value is not None:
            axes.plot([value] * 2, [row - 0.44, row + 0.44], color="black", linestyle=style.line)
            axes.plot(
                value, row, style.marker, color="white", markeredgecolor="black", markersize=5
            )
    return Line2D(
        [], [], color="black", linestyle=style.line, marker=style.marker, markerfacecolor="white"
    )


def _reach(estimates: Sequence[Estimate]) -> tuple[list[float], list[float]]:
    """How far each interval reaches below and above its value; not at all where there is none."""
    intervals = [one.interval or (one.value, one.value) for one in estimates]
    # Rounding may put a bound on the wrong side by a hair, which matplotlib refuses.
    return (
        [max(0.0, one.value - low) for one, (low, _) in zip(estimates, intervals, strict=True)],
        [max(0.0, high - one.value) for one, (_, high) in zip(estimates, intervals, strict=True)],
    )
