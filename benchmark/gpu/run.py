"""Starts the GPU benchmark from a copy of this checkout, with nothing of it installed.

The machine needs torch, transformers and numpy.

python benchmark/gpu/run.py --shape llama-3-8b --out gpu.json
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    CHECKOUT = Path(__file__).resolve().parents[2]
    # In place of this folder, whose files would hide packages of the same names.
    sys.path[:1] = [str(CHECKOUT / "service"), str(CHECKOUT / "benchmark")]
    from gpu.cli import main

    sys.exit(main())
