"""The table that a finished run prints."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reward_benchmark.metrics import Metrics


def results_table(metrics: Metrics, *, title: str) -> RenderableType:
    """Sections and the overall number, then every subset, then what to know about them."""
    summary = Table(show_footer=True)
    summary.add_column("section", footer="overall")
    summary.add_column("score %", footer=_percent(metrics.overall), justify="right")
    for section, score in metrics.sections.items():
        summary.add_row(section, _percent(score))

    subsets = Table()
    subsets.add_column("subset")
    for name in ("accuracy %", "95 % interval", "pairs", "ties", "errors"):
        subsets.add_column(name, justify="right")
    for name, tally in metrics.subsets.items():
        subsets.add_row(
            Text(name),
            _percent(tally.accuracy),
            f"{_percent(tally.ci95.low)} to {_percent(tally.ci95.high)}",
            *map(str, (tally.count, tally.ties, tally.errors)),
        )
    return Group(Text(title), summary, subsets, *map(Text, _remarks(metrics)))


def _remarks(metrics: Metrics) -> list[str]:
    total = metrics.total
    remarks = []
    if total.ties:
        remarks.append(f"{total.ties} of {total.count} pairs are ties, which count as losses.")
    if total.errors:
        codes = ", ".join(f"{code} {count}" for code, count in total.error_codes.most_common())
        remarks.append(
            f"{total.errors} of {total.count} pairs failed, which counts as a loss ({codes}); "
            "the same command tries them again."
        )
    if total.truncated:
        remarks.append(f"{total.truncated} of {total.count} pairs lost the start of their prompt.")
    return remarks


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"
