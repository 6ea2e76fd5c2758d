"""`reward-benchmark best-of-n` against a reader's own arithmetic, also where it is ended."""

import json
import random
import xml.etree.ElementTree as ET
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import stamina
from typer.testing import CliRunner

from pairwise import settings_of, write_slic
from reward_benchmark import plots
from reward_benchmark.best_of_n import Ranking, Tally, gold_figure, scores_figure
from reward_benchmark.candidates import candidates_from_row
from reward_benchmark.cli import app
from reward_benchmark.outcome import Outcome
from reward_client import RewardClient

from .conftest import FakeService

Row = dict[str, Any]


def rows_of(count: int, *, candidates: int = 5, seed: int = 0) -> list[Row]:
    """Prompts whose candidates have known values for all but the last; some texts repeat."""
    generator = random.Random(seed)
    rows = []
    for i in range(count):
        texts = [f"{i}-{generator.randrange(6)}" + "x" * j for j in range(candidates)]
        texts[1] = texts[0]
        gold = [round(generator.random(), 3) for _ in texts[1:]]
        rows.append(
            {
                "id": i,
                "dataset": "even" if i % 2 == 0 else "odd",
                "instruction": f"prompt {i}",
                "candidates": texts,
                "preference": [*gold, None],
            }
        )
    return rows


def write(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(file: Path, out: Path, *options: str, exit_code: int = 0, pictures: bool = False) -> str:
    arguments = ["best-of-n", "--candidates", str(file), "--out", str(out), *options]
    arguments += [] if pictures else ["--no-pictures"]
    with stamina.set_testing(True):
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == exit_code, result.output
    return result.stdout if exit_code == 0 else result.stderr


def document_of(output: str) -> Row:
    document: Row = json.loads(output.splitlines()[-1])
    return document


def lines(file: Path) -> list[Row]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def curve_by_subsets(scores: list[float], values: list[float]) -> list[float]:
    """The mean over all subsets of the mean value of their best candidates."""
    curve = []
    for n in range(1, len(scores) + 1):
        picks = []
        for subset in combinations(range(len(scores)), n):
            best = max(scores[i] for i in subset)
            picks.append(fmean(values[i] for i in subset if scores[i] == best))
        curve.append(fmean(picks))
    return curve


def test_every_prompt_is_ranked_and_its_pick_handed_on(tmp_path: Path, fake_url: str):
    rows = rows_of(12)
    file, out = write(tmp_path / "rows.jsonl", rows), tmp_path / "out"
    output = run(file, out, "--url", fake_url, "--generator", "ours", "--json")
    assert json.loads((out / "results.json").read_text()) == document_of(output)
    picks = []
    for row, line in zip(rows, lines(out / "ranking.jsonl"), strict=True):
        scores = [FakeService.score_of(text) for text in row["candidates"]]
        assert line["scores"] == scores
        assert (line["subset"], line["id"]) == (row["dataset"], row["id"])
        assert line["order"] == sorted(range(5), key=lambda i: (-scores[i], i))
        assert line["pick"] == line["order"][0]
        assert line["tied"] == scores.count(max(scores))
        picks.append(
            {
                "instruction": row["instruction"],
                "output": row["candidates"][line["pick"]],
                "generator": "ours",
                "dataset": row["dataset"],
            }
        )
    assert json.loads((out / "alpaca_eval.json").read_text()) == picks


def test_the_curves_are_what_enumeration_gives(tmp_path: Path, fake_url: str):
    rows = rows_of(30)
    file = write(tmp_path / "rows.jsonl", rows)
    options = ["--url", fake_url, "--gold", "preference", "--json"]
    document = document_of(run(file, tmp_path / "out", *options))
    expected: dict[str, list[list[float]]] = {name: [] for name in ("pick", "oracle", "longest")}
    score_curves, means = [], []
    for row in rows:
        scores = [FakeService.score_of(text) for text in row["candidates"]]
        score_curves.append(curve_by_subsets(scores, scores))
        gold, known = row["preference"][:4], row["candidates"][:4]
        expected["pick"].append(curve_by_subsets(scores[:4], gold))
        expected["oracle"].append(curve_by_subsets(gold, gold))
        expected["longest"].append(curve_by_subsets([float(len(text)) for text in known], gold))
        means.append(fmean(gold))
    assert [point["n"] for point in document["curve"]] == [1, 2, 3, 4, 5]
    for n, point in enumerate(document["curve"]):
        assert point["pick"]["mean"] == pytest.approx(fmean(c[n] for c in score_curves))
    assert document["gold"]["annotated_candidates"] == {"4": 30}
    assert [point["n"] for point in document["gold"]["curve"]] == [1, 2, 3, 4]
    for n, point in enumerate(document["gold"]["curve"]):
        wanted = {name: fmean(c[n] for c in curves) for name, curves in expected.items()}
        wanted |= {
            "random": fmean(means),
            "regret": wanted["oracle"] - wanted["pick"],
            "gain": wanted["pick"] - fmean(means),
        }
        for name, mean in wanted.items():
            assert point[name]["mean"] == pytest.approx(mean, abs=1e-12), (name, n)
            if n:
                low, high = point[name]["ci95"]
                assert low <= mean <= high


def test_ties_are_counted_and_told_from_repeated_texts(tmp_path: Path):
    rows = [
        {"prompt": "p", "candidates": ["aa", "aa", "b", "c"]},
        {"prompt": "p", "candidates": ["aaa", "b", "c"]},
    ]
    file = write(tmp_path / "rows.jsonl", rows)
    counts = document_of(run(file, tmp_path / "out", "--scorer", "length", "--json"))["counts"]
    assert (counts["top_ties"], counts["tied_pairs"]) == (1, 3)
    assert counts["tied_pairs_of_equal_texts"] == 1
    assert [line["tied"] for line in lines(tmp_path / "out" / "ranking.jsonl")] == [2, 1]


def test_equal_texts_with_unequal_scores_are_no_tie():
    # As of a service whose batches differ in their last bits.
    row = {"prompt": "p", "candidates": ["aa", "aa", "b"]}
    tally = Tally()
    for scores in ((1.0, 1.5, 1.0), (1.0, 1.0, 1.5)):
        candidates = candidates_from_row(row, 1)
        tally.add(Ranking(candidates, Outcome("", 1, 0, scores=scores)))
    assert (tally.tied_pairs, tally.tied_texts) == (2, 1)


@pytest.mark.parametrize("gold", [1e301, -1.7e308])
def test_known_values_whose_sums_overflow_are_refused_before_the_work(tmp_path: Path, gold: float):
    file = write(tmp_path / "rows.jsonl", [{"prompt": "p", "candidates": ["a"], "gold": [gold]}])
    refused = run(file, tmp_path / "out", "--scorer", "length", exit_code=2)
    assert "must be a list of nulls and numbers from -1e+300 to 1e+300" in refused
    assert not (tmp_path / "out").exists()


def test_huge_known_values_fit_the_table(tmp_path: Path):
    rows = [{"prompt": "p", "candidates": ["a", "bb"], "gold": [-1e300, 1e300]}]
    output = run(write(tmp_path / "rows.jsonl", rows), tmp_path / "out", "--scorer", "length")
    assert "│ 2 │ 1e+300 │ 1e+300 │  0.000 │  1e+300 │  0.000 │ 1e+300 │" in output


def test_the_order_of_the_candidates_changes_no_curve(tmp_path: Path, fake_url: str):
    rows, shuffled = rows_of(15), []
    generator = random.Random(3)
    for row in rows:
        order = generator.sample(range(5), 5)
        columns = {name: [row[name][i] for i in order] for name in ("candidates", "preference")}
        shuffled.append(row | columns)
    options = ["--url", fake_url, "--gold", "preference", "--json"]
    one = document_of(run(write(tmp_path / "a.jsonl", rows), tmp_path / "a", *options))
    other = document_of(run(write(tmp_path / "b.jsonl", shuffled), tmp_path / "b", *options))
    assert one["counts"] == other["counts"]
    curves = ([*document["curve"], *document["gold"]["curve"]] for document in (one, other))
    for point, same in zip(*curves, strict=True):
        assert point.keys() == same.keys()
        for name, estimate in point.items():
            if isinstance(estimate, dict):
                assert estimate["mean"] == pytest.approx(same[name]["mean"], abs=1e-12)
                if estimate["ci95"] and point["n"] > 1:
                    assert estimate["ci95"] == pytest.approx(same[name]["ci95"], abs=1e-12)


def test_failed_prompts_are_counted_and_in_no_curve(
    tmp_path: Path, fake_service: FakeService, fake_url: str
):
    rows = rows_of(6)
    rows[4]["candidates"], rows[4]["preference"] = [], []
    file, out = write(tmp_path / "rows.jsonl", rows), tmp_path / "out"
    fake_service.errors[rows[1]["candidates"][0]] = (422, "input_too_long")
    output = run(file, out, "--url", fake_url, "--gold", "preference", "--json")
    document = document_of(output)
    assert document["counts"]["prompts"] == 6
    assert document["counts"]["ranked"] == 4
    assert document["counts"]["errors_by_code"] == {"input_too_long": 1, "no_candidates": 1}
    assert {point["prompts"] for point in document["curve"]} == {4}
    ranked = lines(out / "ranking.jsonl")
    assert [line["id"] for line in ranked] == [0, 1, 2, 3, 4, 5]
    assert [line["error"]["code"] for line in ranked if "error" in line] == [
        "input_too_long",
        "no_candidates",
    ]
    assert len(json.loads((out / "alpaca_eval.json").read_text())) == 4
    assert "2 of 6 prompts failed and are in no curve" in run(file, out, "--url", fake_url)


def test_prompts_with_fewer_candidates_end_earlier(tmp_path: Path):
    rows = [{"prompt": "p", "candidates": ["a"] * count} for count in (1, 3, 3, 2)]
    file = write(tmp_path / "rows.jsonl", rows)
    document = document_of(run(file, tmp_path / "out", "--scorer", "length", "--json"))
    assert [(p["n"], p["prompts"]) for p in document["curve"]] == [(1, 4), (2, 3), (3, 2)]
    assert document["gold"] is None


def test_a_run_that_was_ended_goes_on_to_the_same_bytes(
    tmp_path: Path, fake_service: FakeService, fake_url: str
):
    file = write(tmp_path / "rows.jsonl", rows_of(20))
    options = ["--url", fake_url, "--gold", "preference", "--concurrency", "3"]
    run(file, tmp_path / "whole", *options, pictures=True)
    fake_service.asked.clear()
    fake_service.changes_after = 7
    message = run(file, tmp_path / "parts", *options, exit_code=1)
    assert "prompts are kept" in message
    fake_service.changes_after = None
    run(file, tmp_path / "parts", *options, pictures=True)
    names = {file.name for file in (tmp_path / "whole").iterdir()}
    assert names == {
        "run.json",
        "scores.jsonl",
        "ranking.jsonl",
        "alpaca_eval.json",
        "results.json",
        "scores.png",
        "gold.png",
    }
    for name in names - {"results.json"}:
        whole, parts = ((tmp_path / each / name).read_bytes() for each in ("whole", "parts"))
        assert whole == parts, name
    whole, parts = (
        json.loads((tmp_path / each / "results.json").read_text()) for each in ("whole", "parts")
    )
    for document in (whole, parts):
        del document["provenance"]["time"]
    assert whole == parts


def test_other_known_values_need_no_other_scores(
    tmp_path: Path, fake_service: FakeService, fake_url: str
):
    rows = [row | {"gold": [1, 0, 0, 0, 0]} for row in rows_of(4)]
    file, out = write(tmp_path / "rows.jsonl", rows), tmp_path / "out"
    first = document_of(run(file, out, "--url", fake_url, "--json"))
    asked = fake_service.asked.total()
    second = document_of(run(file, out, "--url", fake_url, "--gold", "preference", "--json"))
    assert fake_service.asked.total() == asked
    assert (first["gold"]["column"], second["gold"]["column"]) == ("gold", "preference")
    assert first["curve"] == second["curve"]
    assert first["gold"]["curve"] != second["gold"]["curve"]


def test_only_some_prompts_can_be_ranked(tmp_path: Path):
    file = write(tmp_path / "rows.jsonl", rows_of(9))
    options = ["--scorer", "length", "--subset", "odd", "--limit", "3", "--json"]
    document = document_of(run(file, tmp_path / "out", *options))
    assert document["counts"]["ranked"] == 3
    assert [line["id"] for line in lines(tmp_path / "out" / "ranking.jsonl")] == [1, 3, 5]
    picks = json.loads((tmp_path / "out" / "alpaca_eval.json").read_text())
    assert [pick["instruction"] for pick in picks] == ["prompt 1", "prompt 3", "prompt 5"]


def cut_by_hand(rows: list[Row], count: int) -> list[Row]:
    columns = ("candidates", "preference")
    return [row | {name: row[name][:count] for name in columns} for row in rows]


@pytest.mark.parametrize("count", [1, 3, 5, 9])
def test_the_best_of_the_first_is_what_a_file_of_the_first_gives(
    tmp_path: Path, fake_service: FakeService, fake_url: str, count: int
):
    rows = rows_of(12)
    options = ["--url", fake_url, "--gold", "preference", "--generator", "ours", "--json"]
    by_hand = write(tmp_path / "cut.jsonl", cut_by_hand(rows, count))
    expected = document_of(run(by_hand, tmp_path / "cut", *options))
    whole = document_of(run(write(tmp_path / "rows.jsonl", rows), tmp_path / "whole", *options))
    fake_service.requests.clear()
    options += ["--best-of", str(count)]
    document = document_of(run(tmp_path / "rows.jsonl", tmp_path / "first", *options))
    asked = [request["inputs"][0]["completions"] for request in fake_service.requests]
    assert sorted(asked) == sorted(row["candidates"][:count] for row in rows)
    for name in ("scores.jsonl", "ranking.jsonl", "alpaca_eval.json"):
        first, cut = ((tmp_path / each / name).read_bytes() for each in ("first", "cut"))
        assert first == cut, name
    for name in ("counts", "curve", "gold"):
        assert document[name] == expected[name], name
    assert document["best_of"] == {"n": count, "prompts_with_fewer": 12 if count == 9 else 0}
    assert whole["best_of"] is None
    # They are of one dataset, as with --limit.
    data = [each["provenance"]["dataset"] for each in (document, whole)]
    assert data[0] == data[1]


def test_prompts_with_fewer_candidates_take_part_and_are_counted(tmp_path: Path):
    counts = (1, 3, 4, 0, 2, 3)
    rows = [
        {"prompt": "p", "candidates": ["a" * i for i in range(count)], "gold": [*range(count)]}
        for count in counts
    ]
    file, options = write(tmp_path / "rows.jsonl", rows), ["--scorer", "length", "--best-of", "3"]
    document = document_of(run(file, tmp_path / "out", *options, "--json"))
    assert document["best_of"] == {"n": 3, "prompts_with_fewer": 3}
    assert document["counts"]["candidates"] == 1 + 3 + 3 + 0 + 2 + 3
    assert [(p["n"], p["prompts"]) for p in document["curve"]] == [(1, 5), (2, 4), (3, 3)]
    for each in (scores_figure(document), gold_figure(document)):
        words = " ".join(ET.fromstring(plots.to_svg(each)).itertext()).split()
        assert "among the first 3 candidates;" in " ".join(words)
    remark = "Only the first 3 candidates of each prompt took part; 3 of 6 prompts have fewer."
    assert remark in run(file, tmp_path / "out", *options)
    assert "Only the first" not in run(file, tmp_path / "all", "--scorer", "length")
    generators = {
        pick["generator"]
        for pick in json.loads((tmp_path / "out" / "alpaca_eval.json").read_text())
    }
    assert generators == {"best-of-3 length"}


def test_a_directory_is_of_the_best_of_one_number(tmp_path: Path):
    file, out = write(tmp_path / "rows.jsonl", rows_of(4)), tmp_path / "out"
    run(file, out, "--scorer", "length")
    refused = run(file, out, "--scorer", "length", "--best-of", "4", exit_code=2)
    assert "holds a run with best_of null, but this one has 4: choose another --out" in refused
    # Of earlier versions, which knew nothing of it.
    identity = json.loads((out / "run.json").read_text())
    assert identity.pop("best_of") is None
    (out / "run.json").write_text(json.dumps(identity))
    whole = (out / "scores.jsonl").read_bytes()
    (out / "scores.jsonl").write_bytes(whole[: len(whole) // 2])
    run(file, out, "--scorer", "length")
    assert (out / "scores.jsonl").read_bytes() == whole
    refused = run(file, out, "--scorer", "length", "--best-of", "4", exit_code=2)
    assert "holds a run with best_of null" in refused
    run(file, tmp_path / "four", "--scorer", "length", "--best-of", "4")
    for other in ([], ["--best-of", "3"]):
        refused = run(file, tmp_path / "four", "--scorer", "length", *other, exit_code=2)
        assert "holds a run with best_of 4" in refused


def test_candidates_may_be_a_hub_dataset(tmp_path: Path):
    rows = rows_of(6)
    folder = tmp_path / "repository"
    folder.mkdir()
    file = write(folder / "train.jsonl", rows)
    options = ["--scorer", "length", "--gold", "preference"]
    run(Path(f"{folder}:train"), tmp_path / "hub", *options)
    run(file, tmp_path / "file", *options)
    for name in ("scores.jsonl", "ranking.jsonl", "alpaca_eval.json"):
        hub, local = ((tmp_path / each / name).read_bytes() for each in ("hub", "file"))
        assert hub == local, name
    document = json.loads((tmp_path / "hub" / "results.json").read_text())
    assert document["provenance"]["dataset"]["path"] == f"{folder}:train"


def test_a_long_curve_is_shown_at_powers_of_two(tmp_path: Path):
    rows = [{"prompt": "p", "candidates": ["a" * i for i in range(40)]}]
    output = run(write(tmp_path / "rows.jsonl", rows), tmp_path / "out", "--scorer", "length")
    shown = [line.split("│")[1].strip() for line in output.splitlines() if line.startswith("│")]
    assert shown == ["1", "2", "4", "8", "16", "32", "40"]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], [], "has no rows"),
        ([{"prompt": "p"}], [], "line 1: column 'candidates' is missing"),
        ([{"prompt": "p", "candidates": ["a"]}], ["--gold", "g"], "column 'g' is missing"),
        ([{"prompt": "p", "candidates": ["a"], "id": 1}] * 2, [], "must be unique"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_is_written(
    tmp_path: Path, rows: list[Row], options: list[str], message: str
):
    file, out = write(tmp_path / "rows.jsonl", rows), tmp_path / "out"
    assert message in run(file, out, "--scorer", "length", *options, exit_code=2)
    assert not out.exists()


def test_a_run_of_preferences_is_not_continued(tmp_path: Path, write_pairs: Callable[..., Path]):
    out = tmp_path / "out"
    pairs = write_pairs(2)
    options = ["--dataset", str(pairs), "--scorer", "length", "--out", str(out)]
    assert CliRunner().invoke(app, ["run", *options]).exit_code == 0
    before = {file: file.read_bytes() for file in out.iterdir()}
    file = write(tmp_path / "rows.jsonl", rows_of(2))
    message = run(file, out, "--scorer", "length", exit_code=2)
    assert 'command "run"' in message
    assert {file: file.read_bytes() for file in out.iterdir()} == before


def test_a_served_model_ranks_as_its_scores_say(tmp_path: Path, service_url: str):
    texts = ["Paris.", "", "I do not know that.", "It is Paris, on the Seine.", "Paris."]
    rows = [{"messages": [{"role": "user", "content": "Capital?"}], "candidates": texts}]
    file, out = write(tmp_path / "rows.jsonl", rows), tmp_path / "out"
    run(file, out, "--url", service_url)
    with RewardClient(service_url) as client:
        scores = client.score(rows[0]["messages"], texts)
    [line] = lines(out / "ranking.jsonl")
    assert line["scores"] == pytest.approx(scores, abs=1e-5)
    assert line["order"] == sorted(range(5), key=lambda i: -line["scores"][i])


def test_a_pairwise_model_ranks_by_win_rates(
    tmp_path: Path, debug_folder: Path, start_service: Callable[..., str]
):
    folder, _ = write_slic(tmp_path / "model", debug_folder)
    url = start_service(model_id=str(folder), **settings_of("slic"))
    texts = ["The Danube.", "No idea", "It flows to the sea", "12"]
    file = write(tmp_path / "rows.jsonl", [{"prompt": "Which river?", "candidates": texts}])
    run(file, tmp_path / "out", "--url", url)
    with RewardClient(url) as client:
        [ranked] = client.rank_many([{"prompt": "Which river?", "completions": texts}]).results
    [line] = lines(tmp_path / "out" / "ranking.jsonl")
    assert line["scores"] == pytest.approx(ranked.win_rates, abs=1e-5)
    assert line["pick"] == ranked.order[0]
    # Among fewer candidates, each wins at another rate.
    run(file, tmp_path / "three", "--url", url, "--best-of", "3")
    with RewardClient(url) as client:
        [fewer] = client.rank_many([{"prompt": "Which river?", "completions": texts[:3]}]).results
    [line] = lines(tmp_path / "three" / "ranking.jsonl")
    assert line["scores"] == pytest.approx(fewer.win_rates, abs=1e-5)
    assert line["scores"] != pytest.approx(ranked.win_rates[:3], abs=1e-5)
