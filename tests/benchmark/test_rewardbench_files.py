"""RewardBench's own files: what its scripts write is read, and what we write is what they would."""

import json
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from reward_benchmark.datasets.ties import ties
from reward_benchmark.metrics import measure
from reward_benchmark.outcome import Outcome
from reward_benchmark.rewardbench_files import (
    RewardBenchFileError,
    accuracies_document,
    are_pairs,
    encoded,
    file_name,
    folder_of,
    read_accuracies,
    read_scores,
    write_scores,
)
from reward_benchmark.saved_run import SavedRun, open_run_dataset, open_saved_run, run_groups

from .scored_runs import finished_run, pair_rows, random_judge, rewardbench_2_rows, write_rows

METADATA = {"model": "org/m", "model_type": "Seq. Classifier", "chat_template": "tokenizer"}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(**content: Any) -> Path:
        path = tmp_path / "m.json"
        path.write_text(json.dumps({**METADATA, **content}, indent=4, sort_keys=True))
        return path

    return write


def pair_columns(**columns: Any) -> dict[str, Any]:
    return {
        "subset": ["hep-go", "hep-go", "hep-cpp"],
        "id": [4, 5, 4],
        "results": [1, 0, 0],
        "scores_chosen": [2.0, 1.0, 1.0],
        "scores_rejected": [1.0, 2.0, 1.0],
        "text_chosen": ["a", "b", "c"],
        "text_rejected": ["a", "b", "c"],
        **columns,
    }


@pytest.mark.parametrize("form", [float, lambda score: [score]], ids=["floats", "lists"])
def test_pairs_are_read_whether_scores_are_numbers_or_lists(
    write: Callable[..., Path], form: Callable[[float], Any]
):
    columns = pair_columns()
    for name in ("scores_chosen", "scores_rejected"):
        columns[name] = list(map(form, columns[name]))
    scores = read_scores(write(**columns))
    assert scores.outcomes == [
        Outcome("hep-go", 4, scores=(2.0, 1.0)),
        Outcome("hep-go", 5, scores=(1.0, 2.0)),
        Outcome("hep-cpp", 4, scores=(1.0, 1.0)),
    ]
    assert [outcome.win for outcome in scores.outcomes] == [True, False, False]
    assert (scores.model, scores.model_type) == ("org/m", "Seq. Classifier")
    assert scores.benchmark.name == "rewardbench"
    assert scores.numbered == frozenset()


def test_the_first_of_several_labels_counts_and_results_compare_all(write: Callable[..., Path]):
    file = write(
        **pair_columns(
            scores_chosen=[[2.0, 9.0], [1.0, 9.0], [1.0, 3.0]],
            scores_rejected=[[1.0, 9.5], [2.0, 0.0], [1.0, 2.0]],
            results=[1, 0, 1],  # as Python compares lists; by the first label the last is a tie
        )
    )
    assert [outcome.scores for outcome in read_scores(file).outcomes] == [(2, 1), (1, 2), (1, 1)]


def test_rows_without_ids_are_numbered_within_their_subset(write: Callable[..., Path]):
    columns = pair_columns()
    del columns["id"]
    scores = read_scores(write(**columns))
    assert [outcome.key for outcome in scores.outcomes] == [
        ("hep-go", 1),
        ("hep-go", 2),
        ("hep-cpp", 1),
    ]
    assert scores.numbered == {"hep-go", "hep-cpp"}


def test_a_subset_whose_ids_repeat_is_numbered_and_others_are_not(write: Callable[..., Path]):
    # Most published files of RewardBench 2 have such ids in Factuality.
    subsets = ["Factuality"] * 3 + ["Math"] * 2
    file = write(
        subset=subsets,
        id=["30", "31", "30", "30", "31"],
        num_correct=[1] * 5,
        results=[1.0] * 5,
        scores=[[[2.0], [1.0], [0.0], [0.0]]] * 5,
    )
    scores = read_scores(file)
    assert [outcome.id for outcome in scores.outcomes] == [1, 2, 3, "30", "31"]
    assert scores.numbered == {"Factuality"}


def test_judges_results_stand_for_scores_and_half_points_are_ties(write: Callable[..., Path]):
    columns = pair_columns(results=[1, 0, 0.5])
    del columns["scores_chosen"], columns["scores_rejected"]
    scores = read_scores(write(**columns))
    assert [outcome.win for outcome in scores.outcomes] == [True, False, False]
    assert [outcome.tie for outcome in scores.outcomes] == [False, False, True]
    assert scores.half_points == 1


def test_judges_of_rewardbench_2_keep_their_shared_credit(write: Callable[..., Path]):
    results = [1, 0, 1 / 2, 1 / 3, 0.25]
    file = write(
        subset=["Math"] * 5 + ["Ties"],
        id=["0", "1", "2", "3", "4", "ref:0"],
        num_correct=[1] * 6,
        results=[*results, None],
        scores=[None] * 5 + [[9, -1, 3]],
    )
    scores = read_scores(file)
    credits = [next(iter(scores.benchmark.credits(o)))[1] for o in scores.outcomes[:5]]
    assert credits == pytest.approx(results)
    assert scores.outcomes[5].scores == (9, -1, 3)


def test_scores_that_are_no_numbers_are_failures(write: Callable[..., Path]):
    scores = read_scores(
        write(**pair_columns(scores_chosen=[math.nan, None, math.inf], results=[0, 0, 1]))
    )
    assert [outcome.error and outcome.error.code for outcome in scores.outcomes] == [
        "non_finite_score",
        "no_score",
        "non_finite_score",
    ]
    assert not any(outcome.win for outcome in scores.outcomes)


def test_accuracies_of_rewardbench_2_are_those_of_its_results(write: Callable[..., Path]):
    draw = Random(5)
    columns = defaultdict[str, list[Any]](list)
    expected = defaultdict[str, list[float]](list)
    for row in rewardbench_2_rows():
        scores = [float(draw.randrange(3)) for _ in row["chosen"] + row["rejected"]]
        # reroll_and_score_dataset in RewardBench's words
        best = max(scores)
        result = 1 / sum(score == best for score in scores) if scores[0] == best else 0
        expected[row["subset"]].append(result)
        for name, value in {
            "subset": row["subset"],
            "id": row["id"],
            "num_correct": len(row["chosen"]),
            "results": result,
            "scores": [[score] for score in scores],
            "text": [""] * len(scores),
        }.items():
            columns[name].append(value)
    scores_file = read_scores(write(**columns))
    metrics = measure(scores_file.outcomes, scores_file.benchmark)
    for name, results in expected.items():
        if name != "Ties":
            assert metrics.subsets[name].estimate.value == pytest.approx(
                sum(results) / len(results)
            )
    of_ties = [outcome for outcome in scores_file.outcomes if outcome.subset == "Ties"]
    assert metrics.subsets["Ties"].estimate == ties(of_ties)


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"results": [1, 1, 0]}, r"row 2: the result is 1, but the scores are \[1\.0, 2\.0\]"),
        ({"results": [1, 0]}, "'results' has 2 entries, but 'subset' has 3"),
        ({"id": [1, 2.5, 3]}, "2.5 in column 'id' is no id"),
        ({"id": [1, True, 3]}, "True in column 'id' is no id"),
        ({"scores_chosen": [2, "high", 1]}, "row 2: a score must be a number"),
        ({"scores_chosen": [2, [], 1]}, "row 2: a score must be a number"),
        ({"scores_chosen": [2, True, 1]}, "row 2: a score must be a number"),
        ({"subset": ["a", None, "b"]}, "None in column 'subset' is not a text"),
        ({"model": 3}, "'model' is 3, not a text"),
        ({"num_correct": [1, 1, 1], "subset": ["x", "x", "x"]}, "not those of one known set"),
    ],
)
def test_a_wrong_file_of_scores_is_refused(
    write: Callable[..., Path], columns: dict[str, Any], complaint: str
):
    with pytest.raises(RewardBenchFileError, match=complaint):
        read_scores(write(**pair_columns(**columns)))


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"num_correct": 0}, "'num_correct' must be a positive integer, not 0"),
        ({"num_correct": 4}, "'scores' must be a list of more than num_correct = 4"),
        ({"scores": None, "results": 0.7}, "a result must be 0 or 1/k with k up to 4, not 0.7"),
        ({"results": 1.0}, "the result is 1.0, but the scores are"),
    ],
)
def test_a_wrong_row_of_rewardbench_2_is_refused(
    write: Callable[..., Path], row: dict[str, Any], complaint: str
):
    good = {"subset": "Math", "id": "1", "num_correct": 1, "results": 0.5, "scores": [2, 2, 1, 0]}
    assert read_scores(write(**{name: [value] for name, value in good.items()}))
    with pytest.raises(RewardBenchFileError, match=f"row 1: {complaint}"):
        read_scores(write(**{name: [value] for name, value in (good | row).items()}))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is not JSON"),
        ("[]", "is not an object"),
        ('{"subset": ["a"]}', "has no columns of results or scores"),
        ('{"hep-go": 0.5}', "accuracies by subset do not say which rows were won"),
        ('{"subset": [], "results": []}', "has no rows"),
    ],
)
def test_another_file_is_not_taken_for_scores(tmp_path: Path, text: str, complaint: str):
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(RewardBenchFileError, match=complaint):
        read_scores(file)


def test_accuracies_are_read_without_metadata_and_retired_subsets(write: Callable[..., Path]):
    file = write(**{"hep-go": 0.25, "hep-cpp": 1, "xstest": 0.5}, ref_model="r", model_beaker="b")
    published = read_accuracies(file)
    assert published.accuracies == {"hep-go": 0.25, "hep-cpp": 1}
    assert published.benchmark.name == "rewardbench"


@pytest.mark.parametrize(
    ("accuracies", "name"),
    [
        ({"anthropic_hhh": 0.5, "anthropic_harmless": 0.5, "mtbench_gpt4": 0.5}, "prior"),
        ({"Safety": 0.5, "Ties": 1.0100000000000002}, "rewardbench-2"),
    ],
)
def test_the_set_is_known_by_its_subsets(
    write: Callable[..., Path], accuracies: dict[str, float], name: str
):
    assert read_accuracies(write(**accuracies)).benchmark.name == name


@pytest.mark.parametrize(
    ("accuracies", "complaint"),
    [
        ({"hep-go": 25.0}, "'hep-go' is 25.0, not a fraction"),
        ({"hep-go": 1.02}, "'hep-go' is 1.02, not a fraction"),
        ({"hep-go": "0.5"}, "'hep-go' is '0.5', not a fraction"),
        ({"hep-go": True}, "'hep-go' is True, not a fraction"),
        ({"hep-go": 0.5, "mine": 0.5}, "are not the subsets of one known set"),
        ({"hep-go": 0.5, "Ties": 0.5}, "are not the subsets of one known set"),
        ({}, "are not the subsets of one known set"),
    ],
)
def test_another_file_is_not_taken_for_accuracies(
    write: Callable[..., Path], accuracies: dict[str, Any], complaint: str
):
    with pytest.raises(RewardBenchFileError, match=complaint):
        read_accuracies(write(**accuracies))


def written(run: SavedRun, file: Path) -> dict[str, Any]:
    """What is written of a run, which must be in RewardBench's form to the byte."""
    groups = list(run_groups(run, open_run_dataset(run)))
    scored = zip(groups, run.outcomes(), strict=True)
    write_scores(file, run.document, run.benchmark, scored, of_pairs=are_pairs(groups))
    document = json.loads(file.read_bytes())
    assert file.read_text() == json.dumps(document, indent=4, sort_keys=True)
    assert isinstance(document, dict)
    return document


def test_a_run_of_pairs_survives_writing_and_reading(tmp_path: Path):
    rows = pair_rows({"hep-go": 9, "hep-cpp": 7})
    rows[3]["prompt"] = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
    ]
    rows[5]["chosen"] = 'lines,\n    "quoted": é 🦊\\n'
    one, other = ({"role": "user", "content": text} for text in ("one", "other"))
    answers = [{"role": "assistant", "content": text} for text in ("right", "wrong")]
    rows[4] |= {"chosen": [one, answers[0]], "rejected": [other, answers[1]]}
    dataset = f"rewardbench={write_rows(tmp_path / 'rows.jsonl', rows)}"
    out = finished_run(tmp_path / "run", dataset, random_judge(1, failing=[5]), model="org/m")
    run = open_saved_run(out)

    file = tmp_path / "scores.json"
    document = written(run, file)
    assert document.keys() == METADATA.keys() | pair_columns().keys()
    assert document["text_chosen"][3] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "right hep-go 3"},
    ]
    assert document["text_rejected"][0] == [
        {"role": "user", "content": "prompt hep-go 0"},
        {"role": "assistant", "content": "wrong hep-go 0 and long"},
    ]
    assert document["text_chosen"][5][1]["content"] == rows[5]["chosen"]
    assert document["text_chosen"][4] == [one, answers[0]]
    assert document["text_rejected"][4] == [other, answers[1]]
    read = read_scores(file)
    assert [o.key for o in read.outcomes] == [o.key for o in run.outcomes()]
    assert [o.scores for o in read.outcomes] == [o.scores for o in run.outcomes()]
    assert [o.error is None for o in read.outcomes].count(False) == 2
    again, ours = measure(read.outcomes, read.benchmark), measure(run.outcomes(), run.benchmark)
    assert again.overall == ours.overall

    accuracies = accuracies_document(run.document)
    assert accuracies == {
        **METADATA,
        "chat_template": None,
        **{name: subset.estimate.value for name, subset in ours.subsets.items()},
    }
    file.write_bytes(encoded(accuracies))
    assert read_accuracies(file).accuracies.keys() == {"hep-go", "hep-cpp"}
    assert folder_of(run.benchmark) == "eval-set"


def test_a_run_of_rewardbench_2_survives_writing_and_reading(tmp_path: Path):
    dataset = f"rewardbench-2={write_rows(tmp_path / 'rows.jsonl', rewardbench_2_rows())}"
    run = open_saved_run(finished_run(tmp_path / "run", dataset, random_judge(2, failing=["4"])))
    file = tmp_path / "scores.json"
    document = written(run, file)
    assert document.keys() == METADATA.keys() | {
        *("subset", "id", "results", "text", "scores", "num_correct")
    }
    for subset, result in zip(document["subset"], document["results"], strict=True):
        assert (result is None) == (subset == "Ties")
    read = read_scores(file)
    assert [(o.key, o.num_chosen, o.scores) for o in read.outcomes] == [
        (o.key, o.num_chosen, o.scores) for o in run.outcomes()
    ]
    ours = measure(run.outcomes(), run.benchmark)
    assert measure(read.outcomes, read.benchmark).overall == ours.overall
    accuracies = accuracies_document(run.document)
    assert accuracies["Ties"] == ours.subsets["Ties"].estimate.value


def test_a_dpo_model_names_its_reference():
    results = {
        "model": "org/policy",
        "model_type": "DPO",
        "subsets": {"hep-go": {"accuracy": 0.5}},
        "provenance": {
            "info": {"template": {"source": "tokenizer"}, "reference": {"id": "org/reference"}}
        },
    }
    assert accuracies_document(results) == {
        "model": "org/policy",
        "model_type": "DPO",
        "chat_template": "tokenizer",
        "ref_model": "org/reference",
        "hep-go": 0.5,
    }


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("DPO", "org/policy.json"),
        ("DPO Ref. Free", "org/policy_ref_free.json"),
        ("Seq. Classifier", "org/policy.json"),
    ],
)
def test_only_a_dpo_model_without_its_reference_has_a_suffix(model_type: str, name: str):
    assert file_name({"model": "org/policy", "model_type": model_type}) == name
