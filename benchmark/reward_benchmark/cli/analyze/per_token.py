"""`reward-benchmark analyze per-token`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from reward_benchmark.cli.analyze.outputs import Folder, OutFolder, PictureForm, distinct, finish
from reward_benchmark.cli.ending import ending_well
from reward_benchmark.cli.options import ApiKey, PrintJson, Wait, http_urls
from reward_benchmark.cli.saved_run_options import Overwrite
from reward_benchmark.errors import BenchmarkError, ServiceError
from reward_benchmark.visible import plain
from reward_client.address import shown_address
from reward_client.client import DEFAULT_BASE_URL

if TYPE_CHECKING:
    from reward_benchmark.analysis.token_scores import ScoredTokens
    from reward_benchmark.plots import Figure

MAX_PICTURE_WORDS = 420
"""A picture has room for so many words; the JSON file has all of them."""
TITLE = "Mean score of each word's tokens: of the text up to there"


def per_token(
    *,
    url: Annotated[
        list[str],
        typer.Option(
            envvar="REWARD_SERVICE_URL",
            callback=http_urls,
            help="A reward service to ask; may be repeated.",
        ),
    ] = [DEFAULT_BASE_URL],  # noqa: B006
    api_key: ApiKey = None,
    text: Annotated[
        str | None, typer.Option(help="Score this text as it is, without a chat template.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Score the completion behind this prompt, in the template.")
    ] = None,
    completion: Annotated[str | None, typer.Option(help="What answers the prompt.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Read the text, or behind a prompt the completion."
        ),
    ] = None,
    one_pass: Annotated[
        bool,
        typer.Option(
            "--one-pass",
            help="Read all scores from one pass, as if nothing followed each token, not even the "
            "template's ending. A model that cannot scores every prefix.",
        ),
    ] = False,
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help="Show the models of an earlier per-token.json on the same text too; may be "
            "repeated.",
        ),
    ] = None,
    wait: Wait = 60.0,
    out: OutFolder = None,
    picture: PictureForm = "png",
    overwrite: Overwrite = False,
    print_json: PrintJson = False,
) -> None:
    """Show what models say of a text word by word.

    Every prefix of the text is scored; a word has the mean score of its tokens. Pictures: a heat
    map and lines, models side by side.
    """
    from reward_benchmark.analysis.token_scores import read_saved
    from reward_benchmark.analysis.words import word_spans
    from reward_benchmark.progress import WorkProgress

    with ending_well():
        if len(set(url)) < len(url):
            raise BenchmarkError("one --url is named twice: name different services")
        whole = _text(text=text, prompt=prompt, completion=completion, file=file)
        spans = word_spans(whole)
        saved = [
            (one, path)
            for path in beside or ()
            for one in read_saved(path, whole, spans, prompt=prompt)
        ]
        console = Console(stderr=True)
        found: list[ScoredTokens] = []
        with WorkProgress(console, total=len(url), done=0, noun="model") as progress:
            for address in url:
                found.append(
                    _score_tokens(
                        address, api_key, wait, whole, spans, prompt=prompt, one_pass=one_pass
                    )
                )
                progress.advance(failed=False)
        if one_pass:
            _say_what_had_none(found, console)
        places = [one.url for one in found] + [f"{one.url} in {path}" for one, path in saved]
        found += [one for one, _ in saved]
        names = distinct([one.model for one in found], places)
        if len(set(names)) < len(names):
            raise BenchmarkError("one --beside is named twice: name different files")
        words = [whole[start:end] for start, end in spans]
        document: dict[str, Any] = {
            "text": whole,
            "prompt": prompt,
            "words": words,
            "models": [
                {"name": name, **asdict(one)} for name, one in zip(names, found, strict=True)
            ],
        }
        columns = {name: one.word_scores for name, one in zip(names, found, strict=True)}
        pictures = {
            "per-token-heat-map": partial(_heat_map, words, columns),
            "per-token-lines": partial(_lines, words, columns),
        }
        content = json.dumps(document, allow_nan=False, indent=2) + "\n"
        document["files"] = Folder(out, picture, overwrite).write(
            pictures=pictures, texts={"per-token.json": lambda: content}
        )
        for name, one in zip(names, found, strict=True):
            if len(found) > 1:
                typer.echo(plain(f"{name}:"), err=print_json)
            for score, substring in zip(one.scores, one.substrings, strict=True):
                line = plain(substring).replace("\n", "\\n")
                typer.echo(f"Reward: {score:.3f} | Substring: {line}", err=print_json)
        finish(document, print_json=print_json)


def _say_what_had_none(found: "Sequence[ScoredTokens]", console: Console) -> None:
    for one in found:
        if one.mode == "prefix":
            console.print(
                f"{one.model} has no score at every token from one pass: every prefix was scored "
                "by itself",
                soft_wrap=True,
                markup=False,
                highlight=False,
            )


def _heat_map(words: Sequence[str], scores: Mapping[str, list[float | None]]) -> "Figure":
    from reward_benchmark import plots

    return plots.token_heat_map(*_shown(words, scores), title=TITLE, note=_note(words))


def _lines(words: Sequence[str], scores: Mapping[str, list[float | None]]) -> "Figure":
    from reward_benchmark import plots

    return plots.token_lines(*_shown(words, scores), title=TITLE, note=_note(words))


def _shown(
    words: Sequence[str], scores: Mapping[str, list[float | None]]
) -> tuple[Sequence[str], dict[str, list[float | None]]]:
    return words[:MAX_PICTURE_WORDS], {
        name: column[:MAX_PICTURE_WORDS] for name, column in scores.items()
    }


def _note(words: Sequence[str]) -> str:
    cut = f", the first {MAX_PICTURE_WORDS} shown" if len(words) > MAX_PICTURE_WORDS else ""
    return f"n = {len(words):,} words{cut}"


def _text(
    *, text: str | None, prompt: str | None, completion: str | None, file: Path | None
) -> str:
    given = [one for one in (text, completion, file) if one is not None]
    if len(given) != 1:
        raise BenchmarkError(
            "name one thing to score: --text, --file or --prompt with --completion"
        )
    if completion is not None and prompt is None:
        raise BenchmarkError("--completion needs its --prompt; a text by itself is --text")
    if text is not None and prompt is not None:
        raise BenchmarkError("--text has no --prompt: pass the text as --completion")
    whole = given[0]
    if isinstance(whole, Path):
        try:
            whole = whole.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise BenchmarkError(f"{file} is not UTF-8 text: {error}") from error
    if not whole.strip():
        raise BenchmarkError("the text is empty: there is nothing to score")
    return whole


def _score_tokens(
    url: str,
    api_key: str | None,
    wait: float,
    text: str,
    words: Sequence[tuple[int, int]],
    *,
    prompt: str | None,
    one_pass: bool,
) -> "ScoredTokens":
    from reward_benchmark.analysis.token_scores import score_tokens
    from reward_client import RewardClient, RewardServiceError

    shown = shown_address(url)
    try:
        with RewardClient(url, api_key=api_key) as client:
            client.wait_until_ready(wait)
            return score_tokens(client, shown, text, words, prompt=prompt, one_pass=one_pass)
    except RewardServiceError as error:
        raise ServiceError(f"{shown}: {error}") from error
