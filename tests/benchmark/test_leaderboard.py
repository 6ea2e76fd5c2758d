"""The leaderboard: RewardBench's published numbers, and which results become which row."""

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from reward_benchmark.cli import app
from reward_benchmark.datasets import BENCHMARKS, Selection
from reward_benchmark.datasets.rewardbench import REWARDBENCH
from reward_benchmark.datasets.rm_bench import DOMAINS, LEVELS
from reward_benchmark.errors import BenchmarkError
from reward_benchmark.leaderboard import Leaderboard, Row, find_rows, leaderboard_row
from reward_benchmark.metrics import measure
from reward_benchmark.rewardbench_files import RewardBenchFileError
from reward_benchmark.saved_run import open_saved_run
from reward_benchmark.statistics import Estimate

from .published_numbers import ISSUE_206_COUNTS, README_ACCURACIES
from .scored_runs import (
    Judge,
    finished_run,
    pair_rows,
    random_judge,
    rewardbench_2_rows,
    set_rows,
    write_rows,
)

ACCURACIES_206 = {name: wins / count for name, (wins, count) in ISSUE_206_COUNTS.items()}

SUBSETS = [name for weights in REWARDBENCH.sections.values() for name in weights]

CHAT_HALVED = {
    name: value / 2 for name, value in ACCURACIES_206.items() if name.startswith("alpaca")
}

Publish = Callable[..., Path]


@pytest.fixture
def publish(tmp_path: Path) -> Publish:
    """Writes a file as RewardBench's results repositories have them."""

    def publish(folder: str, model: str, accuracies: dict[str, float], /, **rest: Any) -> Path:
        file = tmp_path / "published" / folder / f"{model}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        about = {"model": model, "model_type": "Seq. Classifier", "chat_template": "tokenizer"}
        file.write_text(json.dumps(about | rest | accuracies))
        return file

    return publish


def only_row(place: Path) -> Row:
    [row] = find_rows([place]).rows
    return row


def values(row: Row) -> dict[str, float]:
    return {name: estimate.value for name, estimate in row.cells.items()}


@pytest.mark.parametrize(
    ("accuracies", "sections"),
    [
        (
            README_ACCURACIES,
            [0.6089385474860335, 0.44956140350877194, 0.7216216216216216, 0.46675669776831996],
        ),
        (
            ACCURACIES_206,
            [0.9664804469273743, 0.9166666666666666, 0.927027027027027, 0.9882107000600208],
        ),
    ],
    ids=["readme", "issue-206"],
)
def test_sections_are_those_that_rewardbench_publishes(
    publish: Publish, accuracies: dict[str, float], sections: list[float]
):
    row = only_row(publish("eval-set", "org/m", accuracies))
    assert [row.cells[name].value for name in ("Chat", "Chat Hard", "Safety", "Reasoning")] == (
        pytest.approx(sections, abs=1e-15)
    )
    assert row.cells["Score"].value == pytest.approx(sum(sections) / 4, abs=1e-15)
    assert row.incomplete == ()
    assert row.published


def test_prior_sets_count_half_and_only_four_of_them(publish: Publish, tmp_path: Path):
    publish("eval-set", "org/m", ACCURACIES_206)
    prior = {"anthropic_helpful": 0.6, "anthropic_hhh": 0.8, "shp": 0.7, "summarize": 0.5}
    others = {"anthropic_harmless": 0.01, "mtbench_gpt4": 0.02, "mtbench_human": 0.03}
    publish("pref-sets", "org/m", prior | others)
    row = only_row(tmp_path)
    assert row.cells["Prior"].value == pytest.approx(0.65)
    sections = [row.cells[name].value for name in ("Chat", "Chat Hard", "Safety", "Reasoning")]
    assert row.cells["Score"].value == pytest.approx((2 * sum(sections) + 0.65) / 9)
    assert len(row.sources) == 2


def test_a_missing_prior_set_is_left_out_of_the_mean_and_said(publish: Publish):
    row = only_row(publish("pref-sets", "org/m", {"anthropic_hhh": 0.8, "shp": 0.7}))
    assert values(row) == {"Prior": pytest.approx(0.75)}
    assert row.incomplete == ("prior: 2 of 4 subsets are missing (anthropic_helpful, summarize)",)


def test_a_missing_section_leaves_no_score(publish: Publish):
    chat_hard = {k: v for k, v in ACCURACIES_206.items() if k.startswith(("llmbar", "mt-bench"))}
    row = only_row(publish("eval-set", "org/m", chat_hard))
    assert "Score" not in row.cells
    assert row.cells["Chat Hard"].value == pytest.approx(0.9166666666666666)
    assert "15 of 23 subsets are missing" in row.incomplete[0]


def test_rewardbench_2_is_the_mean_of_its_six(publish: Publish):
    domains = {
        "Factuality": 0.7,
        "Focus": 0.9,
        "Math": 0.6,
        "Precise IF": 0.4,
        "Safety": 0.8,
        "Ties": 1.01,
    }
    row = only_row(publish("eval-set", "org/m", domains))
    assert row.cells["RB2"].value == pytest.approx(sum(domains.values()) / 6)
    assert {k: v for k, v in values(row).items() if k != "RB2"} == {
        f"RB2 {name}": value for name, value in domains.items()
    }


def test_runs_of_one_model_are_one_row(tmp_path: Path):
    sets = {
        "rewardbench": pair_rows(dict.fromkeys(ISSUE_206_COUNTS, 2)),
        "prior": pair_rows({"anthropic_helpful": 3, "anthropic_hhh": 2, "shp": 2, "summarize": 3}),
        "rewardbench-2": rewardbench_2_rows(),
    }
    metrics = {}
    for name, rows in sets.items():
        dataset = f"{name}={write_rows(tmp_path / f'{name}.jsonl', rows)}"
        out = finished_run(tmp_path / "runs" / name, dataset, random_judge(1), fingerprint="f1")
        run = open_saved_run(out)
        metrics[name] = measure(run.outcomes(), run.benchmark)
    row = only_row(tmp_path)
    sections = metrics["rewardbench"].sections
    assert row.cells.items() >= sections.items()
    assert row.cells["Prior"] == metrics["prior"].overall
    assert row.cells["RB2"] == metrics["rewardbench-2"].overall
    score, prior = sum(one.value for one in sections.values()), metrics["prior"].overall.value
    assert row.cells["Score"].value == pytest.approx((2 * score + prior) / 9)
    assert row.cells["Score"].interval is not None
    assert (row.fingerprint, row.baseline) == ("f1", False)
    assert len(row.incomplete) == 3
    assert all("subsets are not whole" in reason for reason in row.incomplete)
    assert list(row.cells)[:7] == [
        *("Score", "Chat", "Chat Hard", "Safety", "Reasoning", "Prior", "RB2")
    ]


def test_models_of_one_name_are_told_apart(tmp_path: Path, publish: Publish):
    rows = f"rewardbench={write_rows(tmp_path / 'rows.jsonl', pair_rows({'hep-go': 4}))}"
    for seed in (1, 2):
        finished_run(
            tmp_path / str(seed), rows, random_judge(seed), fingerprint=f"print-{seed}-and-more"
        )
    publish("eval-set", "org/model", {"hep-go": 0.5})
    board = find_rows([tmp_path]).sorted("model")
    assert [row.title for row in board.rows] == [
        "org/model (print-1-, incomplete)",
        "org/model (print-2-, incomplete)",
        "org/model (published, incomplete)",
    ]


def test_of_several_results_the_one_of_most_groups_stands(tmp_path: Path):
    rows = f"rewardbench={write_rows(tmp_path / 'rows.jsonl', pair_rows({'hep-go': 8}))}"
    whole = finished_run(tmp_path / "a", rows, lambda _: (1.0, 0.0))
    finished_run(tmp_path / "b", rows, lambda _: (0.0, 1.0), selection=Selection(limit=5))
    for places in ([tmp_path], [tmp_path / "b", tmp_path / "a"]):
        board = find_rows(places)
        assert [row.cells["Reasoning"].value for row in board.rows] == [1.0]
        assert board.rows[0].sources == (str(whole),)
        assert "has several results on rewardbench" in board.notes[0]


def test_what_is_not_whole_is_marked(tmp_path: Path):
    rows = f"rewardbench={write_rows(tmp_path / 'rows.jsonl', pair_rows({'hep-go': 8}))}"
    judge = random_judge(1, failing=[2])
    finished_run(tmp_path / "a", rows, judge, selection=Selection(limit=5))
    assert only_row(tmp_path).incomplete == (
        "rewardbench: 22 of 23 subsets are missing (alpacaeval-easy, alpacaeval-hard, "
        "alpacaeval-length …)",
        "rewardbench: only the first 5",
        "rewardbench: 1 failed, which counts as lost",
    )


def test_other_datasets_have_columns_by_their_names(tmp_path: Path):
    write_rows(tmp_path / "mine.jsonl", pair_rows({"x": 4}))
    out = finished_run(tmp_path / "run", str(tmp_path / "mine.jsonl"), lambda _: (1.0, 0.0))
    copy = write_rows(tmp_path / "copy.jsonl", pair_rows({"hep-go": 4}))
    finished_run(tmp_path / "run-2", str(copy), lambda _: (1.0, 0.0))
    row = only_row(tmp_path)
    # Subsets of RewardBench's are not RewardBench, and neither is the bundled sample.
    assert values(row) == {"copy.jsonl": 1.0, "mine.jsonl": 1.0}
    results = json.loads((out / "results.json").read_text())
    assert values(leaderboard_row({"mine.jsonl": results})) == {"mine.jsonl": 1.0}


@pytest.mark.parametrize("name", ["Safety", "Score", "RB2", "model", "incomplete"])
def test_a_folder_that_is_called_like_a_column_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    counts = dict.fromkeys(SUBSETS, 4)
    data = f"rewardbench={write_rows(tmp_path / 'rows.jsonl', pair_rows(counts))}"
    finished_run(tmp_path / "runs" / "whole", data, random_judge(1))
    before = values(only_row(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    write_rows(tmp_path / name / "rows.jsonl", pair_rows({"x": 4}))
    finished_run(tmp_path / "runs" / "own", name, lambda _: (1.0, 0.0))
    board = find_rows([tmp_path / "runs"])
    assert [values(row) for row in board.rows] == [before | {f"{name} (own data)": 1.0}]
    assert board.detailed(f"{name} (own data)").columns == [f"{name} (own data)", "x"]


def test_a_whole_copy_of_rewardbench_is_rewardbench(rewardbench_file: Path, tmp_path: Path):
    out = finished_run(tmp_path / "run", str(rewardbench_file), lambda _: (1.0, 0.0))
    row = only_row(out)
    assert row.cells["Score"].value == pytest.approx(1)
    assert row.incomplete == ()
    document = json.loads((out / "results.json").read_text())
    document["subsets"]["math-prm"]["count"] = 446
    assert "Score" not in leaderboard_row({"filtered.jsonl.gz": document}).cells


def test_chosen_subsets_are_no_whole_set(tmp_path: Path):
    rows = f"rewardbench={write_rows(tmp_path / 'rows.jsonl', pair_rows({'hep-go': 8}))}"
    selection = Selection(frozenset({"hep-go"}))
    finished_run(tmp_path / "a", rows, lambda _: (1.0, 0.0), selection=selection)
    assert only_row(tmp_path).incomplete[1:] == ("rewardbench: only the subsets hep-go",)


def test_sets_that_count_for_nothing_are_not_the_prior_sets(tmp_path: Path):
    rows = f"prior={write_rows(tmp_path / 'rows.jsonl', pair_rows({'mtbench_human': 4}))}"
    out = finished_run(tmp_path / "a", rows, lambda _: (1.0, 0.0))
    assert json.loads((out / "results.json").read_text())["absent"] == ["Prior Sets"]
    assert values(only_row(tmp_path)) == {}


def test_a_baseline_is_marked(tmp_path: Path):
    arguments = ["run", "--dataset", "sample", "--scorer", "length", "--out", str(tmp_path / "r")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert only_row(tmp_path).title.startswith("length (baseline")


def test_files_of_other_kinds_are_left_out_and_counted(tmp_path: Path, publish: Publish):
    publish("eval-set", "org/m", ACCURACIES_206)
    publish("eval-set-scores", "org/m", {}, subset=["hep-go"], results=[1])
    (tmp_path / "published" / "package.json").write_text("{}")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "run.json").write_text('{"format": 2}')
    board = find_rows([tmp_path / "published", tmp_path])
    assert len(board.rows) == 1
    assert any("half holds a run that is not finished" in note for note in board.notes)
    assert [note for note in board.notes if "half" not in note] == [
        f"left out: 1 JSON file of another kind, such as {tmp_path}/published/package.json"
    ]
    with pytest.raises(RewardBenchFileError, match="is not one of RewardBench's files"):
        find_rows([tmp_path / "published" / "package.json"])
    with pytest.raises(BenchmarkError, match=r"no finished run .* in .*half; left out: .*finished"):
        find_rows([tmp_path / "half"])
    with pytest.raises(BenchmarkError, match="is neither a directory nor a file"):
        find_rows([tmp_path / "nowhere"])


def test_only_folders_of_scores_are_passed_over(tmp_path: Path, publish: Publish):
    for folder in ("lab-scores/eval-set", "scores", "eval-set-scores-2"):
        publish(folder, f"org/{folder.replace('/', '-')}", ACCURACIES_206)
    for folder in ("eval-set-scores", "pref-sets-scores"):
        publish(folder, "org/passed-over", ACCURACIES_206)
    board = find_rows([tmp_path])
    assert {row.model for row in board.rows} == {
        "org/lab-scores-eval-set",
        "org/scores",
        "org/eval-set-scores-2",
    }
    assert board.notes == ()


def test_a_file_that_is_read_is_not_written(tmp_path: Path, publish: Publish):
    file = publish("eval-set", "org/m", ACCURACIES_206)
    before = file.read_bytes()
    refused = invoke(file, "--out", str(file), "--overwrite")
    assert refused.exit_code == 2
    assert "is one of the files to be read: name another" in refused.stderr
    assert file.read_bytes() == before


def test_a_name_is_a_pattern_of_itself(publish: Publish, tmp_path: Path):
    publish("eval-set", "org/a[b]", ACCURACIES_206)
    assert find_rows([tmp_path]).only(models=["Org/A[b]"]).rows[0].model == "org/a[b]"


def test_one_run_in_two_spellings_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = f"rewardbench={write_rows(tmp_path / 'rows.jsonl', pair_rows({'hep-go': 4}))}"
    finished_run(tmp_path / "run", data, random_judge(1))
    monkeypatch.chdir(tmp_path)
    board = find_rows([Path("run"), tmp_path / "run", tmp_path])
    assert (len(board.rows), board.notes) == (1, ())


def test_what_is_left_of_a_set_has_its_overall_number(tmp_path: Path):
    rows = [row for row in rewardbench_2_rows() if row["subset"] != "Focus"]
    data = f"rewardbench-2={write_rows(tmp_path / 'rows.jsonl', rows)}"
    run = open_saved_run(finished_run(tmp_path / "run", data, random_judge(1)))
    row = only_row(tmp_path)
    assert row.cells["RB2"].value == measure(run.outcomes(), run.benchmark).overall.value
    assert row.incomplete[0] == "rewardbench-2: 1 of 6 subsets are missing (Focus)"


def board_of(**scores: float | None) -> Leaderboard:
    return Leaderboard(
        tuple(
            Row(
                model=name,
                model_type="Seq. Classifier",
                cells={"Chat": Estimate(1.0)}
                | ({} if score is None else {"Score": Estimate(score)}),
            )
            for name, score in scores.items()
        )
    )


def test_rows_are_sorted_from_the_best_and_without_a_number_last():
    board = board_of(b=0.5, none=None, a=0.5, best=0.75)
    names = [row.model for row in board.sorted().rows]
    assert names == ["best", "a", "b", "none"]
    assert [row.model for row in board.sorted("model").rows] == ["a", "b", "best", "none"]
    with pytest.raises(BenchmarkError, match="no column is called 'RB2': there are model, Score"):
        board.sorted("RB2")
    assert board_of(x=None).sorted().rows[0].model == "x"


NASTY = 'a|b_c & 50% #1 "q", {x}~^\\$'


def test_csv_and_latex_and_markdown_survive_nasty_names():
    table = board_of(**{NASTY: 0.123456}).table(marks_apart=True)
    [row] = csv.DictReader(io.StringIO(table.text("csv")))
    assert row["model"] == NASTY
    assert float(row["Score"]) == 12.3456
    assert (row["baseline"], row["published"], row["incomplete"]) == ("false", "false", "")
    latex = board_of(**{NASTY: 0.5}).table().text("latex")
    line = latex.splitlines()[4]
    assert line.startswith(
        r"a|b\_c \& 50\% \#1 " + '"q", ' + r"\{x\}\textasciitilde{}\textasciicircum{}"
        r"\textbackslash{}\$ & Seq. Classifier & 50.0"
    )
    markdown = board_of(**{NASTY: 0.5}).table().text("markdown").splitlines()[2]
    assert markdown.startswith(r"| a\|b_c & 50% ")
    assert markdown.count(" | ") == 3


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["leaderboard", *map(str, arguments)], env={"COLUMNS": "80"})


def test_the_command_prints_every_form(publish: Publish, tmp_path: Path):
    publish("eval-set", "org/m", ACCURACIES_206)
    publish("eval-set", "org/n", README_ACCURACIES)
    table = invoke(tmp_path)
    assert table.exit_code == 0, table.stderr
    assert "org/m (published)" in " ".join(table.stdout.split())
    assert table.stdout.index("org/m") < table.stdout.index("org/n")
    markdown = invoke(tmp_path, "--format", "markdown", "--sort", "model")
    assert markdown.stdout.splitlines()[0].startswith("| model | type | Score | Chat |")
    rows = list(csv.DictReader(io.StringIO(invoke(tmp_path, "--format", "csv").stdout)))
    assert [row["model"] for row in rows] == ["org/m", "org/n"]
    assert float(rows[0]["Safety"]) == pytest.approx(92.7027027027027)
    assert r"\begin{tabular}" in invoke(tmp_path, "--format", "latex").stdout

    result = invoke(tmp_path, "--format", "csv", "--json")
    document = json.loads(result.stdout)
    assert document["columns"][0] == "Score"
    assert document["score_weights"]["Prior"] == 1
    assert document["rows"][0]["cells"]["Safety"]["score"] == pytest.approx(0.927027027027027)
    assert result.stderr.startswith("model,type,")

    out = tmp_path / "board.csv"
    assert invoke(tmp_path, "--format", "csv", "--out", out).exit_code == 0
    assert [row["model"] for row in csv.DictReader(io.StringIO(out.read_text()))] == [
        "org/m",
        "org/n",
    ]
    again = invoke(tmp_path, "--out", out)
    assert again.exit_code == 2
    assert "is there already" in again.stderr
    assert invoke(tmp_path, "--sort", "Charm").exit_code == 2


def test_a_narrow_terminal_says_which_columns_it_has_no_room_for(publish: Publish, tmp_path: Path):
    names = ("Factuality", "Focus", "Math", "Precise IF", "Safety", "Ties")
    publish("eval-set", "org/a-model-with-a-name", dict.fromkeys(names, 0.5))
    publish("eval-set", "org/another", ACCURACIES_206)
    wide = CliRunner().invoke(app, ["leaderboard", str(tmp_path)], env={"COLUMNS": "200"})
    narrow = invoke(tmp_path).stdout
    assert "98.8" in narrow
    assert "Focus" not in narrow
    assert narrow.splitlines()[-1] == (
        "No room for 6: RB2 Factuality, RB2 Precise IF, RB2 Math …; --format and --json show them."
    )
    assert max(map(len, narrow.splitlines()[:-1])) <= 80
    assert "Focus" in wide.stdout


def test_two_files_of_one_name_are_two_columns_unless_they_are_the_same(tmp_path: Path):
    for folder, size in (("a", 4), ("b", 6), ("c", 6)):
        (tmp_path / folder).mkdir()
        write_rows(tmp_path / folder / "mine.jsonl", pair_rows({"x": size}))
    judges: list[Judge] = [lambda _: (1.0, 0.0), lambda _: (0.0, 1.0)]
    runs = [("a", "one", judges[0]), ("b", "one", judges[1]), ("c", "two", judges[0])]
    for folder, model, judge in runs:
        data = str(tmp_path / folder / "mine.jsonl")
        finished_run(tmp_path / "runs" / f"{folder}-{model}", data, judge, model=model)
    hashes = {
        folder: open_saved_run(tmp_path / "runs" / f"{folder}-{model}").dataset_sha256
        for folder, model, _ in runs
    }
    assert hashes["b"] == hashes["c"] != hashes["a"]
    board = find_rows([tmp_path])
    one, two = (f"mine.jsonl ({str(hashes[folder])[:8]})" for folder in "ab")
    assert {row.model: values(row) for row in board.rows} == {
        "one": {one: 1.0, two: 0.0},
        "two": {two: 1.0},
    }
    assert board.notes == ()
    assert board.detailed(two).columns == [two, "x"]
    same = [tmp_path / "runs" / "b-one", tmp_path / "runs" / "c-two"]
    assert find_rows(same).columns == ["mine.jsonl"]
    for place, value in (("a-one", 1.0), ("b-one", 0.0), ("c-two", 1.0)):
        assert values(only_row(tmp_path / "runs" / place)) == {"mine.jsonl": value}


def test_the_row_of_several_sets_is_that_of_the_leaderboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in REWARDBENCH.counts:
        monkeypatch.setitem(cast(dict[str, int], REWARDBENCH.counts), name, 2)
    copy = write_rows(tmp_path / "copy.jsonl", pair_rows(REWARDBENCH.counts))
    arguments = ["--dataset", str(copy), "--dataset", "sample", "--scorer", "length", "--json"]
    result = CliRunner().invoke(app, ["run", *arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.stderr
    [row] = json.loads(result.stdout.splitlines()[-1])["rows"]
    assert json.dumps([row]) == json.dumps(find_rows([tmp_path / "out"]).document()["rows"])
    assert row["cells"].keys() == {"Score", *REWARDBENCH.sections, "sample"}


@pytest.fixture
def published(publish: Publish, tmp_path: Path) -> Path:
    """A directory with models of several types."""
    publish("eval-set", "org/cost", README_ACCURACIES)
    publish("eval-set", "org/Gemma-27B", ACCURACIES_206)
    publish("eval-set", "openai/judge", ACCURACIES_206, model_type="Generative RM")
    publish("eval-set", "org/dpo", ACCURACIES_206, model_type="DPO")
    publish(
        "eval-set",
        "org/dpo_ref_free",
        {**ACCURACIES_206, **CHAT_HALVED},
        model="org/dpo",
        model_type="DPO Ref. Free",
    )
    return tmp_path


@pytest.mark.parametrize(
    ("filters", "models"),
    [
        ({"types": ["seq. classifier"]}, ["org/cost", "org/Gemma-27B"]),
        ({"types": ["dpo"]}, ["org/dpo"]),
        ({"types": ["dpo-ref-free", "Generative*"]}, ["openai/judge", "org/dpo"]),
        ({"models": ["org/gemma*", "org/cost"]}, ["org/cost", "org/Gemma-27B"]),
        ({"not_models": ["openai/*", "org/d*"]}, ["org/cost", "org/Gemma-27B"]),
        ({"models": ["org/*"], "types": ["DPO*"]}, ["org/dpo", "org/dpo"]),
        ({"models": ["*g*"], "not_models": ["*cost", "*dpo"]}, ["openai/judge", "org/Gemma-27B"]),
    ],
)
def test_rows_are_chosen_by_type_and_name(
    published: Path, filters: dict[str, list[str]], models: list[str]
):
    rows = find_rows([published]).only(**filters).sorted("model").rows
    assert [row.model for row in rows] == models


def test_types_and_models_that_are_not_there_are_named(published: Path):
    board = find_rows([published])
    complaint = "no model type is called 'reward': there are DPO, DPO Ref. Free, Generative RM, Seq"
    with pytest.raises(BenchmarkError, match=complaint):
        board.only(types=["reward"])
    with pytest.raises(
        BenchmarkError, match=r"^--model llama\* leaves no model of openai/judge, org/Gemma-27B, or"
    ):
        board.only(models=["llama*"])
    with pytest.raises(
        BenchmarkError, match=r"^--model-type DPO --not-model \*dpo leaves no model"
    ):
        board.only(types=["DPO"], not_models=["*dpo"])
    published_as = board.rows[0].model
    assert board.only(models=[published_as.swapcase()]).rows[0].model == published_as


def test_a_section_in_detail_is_its_number_and_its_subsets(published: Path):
    board = find_rows([published]).detailed("chat-hard").sorted()
    subsets = list(REWARDBENCH.sections["Chat Hard"])
    assert board.columns == ["Chat Hard", *subsets]
    worst = board.rows[-1]
    assert worst.model == "org/cost"
    assert values(worst) == pytest.approx(
        {"Chat Hard": 0.44956140350877194, **{name: README_ACCURACIES[name] for name in subsets}}
    )
    assert board.sorted("mt-bench-hard").columns == board.columns
    whole = find_rows([published]).detailed("rewardbench")
    assert whole.columns == ["RewardBench", *REWARDBENCH.sections, *SUBSETS]
    [cost] = whole.only(models=["org/cost"]).rows
    four = [cost.cells[name].value for name in REWARDBENCH.sections]
    assert cost.cells["RewardBench"].value == pytest.approx(sum(four) / 4)
    complaint = (
        "no section or set is called 'prior': there are Chat, Chat Hard, Safety, Reasoning, R"
    )
    with pytest.raises(BenchmarkError, match=complaint):
        find_rows([published]).detailed("prior")
    with pytest.raises(BenchmarkError, match=r"'llmbar\*' is more than one column: llmbar-n"):
        board.sorted("llmbar*")


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("prior", ["Prior", "Outside the mean", "shp", "summarize", "mtbench_human"]),
        ("rewardbench-2", ["RB2", "Factuality", "Precise IF", "Math", "Safety", "Focus", "Ties"]),
        ("RB2", ["RB2", "Factuality", "Precise IF", "Math", "Safety", "Focus", "Ties"]),
        (
            "rm-bench",
            [
                *("RM-Bench", *DOMAINS, *LEVELS),
                *(f"{domain}/{level}" for level in LEVELS for domain in DOMAINS),
            ],
        ),
        (
            "judgebench",
            ["JudgeBench", "Claude 3.5 Sonnet", "GPT-4o/math", "Claude 3.5 Sonnet/coding"],
        ),
        ("mine.jsonl", ["mine.jsonl", "x", "a"]),
    ],
)
def test_sets_in_detail_are_their_numbers_sections_and_subsets(
    tmp_path: Path, name: str, columns: list[str]
):
    known = "rewardbench-2" if name == "RB2" else name
    rows = set_rows(known) if known in BENCHMARKS else pair_rows({"x": 3, "a": 2})
    file = write_rows(tmp_path / "mine.jsonl", rows)
    data = f"{known}={file}" if known in BENCHMARKS else str(file)
    run = open_saved_run(finished_run(tmp_path / "run", data, random_judge(4)))
    board = find_rows([tmp_path]).detailed(name)
    assert board.columns == columns
    metrics = measure(run.outcomes(), run.benchmark)
    numbers = {name: one.estimate for name, one in metrics.subsets.items()} | metrics.sections
    [row] = board.rows
    assert row.cells == {columns[0]: metrics.overall, **{k: numbers[k] for k in columns[1:]}}


def test_a_file_with_rewardbenchs_subsets_has_its_sections_in_detail(tmp_path: Path):
    file = write_rows(tmp_path / "mine.jsonl", pair_rows({"donotanswer": 3, "mt-bench-med": 2}))
    finished_run(tmp_path / "run", str(file), random_judge(4))
    board = find_rows([tmp_path]).detailed("mine.jsonl")
    assert board.columns == ["mine.jsonl", "Chat", "Safety", "donotanswer", "mt-bench-med"]


def test_dpo_models_are_held_against_themselves_without_their_reference(published: Path):
    board = find_rows([published]).sorted().reference_free()
    assert [row.title for row in board.rows] == [
        "org/dpo (DPO, published)",
        "org/dpo (DPO Ref. Free, published)",
        "org/dpo (difference, published)",
    ]
    with_it, without, difference = map(values, board.rows)
    lost = (99 + 90 + 90) / 2 / 358
    assert difference == pytest.approx(
        {"Score": -lost / 4, "Chat": -lost, "Chat Hard": 0, "Safety": 0, "Reasoning": 0}
    )
    assert {k: with_it[k] + difference[k] for k in with_it} == pytest.approx(without)
    detail = find_rows([published]).detailed("chat").sorted().reference_free().rows[2]
    assert detail.cells["alpacaeval-easy"].value == pytest.approx(-0.495)
    with pytest.raises(BenchmarkError, match=r"no model has results on one set both with .*DPO"):
        find_rows([published]).only(types=["DPO"]).reference_free()


def test_what_only_one_side_has_counts_for_neither(publish: Publish, published: Path):
    publish("pref-sets", "org/dpo", {"anthropic_hhh": 0.01}, model_type="DPO")
    publish("eval-set", "org/alone", ACCURACIES_206, model_type="DPO")
    whole = find_rows([published])
    assert [row.title for row in whole.detailed("prior").rows] == [
        "org/dpo (DPO, published, incomplete)"
    ]
    assert not any(row.incomplete for row in whole.detailed("chat").rows)
    board = whole.reference_free()
    assert {row.model for row in board.rows} == {"org/dpo"}
    assert all("Prior" not in row.cells for row in board.rows)
    with_it, without, difference = map(values, board.rows)
    assert with_it["Score"] == pytest.approx(
        sum(with_it[name] for name in REWARDBENCH.sections) / 4
    )
    assert without["Score"] - with_it["Score"] == pytest.approx(difference["Score"])


def test_runs_with_and_without_a_reference_are_pairs_too(tmp_path: Path):
    data = f"rewardbench={write_rows(tmp_path / 'rows.jsonl', pair_rows({'hep-go': 4}))}"
    for name, model_type in (("f1", "DPO"), ("f2", "DPO Ref. Free"), ("f3", "DPO Ref. Free")):
        finished_run(
            tmp_path / name, data, random_judge(1), fingerprint=name, model_type=model_type
        )
    rows = find_rows([tmp_path]).reference_free().rows
    assert [(row.distinction, row.model_type) for row in rows] == [
        ("f1", "DPO"),
        ("f2", "DPO Ref. Free"),
        ("f2, difference", "difference"),
        ("f1", "DPO"),
        ("f3", "DPO Ref. Free"),
        ("f3, difference", "difference"),
    ]


def test_ones_own_numbers_are_not_held_against_published_ones(tmp_path: Path, publish: Publish):
    data = f"rewardbench={write_rows(tmp_path / 'rows.jsonl', pair_rows({'hep-go': 4}))}"
    for model_type in ("DPO", "DPO Ref. Free"):
        about = {"model": "org/dpo", "model_type": model_type}
        finished_run(tmp_path / model_type, data, random_judge(1), fingerprint=model_type, **about)
        numbers = {"hep-go": 0.5, "hep-cpp": 0.5}
        publish("eval-set", model_type, numbers, **about)
    rows = find_rows([tmp_path]).reference_free().rows
    assert [(row.model_type, row.published) for row in rows] == [
        (kind, published)
        for published in (False, True)
        for kind in ("DPO", "DPO Ref. Free", "difference")
    ]


def test_the_command_chooses_rows_and_columns_and_shows_details(published: Path):
    table = invoke(published, "--hide", "type", "--hide", "reas*", "--format", "csv")
    header = table.stdout.splitlines()[0]
    assert header == "model,fingerprint,baseline,published,incomplete,Score,Chat,Chat Hard,Safety"
    unknown = invoke(published, "--hide", "Charm")
    assert unknown.exit_code == 2
    assert "no column is called 'Charm': there are model, type, Score, Chat, Chat Hard" in (
        unknown.stderr
    )
    options = ["--model-type", "s*", "--model-type", "g*", "--not-model", "*gemma*", "--json"]
    document = json.loads(invoke(published, *options).stdout)
    assert [row["model"] for row in document["rows"]] == ["openai/judge", "org/cost"]
    options = ["--model-type", "seq-classifier", "--model", "org/c*"]
    detail = invoke(published, *options, "--detail", "safety", "--format", "latex")
    assert r"refusals-dangerous" in detail.stdout
    assert detail.stdout.count(r"\\") == 2
    document = json.loads(invoke(published, "--reference-free", "--json").stdout)
    assert [row["model_type"] for row in document["rows"]] == ["DPO", "DPO Ref. Free", "difference"]


@pytest.mark.parametrize("detail", REWARDBENCH.sections)
def test_a_section_in_detail_is_readable_on_80_columns(published: Path, detail: str):
    *lines, left_out = invoke(published, "--detail", detail).stdout.splitlines()
    assert left_out == "No room for 1: type; --format and --json show them."
    assert max(map(len, lines)) <= 80
    headings = {part for line in lines[:4] for part in line.split()}
    assert {part for name in REWARDBENCH.sections[detail] for part in name.split("-")} <= {
        part for heading in headings for part in heading.split("-")
    }
    assert any(line.startswith(" org/cost") for line in lines)


def test_what_has_no_room_on_80_columns_is_counted(published: Path):
    *lines, left_out = invoke(published, "--detail", "rewardbench").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    [row] = [line for line in lines if line.startswith(" org/cost")]
    numbers = re.findall(r"\d+\.\d", row)
    assert numbers == ["56.2", "60.9", "45.0", "72.2", "46.7", "50.0"]
    count = 1 + 1 + 4 + len(SUBSETS) - len(numbers)
    assert left_out.startswith(f"No room for {count}: type, {SUBSETS[1]}, {SUBSETS[2]} …; --format")
