"""Where analyses put their pictures and tables."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from reward_benchmark.cli.ending import draw, show
from reward_benchmark.cli.options import Form
from reward_benchmark.compact_table import compact
from reward_benchmark.journal import write_atomically
from reward_benchmark.output_file import check_replaceable

if TYPE_CHECKING:
    from reward_benchmark.plots import Figure
    from reward_benchmark.text_table import TextTable

OutFolder = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", file_okay=False, help="Write pictures and tables here, too."
    ),
]
PictureForm = Annotated[
    Literal["png", "svg", "pdf"], typer.Option("--picture", help="Format of the pictures.")
]


@dataclass(frozen=True, slots=True)
class Folder:
    """Where a command's files go, if anywhere."""

    path: Path | None
    picture_format: str
    overwrite: bool

    def write(
        self,
        *,
        pictures: Mapping[str, Callable[[], "Figure"]],
        texts: Mapping[str, Callable[[], str]],
    ) -> list[str]:
        """Draw and write everything; where each file is.

        Args:
            pictures: name → what draws it, which is called only if there is a folder.
            texts: name with suffix → what writes it, likewise.

        Raises:
            BenchmarkError: a file is there already with other content, and must be kept.
        """
        if self.path is None:
            return []
        # Matplotlib takes a second to import, which only pictures should cost.
        from reward_benchmark import plots

        suffix = f".{self.picture_format}"
        contents = {
            self.path / f"{name}{suffix}": plots.drawn(draw(), suffix)
            for name, draw in pictures.items()
        }
        contents |= {self.path / name: text().encode() for name, text in texts.items()}
        for path, content in contents.items():
            check_replaceable(path, content, overwrite=self.overwrite)
        self.path.mkdir(parents=True, exist_ok=True)
        for path, content in contents.items():
            write_atomically(path, [content])
        return list(map(str, contents))


@dataclass(frozen=True, slots=True)
class Outputs:
    """How an analysis that makes a table hands it out."""

    folder: Folder
    form: Form
    print_json: bool

    def hand_out(
        self,
        document: Mapping[str, Any],
        table: "TextTable",
        *,
        title: str,
        pictures: Mapping[str, Callable[[], "Figure"]],
        file: str,
        whole: "TextTable | None" = None,
    ) -> None:
        """Write the files, and print what was found.

        Args:
            pictures: as `Folder.write` takes them.
            file: name of the table's CSV file.
            whole: the table for the file, if that has more rows.
        """
        texts = {file: (whole or table).csv}
        files = self.folder.write(pictures=pictures, texts=texts)
        if self.form == "terminal":
            draw(compact(table.terminal(title=title)), on_stderr=self.print_json)
        else:
            typer.echo(table.text(self.form), err=self.print_json)
        finish({**document, "files": files}, print_json=self.print_json)


def finish(document: Mapping[str, Any], *, print_json: bool) -> None:
    """Say which files were written, and with `--json` print everything for programs."""
    for file in document["files"]:
        typer.echo(f"Written: {file}", err=True)
    show(document=document, print_json=print_json)


def distinct(names: Sequence[str], places: Sequence[str]) -> list[str]:
    """The names, with their places behind those that are there twice."""
    counts = Counter(names)
    return [
        f"{name} ({place})" if counts[name] > 1 else name
        for name, place in zip(names, places, strict=True)
    ]
