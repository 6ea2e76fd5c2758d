"""`analyze per-token` on a served model: every prefix scored by itself is the oracle."""

import json

import pytest
from typer.testing import CliRunner

from reward_benchmark.analysis.token_scores import score_tokens
from reward_benchmark.analysis.words import word_spans
from reward_benchmark.cli import app
from reward_benchmark.errors import ServiceError
from reward_client import RewardClient
from reward_client.schema import TextInput

TEXT = "I love 我爱 naïve  tests\nok"
TOLERANCE = 1e-4


def scored(url, text, **options):
    with RewardClient(url) as client:
        return score_tokens(client, url, text, word_spans(text), **options)


def per_token(*arguments):
    return CliRunner().invoke(app, ["analyze", "per-token", *map(str, arguments)])


def character_ends(text):
    """Index of the last token of each character: the debug model has one token a byte."""
    ends, count = [], 0
    for character in text:
        count += len(character.encode())
        ends.append(count - 1)
    return ends


@pytest.mark.parametrize("one_pass", [False, True])
@pytest.mark.parametrize("text", [TEXT, "a", "ab"])
def test_every_prefix_of_a_text_has_its_own_score(service_url, text, one_pass):
    found = scored(service_url, text, one_pass=one_pass)

    assert found.mode == ("one pass" if one_pass else "prefix")
    assert len(found.scores) == len(found.tokens) == len(text.encode())
    with RewardClient(service_url) as client:
        prefixes = [TextInput(text=text[: i + 1]) for i in range(len(text))]
        expected = [result.scores[0] for result in client.score_many(prefixes).results]
    at_characters = [found.scores[end] for end in character_ends(text)]
    assert at_characters == pytest.approx(expected, abs=TOLERANCE)
    assert found.substrings[-1] == text


def test_every_prefix_of_a_completion_is_scored_in_the_template(service_url):
    found = scored(service_url, TEXT, prompt="What do you love?")

    with RewardClient(service_url) as client:
        prefixes = [TEXT[: i + 1] for i in range(len(TEXT))]
        expected = client.score("What do you love?", prefixes)
    at_characters = [found.scores[end] for end in character_ends(TEXT)]
    assert at_characters == pytest.approx(expected, abs=TOLERANCE)


def test_a_word_has_the_mean_score_of_its_tokens(service_url):
    found = scored(service_url, TEXT)

    ends = [0, *(end + 1 for end in character_ends(TEXT))]
    for (first, last), score in zip(word_spans(TEXT), found.word_scores, strict=True):
        tokens = found.scores[ends[first] : ends[last]]
        assert score == pytest.approx(sum(tokens) / len(tokens))


def test_models_stand_side_by_side(start_service, service_url, debug_folder, tmp_path):
    other = start_service(model_id=str(debug_folder))
    options = ("--prompt", "Say it.", "--completion", "I love it\nvery much", "--json")

    result = per_token("--url", service_url, "--url", other, "--out", tmp_path, *options)

    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["words"] == ["I", "love", "it", "very", "much"]
    assert [one["name"] for one in found["models"]] == ["debug", str(debug_folder)]
    assert {path.name for path in tmp_path.iterdir()} == {
        "per-token.json",
        "per-token-heat-map.png",
        "per-token-lines.png",
    }
    saved = json.loads((tmp_path / "per-token.json").read_text(encoding="utf-8"))
    assert saved == {key: value for key, value in found.items() if key != "files"}
    first = found["models"][0]
    lines = [line for line in result.stderr.splitlines() if line.startswith("Reward:")]
    assert len(lines) == sum(len(one["scores"]) for one in found["models"])
    assert lines[5] == f"Reward: {first['scores'][5]:.3f} | Substring: I love"
    assert lines[len(first["scores"]) - 1].endswith(r"| Substring: I love it\nvery much")


def test_models_asked_at_different_times_stand_side_by_side(
    start_service, service_url, debug_folder, tmp_path
):
    other = start_service(model_id=str(debug_folder))
    options = ("--text", "I love it", "--json")
    at_once = per_token("--url", other, "--url", service_url, *options)
    assert per_token("--url", service_url, "--out", tmp_path / "first", *options).exit_code == 0
    saved = tmp_path / "first" / "per-token.json"

    later = per_token("--url", other, "--beside", saved, "--out", tmp_path / "both", *options)

    assert later.exit_code == 0, later.output
    found = json.loads(later.stdout.splitlines()[-1])
    del found["files"]
    assert found == {
        key: value
        for key, value in json.loads(at_once.stdout.splitlines()[-1]).items()
        if key != "files"
    }
    assert len(list((tmp_path / "both").glob("*.png"))) == 2
    # What was drawn together can be drawn together again.
    again = tmp_path / "both" / "per-token.json"
    assert (
        len(json.loads(per_token("--beside", again, "--url", other, *options).stdout)["models"])
        == 3
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"text": "I hate it"}, "is about another text"),
        ({"prompt": "Say it."}, "is about another prompt"),
        ({"models": [{}]}, "is no per-token.json (models.0.model: Field required)"),
        ({"models": 3}, "is no per-token.json (models: Input should be a valid list)"),
        (None, "is no per-token.json: "),
    ],
)
def test_what_is_no_earlier_result_on_this_text_is_refused(tmp_path, change, complaint):
    saved = tmp_path / "per-token.json"
    content = {"text": "I love it", "prompt": None, "models": []}
    saved.write_text("[" if change is None else json.dumps({**content, **change}))

    result = per_token("--text", "I love it", "--beside", saved)

    assert result.exit_code == 2
    assert complaint in " ".join(result.stderr.split())


def test_an_earlier_result_with_lists_of_unequal_lengths_is_refused(tmp_path):
    saved = tmp_path / "per-token.json"
    whole = {"model": "m", "url": "http://a", "mode": "prefix", "tokens": ["a"]}
    whole |= {"substrings": ["a"], "scores": [1.0], "word_scores": [1.0]}
    for name in ("tokens", "substrings", "scores", "word_scores"):
        damaged = {**whole, name: whole[name] * 2}
        saved.write_text(json.dumps({"text": "a", "prompt": None, "models": [damaged]}))
        result = per_token("--text", "a", "--beside", saved)
        assert result.exit_code == 2
        assert "m has lists of unequal lengths" in " ".join(result.stderr.split())


def test_a_model_without_scores_at_tokens_scores_every_prefix(start_service, debug_dpo_folder):
    policy, reference = debug_dpo_folder / "policy", debug_dpo_folder / "reference"
    url = start_service(model_id=str(policy), ref_model_id=str(reference))
    options = ("--prompt", "Say it.", "--completion", "I do", "--one-pass", "--json")

    result = per_token("--url", url, *options)

    [found] = json.loads(result.stdout.splitlines()[-1])["models"]
    assert found["mode"] == "prefix"
    assert "has no score at every token from one pass: every prefix was" in result.stderr
    with RewardClient(url) as client:
        expected = client.score("Say it.", ["I", "I ", "I d", "I do"])
    assert found["scores"] == pytest.approx(expected, abs=TOLERANCE)


def test_a_model_without_scores_is_named(start_service):
    url = start_service(model_id="debug-policy")

    with pytest.raises(ServiceError, match=r"debug-policy at .* gives no scores"):
        scored(url, "some text")


def test_text_comes_from_a_file(service_url, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")

    result = per_token("--url", service_url, "--file", tmp_path / "text.txt", "--json")

    assert json.loads(result.stdout.splitlines()[-1])["text"] == TEXT


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "name one thing to score"),
        (["--text", "a", "--completion", "b"], "name one thing to score"),
        (["--completion", "a"], "--completion needs its --prompt"),
        (["--text", "a", "--prompt", "b"], "--text has no --prompt"),
        (["--text", " \n"], "the text is empty"),
        (["--text", "a", *["--url", "http://127.0.0.1:9"] * 2], "one --url is named twice"),
    ],
)
def test_what_cannot_be_scored_is_refused(arguments, complaint):
    result = per_token(*arguments)

    assert result.exit_code == 2
    assert complaint in result.stderr


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "text.bin").write_bytes(b"\xff\xfe\xff")

    result = per_token("--file", tmp_path / "text.bin")

    assert result.exit_code == 2
    assert "is not UTF-8 text" in result.stderr


def test_a_service_that_is_not_there_is_named():
    url = "http://me:secret@127.0.0.1:9"

    result = per_token("--url", url, "--text", "a", "--wait", "0.2")

    assert result.exit_code == 1
    assert "reward-benchmark: http://127.0.0.1:9: " in result.stderr
