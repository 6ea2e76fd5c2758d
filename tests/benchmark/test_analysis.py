"""`analyze`: usage of models, tokens, and saved runs, against sums made another way."""

import csv
import gzip
import json
import math
import random
import statistics
from collections import Counter

import pytest
from scipy import stats
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from typer.testing import CliRunner

from reward_benchmark import plots
from reward_benchmark.analysis.model_usage import model_usage
from reward_benchmark.analysis.run_comparison import (
    agreements,
    row_subsets,
    run_scores,
    run_spread,
    subsets_table,
)
from reward_benchmark.analysis.token_statistics import (
    BATCH_GROUPS,
    Extent,
    TokenStatistics,
    open_tokenizer,
    token_ids,
)
from reward_benchmark.cli import app
from reward_benchmark.datasets import PREFERENCES, open_dataset
from reward_benchmark.datasets.rewardbench_2 import REWARDBENCH_2
from reward_benchmark.datasets.rm_bench import RM_BENCH
from reward_benchmark.errors import BenchmarkError, DatasetError
from reward_benchmark.group import Group
from reward_benchmark.outcome import Failure, Outcome
from reward_benchmark.text_table import TextTable


def analyze(*arguments):
    return CliRunner().invoke(app, ["analyze", *map(str, arguments)])


def document(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


# ---------------------------------------------------------------------------------------- tables


TABLE = TextTable(
    ("Model | name", "n", "share"), [("a|b_c & d\ne", 3, 1 / 3), ("$x$ {~}", None, math.nan)]
)


def test_a_table_reads_the_same_in_markdown():
    assert TABLE.text("markdown").splitlines() == [
        r"| Model \| name | n | share |",
        "| --- | ---: | ---: |",
        r"| a\|b_c & d e | 3 | 0.3 |",
        "| $x$ {~} |  |  |",
    ]


def test_a_number_that_is_rounded_to_zero_has_no_sign():
    assert "| 0.0 |" in TextTable(("n",), [(-0.04,)]).markdown()


def test_a_table_keeps_all_digits_in_csv():
    rows = list(csv.reader(TABLE.csv().splitlines(keepends=True)))

    assert rows[0] == ["Model | name", "n", "share"]
    assert rows[1] == ["a|b_c & d\ne", "3", repr(1 / 3)]


def test_a_table_escapes_what_latex_would_read():
    lines = TABLE.text("latex").splitlines()

    assert lines[0] == r"\begin{tabular}{lrr}"
    assert r"a|b\_c \& d e & 3 & 0.3 \\" in lines
    assert r"\$x\$ \{\textasciitilde{}\} &  &  \\" in lines


# ----------------------------------------------------------------------------------------- models


@pytest.fixture
def write_rows(tmp_path):
    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def test_models_are_counted_over_both_columns(write_rows):
    rows = [
        {"chosen_model": "a", "rejected_model": "b"},
        {"chosen_model": "a", "rejected_model": "a"},
        {"chosen_model": "c", "rejected_model": None},
        {"chosen_model": ["b", "c"], "rejected_model": ""},
    ]

    usage = model_usage(open_dataset(str(write_rows(*rows))))

    assert dict(usage.counts) == {"a": (2, 1), "b": (1, 1), "c": (2, 0)}
    assert usage.unnamed == (0, 2)
    assert usage.totals == (5, 2)
    assert usage.table(2).rows == [("a", 3, 2, 1), ("b", 2, 1, 1)]
    assert usage.shares(1) == {"chosen_model": [40.0], "rejected_model": [50.0]}


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"chosen_model": "a", "model": "b"}, "column 'rejected_model' is missing; there are"),
        ({"chosen_model": 3, "rejected_model": "b"}, "column 'chosen_model' must hold the name"),
        (["a"], "it is not an object with columns"),
    ],
)
def test_a_row_without_models_is_named(write_rows, row, complaint):
    path = write_rows({"chosen_model": "a", "rejected_model": "b"}, row)

    with pytest.raises(DatasetError, match="line 2: " + complaint):
        model_usage(open_dataset(str(path)))


def test_models_of_rewardbench(rewardbench_file, tmp_path):
    with gzip.open(rewardbench_file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    chosen, rejected = (
        Counter(row[key] for row in rows) for key in ("chosen_model", "rejected_model")
    )

    out = tmp_path / "out"
    data = ("--dataset", rewardbench_file)
    found = document(analyze("models", *data, "--top-n", 3, "--out", out, "--json"))

    assert found["rows"] == len(rows) == 2985
    assert found["distinct_models"] == len({*chosen, *rejected}) == 46
    for model, counts in found["models"].items():
        assert counts["chosen_model"] == chosen[model]
        assert counts["rejected_model"] == rejected[model]
    totals = [counts["total"] for counts in found["models"].values()]
    assert totals == sorted(totals, reverse=True)
    assert sum(totals) == 2 * len(rows)
    with (out / "models.csv").open(encoding="utf-8") as file:
        assert len(list(csv.reader(file))) == 1 + 46
    assert (out / "models.png").read_bytes().startswith(b"\x89PNG")


def test_the_usage_table_is_the_one_of_herms_readme(write_rows):
    path = write_rows(
        {"chosen_model": "gpt-4", "rejected_model": "llama"},
        {"chosen_model": "gpt-4", "rejected_model": "gpt-4"},
    )

    result = analyze("models", "--dataset", path, "--format", "markdown")

    assert result.stdout.splitlines() == [
        "| Model | Total | chosen_model | rejected_model |",
        "| --- | ---: | ---: | ---: |",
        "| gpt-4 | 3 | 2 | 1 |",
        "| llama | 1 | 0 | 1 |",
    ]


@pytest.mark.parametrize("keys", ["", ",", "chosen_model,chosen_model"])
def test_keys_that_name_no_two_columns_are_refused(keys):
    result = analyze("models", "--dataset", "sample", "--keys", keys)

    assert result.exit_code == 2
    assert "must name different columns" in result.stderr


# ----------------------------------------------------------------------------------------- tokens


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    """One token per word; told to cut, fill up and frame texts, which must not count."""
    words = ["[UNK]", "[PAD]", "[BOS]", "mark", *"abcdefgh"]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A", special_tokens=[("[BOS]", 2)]
    )
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=20, pad_id=1, pad_token="[PAD]")
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


TWO_PAIRS = (
    {"prompt": "a b c a", "chosen": "a d", "rejected": "e f g", "subset": "s"},
    {"prompt": "a", "chosen": "a b", "rejected": "a", "subset": "s"},
)


def numbers(mean, standard_deviation, largest, smallest):
    return {
        "mean": mean,
        "standard_deviation": standard_deviation,
        "max": largest,
        "min": smallest,
    }


# What RewardBench's analysis/get_subtoken_statistics.py says of these rows, and by hand.
WITH_PROMPTS = {
    "chosen": {
        "completions": 2,
        "tokens": numbers(4.5, 1.5, 6, 3),
        "distinct": numbers(3, 1, 4, 2),
    },
    "rejected": {
        "completions": 2,
        "tokens": numbers(4.5, 2.5, 7, 2),
        "distinct": numbers(3.5, 2.5, 6, 1),
    },
}
WITHOUT_PROMPTS = {
    "chosen": {"completions": 2, "tokens": numbers(2, 0, 2, 2), "distinct": numbers(2, 0, 2, 2)},
    "rejected": {"completions": 2, "tokens": numbers(2, 1, 3, 1), "distinct": numbers(2, 1, 3, 1)},
}


@pytest.mark.parametrize(
    ("options", "expected"), [((), WITH_PROMPTS), (("--completions-only",), WITHOUT_PROMPTS)]
)
def test_the_prompt_counts_unless_it_is_left_out(tokenizer_folder, write_rows, options, expected):
    data = ("--dataset", write_rows(*TWO_PAIRS), "--tokenizer", tokenizer_folder)

    found = document(analyze("tokens", *data, *options, "--json"))

    assert found["completions_only"] == bool(options)
    assert found["subsets"] == {"s": expected, "all": expected}


def random_groups(count):
    draw = random.Random(0)

    def text():
        return " ".join(draw.choices("abcdefgh", k=draw.randint(2, 12)))

    def prompt():
        roles = draw.choice([None, ["user"], ["system", "user", "assistant", "user"]])
        return text() if roles is None else [{"role": one, "content": text()} for one in roles]

    return [
        Group(
            row=i,
            subset=draw.choice(["x", "y"]),
            id=i,
            prompt=prompt(),
            completions=tuple(text() for _ in range(4)),
            num_chosen=i % 3,
            rejected_prompt=draw.choice([None, prompt()]),
        )
        for i in range(count)
    ]


def words_of(group, side, completion, *, completions_only):
    """The words of a completion and its prompt, with a mark before every text."""
    prompt = group.prompt
    if side == "rejected" and group.rejected_prompt is not None:
        prompt = group.rejected_prompt
    words = []
    if not completions_only:
        for text in [prompt] if isinstance(prompt, str) else [one["content"] for one in prompt]:
            words += ["mark", *text.split()]
    return [*words, "mark", *completion.split()]


@pytest.mark.parametrize("completions_only", [False, True])
def test_token_statistics_are_those_of_the_words(tokenizer_folder, completions_only):
    groups = random_groups(2 * BATCH_GROUPS + 7)
    tokenizer = open_tokenizer(str(tokenizer_folder))
    # As Llama's tokenizers do: two texts tokenized apart have one token more than their join.
    tokenizer.normalizer = normalizers.Prepend("mark ")

    found = TokenStatistics()
    for one in token_ids(groups, tokenizer, completions_only=completions_only):
        found.add(one)

    assert set(found.document()) == {"x", "y", "all"}
    for subset, sides in found.document().items():
        assert set(sides) == {"chosen", "rejected"}
        for side, of_side in sides.items():
            texts = [
                words_of(group, side, completion, completions_only=completions_only)
                for group in groups
                if subset in (group.subset, "all")
                for completion in getattr(group, side)
            ]
            assert of_side["completions"] == len(texts)
            for what, lengths in (
                ("tokens", [len(words) for words in texts]),
                ("distinct", [len(set(words)) for words in texts]),
            ):
                assert of_side[what]["mean"] == pytest.approx(statistics.mean(lengths))
                assert of_side[what]["standard_deviation"] == pytest.approx(
                    statistics.pstdev(lengths)
                )
                assert of_side[what]["max"] == max(lengths)
                assert of_side[what]["min"] == min(lengths)


def test_half_a_surrogate_pair_is_named(tokenizer_folder, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "a\\ud800", "chosen": "b", "rejected": "c"}\n')

    result = analyze("tokens", "--dataset", data, "--tokenizer", tokenizer_folder)

    assert result.exit_code == 2
    assert "row 1 (subset 'all', id 1) cannot be tokenized: character 1" in result.stderr


def test_the_deviation_of_large_numbers_that_are_close_is_exact():
    extent = Extent()
    for number in (10**9, 10**9 + 1):
        extent.add(number)

    assert extent.standard_deviation == 0.5


def test_tokens_writes_its_table_and_pictures(tokenizer_folder, tmp_path):
    arguments = ("tokens", "--dataset", "sample", "--tokenizer", tokenizer_folder)

    found = document(analyze(*arguments, "--out", tmp_path, "--picture", "svg", "--json"))

    assert found["groups"] == 51
    assert found["subsets"]["all"]["chosen"]["completions"] == 51
    with (tmp_path / "tokens.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert (rows[-1]["Subset"], rows[-1]["Side"]) == ("all", "rejected")
    of_all = found["subsets"]["all"]["rejected"]
    for what in ("tokens", "distinct"):
        for column, key in (
            ("Mean", "mean"),
            ("S.d.", "standard_deviation"),
            ("Max", "max"),
            ("Min", "min"),
        ):
            assert float(rows[-1][f"{column} {what}"]) == of_all[what][key]
    assert {path.name for path in tmp_path.iterdir()} == {
        "tokens.csv",
        "tokens.svg",
        "distinct-tokens.svg",
    }


@pytest.mark.parametrize(
    ("options", "counted"),
    [((), "in prompt and completion"), (("--completions-only",), "in completion")],
)
def test_a_table_and_pictures_of_tokens_say_what_is_counted(
    tokenizer_folder, tmp_path, options, counted
):
    arguments = ("tokens", "--dataset", "sample", "--tokenizer", tokenizer_folder, *options)

    printed = analyze(*arguments, "--out", tmp_path, "--picture", "svg").stdout

    assert printed.startswith(f"Tokens {counted} of 51 pairs")
    for name, unit in (("tokens", "Tokens"), ("distinct-tokens", "Different tokens")):
        picture = (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
        assert f">{unit} {counted}, by subset<" in picture
        assert f">{unit.lower()} {counted}<" in picture


@pytest.fixture
def drawn_figures(monkeypatch):
    """The figures that are drawn during a test."""
    figures = []
    draw = plots.drawn

    def spied(figure, suffix):
        figures.append(figure)
        return draw(figure, suffix)

    monkeypatch.setattr(plots, "drawn", spied)
    return figures


def test_bars_of_tokens_are_means_with_one_deviation_to_either_side(
    tokenizer_folder, write_rows, tmp_path, drawn_figures
):
    # With the prompt 2, 2, 2, 2 and 14 tokens: 4.4 on the mean, and the deviation is 4.8.
    rows = write_rows(
        *[{"prompt": "a", "chosen": "b " * n, "rejected": "b c"} for n in (1, 1, 1, 1, 13)]
    )

    document(
        analyze(
            *("tokens", "--dataset", rows, "--tokenizer", tokenizer_folder),
            *("--out", tmp_path, "--json"),
        )
    )

    tokens, distinct = drawn_figures
    for figure, means, ends in (
        (tokens, [4.4, 3], [-0.4, 9.2, 3, 3]),
        (distinct, [2, 3], [2, 2, 3, 3]),
    ):
        [axes] = figure.axes
        assert [bar.get_width() for bar in axes.patches] == pytest.approx(means)
        segments = [one for lines in axes.collections for one in lines.get_segments()]
        assert [x for one in segments for x, _ in one] == pytest.approx(ends)
        assert axes.get_xlim()[0] == 0


@pytest.mark.parametrize(
    ("subsets", "panels"),
    [
        (
            ["hep-go", "donotanswer", "mt-bench-easy", "hep-cpp"],
            {
                "Chat": ["mt-bench-easy"],
                "Safety": ["donotanswer"],
                "Reasoning": ["hep-go", "hep-cpp"],
            },
        ),
        # Of no section: all stand together.
        (["hep-go", "mine", "donotanswer"], {"": ["hep-go", "mine", "donotanswer"]}),
    ],
)
def test_bars_of_tokens_stand_by_section(
    tokenizer_folder, write_rows, tmp_path, drawn_figures, subsets, panels
):
    rows = write_rows(*[TWO_PAIRS[0] | {"subset": subset} for subset in subsets])

    document(
        analyze(
            *("tokens", "--dataset", rows, "--tokenizer", tokenizer_folder),
            *("--out", tmp_path, "--json"),
        )
    )

    assert len(drawn_figures) == 2
    for figure in drawn_figures:
        found = {
            axes.get_title(loc="left"): [one.get_text() for one in axes.get_yticklabels()]
            for axes in figure.axes
        }
        assert list(found.items()) == list(panels.items())


def test_one_deviation_is_left_out_on_a_terminal_only(tokenizer_folder):
    arguments = ("tokens", "--dataset", "sample", "--tokenizer", tokenizer_folder)

    printed = analyze(*arguments).stdout
    head = analyze(*arguments, "--format", "csv").stdout.splitlines()[0]

    assert printed.count("S.d.") == 1
    assert max(map(len, printed.splitlines())) <= 100
    assert head.split(",") == [
        *("Subset", "Side", "n"),
        *("Mean tokens", "S.d. tokens", "Max tokens", "Min tokens"),
        *("Mean distinct", "S.d. distinct", "Max distinct", "Min distinct"),
    ]


def test_what_is_no_tokenizer_is_named(tmp_path):
    (tmp_path / "bad.json").write_text("{}")

    with pytest.raises(BenchmarkError, match=r"bad\.json is not a tokenizer"):
        open_tokenizer(str(tmp_path / "bad.json"))
    with pytest.raises(BenchmarkError, match=r"no tokenizer\.json in this folder"):
        open_tokenizer(str(tmp_path))
    with pytest.raises(BenchmarkError, match="'owner/name' is neither a file nor a folder"):
        open_tokenizer("owner/name")


# ------------------------------------------------------------------------------------------- runs


def random_outcomes(count, *, seed, num_chosen=1):
    draw = random.Random(seed)
    return [
        Outcome(
            ["x", "y"][i % 2],
            i,
            num_chosen,
            # Coarse scores, so that there are ties.
            scores=tuple(round(draw.gauss(0, 1), 1) for _ in range(4)),
        )
        for i in range(count)
    ]


def failed(outcome):
    return Outcome(*outcome.key, outcome.num_chosen, error=Failure("overloaded", "no"))


def test_the_spread_of_a_run_is_that_of_its_scores():
    outcomes = random_outcomes(200, seed=1, num_chosen=2)

    found = run_spread(run_scores("m", [*outcomes, failed(Outcome("x", "late", 2))], PREFERENCES))

    chosen = [score for one in outcomes for score in one.scores[:2]]
    margins = [min(one.scores[:2]) - max(one.scores[2:]) for one in outcomes]
    assert found.chosen.mean == pytest.approx(statistics.mean(chosen))
    assert found.chosen.median == pytest.approx(statistics.median(chosen))
    assert found.rejected.count == 400
    assert found.margins.standard_deviation == pytest.approx(statistics.pstdev(margins))
    assert found.positive == pytest.approx(sum(one > 0 for one in margins) / 200)
    assert found.zero == pytest.approx(sum(one == 0 for one in margins) / 200)


def test_a_failed_pair_is_no_win_and_has_no_margin():
    outcomes = random_outcomes(10, seed=1)
    run = run_scores("m", [failed(outcomes[0]), *outcomes[1:]], PREFERENCES)

    accuracy = run.accuracies["x"]

    assert accuracy.value == sum(one.win for one in outcomes[2::2]) / 5
    assert len(run.margins_of("x")) == 4
    assert "z" not in run.accuracies


def test_accuracies_of_subsets_are_those_that_the_set_is_known_for():
    """RM-Bench's nine comparisons a prompt, one by one; RewardBench 2's shared first place."""
    draw = random.Random(3)
    outcomes = [
        Outcome(domain, i, 3, scores=tuple(draw.choice((0.0, 1.0, 2.0)) for _ in range(6)))
        for i, domain in enumerate(["chat", "safety-refuse", "safety-response"] * 20)
    ]
    run = run_scores("m", outcomes, RM_BENCH)
    safety = [one for one in outcomes if one.subset != "chat"]
    won = [a > b for one in safety for a in one.scores[:3] for b in one.scores[3:]]
    hard = [one.scores[i] > one.scores[3 + j] for one in safety for j in range(3) for i in range(j)]
    assert run.accuracies["safety"].value == pytest.approx(sum(won) / len(won))
    assert run.accuracies["safety/hard"].value == pytest.approx(sum(hard) / len(hard))
    assert "safety-refuse" not in run.accuracies
    assert (run.counts["safety"], run.size("safety-refuse")) == (40, 20)
    assert row_subsets([run]) == ["chat", "safety-refuse", "safety-response"]
    table = subsets_table([run]).text("csv").splitlines()
    assert [line.split(",")[0] for line in table[1:]] == [
        f"{domain}{level}"
        for domain in ("chat", "safety")
        for level in ("", "/easy", "/normal", "/hard")
    ]

    shared = [Outcome("Math", i, scores=(2.0, 2.0, 1.0, 0.0)) for i in range(4)]
    assert run_scores("m", shared, REWARDBENCH_2).accuracies["Math"].value == 0.5


def test_runs_are_compared_on_the_groups_that_both_have_scores_of():
    first, second = random_outcomes(100, seed=1), random_outcomes(120, seed=2)
    random.Random(0).shuffle(second)
    lost = {"a": {0, 7}, "b": {7, 11}}
    runs = [
        run_scores(
            name, [failed(one) if one.id in lost[name] else one for one in outcomes], PREFERENCES
        )
        for name, outcomes in (("a", first), ("b", second))
    ]

    found = {(one.first, one.second): one for one in agreements(runs)}

    kept = [i for i in range(100) if i not in {0, 7, 11}]
    by_id = {one.id: one for one in second}
    margins = [[first[i].margin for i in kept], [by_id[i].margin for i in kept]]
    one = found["a", "b"]
    assert one.count == 97
    assert one.pearson == pytest.approx(stats.pearsonr(*margins).statistic)
    assert one.spearman == pytest.approx(stats.spearmanr(*margins).statistic)
    assert one.agreement == pytest.approx(
        sum((a > 0) == (b > 0) for a, b in zip(*margins, strict=True)) / 97
    )
    assert found["a", "a"].pearson == pytest.approx(1)
    assert found["a", "a"].agreement == 1


def test_runs_agree_where_groups_earn_the_same():
    one = Outcome("chat", 1, 3, scores=(3.0, 3.0, 1.0, 0.0, 2.0, 0.0))
    other = Outcome("chat", 1, 3, scores=(0.0, 0.0, 0.0, 1.0, 1.0, 1.0))
    alike = Outcome("chat", 2, 3, scores=(1.0,) * 3 + (0.0,) * 3)
    runs = [
        run_scores(name, [first, alike], RM_BENCH) for name, first in (("a", one), ("b", other))
    ]

    found = {(pair.first, pair.second): pair for pair in agreements(runs)}

    # Neither wins the first prompt as a whole, but one earns 8 of 9 comparisons, the other none.
    assert found["a", "b"].agreement == 0.5


def test_runs_without_a_common_group_are_refused():
    runs = [
        run_scores("a", random_outcomes(4, seed=1), PREFERENCES),
        run_scores("b", [Outcome("z", 1, scores=(1.0, 0.0))], PREFERENCES),
    ]

    with pytest.raises(BenchmarkError, match=r"a, b have no group \(subset and id\) in common"):
        agreements(runs)


def test_groups_without_ids_are_matched_by_their_order():
    def renamed(outcomes):
        return [Outcome("x", f"other {one.id}", scores=one.scores) for one in outcomes]

    outcomes = [one for one in random_outcomes(20, seed=1) if one.subset == "x"]
    by_order = frozenset({"x"})

    found = agreements(
        [
            run_scores("a", outcomes, PREFERENCES, by_order=by_order),
            run_scores("b", renamed(outcomes), PREFERENCES, by_order=by_order),
        ]
    )

    assert [(one.count, one.pearson) for one in found] == [(10, pytest.approx(1))] * 3
    with pytest.raises(BenchmarkError, match="has 10 of them and b 9: nothing says which"):
        agreements(
            [
                run_scores("a", outcomes, PREFERENCES, by_order=by_order),
                run_scores("b", renamed(outcomes[1:]), PREFERENCES, by_order=by_order),
            ]
        )


def test_a_run_without_preferences_is_refused():
    with pytest.raises(BenchmarkError, match="m has no group with scores"):
        run_scores("m", [Outcome("x", 1, 0, scores=(1.0, 2.0))], PREFERENCES)


def test_huge_scores_can_be_drawn():
    run = run_scores("m", [Outcome("x", 1, scores=(1e308, -1e308))], PREFERENCES)

    assert math.isfinite(run.margins["x", 1])
    assert run.credits["x", 1] == 1


@pytest.fixture(scope="module")
def saved_runs(tmp_path_factory):
    """Three finished runs on the bundled sample."""
    folder = tmp_path_factory.mktemp("runs")
    paths = []
    for name, limit in (("whole", 51), ("most", 40), ("some", 30)):
        paths.append(folder / name)
        arguments = ["run", "--dataset", "sample", "--scorer", "length", "--limit", str(limit)]
        result = CliRunner().invoke(app, [*arguments, "--out", str(paths[-1])])
        assert result.exit_code == 0, result.output
    return paths


@pytest.mark.parametrize(
    ("command", "files"),
    [
        ("scores", {"scores.png", "margins.png", "scores.csv"}),
        (
            "subsets",
            {
                "margins-by-subset.png",
                "accuracy-by-subset.png",
                "accuracy-over-runs.png",
                "subsets.csv",
            },
        ),
        ("correlation", {"pearson.png", "spearman.png", "agreement.png", "correlation.csv"}),
    ],
)
def test_saved_runs_are_analyzed(saved_runs, tmp_path, command, files):
    result = analyze(command, *saved_runs, "--out", tmp_path, "--json")

    found = document(result)
    assert {path.name for path in tmp_path.iterdir()} == files
    assert sorted(found["files"]) == sorted(str(tmp_path / name) for name in files)
    assert found["dataset"] == "sample"
    # All are called `length`: their places tell them apart.
    assert f"length ({saved_runs[1]})" in json.dumps(found)


@pytest.mark.parametrize("command", ["scores", "subsets", "correlation"])
def test_no_column_is_cut_off_on_a_narrow_terminal(saved_runs, tmp_path, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "30")
    analyze(command, *saved_runs, "--out", tmp_path)

    printed = analyze(command, *saved_runs).stdout

    [written] = tmp_path.glob("*.csv")
    for cell in next(csv.reader(written.read_text().splitlines())):
        assert all(word in printed for word in cell.split())
    assert "…" not in printed


def test_the_same_analysis_writes_the_same_files(saved_runs, tmp_path):
    arguments = ("correlation", *saved_runs, "--out", tmp_path, "--json")

    first, second = analyze(*arguments), analyze(*arguments)  # other content would be refused

    assert document(second) == document(first)


def test_what_is_there_is_kept(saved_runs, tmp_path):
    (tmp_path / "scores.csv").write_text("mine")

    refused = analyze("scores", saved_runs[0], "--out", tmp_path)

    assert refused.exit_code == 2
    assert "scores.csv is there already with other content" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]
    assert (tmp_path / "scores.csv").read_text() == "mine"
    assert analyze("scores", saved_runs[0], "--out", tmp_path, "--overwrite").exit_code == 0
    assert (tmp_path / "scores.csv").read_text().startswith("Model,")


def test_wins_are_those_of_the_lines(saved_runs):
    text = (saved_runs[0] / "scores.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]

    found = document(analyze("subsets", saved_runs[0], "--json"))["subsets"]

    for subset in {line["subset"] for line in lines}:
        wins = [line["win"] for line in lines if line["subset"] == subset]
        assert found[subset]["length"]["accuracy"] == pytest.approx(sum(wins) / len(wins))


def test_accuracies_alone_are_shown_by_subset(tmp_path):
    published = {"a": {"Math": 0.25, "Ties": 1.01}, "b": {"Math": 0.5}, "c": {"Math": 0.75}}
    paths = []
    for model, accuracies in published.items():
        paths.append(tmp_path / f"{model}.json")
        paths[-1].write_text(json.dumps({"model": model, **accuracies}))

    result = analyze("subsets", *paths, "--out", tmp_path / "out", "--json")

    expected = {
        subset: {
            model: {"accuracy": accuracies[subset], "ci95": None}
            for model, accuracies in published.items()
            if subset in accuracies
        }
        for subset in ("Math", "Ties")
    }
    assert document(result)["subsets"] == expected
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "accuracy-by-subset.png",
        "accuracy-over-runs.png",
        "subsets.csv",
    }
    for command in ("scores", "correlation"):
        assert "do not say which rows were won" in analyze(command, *paths).stderr


def test_accuracies_of_two_sets_are_not_held_against_each_other(saved_runs, tmp_path):
    published = tmp_path / "a.json"
    published.write_text(json.dumps({"model": "a", "Math": 0.25}))
    for runs in ([published, saved_runs[0]], [saved_runs[0], published]):
        result = analyze("subsets", *runs)
        assert result.exit_code == 2
        assert "has accuracies on RewardBench 2, but" in result.stderr


def test_runs_that_cannot_be_compared_are_named(saved_runs, tmp_path):
    run = saved_runs[0]
    for arguments, complaint in (
        (["correlation", run], "a correlation is between runs: name two or more"),
        (["scores", run, run.parent / "whole"], "one run is named twice"),
        (["scores", tmp_path], "holds no run: run.json is missing"),
    ):
        result = analyze(*arguments)
        assert result.exit_code == 2
        assert complaint in result.stderr


def test_runs_of_other_data_are_not_held_against_each_other(saved_runs, tmp_path, write_pairs):
    others = []
    for folder, count in (("one", 6), ("two", 7)):
        arguments = ["run", "--dataset", str(write_pairs(count)), "--scorer", "length"]
        others.append(tmp_path / folder)
        assert CliRunner().invoke(app, [*arguments, "--out", str(others[-1])]).exit_code == 0
    # RewardBench's files do not say what their data were.
    published = tmp_path / "published.json"
    columns = {"subset": ["hep-go"] * 3, "results": [1, 0, 0], "model": "m", "model_type": "G"}
    published.write_text(json.dumps(columns))

    for command in ("correlation", "subsets"):
        for runs in (others, [saved_runs[0], others[0]], [published, *others]):
            result = analyze(command, *runs)
            assert result.exit_code == 2
            assert "all must be of the same data" in result.stderr
    assert analyze("scores", *others).exit_code == 0
    assert "same data" not in analyze("correlation", published, others[0]).stderr
