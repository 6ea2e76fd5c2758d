"""The client must be cheap to have: its import brings in nothing of service or benchmark."""

import json
import subprocess
import sys

PROGRAM = "import json, sys, reward_client; print(json.dumps(sorted(sys.modules)))"


def test_import_brings_in_neither_service_nor_benchmark():
    answer = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    packages = {name.partition(".")[0] for name in json.loads(answer.stdout)}
    assert {"reward_client", "httpx", "pydantic"} <= packages
    heavy = {"torch", "fastapi", "starlette", "transformers", "typer", "numpy", "datasets"}
    assert not packages & {*heavy, "reward_service", "reward_benchmark"}
