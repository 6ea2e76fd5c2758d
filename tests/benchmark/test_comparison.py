"""Comparisons of runs against brute force: every way in which fair coins might have fallen."""

import dataclasses
import gc
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from reward_benchmark.cli import app
from reward_benchmark.comparison import (
    ComparisonError,
    Difference,
    clearest,
    compare,
    comparison_document,
    verdict,
)
from reward_benchmark.comparison import difference as differences
from reward_benchmark.comparison_tables import differences_table, markdown
from reward_benchmark.datasets import Selection
from reward_benchmark.datasets.rewardbench import REWARDBENCH, SECTIONS
from reward_benchmark.datasets.ties import ties
from reward_benchmark.errors import RunDirectoryError
from reward_benchmark.metrics import measure
from reward_benchmark.outcome import Outcome
from reward_benchmark.rewardbench_files import encoded, write_scores
from reward_benchmark.saved_run import SavedRun, open_run_dataset, open_saved_run, run_groups
from reward_benchmark.statistics import Interval

from .published_numbers import OVERALL_SHARES
from .scored_runs import (
    Judge,
    finished_run,
    pair_rows,
    random_judge,
    rewardbench_2_rows,
    write_rows,
)

SIZES = {"math-prm": 6, "hep-go": 7, "alpacaeval-easy": 5, "mt-bench-med": 4}

MakeRun = Callable[..., SavedRun]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Runs by name, all of RewardBench's core set unless said otherwise."""
    rows = write_rows(tmp_path / "rows.jsonl", pair_rows(SIZES))

    def make(name: str, judge: Judge, *, dataset: str = f"rewardbench={rows}", **rest: Any):
        out = finished_run(tmp_path / name, dataset, judge, model=f"org/{name}", **rest)
        return open_saved_run(out)

    return make


def as_file(run: SavedRun, path: Path, **changed: Any) -> SavedRun:
    """The run as RewardBench would have published it."""
    groups = run_groups(run, open_run_dataset(run))
    scored = zip(groups, run.outcomes(), strict=True)
    of_pairs = run.benchmark.name != "rewardbench-2"
    write_scores(path, run.document, run.benchmark, scored, of_pairs=of_pairs)
    document = json.loads(path.read_bytes()) | changed
    path.write_bytes(encoded({k: v for k, v in document.items() if v is not None}))
    return open_saved_run(path)


def two_sided(worths: Sequence[Fraction], observed: Fraction) -> float:
    """How often fair coins move a sum at least as far as it was, by trying all of them."""
    far = sum(
        abs(sum((s * w for s, w in zip(signs, worths, strict=True)), Fraction())) >= abs(observed)
        for signs in product((-1, 1), repeat=len(worths))
    )
    return far / 2 ** len(worths)


def credits_by_hand(
    first: SavedRun, second: SavedRun
) -> dict[str, list[tuple[Fraction, Fraction]]]:
    """Both runs' wins in each subset, in RewardBench's words."""
    credits: dict[str, list[tuple[Fraction, Fraction]]] = {}
    for one, other in zip(first.outcomes(), second.outcomes(), strict=True):
        assert one.key == other.key
        wins = [
            Fraction(int(o.scores is not None and o.scores[0] > o.scores[1])) for o in (one, other)
        ]
        credits.setdefault(one.subset, []).append((wins[0], wins[1]))
    return credits


def check(
    difference: Difference,
    credits: Mapping[str, Sequence[tuple[Fraction, Fraction]]],
    weights: Mapping[str, int],
    *,
    tolerance: float,
) -> None:
    total = sum(weights[name] for name in credits)
    worths, value = [], Fraction()
    for name, pairs in credits.items():
        for one, other in pairs:
            worth = Fraction(weights[name], total * len(pairs)) * (one - other)
            value += worth
            worths += [worth] if worth else []
    assert difference.estimate.value == pytest.approx(float(value))
    assert difference.first - difference.second == pytest.approx(float(value))
    assert difference.count == sum(map(len, credits.values()))
    assert difference.discordant == (
        sum(worth > 0 for worth in worths),
        sum(worth < 0 for worth in worths),
    )
    assert len(worths) <= 16, "too many coins to try all"
    assert difference.p_value == pytest.approx(two_sided(worths, value), abs=tolerance)
    assert difference.exact == (len({abs(worth) for worth in worths}) <= 1)


@pytest.mark.parametrize("seeds", [(1, 2), (3, 4), (5, 6)])
def test_differences_and_tests_are_those_of_all_coins(make_run: MakeRun, seeds: tuple[int, int]):
    first, second = (make_run(f"m{seed}", random_judge(seed)) for seed in seeds)
    comparison = compare(first, second)
    credits = credits_by_hand(first, second)
    for name, difference in comparison.subsets.items():
        check(difference, {name: credits[name]}, {name: 1}, tolerance=1e-12)
    chat = {name: credits[name] for name in ("alpacaeval-easy", "mt-bench-med")}
    reasoning = {name: credits[name] for name in ("math-prm", "hep-go")}
    # RewardBench's weights do not follow these small counts, so the test draws coins at random.
    weights = {"alpacaeval-easy": 100, "mt-bench-med": 40, "math-prm": 984, "hep-go": 164}
    check(comparison.sections["Chat"], chat, weights, tolerance=0.01)
    check(comparison.sections["Reasoning"], reasoning, weights, tolerance=0.01)
    section = {"alpacaeval-easy": 140, "mt-bench-med": 140, "math-prm": 1148, "hep-go": 1148}
    scale = math.prod(section.values())
    alike = {name: weights[name] * scale // section[name] for name in weights}
    check(comparison.overall, credits, alike, tolerance=0.01)
    assert comparison.alike is not None
    together = {"": [pair for pairs in credits.values() for pair in pairs]}
    check(comparison.alike, together, {"": 1}, tolerance=1e-12)

    metrics = [measure(run.outcomes(), run.benchmark) for run in (first, second)]
    ours = [comparison.overall.first, comparison.overall.second]
    assert ours == pytest.approx([one.overall.value for one in metrics])
    for name, difference in comparison.sections.items():
        ours = [difference.first, difference.second]
        assert ours == pytest.approx([one.sections[name].value for one in metrics])


def test_weights_that_follow_the_counts_keep_the_test_exact(make_run: MakeRun, tmp_path: Path):
    # RewardBench's own numbers of pairs: rounding must not tell them apart.
    rows = pair_rows(SECTIONS["Chat"])
    dataset = f"rewardbench={write_rows(tmp_path / 'chat.jsonl', rows)}"
    first, second = (make_run(f"m{i}", random_judge(i), dataset=dataset) for i in (1, 2))
    section = compare(first, second).sections["Chat"]
    assert section.exact
    better, worse = section.discordant
    tail = sum(math.comb(better + worse, k) for k in range(min(better, worse) + 1))
    assert section.p_value == pytest.approx(min(1, 2 * tail / 2 ** (better + worse)))


def test_swapping_the_runs_turns_every_sign(make_run: MakeRun):
    first, second = make_run("a", random_judge(1)), make_run("b", random_judge(2))
    there, back = compare(first, second), compare(second, first)
    assert there.overall.estimate.value == -back.overall.estimate.value
    for one, other in zip(there.subsets.values(), back.subsets.values(), strict=True):
        assert one.discordant == other.discordant[::-1]
        assert one.p_value == pytest.approx(other.p_value)
        assert one.estimate.interval is not None
        assert other.estimate.interval is not None
        assert one.estimate.interval.low == pytest.approx(-other.estimate.interval.high)
    assert [flip.key for flip in there.flips] == [flip.key for flip in back.flips]


def test_holm_corrects_subsets_and_sections_each_among_themselves(make_run: MakeRun):
    comparison = compare(make_run("a", random_judge(1)), make_run("b", random_judge(8)))
    for family in (comparison.subsets, comparison.sections):
        ordered = sorted(family.values(), key=lambda difference: difference.p_value)
        largest = 0.0
        for rank, difference in enumerate(ordered):
            largest = max(largest, min(1.0, (len(family) - rank) * difference.p_value))
            assert difference.p_holm == pytest.approx(largest)
    assert comparison.overall.p_holm is None
    assert comparison_document(comparison)["holm_over"] == {"sections": 2, "subsets": 4}


@pytest.mark.parametrize(
    ("rates", "limit"),
    [
        ((0.01, 0.001), 5000),
        ((0.02, 0.005), 5000),
        ((0.02, 0.02), 5000),
        ((0.2, 0.15), 5000),
        ((0.2, 0.1), 20),
        ((0.5, 0.3), 8),
    ],
)
def test_interval_and_test_say_the_same_of_rewardbenchs_overall_number(
    rates: tuple[float, float], limit: int
):
    generator = np.random.default_rng(11)
    for _ in range(10):
        credits = {}
        for subset in OVERALL_SHARES:
            size = min(limit, REWARDBENCH.counts[subset])
            gained, lost, _ = generator.multinomial(size, [*rates, 1 - sum(rates)]).tolist()
            both = {(1.0, 0.0): gained, (0.0, 1.0): lost, (1.0, 1.0): size - gained - lost}
            credits[subset] = Counter(both)
        overall = differences.difference(credits, OVERALL_SHARES)
        low, high = overall.estimate.interval or (0, 0)
        if not 0.04 < overall.p_value < 0.06:  # where a test from random draws may be of two minds
            assert (overall.p_value <= 0.05) == (not low <= 0 <= high)


def test_a_verdict_says_so_where_interval_and_test_do_not_agree(make_run: MakeRun):
    comparison = compare(make_run("a", lambda _: (1.0, 0.0)), make_run("b", lambda _: (0.0, 1.0)))
    assert "do not agree" not in verdict(comparison)
    beside = comparison.overall.estimate._replace(interval=Interval(-0.1, 0.9))
    borderline = dataclasses.replace(
        comparison, overall=dataclasses.replace(comparison.overall, estimate=beside)
    )
    assert verdict(borderline).endswith("The interval and the test do not agree.")


def test_a_run_does_not_differ_from_itself(make_run: MakeRun):
    run = make_run("a", random_judge(1))
    comparison = compare(run, run)
    assert comparison.flips == ()
    assert comparison.overall.p_value == 1
    assert comparison.overall.discordant.cohens_g is None
    assert verdict(comparison).startswith("No difference can be shown: A (org/a) and B (org/a)")


def test_a_better_run_is_called_better_from_either_side(make_run: MakeRun):
    best, worst = make_run("best", lambda _: (1.0, 0.0)), make_run("worst", lambda _: (0.0, 1.0))
    there, back = verdict(compare(best, worst)), verdict(compare(worst, best))
    assert there.startswith(
        "A (org/best) is better than B (org/worst) on 22 pairs of RewardBench: +100.0 points"
    )
    assert back.startswith("B (org/best) is better than A (org/worst) on 22 pairs of RewardBench:")
    assert there.split(": ")[1] == back.split(": ")[1]


def test_few_differences_show_nothing(make_run: MakeRun):
    first = make_run("a", lambda _: (1.0, 0.0))
    second = make_run("b", lambda group: (float(group.id != 0), 0.0))
    sentence = verdict(compare(first, second))
    assert sentence.startswith("No difference can be shown between A (org/a) and B (org/b) on 22")
    assert "95 % interval" in sentence
    assert "p = " in sentence


def test_fractional_credit_is_tested_by_its_amount(make_run: MakeRun, tmp_path: Path):
    rows = [
        {
            "id": i,
            "prompt": f"p{i}",
            "chosen": ["a", "b", "c"],
            "rejected": ["x", "y", "z"],
            "domain": "math",
        }
        for i in range(10)
    ]
    dataset = f"rm-bench={write_rows(tmp_path / 'rm.jsonl', rows)}"
    first, second = (make_run(f"m{i}", random_judge(i), dataset=dataset) for i in (1, 2))
    credits: dict[str, list[tuple[Fraction, Fraction]]] = {"math": [], "math/hard": []}
    for one, other in zip(first.outcomes(), second.outcomes(), strict=True):
        shares: dict[str, list[Fraction]] = {"math": [], "math/hard": []}
        for scores in (one.scores or (), other.scores or ()):
            won = {(i, j): scores[i] > scores[3 + j] for i in range(3) for j in range(3)}
            hard = [won[i, j] for i, j in won if j > i]
            shares["math"].append(Fraction(sum(won.values()), 9))
            shares["math/hard"].append(Fraction(sum(hard), 3))
        for name, (a, b) in shares.items():
            credits[name].append((a, b))
    comparison = compare(first, second)
    for name, pairs in credits.items():
        check(comparison.subsets[name], {name: pairs}, {name: 1}, tolerance=0.01)
    assert comparison.alike is None


def test_ties_of_rewardbench_2_are_compared_prompt_by_prompt(make_run: MakeRun, tmp_path: Path):
    dataset = f"rewardbench-2={write_rows(tmp_path / 'rb2.jsonl', rewardbench_2_rows())}"
    first, second = (make_run(f"m{i}", random_judge(i), dataset=dataset) for i in (1, 2))
    comparison = compare(first, second)
    numbers = [
        ties([outcome for outcome in run.outcomes() if outcome.subset == "Ties"]).value
        for run in (first, second)
    ]
    difference = comparison.subsets["Ties"]
    assert [difference.first, difference.second] == pytest.approx(numbers)
    assert difference.count == 14
    by_prompt = []
    for number in range(14):
        both = [
            ties([o for o in run.outcomes() if o.id in (f"ref:{number}", f"tied:{number}")]).value
            for run in (first, second)
        ]
        by_prompt.append(Fraction(both[0]) - Fraction(both[1]))
    coins = [worth for worth in by_prompt if worth]
    assert difference.p_value == pytest.approx(two_sided(coins, sum(coins)), abs=0.01)
    overall = [measure(run.outcomes(), run.benchmark).overall.value for run in (first, second)]
    assert [comparison.overall.first, comparison.overall.second] == pytest.approx(overall)
    assert comparison.overall.count == 5 * 12 + 14


def test_a_prompt_of_ties_without_its_counterpart_is_left_out(make_run: MakeRun, tmp_path: Path):
    rows = rewardbench_2_rows()[:-1]
    dataset = f"rewardbench-2={write_rows(tmp_path / 'rb2.jsonl', rows)}"
    first, second = (make_run(f"m{i}", random_judge(i), dataset=dataset) for i in (1, 2))
    comparison = compare(first, second)
    assert comparison.subsets["Ties"].count == 13
    assert "1 groups of Ties lack their counterpart" in " ".join(comparison.remarks)


def test_failed_groups_are_losses_and_groups_of_one_run_are_left_out(make_run: MakeRun):
    first = make_run("a", random_judge(1, failing=[0]))
    second = make_run(
        "b", random_judge(2, failing=[1, 2]), selection=Selection(frozenset({"math-prm", "hep-go"}))
    )
    comparison = compare(first, second)
    assert (comparison.compared, comparison.only_first, comparison.only_second) == (13, 9, 0)
    assert (comparison.first_failed, comparison.second_failed) == (2, 4)
    document = comparison_document(comparison)
    assert document["a"] | {"path": ""} == {
        "path": "",
        "model": "org/a",
        "fingerprint": None,
        "failed": 2,
        "only_here": 9,
    }
    text = markdown(comparison, {})
    assert "2 pairs have no scores of A, which counts as a loss." in text
    assert "9 pairs are left out because only A has them." in text
    won = [o.win for o in second.outcomes()]
    assert comparison.alike is not None
    assert comparison.alike.second == sum(won) / len(won)


@pytest.mark.parametrize("extra", [{"limit": 9}, {"subsets": frozenset({"hep-go"})}], ids=str)
def test_runs_that_are_in_step_for_a_while_are_matched_by_key(
    make_run: MakeRun, extra: dict[str, Any]
):
    whole = make_run("a", random_judge(1))
    part = make_run("b", random_judge(2), selection=Selection(**extra))
    wins, others = ({o.key: o.win for o in run.outcomes()} for run in (whole, part))
    for one, other in ((whole, part), (part, whole)):
        comparison = compare(one, other)
        assert comparison.compared == len(others) < len(wins)
        assert {comparison.only_first, comparison.only_second} == {0, len(wins) - len(others)}
        flipped = [flip.key for flip in comparison.flips]
        assert flipped == [key for key in others if wins[key] != others[key]]


def test_flips_keep_the_first_runs_order_whatever_the_seconds(make_run: MakeRun):
    first, second = make_run("a", lambda _: (1.0, 0.0)), make_run("b", lambda _: (0.0, 1.0))
    one, two, *rest = second.outcomes()
    swapped = dataclasses.replace(second, outcomes=lambda: iter([two, one, *rest]))
    flips = compare(first, swapped).flips
    assert [flip.key for flip in flips] == [outcome.key for outcome in first.outcomes()]
    assert all(flip.first.key == flip.second.key for flip in flips)


def test_runs_over_the_same_groups_are_not_held_in_memory(make_run: MakeRun):
    first, second = make_run("a", random_judge(1)), make_run("b", random_judge(1))
    held = []

    def watched() -> Iterator[Outcome]:
        for outcome in second.outcomes():
            yield outcome
            held.append(sum(type(thing) is Outcome for thing in gc.get_objects()))

    compare(first, dataclasses.replace(second, outcomes=watched))
    assert len(held) == sum(SIZES.values())
    assert max(held) - held[0] <= 1


def test_flips_are_the_groups_that_one_run_wins_and_the_other_loses(make_run: MakeRun):
    first, second = make_run("a", random_judge(1)), make_run("b", random_judge(2))
    comparison = compare(first, second)
    expected = {
        one.key: one.win
        for one, other in zip(first.outcomes(), second.outcomes(), strict=True)
        if one.win != other.win
    }
    assert {f.key: f.first_credit > f.second_credit for f in comparison.flips} == expected
    assert Counter(expected.values()) == {
        True: comparison.alike and comparison.alike.discordant.first,
        False: comparison.alike and comparison.alike.discordant.second,
    }


def test_the_clearest_flips_come_first_whatever_the_models_scales(make_run: MakeRun):
    # Between groups, the first model's margins differ by a tenth, the second's by five times.
    first = make_run("a", lambda group: (1000.0 if group.id == 0 else 1100.0, 0.0))
    second = make_run("b", lambda group: (-0.005 if group.id == 0 else -0.001, 0.0))
    for pair in ((first, second), (second, first)):
        ids = [flip.key[1] for flip in clearest(compare(*pair).flips)]
        assert ids == [0] * 4 + [i for i in ids if i != 0]
        assert len(ids) == 22


def test_a_foreign_subset_leaves_no_sections_as_in_a_run(make_run: MakeRun, tmp_path: Path):
    rows = write_rows(tmp_path / "mixed.jsonl", pair_rows({**SIZES, "of nobody": 3}))
    first, second = (make_run(f"m{i}", random_judge(i), dataset=str(rows)) for i in (1, 2))
    assert measure(first.outcomes(), first.benchmark).sections == {}
    comparison = compare(first, second)
    assert comparison.sections == {}
    assert comparison.overall.count == 25


def test_files_of_other_choices_under_one_id_are_refused(tmp_path: Path):
    files = []
    for num_correct in (1, 2):
        content = {"model": "m", "subset": ["Math"], "id": ["7"], "scores": [[4.0, 3.0, 2.0, 1.0]]}
        file = tmp_path / f"{num_correct}.json"
        file.write_text(json.dumps({**content, "num_correct": [num_correct]}))
        files.append(open_saved_run(file))
    message = r"id '7' of Math has 1 chosen completions in .*1\.json, but 2 in .*2\.json"
    with pytest.raises(ComparisonError, match=message):
        compare(*files)


def test_neither_runs_nor_their_data_are_written_over(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = write_rows(tmp_path / "one, two.jsonl", pair_rows(SIZES))
    made = [make_run(name, random_judge(i), dataset=str(data)) for i, name in enumerate("ab")]
    runs = [str(run.path) for run in made]
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    write_rows(Path("folder/rows.jsonl"), pair_rows(SIZES))
    of_folder = [str(make_run(f"{i}", random_judge(i), dataset="./folder").path) for i in (1, 2)]
    Path("folder/all.json").write_text("[]")
    copy = str(shutil.copy(data, tmp_path / "copy.jsonl"))
    file = str(as_file(made[0], tmp_path / "published.json").path)
    for inputs, option, target, words in (
        (runs, "--out", f"{runs[0]}/results.json", "in the directory of a run"),
        (runs, "--flips", f"{runs[1]}/scores.jsonl", "in the directory of a run"),
        (of_folder, "--flips", "folder/rows.jsonl", "is one of the files that are compared"),
        (of_folder, "--out", "folder/all.json", "is one of the files that are compared"),
        (runs, "--flips", str(data), "is one of the files that are compared"),
        ([*runs, "--dataset", copy], "--flips", copy, "is one of the files that are compared"),
        ([file, runs[1]], "--out", file, "is one of the files that are compared"),
    ):
        before = Path(target).read_bytes()
        result = CliRunner().invoke(app, ["compare", *inputs, option, target, "--overwrite"])
        assert (result.exit_code, result.stderr.count(words)) == (2, 1), result.stderr
        assert Path(target).read_bytes() == before


def test_the_overall_number_weighs_its_sections(make_run: MakeRun):
    weighted = dataclasses.replace(REWARDBENCH, overall={"Chat": 1.0, "Reasoning": 3.0})
    first, second = (
        dataclasses.replace(make_run(f"m{seed}", random_judge(seed)), benchmark=weighted)
        for seed in (1, 2)
    )
    comparison = compare(first, second)
    chat, reasoning = (comparison.sections[name].estimate.value for name in weighted.overall or ())
    assert chat != reasoning
    assert comparison.overall.estimate.value == pytest.approx((chat + 3 * reasoning) / 4)


def test_other_data_and_other_sets_are_refused(make_run: MakeRun, tmp_path: Path):
    run = make_run("a", random_judge(1))
    rows = pair_rows(SIZES)
    rows[0]["chosen"] = "changed"
    changed = f"rewardbench={write_rows(tmp_path / 'changed.jsonl', rows)}"
    second = make_run("b", random_judge(2), dataset=changed)
    hashes = [str(one.dataset_sha256)[:12] for one in (second, run)]
    with pytest.raises(RunDirectoryError, match=rf"{hashes[0]}….*{hashes[1]}….*one copy"):
        compare(run, second)
    other = f"rewardbench-2={write_rows(tmp_path / 'rb2.jsonl', rewardbench_2_rows())}"
    with pytest.raises(ComparisonError, match="only runs of one set can be compared"):
        compare(run, make_run("c", random_judge(2), dataset=other))


def test_a_copy_of_rewardbench_under_another_name_is_the_same_set(
    make_run: MakeRun, tmp_path: Path
):
    plain = make_run("a", random_judge(1), dataset=str(tmp_path / "rows.jsonl"))
    assert plain.benchmark.name == "preferences"
    for pair in ((plain, make_run("b", random_judge(2))), (make_run("c", random_judge(2)), plain)):
        assert compare(*pair).benchmark.name == "rewardbench"


def test_a_published_file_is_compared_on_common_groups(make_run: MakeRun, tmp_path: Path):
    run, other = make_run("a", random_judge(1)), make_run("b", random_judge(2))
    published = as_file(other, tmp_path / "b.json")
    comparison = compare(run, published)
    assert comparison.subsets == compare(run, other).subsets
    assert "taken for the same by subset and id" in " ".join(comparison.remarks)

    ids = [outcome.id for outcome in other.outcomes()]
    renamed = as_file(other, tmp_path / "c.json", id=["x" if i == 0 else i for i in ids])
    assert compare(run, renamed).only_first == 4
    nothing = as_file(other, tmp_path / "d.json", id=[f"x{i}" for i, _ in enumerate(ids)])
    with pytest.raises(ComparisonError, match="have no group in common: 22 and 22 groups"):
        compare(run, nothing)


def test_rows_without_ids_are_paired_by_their_order(make_run: MakeRun, tmp_path: Path):
    # Ids that are not the places of their rows would pair wrongly if places were taken for ids.
    rows = pair_rows({"hep-go": 9, "hep-cpp": 7})
    for row in rows:
        row["id"] = (row["id"] + 3) % 7 + 1
    rows[7]["id"], rows[8]["id"] = 20, 21
    dataset = f"rewardbench={write_rows(tmp_path / 'r.jsonl', rows)}"
    run, other = (make_run(f"m{i}", random_judge(i), dataset=dataset) for i in (1, 2))
    published = as_file(other, tmp_path / "b.json", id=None)
    for pair in ((run, published), (published, run)):
        comparison = compare(*pair)
        expected = compare(*(other if one is published else one for one in pair))
        assert comparison.subsets == expected.subsets
        assert [flip.key for flip in comparison.flips] == [flip.key for flip in expected.flips]

    part = make_run("p", random_judge(3), dataset=dataset, selection=Selection(limit=12))
    with pytest.raises(ComparisonError, match=r"told apart by their order alone.* 7 .* 3"):
        compare(published, part)


def test_tables_say_what_the_document_says(make_run: MakeRun):
    comparison = compare(make_run("a", random_judge(1)), make_run("b", random_judge(2)))
    document = comparison_document(comparison)
    table = {str(row[0]): row for row in differences_table(comparison).rows}
    assert list(table) == [
        "overall",
        "all pairs alike",
        "section Chat",
        "section Reasoning",
        *SIZES,
    ]
    row, entry = table["math-prm"], document["subsets"]["math-prm"]
    assert row[1:5] == [
        entry["count"],
        f"{100 * entry['a']:.1f}",
        f"{100 * entry['b']:.1f}",
        f"{100 * entry['difference']:+.1f}",
    ]
    assert row[8:10] == [entry["a_better"], entry["b_better"]]


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)], env={"COLUMNS": "80"})


def test_the_command_prints_writes_and_ends_with_its_document(make_run: MakeRun, tmp_path: Path):
    first, second = make_run("a", random_judge(1)), make_run("b", random_judge(2))
    flips, out = tmp_path / "flips.jsonl", tmp_path / "out.json"
    result = invoke(first.path, second.path, "--flips", flips, "--out", out, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout.splitlines()[-1])
    assert document == json.loads(out.read_text())
    assert document["verdict"].split(" on ")[0] in " ".join(result.stderr.split())
    lines = [json.loads(line) for line in flips.read_text().splitlines()]
    assert len(lines) == document["flips"]["a"] + document["flips"]["b"] > 0
    for line in lines:
        assert line["prompt"] == f"prompt {line['subset']} {line['id']}"
        assert line["chosen"] == [f"right {line['subset']} {line['id']}"]
        assert line[line["better"]]["margin"] > 0
        assert line["b" if line["better"] == "a" else "a"]["margin"] <= 0

    again = invoke(first.path, second.path, "--flips", flips)
    assert again.exit_code == 2
    assert "is there already" in again.stderr
    assert invoke(first.path, second.path, "--flips", flips, "--overwrite").exit_code == 0
    assert invoke(first.path, second.path, "--out", tmp_path / "out.txt").exit_code == 2
    assert invoke(first.path, second.path, "--out", tmp_path / "no" / "out.md").exit_code == 2


def test_the_command_wants_two_files_for_two_things(make_run: MakeRun, tmp_path: Path):
    first, second = make_run("a", random_judge(1)), make_run("b", random_judge(2))
    (tmp_path / "folder").mkdir()
    same = tmp_path / "folder" / ".." / "out.json"
    result = invoke(
        first.path, second.path, "--out", tmp_path / "out.json", "--flips", same, "--overwrite"
    )
    assert result.exit_code == 2
    assert "name two files" in result.stderr
    assert not same.exists()


def test_the_command_does_without_texts_that_are_gone(make_run: MakeRun, tmp_path: Path):
    first, second = make_run("a", random_judge(1)), make_run("b", random_judge(2))
    (tmp_path / "rows.jsonl").rename(tmp_path / "moved.jsonl")
    flips, out = tmp_path / "flips.jsonl", tmp_path / "out.md"
    result = invoke(first.path, second.path, "--flips", flips, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "The prompts are not shown" in result.stdout
    assert "prompt" not in json.loads(flips.read_text().splitlines()[0])
    assert out.read_text().startswith(verdict(compare(first, second)))
    with_texts = invoke(
        first.path, second.path, "--dataset", f"rewardbench={tmp_path / 'moved.jsonl'}"
    )
    assert "prompt math-prm" in with_texts.stdout
    wrong = invoke(first.path, second.path, "--dataset", "sample")
    assert wrong.exit_code == 2
    assert "is not the data of" in wrong.stderr


def test_a_subset_that_is_called_as_a_section_is_none(tmp_path: Path):
    rows = write_rows(tmp_path / "rows.jsonl", pair_rows({"Safety": 4, "mine": 12}))
    won = finished_run(tmp_path / "a", str(rows), lambda _: (1.0, 0.0))
    lost = finished_run(
        tmp_path / "b", str(rows), lambda group: (1.0 if group.subset == "Safety" else -1.0, 0.0)
    )
    comparison = compare(open_saved_run(won), open_saved_run(lost))
    assert comparison.overall.estimate.value == 0.75


def test_the_verdict_counts_what_its_number_is_of(tmp_path: Path):
    sizes = {"shp": 6, "mtbench_human": 9}
    rows = f"prior={write_rows(tmp_path / 'rows.jsonl', pair_rows(sizes))}"
    runs = [
        open_saved_run(finished_run(tmp_path / str(score), rows, lambda _, s=score: (s, 0.0)))
        for score in (1.0, -1.0)
    ]
    assert "on 6 pairs of Prior Sets: +100.0 points" in verdict(compare(*runs))


def test_a_published_prior_run_is_matched_by_the_place_of_its_rows(tmp_path: Path):
    rows = f"prior={write_rows(tmp_path / 'rows.jsonl', pair_rows({'shp': 8}))}"
    ours = open_saved_run(finished_run(tmp_path / "run", rows, random_judge(3)))
    columns = {
        "subset": ["shp"] * 8,
        "id": list(range(8)),  # from 0, where ours are from 1
        "scores_chosen": [outcome.chosen_scores[0] for outcome in ours.outcomes()],
        "scores_rejected": [outcome.rejected_scores[0] for outcome in ours.outcomes()],
    }
    published = tmp_path / "published.json"
    published.write_text(json.dumps({"model": "org/m", "model_type": "", **columns}))
    comparison = compare(ours, open_saved_run(published))
    assert comparison.compared == 8
    assert not comparison.flips
