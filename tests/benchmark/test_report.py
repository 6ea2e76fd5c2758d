"""Reports on runs: their numbers, their mistakes, and texts that must not act on the page."""

import base64
import hashlib
import json
import random
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from reward_benchmark.cli import app
from reward_benchmark.datasets import BENCHMARKS, PREFERENCES, Benchmark
from reward_benchmark.datasets.rewardbench import REWARDBENCH, SECTIONS
from reward_benchmark.datasets.rewardbench_2 import REWARDBENCH_2, TIES
from reward_benchmark.errors import BenchmarkError
from reward_benchmark.group import Group
from reward_benchmark.metrics import measure
from reward_benchmark.outcome import Failure, Outcome, Scores
from reward_benchmark.report import Options, render, report_on
from reward_benchmark.report.blocks import Pairs, Report, Table
from reward_benchmark.report.chance import chance
from reward_benchmark.report.documents import document_blocks
from reward_benchmark.report.provenance import Recorded, facts
from reward_benchmark.visible import KEPT_CHARACTERS, cut, parts, plain

from .reported_runs import HOSTILE, Page, make_run, pairs, random_scores, write_rows
from .scored_runs import finished_run, pair_rows, random_judge, rewardbench_2_rows, set_rows

MARK = re.compile("‹U\\+([0-9A-F]{4,6})›")


CONTROLS = {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))} - {"\t", "\n"}
TURNING = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
WIDTHLESS = set("\u00ad\u200b\u2028\u2029\u2060\ufeff\U000e0001\U000e0041\U000e007f")
NO_TEXT = set("\ud800\udbff\udc00\udfff\ufdd0\ufffe\uffff")
UNSEEN = CONTROLS | TURNING | WIDTHLESS | NO_TEXT
"""Characters that a reader could not see, that act on others, or that no page may hold."""

SIZE = 80
"""Pairs of the runs that most tests are about, of two subsets of each section."""


def some_fail(seed: int) -> Callable[[Group], Scores | Failure]:
    """Random scores with ties and failures among them."""
    scores = random_scores(seed)

    def answer(group: Group) -> Scores | Failure:
        if group.row % 7 == 0:
            return Failure("too_long" if group.row % 2 else "odd", "it cannot be scored")
        if group.row % 5 == 0:
            return Scores((1.0,) * len(group.completions))
        return scores(group)

    return answer


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models and the length baseline over RewardBench's subsets."""
    folder = tmp_path_factory.mktemp("runs")
    subsets = [subset for section in SECTIONS.values() for subset in list(section)[:2]]
    rows = pairs(SIZE)
    for number, row in enumerate(rows):
        row["subset"] = subsets[number % len(subsets)]
    dataset = write_rows(folder / "data.jsonl", rows)
    return [
        make_run(folder / "one", dataset, "org/one", random_scores(1)),
        make_run(folder / "two", dataset, "org/two", some_fail(2)),
        make_run(folder / "length", dataset),
    ]


@pytest.fixture(scope="module")
def html(runs: list[Path]) -> str:
    return render(report_on(runs, Options()), ".html")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def results(run: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((run / "results.json").read_text())
    return document


def shown(value: float, interval: Sequence[float]) -> str:
    low, high = interval
    return f"{100 * value:.1f} | {100 * low:.1f} to {100 * high:.1f}"


def pairs_block(report: Report) -> Pairs:
    sections = [part for section in report.sections for part in section.sections]
    [found] = [block for part in sections for block in part.blocks if isinstance(block, Pairs)]
    return found


def test_the_leaderboard_has_the_numbers_of_each_run(runs: list[Path], page: Page):
    header, *rows = page.table(f"Scores in per cent, with 95 % intervals, over {SIZE} pairs")
    assert header == ["model", "overall", *SECTIONS, "ties", "errors"]
    by_model = {row[0]: row[1:] for row in rows}
    for run in runs:
        document = results(run)
        sections = [shown(s["score"], s["ci95"]) for s in document["sections"].values()]
        counts = [str(document["counts"][name]) for name in ("ties", "errors")]
        overall = shown(document["overall"], document["overall_ci95"])
        name = document["model"]
        row = by_model["length | baseline" if name == "length" else name]
        assert row == [overall, *sections, *counts]
    assert by_model["random | baseline"] == ["50.0"] * 5 + ["0"] * 2
    overall_numbers = [float(row[1].split(" ")[0]) for row in rows]
    assert overall_numbers == sorted(overall_numbers, reverse=True)


def test_every_subset_stands_beside_the_baselines(runs: list[Path], page: Page):
    header, *rows = page.table("Scores of subsets")
    documents = {document["model"]: document for document in map(results, runs)}
    assert (header[:2], header[-1]) == (["subset", "n"], "random")
    for name, count, *numbers, guess in rows:
        assert (count, guess) == (str(SIZE // 8), "50.0")
        for model, number in zip(header[2:-1], numbers, strict=True):
            subset = documents[model]["subsets"][name]
            assert number == shown(subset["accuracy"], subset["ci95"])
    assert {row[0] for row in rows} == documents["length"]["subsets"].keys()


def test_failures_are_counted_by_code(runs: list[Path], page: Page):
    header, *rows = page.table("What became of the pairs")
    row = next(dict(zip(header, row, strict=True)) for row in rows if row[0] == "org/two")
    counts = results(runs[1])["counts"]
    numbers = {name: int(cell.split(" ")[0]) for name, cell in row.items() if name != "model"}
    assert numbers == {
        "won": counts["wins"],
        "tied": counts["ties"],
        "lost": SIZE - counts["wins"] - counts["ties"] - counts["errors"],
        "failed": counts["errors"],
        "failed: odd": counts["errors_by_code"]["odd"],
        "failed: too_long": counts["errors_by_code"]["too_long"],
        "prompt truncated": 0,
    }


@pytest.mark.parametrize("name", ["rm-bench", "rewardbench-2"])
def test_what_prompts_earn_in_their_set_is_what_all_of_the_page_counts(name: str, tmp_path: Path):
    rows = write_rows(tmp_path / "rows.jsonl", set_rows(name))
    judge = random_judge(3, failing=["chat 1", "7"])
    run = finished_run(tmp_path / "run", f"{name}={rows}", judge)
    lines = [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]

    def earned(line: dict[str, Any]) -> float:
        if "error" in line:
            return 0.0
        scores, chosen = line["scores"], line.get("num_chosen", 1)
        if name == "rm-bench":
            return sum(a > b for a in scores[:3] for b in scores[3:]) / 9
        if line["subset"] == "Ties":
            return float(min(scores[:chosen]) > max(scores[chosen:]))
        return (scores[0] == max(scores)) / scores.count(max(scores))

    credits = [earned(line) for line in lines]
    document = results(run)
    assert document["counts"]["credit"] == pytest.approx(sum(credits))
    lengths = document["lengths"]
    classes = [lengths[one] for one in ("longer", "shorter", "similar")]
    counted = [one["count"] * one["accuracy"] for one in classes if one["count"]]
    assert sum(one["count"] for one in classes) == len(lines)
    assert sum(counted) == pytest.approx(sum(credits))

    html = render(report_on([run], Options()), ".html")
    page = Page(html)
    header, row = page.table("Accuracy in per cent of prompts by which completion is longer")
    by_length = dict(zip(header, row, strict=True))
    similar = lengths["similar"]
    assert by_length["about as long"] == shown(similar["accuracy"], similar["ci95"])
    parts = {f"{credit:.2f} won" for credit in credits if 0 < credit < 1}
    verdicts = re.findall(r"<td[^>]*>\s*(\d\.\d\d won)\s*</td>", html)
    assert set(verdicts) <= parts
    assert verdicts or name == "rewardbench-2"  # where what earns a part is no mistake
    header, row = page.table("What became of the prompts")
    numbers = dict(zip(header, (cell.split(" ")[0] for cell in row), strict=True))
    failed = sum("error" in line for line in lines)
    assert failed
    assert [int(numbers[one]) for one in ("won", "won in part", "lost", "failed")] == [
        sum(credit == 1 for credit in credits),
        sum(0 < credit < 1 for credit in credits),
        credits.count(0.0) - failed,
        failed,
    ]


def test_markdown_has_the_numbers_of_the_page(runs: list[Path], page: Page):
    def bare(cell: str) -> str:
        return re.sub(r"\s+", " ", re.sub(r"[\\()|]", "", cell)).strip()

    markdown = render(report_on(runs, Options()), ".md")
    tables = []
    for table in re.findall(r"(?:^\|.*\|\n)+", markdown, re.MULTILINE):
        header, _, *rows = table.splitlines()
        tables.append([[bare(cell) for cell in row[1:-1].split(" |")] for row in (header, *rows)])
    assert tables == [[[bare(cell) for cell in row] for row in table] for table in page.tables]


def test_the_same_runs_give_the_same_bytes(runs: list[Path], html: str):
    assert render(report_on(runs, Options()), ".html") == html


def test_nothing_is_fetched_and_only_the_page_s_own_script_runs(html: str, page: Page):
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "img", "base", "form")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href", "action"):
            assert re.match(r"#|data:,$", attributes.get(name) or "#"), attributes
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    [script] = re.findall("<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for t, a in page.elements if a.get("http-equiv"))
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_headings_ids_and_tables_are_in_order(page: Page):
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [a["id"] for tag, a in page.elements if "id" in a and tag not in ("path", "pattern")]
    ids = [one for one in ids if one and re.match("[a-z]+-", one)]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for tag, a in page.elements if tag == "a" and a["href"]}
    assert targets - {"content"} <= {a.get("id") for _, a in page.elements}
    assert all(page.captions)
    for tag, attributes in page.elements:
        assert tag != "th" or attributes["scope"] in ("row", "col")
    pictures = [a for _, a in page.elements if a.get("role") == "img"]
    assert pictures
    assert all(picture["aria-label"] for picture in pictures)


def worst(run: Path, count: int) -> tuple[list[tuple[str, int]], set[tuple[str, int]]]:
    """The worst mistakes, and the worst of each subset, found by sorting everything."""
    lines = [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]
    margins = [
        (line["scores"][0] - line["scores"][1], place, (line["subset"], line["id"]))
        for place, line in enumerate(lines)
        if "scores" in line
    ]
    lost = sorted(entry for entry in margins if entry[0] < 0)
    of_subset: dict[str, tuple[str, int]] = {}
    for *_, key in lost:
        of_subset.setdefault(key[0], key)
    return [key for *_, key in lost[:count]], set(of_subset.values())


@pytest.mark.parametrize("count", [1, 5, 40])
def test_the_worst_mistakes_of_each_model_and_subset_are_shown(runs: list[Path], count: int):
    block = pairs_block(report_on(runs, Options(mistakes=count)))
    wanted: dict[tuple[str, int], set[str]] = {}
    for run, model in zip(runs, ("org/one", "org/two"), strict=False):
        first, of_subsets = worst(run, count)
        for key in {*first, *of_subsets}:
            wanted.setdefault(key, set()).add(model)
        # A rank is said in words, and "worst of" is the first.
        ranked = {
            reason: pair.title
            for pair in block.items
            for reason in pair.reasons
            if re.match(rf"(\d+\w\w )?worst of {model}", reason)
        }
        places = sorted(ranked, key=lambda reason: int(re.match(r"\d*", reason)[0] or 1))  # type: ignore[index]
        assert [ranked[reason].split(" · row")[0] for reason in places] == [
            f"{subset} · {identifier}" for subset, identifier in first
        ]
    assert block.runs == ["org/one", "org/two"]
    found = {pair.title.split(" · row")[0]: set(pair.runs) for pair in block.items}
    assert found == {f"{subset} · {number}": models for (subset, number), models in wanted.items()}


def test_a_mistake_shows_both_texts_and_all_scores(runs: list[Path]):
    for pair in pairs_block(report_on(runs, Options(mistakes=3))).items:
        row = int(pair.title.split("row ")[1])
        number = row - 1
        assert [turn.text for turn in pair.turns] == [f"prompt {number}"]
        chosen, rejected = pair.answers
        assert (chosen.chosen, rejected.chosen) == (True, False)
        assert chosen.text == f"chosen {number} " + "c" * (17 * number % 29)
        assert rejected.text == f"rejected {number} " + "r" * (13 * number % 31)
        assert [cells[0].text for cells in pair.scores.rows] == [
            results(run)["model"] for run in sorted(runs, key=lambda r: -results(r)["overall"])
        ]
        for cells, run in zip(
            pair.scores.rows, sorted(runs, key=lambda r: -results(r)["overall"]), strict=True
        ):
            line = json.loads((run / "scores.jsonl").read_text().splitlines()[number])
            if "error" in line:
                assert cells[4].text == line["error"]["code"]
            else:
                assert [cell.order for cell in cells[1:3]] == line["scores"]


def test_of_several_completions_the_two_that_decide_are_side_by_side(tmp_path: Path):
    rows = [
        {
            "id": f"tied:{number}",
            "prompt": f"prompt {number}",
            "chosen": [f"right {number} {place}" for place in range(3)],
            "rejected": [f"wrong {number} {place}" for place in range(3)],
            "subset": "Ties",
        }
        for number in range(3)
    ]
    dataset = write_rows(tmp_path / "rb2.jsonl", rows)
    scores = Scores((2.0, 1.0, 4.0, 0.0, 3.0, 2.5))
    run = make_run(tmp_path / "run", f"rewardbench-2={dataset}", "m", lambda group: scores)
    pair = pairs_block(report_on([run], Options())).items[0]
    assert [answer.text for answer in pair.answers] == ["right 0 1", "wrong 0 1"]
    others = ["right 0 0", "right 0 2", "wrong 0 0", "wrong 0 2"]
    assert [answer.text for answer in pair.others] == others
    shown_scores = [score for answer in pair.others for _, score in answer.scores]
    assert shown_scores == ["2", "4", "0", "2.500"]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Texts, names, subsets and ids that are anything."""
    folder = tmp_path_factory.mktemp("hostile")
    rows = pairs(20)
    for number, text in enumerate(HOSTILE):
        name = text.replace("\ud800", "")
        rows[number] |= {"prompt": text, "chosen": text * 2, "rejected": text * 3}
        rows[number] |= {"subset": f"{name}{number}", "id": name}
    rows[15] |= {"chosen": "word " * 6_000 + HOSTILE[0], "rejected": "x" * 5_000}
    dataset = write_rows(folder / "data.jsonl", rows)
    lost = make_run(folder / "a", dataset, HOSTILE[0], lambda group: Scores((0.0, 1 + group.row)))
    return report_on(
        [lost, make_run(folder / "b", dataset)], Options(title=HOSTILE[1], mistakes=99)
    )


@pytest.fixture(scope="module")
def hostile_html(hostile: Report) -> str:
    return render(hostile, ".html")


def unmarked(text: str) -> str:
    """The text that marks stand for."""
    return MARK.sub(lambda mark: chr(int(mark[1], 16)), text)


def test_hostile_texts_are_shown_exactly_and_do_nothing(hostile_html: str):
    hostile_html.encode()
    own = Page(hostile_html)
    tags = {tag for tag, _ in own.elements}
    assert "b" not in tags
    assert "img" not in tags
    assert sum(tag == "script" for tag, _ in own.elements) == 1
    assert not any(name.startswith("on") for _, a in own.elements for name in a)
    assert "{{ 7 * 7 }}" in hostile_html
    # Nothing that is invisible or turns the reading around is left in the page.
    assert not UNSEEN & set(hostile_html)
    texts = list(map(unmarked, own.texts["text"]))
    for text in HOSTILE:
        for times in (1, 2, 3):
            assert text * times in texts
    title, *_ = own.texts_of("h1")
    assert title == HOSTILE[1]


def test_hostile_texts_keep_to_their_place_in_markdown(hostile: Report):
    markdown = render(hostile, ".md")
    markdown.encode()
    outside, fence = [], ""
    for line in markdown.split("\n"):
        if not fence and (match := re.match("(`{3,})text$", line)):
            fence = match[1]
        elif fence and line == fence:
            fence = ""
        elif not fence:
            outside.append(line)
    assert not fence
    for line in outside:
        assert not re.search(r"(?<!\\)[<*_`\[]", line), line
        assert not line.startswith("# no heading")
    columns = [re.sub(r"\\\|", "", line).count("|") for line in outside if line.startswith("|")]
    assert min(columns) >= 3
    tables = re.findall(r"(?:^\|.*\|\n)+", "\n".join(outside) + "\n", re.MULTILINE)
    for table in tables:
        assert len({re.sub(r"\\\|", "", line).count("|") for line in table.splitlines()}) == 1


def test_a_long_text_is_cut_visibly_and_can_be_opened(hostile_html: str):
    page = Page(hostile_html)
    long = [text for text in page.texts["text"] if text.startswith("word word")]
    rest = [text for text in page.texts["rest"] if "word" in text]
    [left_out] = [text for text in page.texts["warning"] if "not in this report" in text]
    whole = "word " * 6_000 + HOSTILE[0]
    assert len(rest) == 1
    assert "".join(long) == whole[:KEPT_CHARACTERS]
    assert f"{len(whole) - len(long[0]):,} more characters" in rest[0]
    assert f"last {len(whole) - KEPT_CHARACTERS:,} characters" in left_out
    assert "".join(text for text in page.texts["text"] if text.startswith("xxx")) == "x" * 5_000


def test_every_character_that_is_unseen_gets_a_mark():
    for character in UNSEEN:
        assert plain(f"a{character}b") == f"a‹U+{ord(character):04X}›b"


@settings(deadline=None)
@given(st.text())
def test_marks_stand_for_exactly_what_cannot_be_seen(text: str):
    text = text.replace("‹", "<")
    assert unmarked(plain(text)) == text
    for part in parts(text):
        assert part.is_mark or not UNSEEN & set(part.text)
    assert [part.text for part in parts("ab 👩‍👩‍👧 نص\n\t")] == ["ab 👩‍👩‍👧 نص\n\t"]


@settings(deadline=None)
@given(st.integers(0, 30_000), st.integers(1, 900))
def test_cutting_loses_nothing_unsaid(length: int, word: int):
    text = ("w" * word + " ") * (length // (word + 1))
    piece = cut(text)
    assert text == piece.shown + piece.folded + text[len(text) - piece.left_out :]
    assert len(piece.shown) <= 1_600
    assert not piece.folded or word > 400 or piece.shown.endswith(" ")


def test_moved_data_are_missed_and_found_again(tmp_path: Path):
    dataset = write_rows(tmp_path / "data.jsonl", pairs(12))
    run = make_run(tmp_path / "run", dataset, "m", random_scores(1, skill=-1))
    complete = pairs_block(report_on([run], Options()))
    assert all(pair.answers for pair in complete.items)
    moved = dataset.rename(tmp_path / "moved.jsonl")
    report = report_on([run], Options())
    [warning] = report.warnings()
    assert "data.jsonl" in warning
    assert "The texts are not here" in render(report, ".md")
    bare = pairs_block(report)
    assert not any(pair.turns or pair.answers for pair in bare.items)
    assert [pair.scores for pair in bare.items] == [pair.scores for pair in complete.items]
    found = report_on([run], Options(datasets=("sample", str(moved))))
    assert pairs_block(found) == complete
    # Other texts under the old name are not those that were scored.
    write_rows(dataset, [{**row, "chosen": "other"} for row in pairs(12)])
    report = report_on([run], Options())
    [warning] = report.warnings()
    assert "SHA-256" in warning
    assert pairs_block(report) == bare
    # A report does not go to the hub by itself.
    document = results(run)
    document["dataset"] = "owner/pairs"
    document["provenance"]["dataset"]["path"] = "owner/pairs:test"
    (run / "results.json").write_text(json.dumps(document))
    [warning] = report_on([run], Options()).warnings()
    assert "--dataset owner/pairs" in warning


def test_runs_over_other_data_have_sections_of_their_own(tmp_path: Path):
    rows = pairs(12)
    one = write_rows(tmp_path / "one.jsonl", rows)
    two = write_rows(tmp_path / "two.jsonl", [{**row, "prompt": "another"} for row in rows])
    made = [
        make_run(tmp_path / "a", one, "m", random_scores(1)),
        make_run(tmp_path / "b", two, "m", random_scores(2)),
        make_run(tmp_path / "c", one, "m", random_scores(3)),
        make_run(tmp_path / "d", one, "m", random_scores(3), limit=6),
    ]
    report = report_on([*made, made[0]], Options())
    titles = [section.title for section in report.sections]
    assert titles == [
        "All sets",
        "one.jsonl",
        "two.jsonl",
        "one.jsonl",
        "Provenance",
        "How to read this",
    ]
    boards = [section.sections[0].blocks[0] for section in report.sections[1:4]]
    models = [
        sorted(row[0].text for row in board.rows if not row[0].tag)
        for board in boards
        if isinstance(board, Table)
    ]
    # Runs of one model are told apart by their places.
    names = [f"m ({run})" for run in made]
    assert [len(names) for names in models] == [2, 1, 1]
    assert models == [[names[0], names[2]], ["m"], [names[3]]]


def test_a_set_with_an_overall_number_stands_beside_others(tmp_path: Path):
    dataset = write_rows(tmp_path / "rb2.jsonl", rewardbench_2_rows())
    made = make_run(tmp_path / "a", f"rewardbench-2={dataset}", "m", random_scores(1))
    other = make_run(tmp_path / "b", write_rows(tmp_path / "b.jsonl", pairs(5)), "m")
    header, *rows = Page(render(report_on([made, other], Options(mistakes=0)), ".html")).table(
        "Scores in per cent, with 95 % intervals, over all sets"
    )
    document = results(made)
    [row] = [row for row in rows if row[0] == "m"]
    number = shown(document["overall"], document["overall_ci95"])
    assert dict(zip(header, row, strict=True))["RB2"] == number


def test_data_that_are_called_like_a_column_have_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    rows = write_rows(tmp_path / "rows.jsonl", pair_rows({"donotanswer": 9, "math-prm": 8}))
    whole = make_run(tmp_path / "a", f"rewardbench={rows}", "m", random_scores(1))
    Path("Safety").mkdir()
    write_rows(Path("Safety", "rows.jsonl"), pairs(5))
    own = make_run(tmp_path / "b", "Safety", "m", random_scores(2))
    header, *cells = Page(render(report_on([whole, own], Options(mistakes=0)), ".html")).table(
        "Scores in per cent, with 95 % intervals, over all sets"
    )
    [row] = [dict(zip(header, row, strict=True)) for row in cells if row[0] == "m"]
    section = results(whole)["sections"]["Safety"]
    assert row["Safety"] == shown(section["score"], section["ci95"])
    number = results(own)
    assert row["Safety (own data)"] == shown(number["overall"], number["overall_ci95"])


def test_differences_are_those_of_compare(runs: list[Path], page: Page, tmp_path: Path):
    best, other = sorted(runs[:2], key=lambda run: -results(run)["overall"])
    out = tmp_path / "compared.json"
    arguments = ["compare", str(best), str(other), "--out", str(out)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    compared = json.loads(out.read_text())
    header, *rows = page.table(f"{results(best)['model']} minus the other")
    row = next(row for row in rows if row[0] == results(other)["model"])
    overall = compared["overall"]
    low, high = (100 * end for end in overall["ci95"])
    assert row[1] == f"{100 * overall['difference']:+.1f} | {low:+.1f} to {high:+.1f}"
    assert row[-2:] == [str(overall["a_better"]), str(overall["b_better"])]
    assert header[3:-2] == list(compared["sections"])


def test_lengths_and_margins_are_those_of_the_statistics(runs: list[Path], page: Page):
    header, *rows = page.table("Accuracy in per cent of pairs by which completion is longer")
    by_model = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert by_model["length"]["chosen is longer"].startswith("100.0 ")
    assert by_model["length"]["chosen is shorter"].startswith("0.0 ")
    assert by_model["length"]["margin ~ difference"] == "+1.00"
    _, *rows = page.table("Margins")
    assert {row[0] for row in rows} == {"org/one", "org/two", "length"}
    # Characters are no log odds: the baseline states no probability.
    _, *rows = page.table("Calibration")
    assert {row[0] for row in rows} == {"org/one", "org/two"}
    *models, baseline = (results(run)["margins"] for run in runs)
    assert all(one["calibration"] and "no_calibration" not in one for one in models)
    assert baseline["calibration"] is None
    assert "characters" in baseline["no_calibration"]


def guesses(outcomes: Sequence[Outcome], generator: random.Random) -> list[Outcome]:
    return [
        replace(one, scores=tuple(generator.random() for _ in one.scores or ())) for one in outcomes
    ]


@pytest.mark.parametrize(
    "part",
    [
        {"judges": {}},
        {"members": {}},
        {"provenance": {"info": {"model": {"kind": "pairwise"}, "template": {"source": ""}}}},
    ],
)
def test_scores_that_are_no_log_odds_are_not_calibrated(
    runs: list[Path], tmp_path: Path, part: dict[str, Any]
):
    def titles(run: Path) -> list[str]:
        return [part.title for part in report_on([run], Options(mistakes=0)).sections[0].sections]

    assert "Calibration" in titles(runs[0])
    changed = tmp_path / "changed"
    shutil.copytree(runs[0], changed)
    document = results(runs[0])
    part = {name: {**document.get(name, {}), **value} for name, value in part.items()}
    (changed / "results.json").write_text(json.dumps({**document, **part}))
    assert "Calibration" not in titles(changed)


@pytest.mark.parametrize("column", ["results", "scores_chosen"])
def test_published_results_are_not_calibrated(tmp_path: Path, column: str):
    generator = random.Random(1)
    won = [generator.random() < 0.7 for _ in range(40)]
    content: dict[str, Any] = {"model": "org/judge", "subset": ["hep-go"] * len(won)}
    content |= {"id": list(range(len(won))), column: [int(one) for one in won]}
    if column == "scores_chosen":
        content["scores_rejected"] = [int(not one) for one in won]
    file = tmp_path / "judge.json"
    file.write_text(json.dumps(content))
    [only, *_] = report_on([file], Options(mistakes=0)).sections
    titles = [part.title for part in only.sections]
    assert ("Calibration" in titles) == (column == "scores_chosen")


@pytest.mark.parametrize(
    ("benchmark", "subset", "num_chosen", "completions", "expected"),
    [
        (REWARDBENCH, "alpacaeval-easy", 1, 2, 0.5),
        (REWARDBENCH_2, "Math", 1, 4, 0.25),
        (BENCHMARKS["rm-bench"], "chat", 3, 6, 0.5),
        (PREFERENCES, "many", 2, 9, 1 / 36),
    ],
)
def test_chance_is_what_guessing_earns(
    benchmark: Benchmark, subset: str, num_chosen: int, completions: int, expected: float
):
    scores = tuple(map(float, range(completions)))
    outcomes = [Outcome(subset, number, num_chosen, scores=scores) for number in range(5)]
    found = chance(outcomes, benchmark)
    assert found.subsets[subset] == pytest.approx(expected, abs=0.01)
    generator = random.Random(1)
    guessed = [one for _ in range(400) for one in guesses(outcomes, generator)]
    earned = [c for one in guessed for name, c in benchmark.credits(one) if name == subset]
    assert sum(earned) / len(guessed) == pytest.approx(expected, abs=0.05)
    if benchmark is not REWARDBENCH_2:
        assert found.overall == pytest.approx(expected, abs=0.01)


def test_chance_at_ties_is_the_mean_over_guesses():
    outcomes = [
        Outcome(TIES, f"{kind}:{number}", 1 if kind == "ref" else 3, (9,) * 6, (0.0,) * 6)
        for kind in ("ref", "tied")
        for number in range(20)
    ]
    generator = random.Random(3)
    values = [
        measure(guesses(outcomes, generator), REWARDBENCH_2).subsets[TIES].estimate.value
        for _ in range(40)
    ]
    found = chance(outcomes, REWARDBENCH_2).subsets[TIES]
    assert found == pytest.approx(sum(values) / 40, abs=0.04)


def test_a_best_of_n_run_has_its_curve(tmp_path: Path):
    candidates = write_rows(
        tmp_path / "candidates.jsonl",
        [
            {
                "prompt": f"p{n}",
                "candidates": ["a" * (1 + n + k) for k in range(4)],
                "gold": [0, 4, 1, 2],
            }
            for n in range(12)
        ],
    )
    out = tmp_path / "best"
    arguments = ["best-of-n", "--candidates", str(candidates), "--scorer", "length"]
    result = CliRunner().invoke(app, [*arguments, "--no-pictures", "--out", str(out)])
    assert result.exit_code == 0, result.stderr
    html = render(report_on([out], Options()), ".html")
    header, *rows = Page(html).table("Mean gold of the pick")
    assert header == ["n", "prompts", "highest score", "best there is", "random", "longest"]
    figures = [part.split("</svg>")[0] for part in html.split("<svg")[1:]]
    for drawn, x_label, y_label in zip(
        figures, ("annotated candidates", "candidates"), ("gold", "score"), strict=True
    ):
        for text in (f"n ({x_label} drawn)", f"mean {y_label} of the pick", "12 prompts; "):
            assert f">{text}" in drawn
    points = results(out)["gold"]["curve"]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    header, *distances = Page(html).table("Distances in gold")
    assert header == ["n", "prompts", "regret (best minus pick)", "gain (pick minus random)"]
    for column, name in ((2, "regret"), (3, "gain")):
        assert [float(row[column].split(" ")[0]) for row in distances] == pytest.approx(
            [point[name]["mean"] for point in points], abs=0.001
        )
    assert [float(row[2].split(" ")[0]) for row in rows] == pytest.approx(
        [point["pick"]["mean"] for point in points], abs=0.001
    )


def test_what_is_on_record_in_another_form_is_left_out():
    document = {"model": "m", "model_type": "t", "provenance": {"info": {"limits": "x"}, "time": 5}}
    named = dict(facts(Recorded("m", Path("place"), document)))
    assert named == {"model": "m", "type": "t", "finished": "5", "place": "place"}


def test_what_no_section_knows_becomes_tables():
    value = {
        "answers": 3,
        "cost": None,
        "members": [{"judge": "a", "ci95": [0.25, 0.5]}, {"judge": "b", "verdicts": {"A": 1}}],
        "deeper": {"share": 0.123456, "empty": []},
    }
    tables = {table.caption: table for table in document_blocks("judges", value)}  # type: ignore[union-attr]
    cells = {name: [[c.text for c in row] for row in t.rows] for name, t in tables.items()}
    assert cells == {
        "judges": [["answers", "3"], ["cost", "–"]],
        "judges, members": [["a", "0.25 to 0.5", "–"], ["b", "–", "A 1"]],
        "judges, deeper": [["share", "0.1235"], ["empty", "–"]],
    }


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["report", *map(str, arguments)], env={"COLUMNS": "200"})


def test_the_command_writes_the_report_and_says_so(runs: list[Path], tmp_path: Path):
    out = tmp_path / "report.html"
    result = invoke(runs[2], "--out", out, "--title", "A <title>", "--mistakes", 0, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout.splitlines()[-1])
    assert document["report"] == str(out)
    assert document["bytes"] == len(out.read_bytes())
    assert document["warnings"] == []
    html = out.read_text()
    assert "<title>A &lt;title&gt;</title>" in html
    assert "Mistakes to read" not in html


def test_what_cannot_be_reported_on_is_refused_before_anything_is_written(
    runs: list[Path], tmp_path: Path
):
    out = tmp_path / "report.html"
    assert invoke(*runs, "--out", tmp_path / "report.pdf").exit_code == 2
    unfinished = tmp_path / "unfinished"
    shutil.copytree(runs[0], unfinished)
    (unfinished / "results.json").unlink()
    result = invoke(unfinished, "--out", out)
    assert result.exit_code == 2
    assert "not finished" in result.stderr
    assert not out.exists()
    out.write_text("mine")
    result = invoke(runs[0], "--out", out)
    assert result.exit_code == 2
    assert "--overwrite" in result.stderr
    assert out.read_text() == "mine"
    with pytest.raises(BenchmarkError):
        report_on([tmp_path], Options())


def test_a_lone_baseline_and_a_single_pair_have_a_report(tmp_path: Path):
    dataset = write_rows(tmp_path / "data.jsonl", pairs(1))
    length = make_run(tmp_path / "length", dataset)
    failed = make_run(tmp_path / "failed", dataset, "m", lambda group: Failure("odd", "odd"))
    assert "1 pair" in render(report_on([length], Options()), ".md")
    assert "1 pair" in render(report_on([failed], Options()), ".html")
