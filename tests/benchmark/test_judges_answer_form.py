"""Answers in the forms of judges that were trained to end otherwise than on `[[A]]`.

The forms are those of Prometheus, Atla's Selene, OffsetBias and Con-J; their files are our own.
"""

from pathlib import Path

import pytest

from reward_benchmark.errors import BenchmarkError
from reward_benchmark.judges import answer_form as module
from reward_benchmark.judges.answer_form import AnswerForm
from reward_benchmark.judges.prompts import Way, load_prompts

COMPARE = """
{% block system %}Compare the answers.{% endblock %}
{% block user %}
{{ prompt }}
{% for letter, completion in completions.items() %}
{{ letter }}: {{ completion }}
{% endfor %}
{% endblock %}
"""
RATE = """
{% block system %}Rate the answer from 1 to 5.{% endblock %}
{% block user %}{{ prompt }}: {{ completion }}{% endblock %}
"""

PROMETHEUS = r"(?i)\[RESULT\]\s*([AB])"
DOCUMENTED = r"\[RESULT\] *\(?([AB])\)?\s*$"
ATLA = r"\*\*Result:\*\*\s*([A-Z])"
OFFSETBIAS = r"Output \(([a-z])\)"
CON_J = r'"更好的回答"\s*:\s*"?([12])'
DOCUMENTED_RATING = r"\[RESULT\] \(?([1-5])\)?\s*$"
ABSOLUTE = r"\[RESULT\] \(?([1-5])"


def form_of(folder: Path, expression: str, way: Way = "pairwise") -> AnswerForm:
    block = "rating" if way.startswith("rating") else "verdict"
    text = f"{RATE if block == 'rating' else COMPARE}\n{{% block {block} %}}\n{expression}\n"
    (folder / f"{way}.jinja").write_text(text + "{% endblock %}", encoding="utf-8")
    return load_prompts(str(folder)).forms[way]


@pytest.mark.parametrize(
    ("expression", "answer", "verdict"),
    [
        (PROMETHEUS, "Feedback: B is vague, A is not. [RESULT] A", "A"),
        (PROMETHEUS, "One could end on [RESULT] A, but I do not.\n[RESULT] B\n", "B"),
        (PROMETHEUS, "Feedback: so be it [result] b", "B"),
        (PROMETHEUS, "<think>[RESULT] A</think>Feedback: no. [RESULT] B", "B"),
        (DOCUMENTED, "Feedback: B lies. [RESULT] A", "A"),
        (DOCUMENTED, "I shall end on [RESULT] A or B. [RESULT] (B)\n", "B"),
        (DOCUMENTED, "Feedback: as asked. [RESULT] (A or B)", None),
        (DOCUMENTED, "[RESULT] A/B", None),
        (DOCUMENTED, "[RESULT] A and B are equal", None),
        (ATLA, "**Reasoning:** It says **Result:** B of itself.\n\n**Result:** A", "A"),
        (OFFSETBIAS, "Output (a)", "A"),
        (OFFSETBIAS, "Output (a) is wrong, and so Output (b) is better.", "B"),
        (OFFSETBIAS, "Output (b)because it is whole", "B"),
        (OFFSETBIAS, "Output (c)", "C"),
        (CON_J, '{"原因": "更好的回答: 2?", "更好的回答": 1}', "A"),
        (CON_J, '```json\n{"更好的回答" : "2",\n "原因": "1 不完整"}\n```', "B"),
        (r"更好的是([AB])", "更好的是B因为它完整。", "B"),
        (r"better: (\d)", "better: 3", "C"),
        (r"{% raw %}\{{1}best: ([AB])\}{% endraw %}", "{best: B}", "B"),
        (r"best: (\s*A|B) *", "best:  A ", "A"),
        # What the form does not say is not looked for elsewhere, and half a word is no word.
        (PROMETHEUS, "[[A]]", None),
        (PROMETHEUS, "A", None),
        (PROMETHEUS, "", None),
        (PROMETHEUS, "[RESULT] Both are good.", None),
        (PROMETHEUS, "[RESULT] A, or rather [RESULT] Absolutely none", None),
        (PROMETHEUS, "<think>[RESULT] A</think>I cannot say.", None),
        (PROMETHEUS, "<think>So far [RESULT] A", None),
        (ATLA, "**Result:** D", None),
        (ATLA, "**Result:** a", None),
        (CON_J, '{"更好的回答": 3}', None),
        (CON_J, '{"更好的回答": 12}', None),
        (CON_J, '{"更好的回答": "None"}', None),
        (r"better: (\d+)", "better: 0", None),
        (r"better: (\d+)", "better: 4", None),
        (r"better: (\d+)", f"better: {'1' * 5000}", None),
        (r"better: (\w+)", "better: first", None),
        (r"better: (?:both|([AB]))", "better: A? better: both", None),
    ],
)
def test_the_last_match_is_the_verdict(
    tmp_path: Path, expression: str, answer: str, verdict: str | None
):
    assert form_of(tmp_path, expression).verdict(answer, ["A", "B", "C"]) == verdict


def test_what_a_letter_means_depends_on_the_way(tmp_path: Path):
    form = form_of(tmp_path, OFFSETBIAS, "best-of-n")
    assert form.verdict("Output (d)", ["A", "B", "C", "D"]) == "D"
    assert form.verdict("Output (d)", ["A", "B", "C"]) is None


@pytest.mark.parametrize("way", ["rating", "rating-ties"])
@pytest.mark.parametrize(
    ("expression", "answer", "rating"),
    [
        (ABSOLUTE, "Feedback: [RESULT] 5 would be too much. [RESULT] 4", 4),
        (ABSOLUTE, "<think>[RESULT] 1</think>Feedback: fine. [RESULT] (3)", 3),
        (r"score: ([\d.]+)", "score: 0.25", 0.25),
        (r"score: (-?\d+)", "score: -3", -3),
        (r"score: (\d+)%", "score: 100%", 100),
        (DOCUMENTED_RATING, "Feedback: [RESULT] 5 would be too much. [RESULT] 4", 4),
        (DOCUMENTED_RATING, "[RESULT] 3-4", None),
        (DOCUMENTED_RATING, "[RESULT] 3 or 4", None),
        (ABSOLUTE, "[RESULT] 6", None),
        (ABSOLUTE, "[RESULT] 45", None),
        (ABSOLUTE, "[RESULT] 4.5", None),
        (ABSOLUTE, "[[4]] Rating: 4", None),
        (r"score: (\S+)", "score: nan", None),
        (r"score: (\S+)", "score: 1e3", None),
        (r"score: (\S+)", f"score: {'9' * 400}", None),
        (r"score: (\S+)", "score: ٣", None),
        (r"score: (\S+)", "score: A", None),
    ],
)
def test_the_last_match_is_the_rating(
    tmp_path: Path, way: Way, expression: str, answer: str, rating: float | None
):
    assert form_of(tmp_path, expression, way).rating(answer) == rating


def test_a_file_without_the_block_is_read_as_ever(tmp_path: Path):
    (tmp_path / "pairwise.jinja").write_text(COMPARE)
    assert load_prompts(str(tmp_path)).forms == {}
    form_of(tmp_path, PROMETHEUS)
    assert load_prompts(str(tmp_path)).forms.keys() == {"pairwise"}


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (r"Result: ([AB]", r"is no regular expression: missing \) at position 13"),
        (r"(x){99999999999}", "is no regular expression"),
        (r"Result: [AB]", "has 0 groups, but needs exactly one"),
        (r"(Result|Verdict): ([AB])", r"has 2 groups, .* write others as \(\?:\.\.\.\)"),
        ("", "has 0 groups"),
        ("(" * 5_000, "is no regular expression"),
        (r"(?r)\[RESULT\] ([AB])", r"searches backwards, .* leave \(\?r\) out of"),
        (r"([AB]?)", "matches an answer that says nothing"),
        (r"(?:Result: ([AB]))*", "matches an answer that says nothing"),
        (r"{{ prompt }}([AB])", "cannot be rendered: 'prompt' is undefined; it is given nothing"),
        (r"{{ completions.A }}([AB])", "'completions' is undefined; it is given nothing"),
        (r"{{ 1 / 0 }}([AB])", "cannot be rendered: division by zero"),
    ],
)
def test_an_expression_that_cannot_be_meant_is_refused(
    tmp_path: Path, expression: str, message: str
):
    with pytest.raises(BenchmarkError, match=message) as error:
        form_of(tmp_path, expression)
    assert f"the block verdict of pairwise.jinja of --prompts {tmp_path}" in str(error.value)


@pytest.mark.parametrize(
    ("way", "text", "block"),
    [
        ("pairwise", COMPARE, "verdicts"),
        ("best-of-n", COMPARE, "rating"),
        ("rating", RATE, "verdict"),
        ("rating-ties", RATE, "Rating"),
    ],
)
def test_a_block_that_nobody_reads_is_refused(tmp_path: Path, way: Way, text: str, block: str):
    text += f"{{% block {block} %}}Result: ([AB]){{% endblock %}}"
    (tmp_path / f"{way}.jinja").write_text(text)
    read = "rating" if way.startswith("rating") else "verdict"
    message = f"{way}.jinja of .* has a block '{block}', which is none of system, user, {read}$"
    with pytest.raises(BenchmarkError, match=message):
        load_prompts(str(tmp_path))


def test_an_expression_without_end_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MATCHING_SECONDS", 0.1)
    form = form_of(tmp_path, r"(?:a|aa)+: ([AB])")
    assert form.verdict("aaa: B", ["A", "B"]) == "B"
    with pytest.raises(BenchmarkError, match=r"takes more than 0\.1 s to search an answer of 55"):
        form.verdict("a" * 50 + ": C A", ["A", "B"])
    assert form.verdict("aaa: A", ["A", "B"]) == "A"
