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
DPO_CONTENDERS = {
    "dpo-loop-6": "RewardBench's DPO loop, batch 6",
    "dpo-loop-6-sorted": "the same, rows sorted by length",
    "service": "**RewardServe**, over HTTP, 64 callers",
}
WAYS = {"full-logits": "all logits and their softmax", "engine": "**RewardServe**"}
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
    """The tables in Markdown; without those whose part an older result has not."""
    tables = [_scores(document)]
    if "dpo" in document["scoring"]:
        tables.append(_dpo(document["scoring"]["dpo"]))
    if "logprob-memory" in document:
        tables.append(_memory(document["logprob-memory"]))
    tables += [_tiny(document["tiny"]), [_caption(document, name)]]
    return "\n\n".join("\n".join(lines) for lines in tables) + "\n"


def _scores(document: dict[str, Any]) -> list[str]:
    lines = ["| | " + " | ".join(PARTS.values()) + " |", "|---" * (len(PARTS) + 1) + "|"]
    for contender, title in CONTENDERS.items():
        cells = [_cell(document["scoring"][part], contender) for part in PARTS]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def _dpo(scoring: dict[str, Any]) -> list[str]:
    workload = scoring["workload"]
    lines = [
        f"| DPO, policy and reference: {workload['units']} RewardBench pairs | pairs/s | peak GB |",
        "|---|---|---|",
    ]
    for contender, title in DPO_CONTENDERS.items():
        peak = scoring["contenders"][contender]["peak_bytes"]
        lines.append(f"| {title} | {_cell(scoring, contender)} | {(peak or 0) / 1e9:.1f} |")
    return lines


def _memory(memory: dict[str, Any]) -> list[str]:
    lines = [
        f"| log-probs of {memory['completion_tokens']:,} tokens, vocabulary of "
        f"{memory['vocabulary']:,}: memory | " + " | ".join(memory["formats"]) + " |",
        "|---" * (len(memory["formats"]) + 1) + "|",
    ]
    for way, title in WAYS.items():
        cells = [f"{one['ways'][way]['working_gib']:.2f} GiB" for one in memory["formats"].values()]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def _tiny(tiny: dict[str, Any]) -> list[str]:
    lines = ["| tiny model, one completion a request, 32 connections | requests/s |", "|---|---|"]
    for server, title in SERVERS.items():
        rate = tiny["servers"][server]["requests_per_second"]["median"]
        lines.append(f"| {title} | {rate:,.0f} |")
    return lines


def _cell(scoring: dict[str, Any], contender: str) -> str:
    one = scoring["contenders"][contender]
    rate = f"{one['units_per_second']['median']:.1f}"
    if contender == "service":
        return f"**{rate}**"
    ratio = scoring["contenders"]["service"]["ratio_to"][contender]["median"]
    return f"{rate} ({ratio:.2f}x)"


def _caption(document: dict[str, Any], name: str) -> str:
    environment = document["environment"]
    scorings = [document["scoring"][part] for part in PARTS]
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
        f"(R² {document['growth']['r_squared']:.3f}). {_dpo_caption(document)}"
        f"`make bench` measures it again; commit {environment['commit']}, "
        f"[all numbers](benchmark/results/{name})."
    )


def _dpo_caption(document: dict[str, Any]) -> str:
    if "dpo" not in document["scoring"]:
        return ""
    dpo = document["scoring"]["dpo"]
    difference = max(one["max_score_difference"] for one in dpo["contenders"].values())
    repetitions = len(dpo["contenders"]["service"]["repetitions"])
    times = "measured once" if repetitions == 1 else f"medians of {repetitions} repetitions"
    return f"DPO: two of {dpo['model']['name']}, {times}; rewards agree within {difference:.0e}. "


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
