"""Writes the settings table of README.md from the settings class."""

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


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
