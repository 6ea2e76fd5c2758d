"""The table that a finished run prints."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reward_benchmark.metrics import Metrics
from reward_benchmark.text_table import interval, percent


def results_table(metrics: Metrics, *, title: str) -> RenderableType:
    """Sections and the overall number, then every subset, then what to know about them."""
    summary = Table(show_footer=True)
    summary.add_column("section" if metrics.sections else "", footer="overall")
    summary.add_column("score %", footer=percent(metrics.overall.value), justify="right")
    summary.add_column("95 % interval", footer=interval(metrics.overall.interval), justify="right")
    for section, estimate in metrics.sections.items():
        summary.add_row(section, percent(estimate.value), interval(estimate.interval))

    subsets = Table()
    subsets.add_column("subset")
    for name in ("accuracy %", "95 % interval", f"{metrics.benchmark.noun}s", "ties", "errors"):
        subsets.add_column(name, justify="right")
    for name, subset in metrics.subsets.items():
        tally = subset.tally
        subsets.add_row(
            Text(name),
            percent(subset.estimate.value),
            interval(subset.estimate.interval),
            *map(str, (tally.count, tally.ties, tally.errors)),
        )
    return Group(Text(title), summary, subsets, *map(Text, _remarks(metrics)))


def _remarks(metrics: Metrics) -> list[str]:
    total, noun = metrics.total, metrics.benchmark.noun
    remarks = []
    if metrics.absent:
        remarks.append(f"The overall number lacks {', '.join(metrics.absent)}: no data of them.")
    if metrics.benchmark.remark:
        remarks.append(metrics.benchmark.remark)
    if total.ties:
        remarks.append(
            f"{total.ties} of {total.count} {noun}s are ties. {metrics.benchmark.tie_rule}"
        )
    if total.errors:
        codes = ", ".join(f"{code} {count}" for code, count in total.error_codes.most_common())
        remarks.append(
            f"{total.errors} of {total.count} {noun}s failed, which counts as a loss ({codes}); "
            "the same command tries them again."
        )
    if total.truncated:
        remarks.append(
            f"{total.truncated} of {total.count} {noun}s lost the start of their prompt."
        )
    return remarks
