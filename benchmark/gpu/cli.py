"""The command line of the GPU benchmark: one model shape, one document."""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gpu.experiment import Options, run
from gpu.shapes import SHAPES
from gpu.table import as_table
from reward_service.device import choose_device
from reward_service.errors import StartupError

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
LIMIT_SECONDS = 540.0
"""Fits where a command may run ten minutes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the document; the exit code says only whether it ran."""
    options, out = _options(sys.argv[1:] if arguments is None else arguments)
    command = shlex.join(["python", "benchmark/gpu/run.py", *(arguments or sys.argv[1:])])

    def save(document: dict[str, Any]) -> None:
        document["command"] = command
        if out is not None:
            out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")

    document = run(options, save=save)
    sys.stdout.write(as_table(document) + "\n")
    return 0


def _options(arguments: Sequence[str]) -> tuple[Options, Path | None]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=[*SHAPES], default="llama-3-8b")
    parser.add_argument("--dtype", choices=[*DTYPES], default="bfloat16")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    parser.add_argument("--out", type=Path, help="where to write the JSON document")
    parser.add_argument("--pairs", type=int, help="RewardBench-shaped pairs (default: 2985)")
    parser.add_argument("--baseline-pairs", type=int, help="pairs of the padded loop")
    parser.add_argument("--prompts", type=int, help="prompts of best-of-16")
    parser.add_argument("--budgets", help="values of max_batch_tokens to try, comma-separated")
    parser.add_argument(
        "--limit-seconds",
        type=float,
        default=LIMIT_SECONDS,
        help="after this long no further batch or section is begun",
    )
    parser.add_argument("--profile", action="store_true", help="record where a batch's time goes")
    given = parser.parse_args(arguments)
    shape = SHAPES[given.shape]
    changes: dict[str, Any] = {
        name: value
        for name in ("pairs", "baseline_pairs", "prompts")
        if (value := getattr(given, name)) is not None
    }
    if given.budgets:
        changes["budgets"] = tuple(map(int, given.budgets.split(",")))
    try:
        device = choose_device(given.device)
    except StartupError as error:
        parser.error(str(error))
    options = Options(
        shape=replace(shape, **changes),
        dtype=DTYPES[given.dtype],
        device=device,
        limit_seconds=given.limit_seconds,
        profile=given.profile,
    )
    return options, given.out
