"""Puts a model together from settings: checkpoint, template, encoder, runner, identity.

Blocking and slow; runs once, in a thread, while HTTP already answers "not ready".
"""

import json
import logging
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from reward_service.chat_template import ChatTemplate, choose_template
from reward_service.checkpoint import Checkpoint, find_checkpoint, find_tokenizer
from reward_service.encoding import Conversation, Encoder
from reward_service.errors import InputTooLongError, StartupError, one_line
from reward_service.fingerprint import fingerprint
from reward_service.model_runner import ModelRunner, Runner, choose_device
from reward_service.models.reward_model import RunnerPath
from reward_service.models.sequence_classifier import (
    SequenceClassifier,
    load_sequence_classifier,
    position_limit,
)
from reward_service.sequences import SequenceGroup, TokenSequence
from reward_service.settings import Settings

logger = logging.getLogger(__name__)

DEFAULT_BATCH_TOKENS = {"cpu": 4096}
DEFAULT_BATCH_TOKENS_ON_ACCELERATOR = 16384
"""Until a GPU has been warmed up, and for other accelerators."""
FALLBACK_INPUT_TOKENS = 4096
"""Where neither configuration nor tokenizer names a limit (ALiBi, recurrent models)."""

SCORING_POLICY = 1
"""Part of the fingerprint: raise it when the same request would get another score."""

_PROBES = (
    Conversation(
        [{"role": "user", "content": "Which is larger, 7 or 11?"}],
        ["11.", "Eleven is the larger of the two."],
    ),
    Conversation([{"role": "user", "content": "Name a river."}], ["The Danube, for one.", "No."]),
)
"""Shared prompts and different lengths."""

_LONG_PROBE_TOKENS = 160
"""More than `attention.BLOCK_TOKENS`, and few enough for a large model on a CPU."""

_FORKS = ((20, 3), (20, 9), (20, 0), (24, 5), (100, 4), (100, 40))
"""Where a probe leaves the long one, and by how many tokens it goes on."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to score, and what can be said about it."""

    encoder: Encoder
    runner: Runner[Any]
    path: RunnerPath
    """How the runner packs sequences."""
    model_id: str
    revision: str | None
    kind: str
    architecture: str
    dtype: str
    device: str
    labels: tuple[str, ...]
    score_index: int
    """Which label is the score."""
    reads_last_token: bool
    fingerprint: str
    template: ChatTemplate
    max_input_tokens: int
    max_batch_tokens: int
    versions: dict[str, str]


def load_model(settings: Settings) -> LoadedModel:
    """Load what the settings name, and prove that it scores right.

    Raises:
        StartupError: something is missing or wrong; the message says what to do.
    """
    _keep_log_clean()
    device = choose_device(settings.device)
    checkpoint = find_checkpoint(
        settings.model_id,
        revision=settings.revision,
        allow_pickle=settings.allow_pickle,
        trust_remote_code=settings.trust_remote_code,
    )
    tokenizer_source = (
        find_tokenizer(settings.tokenizer_id) if settings.tokenizer_id else checkpoint
    )
    tokenizer = _load_tokenizer(tokenizer_source, trust_remote_code=settings.trust_remote_code)
    template = choose_template(
        settings.chat_template,
        of_tokenizer=_own_template(tokenizer, tokenizer_source),
        tokenizer_id=tokenizer_source.model_id,
    )
    model, config = load_sequence_classifier(
        checkpoint,
        dtype=settings.dtype,
        device=device,
        pad_token_id=_pad_token_id(tokenizer),
        trust_remote_code=settings.trust_remote_code,
        allow_pickle=settings.allow_pickle,
    )
    encoder = Encoder(
        tokenizer,
        template,
        max_input_tokens=_input_limit(settings, config, tokenizer, model),
        vocabulary_size=model.vocabulary_size,
        reads_first_token=not model.reads_last_token,
    )
    for warning in encoder.start_warnings:
        logger.warning(warning)
    runner = ModelRunner(model, max_batch_tokens=_batch_limit(settings, model))
    runner.prove(_probe_groups(encoder), attention=settings.attention)
    if model.device.type == "cuda" and settings.max_batch_tokens is None:
        runner.warm_up(most=settings.max_queue_tokens, longest=encoder.max_input_tokens)
    return _described(settings, checkpoint, config, model, encoder, runner)


def _described(
    settings: Settings,
    checkpoint: Checkpoint,
    config: Any,
    model: SequenceClassifier,
    encoder: Encoder,
    runner: ModelRunner,
) -> LoadedModel:
    score_index = choose_label(model.labels, settings.score_label)
    dtype = str(model.dtype).removeprefix("torch.")
    policy = {
        "version": SCORING_POLICY,
        "dtype": dtype,
        "label": model.labels[score_index],
        "max_input_tokens": encoder.max_input_tokens,
        "path": runner.path,
    }
    return LoadedModel(
        encoder=encoder,
        runner=runner,
        path=runner.path,
        model_id=checkpoint.model_id,
        revision=checkpoint.revision,
        kind="sequence_classifier",
        architecture=(config.architectures or [type(config).__name__])[0],
        dtype=dtype,
        device=str(model.device),
        labels=model.labels,
        score_index=score_index,
        reads_last_token=model.reads_last_token,
        fingerprint=fingerprint(
            checkpoint, config=_plain_config(config), tokenizer=encoder.state(), policy=policy
        ),
        template=encoder.template,
        max_input_tokens=encoder.max_input_tokens,
        max_batch_tokens=runner.max_batch_tokens,
        versions={
            package: metadata.version(package)
            for package in ("rewardserve", "torch", "transformers", "tokenizers")
        },
    )


def choose_label(labels: tuple[str, ...], requested: str | None) -> int:
    """Index of the output that is the score.

    Raises:
        StartupError: there are several and none was asked for, or the wrong one was.
    """
    named = ", ".join(f"{index}: {label}" for index, label in enumerate(labels))
    if requested is None:
        if len(labels) == 1:
            return 0
        raise StartupError(
            f"the model has {len(labels)} outputs ({named}): "
            "pass --score-label NAME_OR_INDEX to say which one is the score"
        )
    if requested in labels:
        return labels.index(requested)
    if requested.isdecimal() and int(requested) < len(labels):
        return int(requested)
    raise StartupError(f"--score-label {requested} is none of the model's outputs ({named})")


def _keep_log_clean() -> None:
    """Keep bars and hints of transformers' own out of a log that machines read."""
    if not sys.stderr.isatty():
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()


def _load_tokenizer(source: Checkpoint, *, trust_remote_code: bool) -> Any:
    try:
        return AutoTokenizer.from_pretrained(
            source.folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except (ValueError, OSError, KeyError, ImportError, TypeError) as error:
        raise StartupError(
            f"{source.model_id} has no tokenizer that can be loaded "
            f"({one_line(error)}): pass --tokenizer-id"
        ) from error


def _own_template(tokenizer: Any, source: Checkpoint) -> str | None:
    if not tokenizer.chat_template:
        return None
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise StartupError(
            f"the tokenizer of {source.model_id} has several chat templates and no default: "
            "pass --chat-template FILE"
        ) from error


def _pad_token_id(tokenizer: Any) -> int:
    """Any valid id will do: lengths, not this id, say what is padding."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    return 0


def _input_limit(settings: Settings, config: Any, tokenizer: Any, model: SequenceClassifier) -> int:
    made_for = position_limit(
        config,
        tokenizer_limit=tokenizer.model_max_length,
        is_decoder=model.reads_last_token,
    )
    if settings.max_input_tokens is None:
        return made_for or FALLBACK_INPUT_TOKENS
    if made_for is not None and settings.max_input_tokens > made_for:
        raise StartupError(
            f"--max-input-tokens {settings.max_input_tokens} is more than the {made_for} "
            f"positions that {settings.model_id} was made for"
        )
    return settings.max_input_tokens


def _batch_limit(settings: Settings, model: SequenceClassifier) -> int:
    default = DEFAULT_BATCH_TOKENS.get(model.device.type, DEFAULT_BATCH_TOKENS_ON_ACCELERATOR)
    return settings.max_batch_tokens or default


def _probe_groups(encoder: Encoder) -> list[SequenceGroup]:
    """What the runner proves itself on: real prompts, forks, duplicates, a long sequence."""
    try:
        groups = encoder.encode(_PROBES, truncation="prompt_start")
    except InputTooLongError as error:
        raise StartupError(
            f"--max-input-tokens {encoder.max_input_tokens} is too small for even a short "
            "question and answer"
        ) from error
    ids = [token for group in groups for one in group.sequences for token in one.token_ids]
    long = (ids * _LONG_PROBE_TOKENS)[: min(_LONG_PROBE_TOKENS, encoder.max_input_tokens)]
    forked = [long[:cut] + ids[cut % 7 : cut % 7 + rest] for cut, rest in _FORKS]
    fitting = [one for one in [long, long, *forked] if len(one) <= len(long)]
    return [*groups, SequenceGroup(tuple(TokenSequence(one, None) for one in fitting), 0)]


def _plain_config(config: Any) -> str:
    """The configuration as JSON, without where it was read from."""
    fields = config.to_dict()
    for name in ("_name_or_path", "transformers_version"):
        fields.pop(name, None)
    return json.dumps(fields, sort_keys=True, default=str)
