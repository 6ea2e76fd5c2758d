"""Pictures: what stands in them, that nothing in a text can break them, and that bytes repeat."""

import io
import math
import random
import re
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable

import matplotlib
import numpy
import pytest
from matplotlib.figure import Figure
from PIL import Image

from reward_benchmark import plots
from reward_benchmark.errors import BenchmarkError
from reward_benchmark.plots.style import COLOURS, label, series_style
from reward_benchmark.statistics import Estimate, Interval, calibration

ODD = "$x_1$ _a\\b% <b>&amp; 我 \U0001f600 \u0000\n\ud800"
"""A formula, markup, and characters that no font has, that XML forbids, or that are no text."""

SVG = "{http://www.w3.org/2000/svg}"


def numbers(count: int, *, seed: int = 0, mean: float = 0.0) -> list[float]:
    draw = random.Random(seed)
    return [draw.gauss(mean, 1) for _ in range(count)]


def estimates(count: int, *, seed: int = 0) -> list[Estimate | None]:
    draw = random.Random(seed)
    values = [draw.random() for _ in range(count)]
    return [Estimate(one, Interval(max(0, one - 0.1), min(1, one + 0.1))) for one in values]


FIGURES: dict[str, Callable[[str], Figure]] = {
    "interval_bars": lambda name: plots.interval_bars(
        [name, "b"],
        {name: estimates(2), "other": [None, Estimate(0.5)]},
        baselines={"chance " + name: [0.5, None]},
        title=name,
        value_label="accuracy, %",
        note="n = 2",
        counts=[1, 1000],
        limits=(0, 1),
        percent=True,
    ),
    "sectioned_bars": lambda name: plots.sectioned_bars(
        {name: [name, "b"], "": ["c"]},
        {name: {name: Estimate(3, Interval(-1, 7)), "c": Estimate(0.5)}, "other": {}},
        title=name,
        value_label="tokens",
        note="n = 2",
        limits=(0, None),
    ),
    "usage_bars": lambda name: plots.usage_bars(
        [name, "b"], {name: [3, 0]}, title=name, value_label="completions", log_scale=True
    ),
    "score_histograms": lambda name: plots.score_histograms(
        {name: (numbers(50), numbers(150, seed=1)), "b": ([1.0], [])}, title=name
    ),
    "margin_histograms": lambda name: plots.margin_histograms(
        {name: [*numbers(50), 0.0], "none": []}, title=name
    ),
    "violins": lambda name: plots.violins(
        [name, "few", "equal", "none"],
        {name: [numbers(50), [1.0, 2.0], [3.0] * 9, []], "b": [[0.1], [], [2.0], [1.0, 1 + 1e-15]]},
        title=name,
        value_label="margin",
        zero_line=True,
    ),
    "boxes": lambda name: plots.boxes(
        [name, "b", "c"], [[1, 2, 3], [], [4]], title=name, value_label="accuracy, %"
    ),
    "correlation_matrix": lambda name: plots.correlation_matrix(
        [name, "b"], [[1.0, None], [-0.25, 1.0]], title=name, value_label="Pearson's r"
    ),
    "reliability_diagram": lambda name: plots.reliability_diagram(
        {name: calibration(numpy.array(numbers(200, mean=1))).bins}, title=name
    ),
    "curves_with_bands": lambda name: plots.curves_with_bands(
        [1, 2, 4], {name: ([1, 2, 3], [0, 1, 2], [2, 3, 4])}, title=name, x_label="n",
        y_label="score", log2=True,
    ),
    "token_heat_map": lambda name: plots.token_heat_map(
        [name, *"abcdefghijklmno"], {name: [None, *numbers(15)], "b": numbers(16)}, title=name
    ),
    "token_lines": lambda name: plots.token_lines(
        [name, "b"], {name: [0.5, None], "b": [None, None]}, title=name
    ),
}  # fmt: skip

every_figure = pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)


def texts_of(svg: str) -> list[str]:
    """What a reader of the picture reads."""
    return ["".join(one.itertext()) for one in ET.fromstring(svg).iter(f"{SVG}text")]


@every_figure
def test_a_figure_names_what_it_shows_whatever_the_name_and_the_settings(draw):
    picture = plots.to_svg(draw(ODD))  # warnings are errors here

    # The title, and wherever else the name stands: a label, a legend, a panel.
    texts = texts_of(picture)
    assert sum("$x_1$ _a\\b% <b>&amp; 我 \U0001f600" in text for text in texts) >= 2
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "axes.grid": True}):
        assert plots.to_svg(draw(ODD)) == picture


@pytest.mark.parametrize("suffix", plots.FORMATS)
def test_the_same_figure_gives_the_same_bytes(tmp_path, suffix):
    for name in ("first", "second"):
        plots.save(FIGURES["correlation_matrix"](ODD), tmp_path / f"{name}{suffix}")

    first = (tmp_path / f"first{suffix}").read_bytes()
    assert len(first) > 10_000
    assert first == (tmp_path / f"second{suffix}").read_bytes()


@every_figure
def test_nothing_is_drawn_beyond_the_edge(draw):
    picture = io.BytesIO()
    figure = draw("a-model-with-a-name-that-goes-on/for-longer-than-any-name-should-7b-v0.1-final")
    figure.savefig(picture, dpi=60)
    pixels = numpy.asarray(Image.open(picture).convert("L"))

    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert edge.min() == 255


def test_another_process_draws_the_same_without_pyplot(tmp_path):
    code = (
        "import sys; from pathlib import Path; from reward_benchmark import plots;"
        "figure = plots.boxes(['a'], [[1, 2, 3]], title='t', value_label='v');"
        "plots.save(figure, Path(sys.argv[1])); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "there.svg"], check=True)
    figure = plots.boxes(["a"], [[1, 2, 3]], title="t", value_label="v")
    plots.save(figure, tmp_path / "here.svg")

    assert (tmp_path / "here.svg").read_bytes() == (tmp_path / "there.svg").read_bytes()


@pytest.mark.parametrize("name", ["picture.gif", "picture", "png"])
def test_a_picture_of_an_unknown_format_is_refused_by_name(tmp_path, name):
    with pytest.raises(BenchmarkError, match=r"must be one of \.png, \.svg, \.pdf") as caught:
        plots.save(FIGURES["boxes"]("a"), tmp_path / name)
    assert name in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_picture_is_in_the_format_that_its_name_says(tmp_path):
    starts = {".png": b"\x89PNG", ".PDF": b"%PDF", ".svg": b"<?xml"}
    for suffix, start in starts.items():
        plots.save(FIGURES["boxes"]("a"), tmp_path / f"a{suffix}")
        assert (tmp_path / f"a{suffix}").read_bytes().startswith(start)


def test_inline_svgs_do_not_share_ids():
    pictures = [plots.to_svg(FIGURES[name]("a")) for name in ("boxes", "interval_bars", "violins")]

    found = [set(re.findall(r'\bid="([^"]*)"', picture)) for picture in pictures]
    assert all(found)
    assert len(set().union(*found)) == sum(map(len, found))
    for picture, ids in zip(pictures, found, strict=True):
        assert picture.startswith("<svg")
        references = set(re.findall(r'(?:url\(|href=")#([^)"]*)', picture))
        assert references <= ids  # what was renamed is still found


def test_bars_end_where_their_values_are():
    values = [Estimate(0.25, Interval(0.1, 0.5)), None, Estimate(0.75)]

    figure = plots.interval_bars(["a", "b", "c"], {"run": values}, title="t", value_label="v")

    [axes] = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [0.25, 0.75]
    assert [bar.get_y() + bar.get_height() / 2 for bar in axes.patches] == pytest.approx([0, 2])
    [lines] = [one for one in axes.collections if len(one.get_segments()) == 2]
    assert [(start[0], end[0]) for start, end in lines.get_segments()] == [(0.1, 0.5), (0.75,) * 2]


def test_bars_of_sections_share_one_axis():
    sections = {"first": ["a", "b"], "second": ["c"]}
    series = {
        "run": {"c": Estimate(9, Interval(8, 12)), "a": Estimate(1, Interval(-1, 3))},
        "other": {"b": Estimate(2)},
    }

    figure = plots.sectioned_bars(sections, series, title="t", value_label="v", limits=(0, None))

    bars = {
        axes.get_title(loc="left"): [
            (bar.get_width(), bar.get_y() + bar.get_height() / 2) for bar in axes.patches
        ]
        for axes in figure.axes
    }
    assert bars == {
        "first": [(1, pytest.approx(-0.2)), (2, pytest.approx(1.2))],
        "second": [(9, pytest.approx(-0.2))],
    }
    first, second = figure.axes
    assert first.get_xlim() == second.get_xlim()
    assert first.get_xlim()[0] == 0
    assert first.get_xlim()[1] >= 12
    assert (first.get_xlabel(), second.get_xlabel()) == ("", "v")
    assert {"run", "other"} <= set(texts_of(plots.to_svg(figure)))


def test_a_bound_that_rounding_put_on_the_wrong_side_is_drawn():
    estimate = Estimate(0.3, Interval(math.nextafter(0.3, 1), math.nextafter(0.3, 0)))

    plots.interval_bars(["a"], {"run": [estimate]}, title="t", value_label="v")


def test_a_name_that_starts_with_an_underscore_is_in_the_legend():
    usage = {"_hidden": [1.0], "shown": [2.0]}

    figure = plots.usage_bars(["a"], usage, title="t", value_label="v")

    assert {"_hidden", "shown"} <= set(texts_of(plots.to_svg(figure)))


def test_bars_in_per_cent_are_labelled_so():
    figure = plots.interval_bars(
        ["a"], {"run": [Estimate(0.5)]}, title="t", value_label="v", limits=(0, 1), percent=True
    )

    texts = texts_of(plots.to_svg(figure))
    assert "100" in texts
    assert "1.0" not in texts


def test_counts_stand_beside_their_labels():
    texts = texts_of(plots.to_svg(FIGURES["interval_bars"]("first")))

    assert "first (n = 1)" in texts
    assert "b (n = 1,000)" in texts


def test_violins_of_unequal_sizes_say_both():
    texts = texts_of(plots.to_svg(FIGURES["violins"]("first")))

    assert "first (n = 1 to 50)" in texts
    assert "few (n = 0 to 2)" in texts


def test_few_or_equal_values_are_shown_by_themselves_and_not_as_a_violin():
    columns = [numbers(50), [1.0, 2.0], [3.0] * 9, [1.0] * 8 + [1 + 1e-15], []]

    figure = plots.violins(list("abcde"), {"run": columns}, title="t", value_label="v")

    [axes] = figure.axes
    assert len(axes.collections) == 1
    shown = [sorted(line.get_xdata()) for line in axes.lines if line.get_marker() == "|"]
    assert shown == [[1.0, 2.0], [3.0] * 9, [*[1.0] * 8, 1 + 1e-15]]
    medians = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert medians == [statistics.median(column) for column in columns if column]


def test_a_box_ends_at_the_quartiles_and_its_whiskers_at_the_last_values_near_them():
    values = [0.0, 10.0, 11.0, 12.0, 13.0, 14.0, 20.0]

    figure = plots.boxes(["a", "none"], [values, []], title="t", value_label="v")

    [axes] = figure.axes
    [box] = axes.patches
    first, middle, third = numpy.percentile(values, [25, 50, 75])
    assert (box.get_x(), box.get_x() + box.get_width()) == (first, third)
    ends = {float(one) for line in axes.lines for one in line.get_xdata()}
    assert ends == {*values, first, middle, third}
    whiskers = [tuple(map(float, line.get_xdata())) for line in axes.lines[:2]]
    assert whiskers == [(10.0, first), (third, 14.0)]


def test_wins_ties_and_losses_never_share_a_bar():
    margins = [-3.0, -0.25, 0.0, 0.0, 1e-12, 0.5, 4.0]

    figure = plots.margin_histograms({"run": margins}, title="t")

    axes = figure.axes[0]
    heights = dict.fromkeys(("loss", "tie", "win"), 0.0)
    colours = {(213, 94, 0): "loss", (102, 102, 102): "tie", (0, 114, 178): "win"}
    for bar in axes.patches:
        kind = colours[tuple(round(255 * part) for part in bar.get_facecolor()[:3])]
        heights[kind] += bar.get_height()
        if bar.get_height():
            left, right = bar.get_x(), bar.get_x() + bar.get_width()
            assert right <= 1e-9 if kind == "loss" else left >= -1e-9
    assert heights == pytest.approx({"loss": 200 / 7, "tie": 200 / 7, "win": 300 / 7})
    texts = texts_of(plots.to_svg(figure))
    assert "42.9 % above 0, 28.6 % at 0, 28.6 % below 0" in texts
    assert "n = 7" in texts


@pytest.mark.parametrize(
    "margins", [[0.0], [1.0, 1.0], [-2.5], [1e-300, 1.0], [-1e100, 1e100], [1e16, 1e16 + 2]]
)
def test_margins_of_any_size_have_bins(margins):
    figure = plots.margin_histograms({"run": margins}, title="t")

    bars = figure.axes[0].patches
    assert sum(bar.get_height() for bar in bars) == pytest.approx(100)
    assert all(bar.get_width() > 0 for bar in bars)


def test_histograms_of_both_sides_are_shares():
    chosen, rejected = numbers(100), numbers(300, seed=1, mean=2)

    figure = plots.score_histograms({"run": (chosen, rejected)}, title="t")

    medians = sorted(float(line.get_xdata()[0]) for line in figure.axes[0].lines)
    assert medians == pytest.approx(sorted([numpy.median(chosen), numpy.median(rejected)]))
    texts = texts_of(plots.to_svg(figure))
    assert "n = 100 chosen, 300 rejected" in texts
    assert "share of completions, %" in texts


def test_a_matrix_shows_its_numbers_and_what_is_missing():
    texts = texts_of(plots.to_svg(FIGURES["correlation_matrix"]("a")))

    assert texts.count("1.00") >= 2
    assert {"-0.25", "–"} <= set(texts)


def test_numbers_can_be_read_on_their_colours():
    names = [str(i) for i in range(9)]
    matrix = [[(i - 4) / 4 for i in range(9)] for _ in range(9)]

    figure = plots.correlation_matrix(names, matrix, title="t", value_label="r")

    axes = figure.axes[0]
    image = axes.images[0]
    for text in axes.texts:
        column, row = map(int, text.get_position())
        red, green, blue, _ = image.to_rgba(numpy.array(matrix[row][column]))
        light = 0.299 * red + 0.587 * green + 0.114 * blue
        ink = 0.0 if text.get_color() == "black" else 1.0
        assert abs(light - ink) > 0.45


def test_words_stand_in_reading_order_with_their_scores():
    words = [f"w{i}" for i in range(31)]
    scores = [float(i) for i in range(31)]

    texts = texts_of(plots.to_svg(plots.token_heat_map(words, {"m": scores}, title="t")))

    assert [text for text in texts if re.fullmatch(r"w\d+", text)] == words
    shown = [text for text in texts if re.fullmatch(r"\d+\.00", text)]
    assert shown == [f"{one:.2f}" for one in scores]


def test_scores_are_coloured_within_their_own_model():
    figure = plots.token_heat_map(
        ["a", "b"], {"small": [0.0, 0.01], "large": [100.0, 900.0]}, title="t"
    )

    small, large = figure.axes[0].images
    for image, (low, high) in ((small, (0.0, 0.01)), (large, (100.0, 900.0))):
        assert (image.norm.vmin, image.norm.vmax) == (low, high)


def test_a_long_text_names_some_of_its_words():
    words = [f"w{i}" for i in range(150)]

    texts = texts_of(plots.to_svg(plots.token_lines(words, {"m": numbers(150)}, title="t")))

    named = [text for text in texts if re.fullmatch(r"w\d+", text)]
    assert named == words[::3]
    assert "word (one in 3 is named)" in texts


def test_curves_keep_their_points_and_ticks():
    figure = FIGURES["curves_with_bands"]("run")

    [axes] = figure.axes
    [line] = axes.lines
    assert list(line.get_xdata()) == [1, 2, 4]
    assert list(line.get_ydata()) == [1, 2, 3]
    assert {"1", "2", "4"} <= set(texts_of(plots.to_svg(figure)))


def test_reliability_is_drawn_from_its_bins():
    bins = calibration(numpy.array(numbers(300, mean=1))).bins

    figure = plots.reliability_diagram({"run": bins}, title="t")

    known = [one for one in bins if one.count]
    line = figure.axes[0].lines[-1]  # the intervals' ends come first
    assert list(line.get_xdata()) == [one.confidence for one in known]
    assert list(line.get_ydata()) == [one.accuracy for one in known]
    assert "run (n = 300)" in texts_of(plots.to_svg(figure))


def test_series_that_miss_a_label_are_refused_by_name():
    with pytest.raises(ValueError, match="'run' has 1 values for 2 labels"):
        plots.usage_bars(["a", "b"], {"run": [1.0]}, title="t", value_label="v")


def test_no_two_series_differ_by_colour_alone():
    styles = [series_style(index) for index in range(64)]

    assert len({(one.colour, one.hatch) for one in styles}) == 64
    assert len({(one.colour, one.marker, str(one.line)) for one in styles}) == 64
    first = styles[: len(COLOURS)]
    for what in ("hatch", "marker", "line"):
        assert len({str(getattr(one, what)) for one in first}) == len(COLOURS)


@pytest.mark.parametrize("limit", [10, 21, 40])
def test_a_long_label_keeps_both_ends(limit):
    text = "start-" + "x" * 100 + "-end"

    short = label(text, limit)

    assert len(short) == limit
    assert short.startswith("start")
    assert short.endswith("-end" if limit > 10 else "end")
    assert label("as it is", limit) == "as it is"


def test_hundreds_of_bars_stay_below_the_pixels_that_can_be_drawn():
    subsets = [f"subset {i}" for i in range(60)]
    series = {f"run {i}": [Estimate(0.5)] * 60 for i in range(12)}

    figure = plots.interval_bars(subsets, series, title="t", value_label="v")

    assert 100 < figure.get_figheight() < 2**16 / plots.output.DOTS_PER_INCH
