"""Writes the performance table of README.md from the newest kept result of `make bench`."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "benchmark" / "results"
START = "<!-- speed: written by `make format`, from the newest file in benchmark/results/ -->\n"
END = "<!-- end of speed -->\n"

CONTENDERS = {
    "loop-8": "RewardBench's loop, batch 8",
    "loop-64": "RewardBench's loop, batch 64",
    "one-by-one": "one by one",
    "length-sorted": "length-sorted, batch 16",
    "length-sorted-no-mask": "length-sorted, batch 16, right-padded without a mask",
    "one-forward-server": "one forward pass a request behind FastAPI, 64 callers",
    "engine": "**RewardServe**, in process, 64 callers",
    "service": "**RewardServe**, over HTTP, 64 callers",
}
PARTS = {
    "rewardbench": "RewardBench, pairs/s",
    "best-of-16-alpaca": "best of 16, AlpacaEval, completions/s",
    "best-of-16-long": "best of 16, 500-token prompts, completions/s",
}
SERVERS = {
    "one-forward-server": "one forward pass a request behind FastAPI",
    "constant": "RewardServe's HTTP alone, answering a constant",
    "service": "**RewardServe**",
}


def newest() -> Path | None:
    """The result that README shows: its name begins with its date."""
    return max(RESULTS.glob("*.json"), key=lambda path: path.name, default=None)


def table(document: dict[str, Any], name: str) -> str:
    """The tables in Markdown."""
    lines = ["| | " + " | ".join(PARTS.values()) + " |", "|---" * (len(PARTS) + 1) + "|"]
    for contender, title in CONTENDERS.items():
        cells = [_cell(document["scoring"][part], contender) for part in PARTS]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| tiny model, one completion a request, 32 connections | requests/s |",
        "|---|---|",
    ]
    for server, title in SERVERS.items():
        rate = document["tiny"]["servers"][server]["requests_per_second"]["median"]
        lines.append(f"| {title} | {rate:,.0f} |")
    return "\n".join([*lines, "", _caption(document, name)]) + "\n"


def _cell(scoring: dict[str, Any], contender: str) -> str:
    one = scoring["contenders"][contender]
    rate = f"{one['units_per_second']['median']:.1f}"
    if contender == "service":
        return f"**{rate}**"
    ratio = scoring["contenders"]["service"]["ratio_to"][contender]["median"]
    return f"{rate} ({ratio:.2f}x)"


def _caption(document: dict[str, Any], name: str) -> str:
    environment = document["environment"]
    scorings = document["scoring"].values()
    difference = max(
        one["max_score_difference"] for s in scorings for one in s["contenders"].values()
    )
    share = document["scoring"]["rewardbench"]["contenders"]["engine"]["matmul_share"]["median"]
    cpu, cores = environment["cpu"], environment["cores"]
    return (
        f"In brackets: how many times faster the service is over HTTP. "
        f"{document['model']['name']}, float32, on {cores} cores ({cpu}); medians of "
        f"{document['options']['repetitions']} interleaved repetitions. All scores agree within "
        f"{difference:.0e}. On the RewardBench rows the engine's useful work, every distinct token "
        f"once, is {share:.0%} of the machine's own matmul rate; over 1 to 64 completions of one "
        f"prompt its time is linear in the distinct tokens "
        f"(R² {document['growth']['r_squared']:.3f}). "
        f"`make bench` measures it again; commit {environment['commit']}, "
        f"[all numbers](benchmark/results/{name})."
    )


def with_table(readme: str) -> str:
    """README's text with the tables of today; as it is where there is no place or no result."""
    path = newest()
    if path is None or START not in readme:
        return readme
    before, rest = readme.split(START)
    _, after = rest.split(END)
    document = json.loads(path.read_text(encoding="utf-8"))
    return before + START + table(document, path.name) + END + after


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
