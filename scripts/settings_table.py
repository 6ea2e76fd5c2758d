"""Writes the settings table of README.md from the settings class; `--check` only compares."""

import sys
from pathlib import Path

from pydantic_core import PydanticUndefined

from reward_service.settings import ENV_PREFIX, Settings

README = Path(__file__).resolve().parents[1] / "README.md"
START = "<!-- settings: written by `make format`, from service/reward_service/settings.py -->\n"
END = "<!-- end of settings -->\n"


def table() -> str:
    """The table in Markdown."""
    lines = ["| flag | variable | default | |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = "required" if default is PydanticUndefined else "" if default is None else default
        text = " ".join((field.description or "").split()).replace("|", "\\|")
        flag = f"`--{name.replace('_', '-')}`"
        lines.append(f"| {flag} | `{ENV_PREFIX}{name.upper()}` | {shown} | {text} |")
    return "\n".join(lines) + "\n"


def with_table(readme: str) -> str:
    """README's text with the table of today."""
    before, rest = readme.split(START)
    _, after = rest.split(END)
    return before + START + table() + END + after


def main() -> int:
    """Write, or compare."""
    readme = README.read_text(encoding="utf-8")
    wanted = with_table(readme)
    if "--check" in sys.argv[1:]:
        if readme != wanted:
            print("README.md's settings table is out of date: run make format", file=sys.stderr)
        return int(readme != wanted)
    README.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
