"""Export of runs as RewardBench's files, and their way to a stand-in for the hub over HTTP."""

import json
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from click.testing import Result
from typer.testing import CliRunner

from reward_benchmark.cli import app
from reward_benchmark.comparison import compare
from reward_benchmark.datasets import BENCHMARKS, Selection
from reward_benchmark.errors import BenchmarkError
from reward_benchmark.hub_upload import push_files
from reward_benchmark.leaderboard import find_rows
from reward_benchmark.metrics import measure
from reward_benchmark.rewardbench_files import read_accuracies
from reward_benchmark.saved_run import open_saved_run

from .fake_hub import FakeHub
from .scored_runs import finished_run, pair_rows, random_judge, set_rows, write_rows

EXPORTED = ("eval-set/org/model.json", "eval-set-scores/org/model.json")

CARD = """---
license: mit
model-index:
- name: model
  results:
  - task:
      type: text-classification
    dataset:
      name: Other
      type: other
    metrics:
    - type: accuracy
      value: 0.25
---
# A model

What its authors say about it: `---` and all.
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rows = write_rows(tmp_path / "rows.jsonl", pair_rows({"hep-go": 6, "hep-cpp": 5}))
    return finished_run(tmp_path / "run", f"rewardbench={rows}", random_judge(1))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """The hub that huggingface_hub talks to."""
    fake = FakeHub()
    with fake.serve() as url:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
        monkeypatch.setattr(
            huggingface_hub.constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", url)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield fake


@pytest.fixture
def export(run: Path, tmp_path: Path) -> Callable[..., Result]:
    def export(*options: str) -> Result:
        arguments = ["export", str(run), "--out", str(tmp_path / "files"), *options]
        return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})

    return export


def run_on(folder: Path, name: str, **options: Any) -> Path:
    """A run on rows of a known set."""
    rows = write_rows(folder / f"{name}.jsonl", set_rows(name))
    return finished_run(folder / f"run-{name}", f"{name}={rows}", random_judge(2), **options)


def run_on_own(folder: Path, *subsets: str) -> Path:
    name = "-".join(subsets)
    rows = write_rows(folder / f"{name}.jsonl", pair_rows(dict.fromkeys(subsets, 4)))
    return finished_run(folder / f"run-{name}", str(rows), random_judge(2))


def exported(run: Path, out: Path, *options: str) -> Result:
    arguments = ["export", str(run), "--out", str(out), *options]
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below by its path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_an_exported_run_compares_as_the_run_itself(
    export: Callable[..., Result], run: Path, tmp_path: Path
):
    result = export("--json")
    assert result.exit_code == 0, result.stderr
    files = [Path(file) for file in json.loads(result.stdout.splitlines()[-1])["files"]]
    assert files == [
        tmp_path / "files" / "eval-set" / "org" / "model.json",
        tmp_path / "files" / "eval-set-scores" / "org" / "model.json",
    ]
    comparison = compare(open_saved_run(files[1]), open_saved_run(run))
    assert comparison.compared == 11
    assert comparison.flips == ()
    results = json.loads((run / "results.json").read_text())
    assert read_accuracies(files[0]).accuracies == {
        name: subset["accuracy"] for name, subset in results["subsets"].items()
    }
    assert set((tmp_path / "files").iterdir()) == {file.parent.parent for file in files}, (
        "nothing temporary stays"
    )
    for file in files:
        text = file.read_text()
        assert text == json.dumps(json.loads(text), indent=4, sort_keys=True)


def test_files_of_prior_sets_have_a_folder_of_their_own(tmp_path: Path):
    rows = write_rows(tmp_path / "rows.jsonl", pair_rows({"anthropic_hhh": 3, "shp": 2}))
    run = finished_run(tmp_path / "run", f"prior={rows}", random_judge(1))
    arguments = ["export", str(run), "--out", str(tmp_path), "--model", "other/name"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    file = tmp_path / "pref-sets" / "other" / "name.json"
    assert read_accuracies(file).model == "other/name"
    scores = tmp_path / "pref-sets-scores" / "other" / "name.json"
    assert open_saved_run(scores).benchmark.name == "prior"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_set_survives_export_and_reading(name: str, tmp_path: Path):
    rows = write_rows(tmp_path / "rows.jsonl", set_rows(name))
    judge = random_judge(3, failing=[1, "1", "chat 1"])
    run = finished_run(tmp_path / "run", f"{name}={rows}", judge)
    exported = CliRunner().invoke(app, ["export", str(run), "--out", str(tmp_path), "--json"])
    assert exported.exit_code == 0, exported.stderr
    accuracies, scores = json.loads(exported.stdout.splitlines()[-1])["files"]
    ours, theirs = open_saved_run(run), open_saved_run(Path(scores))
    assert theirs.benchmark.name == name
    comparison = compare(theirs, ours)
    assert comparison.flips == ()
    assert comparison.compared == len(list(ours.outcomes()))
    assert [o.scores for o in theirs.outcomes()] == [o.scores for o in ours.outcomes()]
    metrics, again = (measure(one.outcomes(), one.benchmark) for one in (ours, theirs))
    assert (again.overall, again.sections) == (metrics.overall, metrics.sections)
    [row] = find_rows([Path(accuracies)]).rows
    [own] = find_rows([run]).rows
    assert {name: cell.value for name, cell in row.cells.items()} == pytest.approx(
        {name: cell.value for name, cell in own.cells.items()}
    )
    assert row.cells


@pytest.mark.parametrize("subsets", [["chat", "code"], ["math"], ["mine"]])
def test_pairs_are_never_taken_for_rm_bench(subsets: list[str], tmp_path: Path):
    rows = write_rows(tmp_path / "rows.jsonl", pair_rows(dict.fromkeys(subsets, 4)))
    run = finished_run(tmp_path / "run", str(rows), lambda _: (1.0, 0.0))
    arguments = ["export", str(run), "--out", str(tmp_path)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    theirs = open_saved_run(tmp_path / "eval-set-scores" / "org" / "model.json")
    assert measure(theirs.outcomes(), theirs.benchmark).overall.value == 1


@pytest.mark.parametrize("name", ["model", "chat_template"])
def test_a_subset_that_would_pass_for_a_field_is_refused(name: str, tmp_path: Path):
    rows = write_rows(tmp_path / "rows.jsonl", pair_rows({"mine": 2, name: 3}))
    run = finished_run(tmp_path / "run", str(rows), random_judge(1))
    beside = json.loads((run / "rewardbench.json").read_text())
    assert (beside["model"], beside["chat_template"]) == ("org/model", None)
    arguments = ["export", str(run), "--out", str(tmp_path / "files")]
    refused = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert refused.exit_code == 2
    assert f"a subset of rows.jsonl is called '{name}'" in refused.stderr
    assert not (tmp_path / "files").exists()


def test_what_is_there_already_is_kept(export: Callable[..., Result], tmp_path: Path):
    assert export().exit_code == 0
    assert export().exit_code == 0, "the same content is no conflict"
    file = tmp_path / "files" / "eval-set" / "org" / "model.json"
    scores = tmp_path / "files" / "eval-set-scores" / "org" / "model.json"
    file.write_text("another's")
    scores.unlink()
    refused = export()
    assert refused.exit_code == 2
    assert "is there already with other content" in refused.stderr
    assert file.read_text() == "another's"
    assert not scores.exists(), "nothing is written if not all of it can be"
    assert export("--overwrite").exit_code == 0
    assert read_accuracies(file).model == "org/model"


def test_where_one_file_cannot_be_neither_is(export: Callable[..., Result], tmp_path: Path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "eval-set-scores").write_text("in the way")
    assert export().exit_code == 2
    assert not list((tmp_path / "files").rglob("*.json"))


@pytest.mark.parametrize("options", [(), ("--overwrite",)], ids=["plain", "overwrite"])
@pytest.mark.parametrize(
    ("first", "second", "title"),
    [
        ("rewardbench", "rewardbench-2", "RewardBench"),
        ("rewardbench-2", "rewardbench", "RewardBench 2"),
        ("judgebench", "rm-bench", "JudgeBench"),
    ],
)
def test_numbers_on_another_set_are_never_replaced(
    first: str, second: str, title: str, options: tuple[str, ...], tmp_path: Path
):
    out = tmp_path / "files"
    assert exported(run_on(tmp_path, first), out).exit_code == 0
    before = contents(out)
    assert set(before) == set(EXPORTED)
    other = run_on(tmp_path, second)
    refused = exported(other, out, *options)
    assert refused.exit_code == 2
    assert (
        f"{out / EXPORTED[0]} holds the numbers of {title}, which those of {second} never replace"
    ) in refused.stderr
    assert "give each set an --out of its own" in refused.stderr
    assert contents(out) == before
    assert exported(other, tmp_path / "others").exit_code == 0
    # The same set is another matter, whatever part of it and whoever's numbers.
    assert exported(run_on(tmp_path / "files", first), out, "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("first", "second", "whose"),
    [
        (["mine"], ["yours"], "other data, with the subsets ['mine']"),
        (["xstest"], ["hep-go"], "other data, with the subsets ['xstest']"),
        (["Math", "mine"], None, "other data, with the subsets ['Math', 'mine']"),
        (None, ["Math", "mine"], "RewardBench 2"),
        (["mine", "yours"], ["yours", "hers"], None),
        (["hep-go"], ["hep-cpp"], None),
    ],
)
def test_own_data_is_known_by_its_subsets(
    first: list[str] | None, second: list[str] | None, whose: str | None, tmp_path: Path
):
    out = tmp_path / "files"
    one, other = (
        run_on_own(tmp_path, *subsets) if subsets else run_on(tmp_path, "rewardbench-2")
        for subsets in (first, second)
    )
    assert exported(one, out).exit_code == 0
    before = contents(out)
    asked = exported(other, out, "--overwrite")
    if whose is None:
        assert asked.exit_code == 0, asked.stderr
        assert contents(out).keys() == before.keys()
        assert all(contents(out)[name] != before[name] for name in before)
        assert exported(one, out).exit_code == 2, "only with --overwrite"
    else:
        assert asked.exit_code == 2
        assert f"holds the numbers of {whose}, which" in asked.stderr
        assert contents(out) == before


# Own data too: with a subset of RM-Bench's rows, but in pairs, and with one that is retired.
@pytest.mark.parametrize("name", [*BENCHMARKS, "safety-refuse", "xstest", "xstest hep-go"])
def test_scores_alone_say_which_data_they_are_of(name: str, tmp_path: Path):
    known = name in BENCHMARKS
    run = run_on(tmp_path, name) if known else run_on_own(tmp_path, *name.split())
    out = tmp_path / "files"
    for _ in range(2):
        assert exported(run, out).exit_code == 0, "no run's own numbers are another's"
    [accuracies] = (file for file in contents(out) if "-scores/" not in file)
    (out / accuracies).unlink()
    before = contents(out)
    other = exported(run_on_own(tmp_path, "another"), out, "--overwrite")
    if name == "prior":  # in folders of their own
        assert other.exit_code == 0
    else:
        assert other.exit_code == 2
        assert f"{out / EXPORTED[1]} holds the numbers of " in other.stderr
        assert contents(out) == before
    assert exported(run, out, "--overwrite").exit_code == 0
    assert (out / accuracies).exists()


def test_subsets_that_rewardbench_has_retired_make_no_other_data(
    export: Callable[..., Result], tmp_path: Path
):
    file = tmp_path / "files" / EXPORTED[0]
    file.parent.mkdir(parents=True)
    about = {"model": "org/model", "model_type": "DPO", "model_beaker": 1, "ref_model": "r"}
    file.write_text(json.dumps({**about, "xstest": 0.5, "hep-java": 0.5}))
    assert "pass --overwrite to replace it" in export().stderr
    assert export("--overwrite").exit_code == 0


def test_a_dpo_model_without_its_reference_has_files_beside_those_with_it(tmp_path: Path):
    folders = [tmp_path / "with", tmp_path / "without"]
    for folder, kind in zip(folders, ("DPO", "DPO Ref. Free"), strict=True):
        folder.mkdir()
        run = run_on(folder, "rewardbench", model_type=kind)
        assert exported(run, tmp_path / "files").exit_code == 0
    files = contents(tmp_path / "files")
    free = tuple(name.replace("model.json", "model_ref_free.json") for name in EXPORTED)
    assert set(files) == {*EXPORTED, *free}
    for name, content in files.items():
        document = json.loads(content)
        assert document["model"] == "org/model"
        assert document["model_type"] == ("DPO Ref. Free" if name in free else "DPO")

    board = CliRunner().invoke(app, ["leaderboard", str(tmp_path / "files"), "--json"])
    rows = json.loads(board.stdout.splitlines()[-1])["rows"]
    assert sorted((row["model"], row["model_type"]) for row in rows) == [
        ("org/model", "DPO"),
        ("org/model", "DPO Ref. Free"),
    ]
    arguments = ["leaderboard", str(tmp_path / "files"), "--reference-free", "--json"]
    joined = json.loads(CliRunner().invoke(app, arguments).stdout.splitlines()[-1])["rows"]
    assert [row["model_type"] for row in joined] == ["DPO", "DPO Ref. Free", "difference"]
    assert {row["model"] for row in joined} == {"org/model"}


@pytest.mark.parametrize(
    "name",
    ["/models/mine", "../mine", "a/../b", "a/b/c", "", "a/", "/a", ".", "./a", "a\nb", "a/\x1b[1m"],
)
def test_the_name_of_a_folder_is_no_name_of_a_model(
    export: Callable[..., Result], tmp_path: Path, name: str
):
    result = export("--model", name)
    assert result.exit_code == 2
    assert "say how to call it with --model OWNER/NAME" in result.stderr
    assert not (tmp_path / "files").exists()


def test_data_that_is_gone_must_be_named(export: Callable[..., Result], tmp_path: Path):
    (tmp_path / "rows.jsonl").rename(tmp_path / "moved.jsonl")
    refused = export()
    assert refused.exit_code == 2
    assert "say where the data is with --dataset" in refused.stderr
    assert not (tmp_path / "files").exists()
    assert export("--dataset", f"rewardbench={tmp_path / 'moved.jsonl'}").exit_code == 0


def test_a_new_repository_is_private_and_gets_a_card(export: Callable[..., Result], hub: FakeHub):
    result = export("--push-to-hub", "me/results", "--json")
    assert result.exit_code == 0, result.stderr
    assert hub.private == {"datasets/me/results": True}
    files = hub.repositories["datasets/me/results"]
    assert sorted(files) == [
        "README.md",
        "eval-set-scores/org/model.json",
        "eval-set/org/model.json",
    ]
    assert b"Results of reward models" in files["README.md"]
    uploads = json.loads(result.stdout.splitlines()[-1])["uploads"]
    assert uploads["me/results"].startswith(f"{hub.url}/datasets/me/results/commit/")
    local = Path(json.loads(result.stdout.splitlines()[-1])["files"][0]).read_bytes()
    assert files["eval-set/org/model.json"] == local


def test_a_card_and_other_files_stay_as_they_are(export: Callable[..., Result], hub: FakeHub):
    there = {"README.md": b"mine", "eval-set/org/other.json": b"{}"}
    hub.repositories["datasets/me/results"] = dict(there)
    before = hub.head("datasets/me/results")
    assert export("--push-to-hub", "me/results").exit_code == 0
    files = hub.repositories["datasets/me/results"]
    assert files.items() >= there.items()
    assert len(files) == 4
    # The commit must fail on the hub if somebody else's came in between.
    assert [commit["parentCommit"] for commit in hub.commits] == [before]

    assert export("--push-to-hub", "me/results").exit_code == 0
    assert len(hub.commits) == 1, "the same files are no commit"


def test_another_file_of_the_model_is_not_replaced_unasked(
    export: Callable[..., Result], hub: FakeHub
):
    hub.repositories["datasets/me/results"] = {"eval-set/org/model.json": b"theirs"}
    refused = export("--push-to-hub", "me/results")
    assert refused.exit_code == 2
    assert "me/results has another eval-set/org/model.json already" in refused.stderr
    assert hub.commits == []
    assert export("--push-to-hub", "me/results", "--overwrite").exit_code == 0
    assert hub.repositories["datasets/me/results"]["eval-set/org/model.json"] != b"theirs"


@pytest.mark.parametrize("options", [(), ("--overwrite",)], ids=["plain", "overwrite"])
@pytest.mark.parametrize("kept", [EXPORTED, EXPORTED[1:]], ids=["both", "scores"])
def test_numbers_on_another_set_stay_in_a_repository(
    kept: tuple[str, ...],
    options: tuple[str, ...],
    export: Callable[..., Result],
    hub: FakeHub,
    tmp_path: Path,
):
    assert exported(run_on(tmp_path, "rewardbench-2"), tmp_path / "2").exit_code == 0
    there = {name: (tmp_path / "2" / name).read_bytes() for name in kept}
    hub.repositories["datasets/me/results"] = dict(there)
    refused = export("--push-to-hub", "me/results", *options)
    assert refused.exit_code == 2
    assert (
        f"{kept[0]} in me/results holds the numbers of RewardBench 2, which those of rewardbench "
        "never replace"
    ) in refused.stderr
    assert "give each set an --push-to-hub of its own" in refused.stderr
    assert hub.repositories["datasets/me/results"] == there
    assert not (tmp_path / "files").exists(), "nothing is written before that is known"
    assert export("--push-to-hub", "me/others").exit_code == 0


def test_numbers_that_came_to_a_repository_meanwhile_stay_too(
    export: Callable[..., Result], run: Path, hub: FakeHub, tmp_path: Path
):
    assert export().exit_code == 0
    assert exported(run_on(tmp_path, "rewardbench-2"), tmp_path / "2").exit_code == 0
    there = {EXPORTED[0]: (tmp_path / "2" / EXPORTED[0]).read_bytes()}
    hub.repositories["datasets/me/results"] = dict(there)
    files = {name: tmp_path / "files" / name for name in EXPORTED}
    results = json.loads((run / "results.json").read_text())
    with pytest.raises(BenchmarkError, match="holds the numbers of RewardBench 2"):
        push_files("me/results", files, results, card="a card", overwrite=True)
    assert hub.repositories["datasets/me/results"] == there


def test_other_numbers_on_the_same_set_are_replaced_in_a_repository_when_asked(
    run: Path, hub: FakeHub, tmp_path: Path
):
    part = finished_run(
        tmp_path / "part",
        f"rewardbench={tmp_path / 'rows.jsonl'}",
        random_judge(7),
        selection=Selection(frozenset({"hep-cpp"})),
    )
    push = ("--push-to-hub", "me/results")
    assert exported(part, tmp_path / "one", *push).exit_code == 0
    refused = exported(run, tmp_path / "two", *push)
    assert refused.exit_code == 2
    assert "me/results has another eval-set-scores/org/model.json already" in refused.stderr
    assert exported(run, tmp_path / "two", *push, "--overwrite").exit_code == 0
    files = hub.repositories["datasets/me/results"]
    for name in EXPORTED:
        assert files[name] == (tmp_path / "two" / name).read_bytes()
    assert set(hub.downloaded) == {EXPORTED[0]}, "scores may be gigabytes"


@pytest.mark.parametrize("answer", [None, lambda _: (418, {}, b"")], ids=["none", "an error"])
def test_a_file_that_cannot_be_looked_into_is_not_replaced(
    answer: Any, export: Callable[..., Result], hub: FakeHub, monkeypatch: pytest.MonkeyPatch
):
    there = {EXPORTED[0]: b"{}"}
    hub.repositories["datasets/me/results"] = dict(there)
    monkeypatch.setattr(hub, "_file", answer)  # to its download
    monkeypatch.setattr(ThreadingHTTPServer, "handle_error", lambda *_: None)
    lost = export("--push-to-hub", "me/results", "--overwrite")
    assert lost.exit_code == 1
    assert "the hub cannot be reached: " in lost.stderr
    assert hub.repositories["datasets/me/results"] == there


def metadata(card: bytes) -> tuple[dict[str, Any], str]:
    parsed = huggingface_hub.ModelCard(card.decode())
    results = parsed.data.to_dict()["model-index"][0]["results"]
    values = {one["dataset"]["name"]: one["metrics"][0]["value"] for one in results}
    return {"license": parsed.data.license, **values}, parsed.text


def test_a_models_card_gets_numbers_and_keeps_its_text(
    export: Callable[..., Result], run: Path, hub: FakeHub
):
    hub.repositories["models/org/model"] = {"README.md": CARD.encode(), "config.json": b"{}"}
    result = export("--model-card", "org/model")
    assert result.exit_code == 0, result.stderr
    values, text = metadata(hub.repositories["models/org/model"]["README.md"])
    assert text.strip() == CARD.split("---\n", 2)[2].strip()
    results = json.loads((run / "results.json").read_text())
    assert values == {
        "license": "mit",
        "Other": 0.25,
        "RewardBench": results["overall"],
        "RewardBench, Reasoning": results["sections"]["Reasoning"]["score"],
        "RewardBench, hep-go": results["subsets"]["hep-go"]["accuracy"],
        "RewardBench, hep-cpp": results["subsets"]["hep-cpp"]["accuracy"],
    }

    card = hub.repositories["models/org/model"]
    changed = card["README.md"].replace(f"{results['overall']}".encode(), b"0.75")
    assert changed != card["README.md"]
    card["README.md"] = changed
    refused = export("--model-card", "org/model")
    assert refused.exit_code == 2
    assert "has other values of these metrics already" in refused.stderr
    assert card["README.md"] == changed
    assert export("--model-card", "org/model", "--overwrite").exit_code == 0
    assert metadata(card["README.md"])[0]["RewardBench"] == results["overall"]


def test_a_model_without_a_card_gets_none(export: Callable[..., Result], hub: FakeHub):
    hub.repositories["models/org/model"] = {"config.json": b"{}"}
    refused = export("--model-card", "org/model")
    assert refused.exit_code == 2
    assert "has no README.md to put results into" in refused.stderr
    assert list(hub.repositories["models/org/model"]) == ["config.json"]


def test_a_hub_that_refuses_is_a_sentence(
    export: Callable[..., Result], hub: FakeHub, monkeypatch: pytest.MonkeyPatch
):
    hub.refuses = True
    refused = export("--push-to-hub", "me/results")
    assert refused.exit_code == 1
    assert "the hub refused me/results" in refused.stderr
    assert "set HF_TOKEN" in refused.stderr
    with monkeypatch.context() as broken:
        broken.setattr(hub, "answer", None)  # the connection is then closed without an answer
        broken.setattr(ThreadingHTTPServer, "handle_error", lambda *_: None)
        lost = export("--push-to-hub", "me/results")
    assert lost.exit_code == 1
    assert "the hub cannot be reached: " in lost.stderr
    wrong = export("--push-to-hub", "not/a/name")
    assert wrong.exit_code == 2
    assert "'not/a/name' is no repository of the hub: owner/name is" in wrong.stderr


def test_nothing_is_uploaded_unless_asked(export: Callable[..., Result], hub: FakeHub):
    assert export().exit_code == 0
    assert hub.repositories == {}


def test_offline_is_a_sentence(export: Callable[..., Result]):
    refused = export("--push-to-hub", "me/results")
    assert refused.exit_code == 2
    assert "while HF_HUB_OFFLINE is set" in refused.stderr
