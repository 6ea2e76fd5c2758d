"""Writes constraints.txt: the exact versions of everything that is installed, and no addresses."""

from importlib import metadata
from pathlib import Path

HEADER = """\
# Known-good versions of everything; pyproject.toml has the ranges. Written by `make constraints`.
# torch is installed first, so that no other package pulls another build of it.
"""
NOT_OURS = {"pip", "setuptools", "wheel", "rewardserve"}


def main() -> None:
    """Write the file beside pyproject.toml."""
    # A local part (torch's +cpu) names a build, which is the machine's choice and not ours.
    pins = {
        distribution.name.lower().replace("_", "-"): distribution.version.split("+")[0]
        for distribution in metadata.distributions()
        if distribution.name.lower() not in NOT_OURS
    }
    torch = f"torch=={pins.pop('torch')}"
    lines = [torch, *(f"{name}=={version}" for name, version in sorted(pins.items()))]
    Path(__file__).resolve().parents[1].joinpath("constraints.txt").write_text(
        HEADER + "\n".join(lines) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
