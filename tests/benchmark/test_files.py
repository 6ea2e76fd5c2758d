"""Local files: one content in every format, and errors that say where."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from reward_benchmark.datasets import open_dataset
from reward_benchmark.errors import DatasetError

ROWS: list[dict[str, Any]] = [
    {
        "prompt": [{"role": "user", "content": f"p {i} é\u2028"}],
        "chosen": "c",
        "rejected": "r\x00\n",
        "subset": "s",
        "id": i,
    }
    for i in range(600)
]


def write_lines(path: Path) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), "utf-8")


def write_gzip(path: Path) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n\n" for row in ROWS)


def write_array(path: Path) -> None:
    path.write_text(json.dumps(ROWS))


def write_parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


@pytest.mark.parametrize(
    ("suffix", "write"),
    [
        (".jsonl", write_lines),
        (".jsonl.gz", write_gzip),
        (".json", write_array),
        (".parquet", write_parquet),
    ],
)
def test_every_format_holds_the_same(tmp_path: Path, suffix: str, write: Callable[[Path], None]):
    reference = tmp_path / "reference.jsonl"
    write_lines(reference)
    path = tmp_path / f"pairs{suffix}"
    write(path)
    dataset = open_dataset(str(path))
    assert dataset.name == path.name
    assert [pair.id for pair in dataset] == list(range(600))
    assert dataset.scan() == open_dataset(str(reference)).scan()


def test_a_file_is_read_lazily(tmp_path: Path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\nnot JSON\n")
    assert next(iter(open_dataset(str(path)))).id == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"prompt": "p"\n', r"a\.jsonl, line 1: not JSON"),
        ("a.jsonl", b'\n\n{"prompt": "p"}\n', r"line 3: columns 'chosen', 'rejected' are missing"),
        ("a.jsonl", b'{"prompt": "\xff"}\n', "line 1: not JSON"),
        ("a.jsonl", b"[" * 100_000, "line 1: not JSON"),
        ("a.jsonl", b"\n", "has no rows"),
        ("a.jsonl", b"", "has no rows"),
        ("a.jsonl.gz", b"plain", "cannot be read: Not a gzipped file"),
        # Without the time, which would give every process that collects tests another name here.
        (
            "a.jsonl.gz",
            gzip.compress(b"{}" * 999, mtime=0)[:-9],
            "cannot be read: Compressed file ended",
        ),
        ("a.json", b'{"prompt": "p"}', "not a JSON array"),
        ("a.json", b"[1]", "row 1: it is not an object with columns, but 1"),
        ("a.parquet", b"plain", "cannot be read"),
    ],
)
def test_a_bad_file_is_an_error_that_says_where(
    tmp_path: Path, name: str, content: bytes, message: str
):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=message) as caught:
        open_dataset(str(path)).scan()
    assert str(tmp_path) in str(caught.value)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path):
    with pytest.raises(DatasetError, match="No such file"):
        open_dataset(str(tmp_path / "none.jsonl")).scan()


def test_a_pair_that_comes_twice_is_an_error(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text((json.dumps(ROWS[4]) + "\n") * 2)
    with pytest.raises(DatasetError, match=r"line 2: id 4 of subset 's' was there before"):
        open_dataset(str(path)).scan()
