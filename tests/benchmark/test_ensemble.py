"""Ensembles against plain NumPy over the members' own score files."""

import csv
import json
import random
import sys
from collections.abc import Callable
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stamina
from typer.testing import CliRunner

from reward_benchmark.cli import app
from reward_benchmark.ensemble import combined
from reward_benchmark.saved_run import open_saved_run

from .conftest import FakeService

Line = dict[str, Any]
MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path, write_pairs: Callable[..., Path]) -> MakeRun:
    """Makes a saved run on one file of pairs, with scores of its own in place of the lengths."""

    def make(
        name: str,
        scores: Callable[[int, int], float],
        *,
        count: int = 40,
        failed: tuple[int, ...] = (),
        lacking: tuple[int, ...] = (),
    ) -> Path:
        # The ids of the two subsets repeat, as RewardBench's do.
        pairs = write_pairs(count, **{f"row_{i}": {"id": i // 2} for i in range(count)})
        out = tmp_path / name
        arguments = ["run", "--dataset", str(pairs), "--scorer", "length", "--out", str(out)]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.stderr
        lines = []
        for i, line in enumerate(lines_of(out)):
            line["scores"] = [scores(i, j) for j in range(2)]
            if i in failed:
                del line["scores"], line["num_tokens"]
                line["error"] = {"code": "input_too_long", "message": f"pair {i} is too long"}
            if i not in lacking:
                lines.append(json.dumps(line) + "\n")
        (out / "scores.jsonl").write_text("".join(lines))
        document = json.loads((out / "results.json").read_text()) | {"model": f"org/{name}"}
        document["counts"]["groups"] = len(lines)
        (out / "results.json").write_text(json.dumps(document))
        return out

    return make


def lines_of(out: Path) -> list[Line]:
    return [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]


def at_random(seed: int, *, scale: float = 1.0, offset: float = 0.0) -> Callable[..., float]:
    generator = random.Random(seed)
    return lambda i, j: offset + scale * generator.gauss(0.3 * (j == 0), 1)


def run(out: Path, *arguments: object, exit_code: int = 0) -> str:
    with stamina.set_testing(True):
        result = CliRunner().invoke(
            app, ["ensemble", "--out", str(out), *map(str, arguments)], env={"COLUMNS": "200"}
        )
    assert result.exit_code == exit_code, result.output
    return result.stdout if exit_code == 0 else result.stderr


def document_of(output: str) -> Line:
    document: Line = json.loads(output.splitlines()[-1])
    return document


AGGREGATES = {
    "mean": lambda z: z.mean(axis=0),
    "worst": lambda z: z.min(axis=0),
    "uncertainty": lambda z: z.mean(axis=0) - z.std(axis=0),
}


def plainly(runs: list[Path], mode: str, *, raw: bool = False) -> np.ndarray:
    """The combined scores of runs that have all pairs."""
    members = [np.array([line["scores"] for line in lines_of(run)]) for run in runs]
    if raw:
        return AGGREGATES[mode](np.array(members))
    return AGGREGATES[mode](np.array([(m - m.mean()) / m.std() for m in members]))


@pytest.fixture
def three(make_run: MakeRun) -> list[Path]:
    """Members on very different scales."""
    return [
        make_run("a", at_random(1)),
        make_run("b", at_random(2, scale=40, offset=-900)),
        make_run("c", at_random(3, scale=0.01, offset=7)),
    ]


@pytest.mark.parametrize("mode", ["mean", "worst", "uncertainty"])
def test_an_ensemble_is_what_numpy_makes_of_the_z_scores(
    tmp_path: Path, three: list[Path], mode: str
):
    document = document_of(run(tmp_path / "out", *three, "--mode", mode, "--json"))
    expected = plainly(three, mode)
    lines = lines_of(tmp_path / "out")
    assert [line["scores"] for line in lines] == [pytest.approx(pair) for pair in expected.tolist()]
    wins = expected[:, 0] > expected[:, 1]
    assert document["counts"]["wins"] == wins.sum()
    assert document["overall"] == pytest.approx(wins.mean())
    for place, subset in enumerate(("even", "odd")):
        assert document["subsets"][subset]["accuracy"] == pytest.approx(wins[place::2].mean())
    for member, path in zip(document["members"], three, strict=True):
        scores = np.array([line["scores"] for line in lines_of(path)])
        assert member["name"] == f"org/{path.name}"
        assert member["score"] == pytest.approx((scores[:, 0] > scores[:, 1]).mean())
        assert member["mean"] == pytest.approx(scores.mean())
        assert member["standard_deviation"] == pytest.approx(scores.std())


@pytest.mark.parametrize("mode", ["mean", "worst", "uncertainty"])
def test_a_raw_ensemble_is_what_numpy_makes_of_the_scores(
    tmp_path: Path, three: list[Path], mode: str
):
    options = ["--raw", "--mode", mode, "--json"]
    document = document_of(run(tmp_path / "out", *three, *options))
    expected = plainly(three, mode, raw=True)
    lines = lines_of(tmp_path / "out")
    assert [line["scores"] for line in lines] == [pytest.approx(pair) for pair in expected.tolist()]
    wins = expected[:, 0] > expected[:, 1]
    assert document["counts"]["wins"] == wins.sum()
    assert wins.tolist() != (np.diff(plainly(three, mode))[:, 0] < 0).tolist()
    assert document["model"] == f"raw {mode} of org/a, org/b, org/c"
    assert document["provenance"]["run"]["raw"] is True
    for member, path in zip(document["members"], three, strict=True):
        scores = np.array([line["scores"] for line in lines_of(path)])
        assert member["mean"] == pytest.approx(scores.mean())
        assert member["standard_deviation"] == pytest.approx(scores.std())
    run(tmp_path / "other", *reversed(three), *options)
    assert lines_of(tmp_path / "other") == lines


def test_scores_as_they_are_are_told_from_z_scores(tmp_path: Path, three: list[Path]):
    remark = "The members' scores were combined as they are"
    whole = {}
    for name, options, others in (("z", [], ["--raw"]), ("raw", ["--raw"], [])):
        out = tmp_path / name
        assert (remark in run(out, *three, *options)) == (name == "raw")
        scores = whole[name] = (out / "scores.jsonl").read_bytes()
        message = run(out, *three, *others, exit_code=2)
        assert "holds a run with raw" in message
        assert "choose another --out" in message
        # Half of the lines, as of a run that was ended.
        (out / "scores.jsonl").write_bytes(scores[: len(scores) // 2])
        run(out, *three, *options)
        assert (out / "scores.jsonl").read_bytes() == scores
    assert whole["z"] != whole["raw"]
    # Earlier versions knew nothing of it, and their directories are continued.
    assert "raw" not in json.loads((tmp_path / "z" / "run.json").read_text())


def test_a_sweep_of_raw_ensembles_measures_raw_ensembles(tmp_path: Path, three: list[Path]):
    document = document_of(run(tmp_path / "out", *three, "--raw", "--sweep", "--json"))
    seen = set()
    for row in document["sweep"]:
        members = [path for path in three if f"org/{path.name}" in row["members"]]
        kind, mode = row["mode"].split()
        expected = plainly(members, mode, raw=True)
        assert kind == "raw"
        assert row["score"] == pytest.approx((expected[:, 0] > expected[:, 1]).mean())
        seen.add((*row["members"], mode))
    assert len(seen) == 12
    table = csv.DictReader((tmp_path / "out" / "sweep.csv").read_text().splitlines())
    assert {row["mode"] for row in table} == {"raw mean", "raw worst", "raw uncertainty"}


def test_a_member_with_equal_scores_shifts_a_raw_mean_and_does_no_more(
    tmp_path: Path, make_run: MakeRun
):
    runs = [make_run("a", at_random(1)), make_run("constant", lambda i, j: 0.1)]
    document = document_of(run(tmp_path / "out", *runs, "--raw", "--json"))
    [_, constant] = document["members"]
    assert (constant["mean"], constant["standard_deviation"]) == (0.1, 0.0)
    for line, own in zip(lines_of(tmp_path / "out"), lines_of(runs[0]), strict=True):
        assert line["scores"] == pytest.approx([(score + 0.1) / 2 for score in own["scores"]])


def test_the_largest_scores_have_a_raw_mean(tmp_path: Path, make_run: MakeRun):
    largest = sys.float_info.max
    runs = [make_run(name, lambda i, j: largest if j == i % 2 else -largest) for name in "ab"]
    document = document_of(run(tmp_path / "out", *runs, "--raw", "--json"))
    assert [line["scores"] for line in lines_of(tmp_path / "out")] == [
        [largest, -largest] if i % 2 == 0 else [-largest, largest] for i in range(40)
    ]
    assert document["counts"]["wins"] == 20
    for member in document["members"]:
        assert (member["mean"], member["standard_deviation"]) == (0.0, pytest.approx(largest))
    nearly = np.nextafter(largest, 0).item()
    runs = [make_run(name, lambda i, j: largest if i + j else nearly) for name in "cd"]
    document = document_of(run(tmp_path / "nearly", *runs, "--raw", "--json"))
    assert nearly <= document["members"][0]["mean"] <= largest


def test_an_ensemble_is_a_run_like_any_other(tmp_path: Path, three: list[Path]):
    run(tmp_path / "two", *three[:2])
    saved = open_saved_run(tmp_path / "two")
    assert saved.model == "mean of org/a, org/b"
    assert saved.dataset_sha256 == open_saved_run(three[0]).dataset_sha256
    outcomes = [*saved.outcomes()]
    assert [o.key for o in outcomes] == [o.key for o in open_saved_run(three[0]).outcomes()]
    assert all(outcome.num_characters for outcome in outcomes)
    run(tmp_path / "nested", tmp_path / "two", three[2])
    assert json.loads((tmp_path / "two" / "rewardbench.json").read_text())["even"] > 0


def test_the_order_of_the_members_changes_no_score(tmp_path: Path, three: list[Path]):
    run(tmp_path / "one", *three)
    run(tmp_path / "other", *reversed(three))
    assert lines_of(tmp_path / "one") == lines_of(tmp_path / "other")


def test_a_pair_on_which_all_members_tie_is_a_tie(tmp_path: Path, make_run: MakeRun):
    runs = []
    for seed in range(3):
        scores = at_random(seed)
        tied = {i: scores(i, 0) for i in range(0, 40, 3)}
        runs.append(make_run(f"m{seed}", lambda i, j, t=tied, s=scores: t.get(i) or s(i, j)))
    document = document_of(run(tmp_path / "out", *runs, "--json"))
    assert document["counts"]["ties"] == 14


def test_groups_that_a_member_lacks_or_failed_on_are_counted_errors(
    tmp_path: Path, make_run: MakeRun
):
    a = make_run("a", at_random(1), failed=(3,), lacking=(8,))
    b = make_run("b", at_random(2), failed=(3, 5))
    document = document_of(run(tmp_path / "out", a, b, "--json"))
    lines = lines_of(tmp_path / "out")
    assert len(lines) == 40
    errors = {(line["subset"], line["id"]): line["error"] for line in lines if "error" in line}
    assert document["counts"]["errors_by_code"] == {"member_without_scores": 3}
    assert errors.keys() == {("odd", 1), ("odd", 2), ("even", 4)}
    assert errors["odd", 1]["message"] == (
        "org/a: input_too_long: pair 3 is too long; org/b: input_too_long: pair 3 is too long"
    )
    assert errors["odd", 2]["message"] == "org/b: input_too_long: pair 5 is too long"
    assert errors["even", 4]["message"] == "org/a: not in its run"
    # Each member is standardised over all that it scored, not only over what all did.
    own = {(line["subset"], line["id"]): line.get("scores") for line in lines_of(b)}
    scores = np.array([pair for pair in own.values() if pair])
    assert document["members"][1]["mean"] == pytest.approx(scores.mean())


def test_a_sweep_measures_every_combination_in_every_mode(tmp_path: Path, three: list[Path]):
    document = document_of(run(tmp_path / "out", *three, "--sweep", "--json"))
    sweep = document["sweep"]
    assert len(sweep) == 12
    assert [row["score"] for row in sweep] == sorted((r["score"] for r in sweep), reverse=True)
    seen = set()
    for row in sweep:
        members = [path for path in three if f"org/{path.name}" in row["members"]]
        expected = plainly(members, row["mode"])
        assert row["score"] == pytest.approx((expected[:, 0] > expected[:, 1]).mean())
        assert row["ci95"][0] < row["score"] < row["ci95"][1]
        seen.add((*row["members"], row["mode"]))
    assert len(seen) == 12
    table = [*csv.DictReader((tmp_path / "out" / "sweep.csv").read_text().splitlines())]
    assert [row["members"] for row in table] == [" + ".join(row["members"]) for row in sweep]
    assert [float(row["score"]) for row in table] == [row["score"] for row in sweep]


def test_several_runs_of_one_model_are_told_apart(tmp_path: Path, make_run: MakeRun):
    runs = [make_run("a", at_random(1)), make_run("b", at_random(2))]
    for path in runs:
        document = json.loads((path / "results.json").read_text()) | {"model": "m"}
        (path / "results.json").write_text(json.dumps(document))
    document = document_of(run(tmp_path / "out", *runs, "--json"))
    assert [each["name"] for each in document["members"]] == [f"m ({path})" for path in runs]


def test_the_same_command_writes_the_same_bytes_again_and_after_an_end(
    tmp_path: Path, three: list[Path]
):
    out = tmp_path / "out"
    run(out, *three)
    whole = (out / "scores.jsonl").read_bytes()
    (out / "scores.jsonl").write_bytes(whole[: len(whole) // 2])
    run(out, *three)
    assert (out / "scores.jsonl").read_bytes() == whole


def test_changed_members_are_not_mixed_with_earlier_results(
    tmp_path: Path, three: list[Path], make_run: MakeRun
):
    run(tmp_path / "out", *three)
    assert "has" in run(tmp_path / "out", *three, "--mode", "worst", exit_code=2)
    make_run("a", at_random(99))
    message = run(tmp_path / "out", *three, exit_code=2)
    assert "members" in message
    assert "choose another --out" in message


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (["a"], "needs at least 2 members, not 1"),
        ([], "needs at least 2 members, not 0"),
        (["a", "a"], "is named 2 times"),
        (["a", "constant"], "org/constant gives every completion the score 0.1"),
        (["a", "failed"], "org/failed has no scores"),
        (["a", "failed", "--raw"], "org/failed has no scores"),
        (["a", "shorter"], "all must be of the same data"),
        (["a", "absent"], "absent holds no run"),
    ],
)
def test_what_makes_no_ensemble_is_refused(
    tmp_path: Path, make_run: MakeRun, members: list[str], message: str
):
    make_run("a", at_random(1), count=10)
    make_run("constant", lambda i, j: 0.1, count=10)
    make_run("failed", at_random(1), count=10, failed=tuple(range(10)))
    make_run("shorter", at_random(1), count=8)
    out = tmp_path / "out"
    assert message in run(
        out, *(name if name == "--raw" else tmp_path / name for name in members), exit_code=2
    )
    assert not out.exists()


def test_a_sweep_has_a_limit_of_members(tmp_path: Path, make_run: MakeRun):
    runs = [make_run(f"m{i}", at_random(i), count=2) for i in range(11)]
    assert "name at most 10" in run(tmp_path / "out", *runs, "--sweep", exit_code=2)


def test_services_are_members_too(
    tmp_path: Path, make_run: MakeRun, write_pairs: Callable[..., Path], fake_url: str
):
    other = make_run("other", at_random(1))
    pairs = write_pairs(40, **{f"row_{i}": {"id": i // 2} for i in range(40)})
    out = tmp_path / "out"
    options = ["--url", fake_url, "--dataset", pairs, "--json"]
    document = document_of(run(out, other, *options))
    assert [each["name"] for each in document["members"]] == ["org/other", "org/fake"]
    expected = plainly([other, out / "members" / "1"], "mean")
    assert [line["scores"] for line in lines_of(out)] == [
        pytest.approx(pair) for pair in expected.tolist()
    ]
    [first, *_] = lines_of(out / "members" / "1")
    assert first["scores"][0] == FakeService.score_of("chosen 0")


def test_services_need_data_and_data_needs_services(tmp_path: Path, fake_url: str):
    assert "--url needs --dataset" in run(tmp_path / "out", "--url", fake_url, exit_code=2)
    message = run(tmp_path / "out", "a", "--dataset", "sample", exit_code=2)
    assert "--dataset is for services" in message


def test_a_missing_score_stays_missing_in_every_mode():
    z_scores = np.array([[1.0, np.nan], [3.0, 2.0]])
    for mode, expected in (("mean", 2.0), ("worst", 1.0), ("uncertainty", 1.0)):
        scores = combined(z_scores, mode)
        assert scores[0] == expected
        assert np.isnan(scores[1])


def exactly(scores: list[float], mode: str) -> float:
    """One combined score in a thousand digits, at most the largest float."""
    with localcontext() as context:
        context.prec = 1000
        exact = [Decimal(score) for score in scores]
        mean = sum(exact) / len(exact)
        deviation = (sum((score - mean) ** 2 for score in exact) / len(exact)).sqrt()
        combination = mean if mode == "mean" else mean - deviation
        largest = Decimal(sys.float_info.max)
        return float(max(-largest, min(largest, combination)))


@pytest.mark.parametrize("mode", ["mean", "uncertainty"])
def test_scores_of_every_size_are_combined_as_exact_numbers_are(mode: str):
    generator = random.Random(0)
    columns = [[1e308, 1e308, 1e308], [sys.float_info.max] * 3, [5e-324] * 3, [0.0] * 3]
    for _ in range(300):
        exponent = generator.uniform(-320, 307)
        columns.append([generator.uniform(-9, 9) * 10**exponent for _ in range(3)])
        columns.append([generator.gauss(0, 1) * 10 ** generator.uniform(-3, 3) for _ in range(3)])
    combination = combined(np.array(columns).T, mode)
    for column, score in zip(columns, combination.tolist(), strict=True):
        # Members may cancel out: what is left is as exact as they are large.
        tolerance = max(1e-15 * max(map(abs, column)), 5e-324)
        assert score == pytest.approx(exactly(column, mode), rel=0, abs=tolerance), column


def test_a_cautious_mean_below_the_smallest_float_is_that_float():
    largest = sys.float_info.max
    column = [largest] + [-largest] * 6
    assert combined(np.array([column]).T, "uncertainty").tolist() == [-largest]
    assert exactly(column, "uncertainty") == -largest


@pytest.mark.parametrize("scale", [2.0**1020, 2.0**-1060])
def test_huge_and_tiny_scores_are_standardised_as_others(
    tmp_path: Path, make_run: MakeRun, scale: float
):
    # Few digits, so that none is lost where the smallest numbers have few.
    def coarse(seed: int, factor: float) -> Callable[[int, int], float]:
        return lambda i, j: factor * ((31 * i + 17 * j + 7 * seed) % 13 - 6)

    other = make_run("b", coarse(2, 1.0))
    plain, scaled = make_run("a", coarse(1, 1.0)), make_run("c", coarse(1, scale))
    run(tmp_path / "plain", plain, other)
    run(tmp_path / "scaled", scaled, other)
    lines = (tmp_path / "plain" / "scores.jsonl").read_bytes()
    assert (tmp_path / "scaled" / "scores.jsonl").read_bytes() == lines


def test_members_of_other_parts_are_refused(tmp_path: Path, make_run: MakeRun):
    whole, part = make_run("a", at_random(1)), make_run("b", at_random(2))
    results = part / "results.json"
    document = json.loads(results.read_text())
    document["provenance"]["dataset"]["limit"] = 20
    results.write_text(json.dumps(document))
    assert "are of other parts of pairs.jsonl" in run(tmp_path / "e", whole, part, exit_code=2)


def test_a_published_member_without_ids_is_matched_by_order(tmp_path: Path, make_run: MakeRun):
    runs = [make_run("a", at_random(1)), make_run("b", at_random(2))]
    run(tmp_path / "ours", *runs)
    arguments = ["export", str(runs[1]), "--out", str(tmp_path / "files")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    published = tmp_path / "files" / "eval-set-scores" / "org" / "b.json"
    columns = json.loads(published.read_text())
    del columns["id"]
    published.write_text(json.dumps(columns))
    run(tmp_path / "mixed", runs[0], published)
    scores = [[line["scores"] for line in lines_of(tmp_path / name)] for name in ("ours", "mixed")]
    assert scores[0] == scores[1]
    columns = {
        name: values[:-1] if isinstance(values, list) else values
        for name, values in columns.items()
    }
    published.write_text(json.dumps(columns))
    refusal = run(tmp_path / "short", runs[0], published, exit_code=2)
    assert "have different numbers of them" in refusal
