"""Every picture of the benchmark: plain data in, a matplotlib `Figure` out.

The one place that imports matplotlib. Nothing here touches pyplot or a display; the same data give
the same bytes. Colours are Okabe and Ito's (2008), which colour-blind people can tell apart, and
colour is never alone: hatches, marks and line styles differ too.
"""

from matplotlib.figure import Figure

from reward_benchmark.plots.bars import interval_bars, sectioned_bars, usage_bars
from reward_benchmark.plots.curves import (
    curves_with_bands,
    reliability_diagram,
    token_lines,
)
from reward_benchmark.plots.distributions import (
    boxes,
    margin_histograms,
    score_histograms,
    violins,
)
from reward_benchmark.plots.heat_maps import correlation_matrix, token_heat_map
from reward_benchmark.plots.output import FORMATS, drawn, picture_format, save, to_svg

__all__ = [
    "FORMATS",
    "Figure",
    "boxes",
    "correlation_matrix",
    "curves_with_bands",
    "drawn",
    "interval_bars",
    "margin_histograms",
    "picture_format",
    "reliability_diagram",
    "save",
    "score_histograms",
    "sectioned_bars",
    "to_svg",
    "token_heat_map",
    "token_lines",
    "usage_bars",
    "violins",
]
