"""The curves of a best-of-n run, drawn."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_benchmark.best_of_n.rankings import LONGEST, ORACLE, PICK, RANDOM

if TYPE_CHECKING:
    from reward_benchmark.plots import Figure

SCORES_PICTURE = "scores.png"
GOLD_PICTURE = "gold.png"

SCORE_CURVES = {"highest score": PICK}
GOLD_CURVES = {
    "highest score": PICK,
    "best there is": ORACLE,
    "random": RANDOM,
    "longest": LONGEST,
}
"""What the curves of scores and of known values are called for people."""

MANY = 32
"""A longer curve is shown at powers of two and at its end only."""


def shown(curve: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The points of a curve that a picture or a table has room for."""
    return [
        point
        for point in curve
        if len(curve) <= MANY or point["n"].bit_count() == 1 or point is curve[-1]
    ]


def scores_figure(document: Mapping[str, Any]) -> "Figure":
    """What the picks score against n, from the content of `results.json` with a curve."""
    return _figure(
        document,
        document["curve"],
        SCORE_CURVES,
        x_label="n (candidates drawn)",
        y_label="mean score of the pick",
        bands="the band is its 95 % interval",
    )


def gold_figure(document: Mapping[str, Any]) -> "Figure":
    """What the picks are worth against n, where there are known values with a curve."""
    gold = document["gold"]
    return _figure(
        document,
        gold["curve"],
        GOLD_CURVES,
        x_label="n (annotated candidates drawn)",
        y_label=f"mean {gold['column']} of the pick",
        bands="bands are 95 % intervals",
    )


def _figure(
    document: Mapping[str, Any],
    curve: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    *,
    x_label: str,
    y_label: str,
    bands: str,
) -> "Figure":
    from reward_benchmark import plots

    points = shown(curve)
    cut = document.get("best_of")  # which earlier versions did not write
    among = f"among the first {cut['n']} candidates; " if cut else ""
    return plots.curves_with_bands(
        [point["n"] for point in points],
        {label: _band(points, name) for label, name in names.items()},
        title=f"Best of n: {document['model']} on {document['dataset']}",
        x_label=x_label,
        y_label=y_label,
        note=f"{_prompts(points)}; {among}{bands} over prompts",
        log2=len(curve) > MANY,
    )


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Draw the curves of a best-of-n run into its directory, as far as it has any."""
    # matplotlib takes half a second to import, which --no-pictures should not cost.
    from reward_benchmark import plots

    if document["curve"]:
        plots.save(scores_figure(document), path / SCORES_PICTURE)
    if document["gold"] and document["gold"]["curve"]:
        plots.save(gold_figure(document), path / GOLD_PICTURE)


def _band(
    curve: Iterable[Mapping[str, Any]], name: str
) -> tuple[list[float], list[float], list[float]]:
    """Means with their intervals; one without interval has a band without height."""
    means = [point[name]["mean"] for point in curve]
    intervals = [point[name]["ci95"] or (point[name]["mean"],) * 2 for point in curve]
    return means, [low for low, _ in intervals], [high for _, high in intervals]


def _prompts(curve: Sequence[Mapping[str, Any]]) -> str:
    most, fewest = curve[0]["prompts"], curve[-1]["prompts"]
    return f"{most} prompts" if most == fewest else f"{most} prompts at n = 1, {fewest} at the end"
