"""Files that a command writes where the user says."""

import filecmp
from collections.abc import Iterable
from pathlib import Path

from reward_benchmark.errors import BenchmarkError
from reward_benchmark.journal import write_atomically
from reward_benchmark.run_directory import IDENTITY_FILE


def check_writable(path: Path, *, overwrite: bool = False) -> None:
    """Say before the work that a file must not be written.

    Raises:
        BenchmarkError: it is there already and must be kept, or its folder is not there.
    """
    if path.exists() and (path.parent / IDENTITY_FILE).exists():
        raise BenchmarkError(
            f"{path} is there already, in the directory of a run, where no other command replaces "
            "anything: name another file"
        )
    if path.exists() and not (overwrite and path.is_file()):
        raise BenchmarkError(
            f"{path} is there already: name another file, or pass --overwrite to replace it"
        )
    if not path.parent.is_dir():
        raise BenchmarkError(f"{path} cannot be written: there is no folder {path.parent}")


def check_spared(path: Path, read: Iterable[Path], *, what: str) -> None:
    """Say before the work that a file must not be written, for it is read.

    Args:
        read: files, and folders with all that is in them.
        what: which ones, for the message.

    Raises:
        BenchmarkError: it is one of them, and there.
    """
    if path.exists() and any(path.resolve().is_relative_to(place.resolve()) for place in read):
        raise BenchmarkError(f"{path} is one of the files {what}: name another")


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    write_atomically(path, [text.encode()])


def check_replaceable(path: Path, content: bytes | Path, *, overwrite: bool = False) -> None:
    """Say before anything is written that a file has other content already.

    Args:
        content: what is to be written, or a file with it.

    Raises:
        BenchmarkError: it has, and must be kept.
    """
    if overwrite or not path.exists():
        return
    if isinstance(content, Path):
        same = filecmp.cmp(path, content, shallow=False)
    else:
        same = path.read_bytes() == content
    if not same:
        raise BenchmarkError(
            f"{path} is there already with other content: choose another --out, or pass "
            "--overwrite to replace it"
        )
