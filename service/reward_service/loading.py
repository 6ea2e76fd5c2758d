"""Puts a model together from settings: checkpoint, template, encoder, runner, identity.

Blocking and slow; runs once, in a thread, while HTTP already answers "not ready".
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from transformers.utils import logging as transformers_logging

from reward_service.chat_template import ChatTemplate, choose_template
from reward_service.checkpoint import Checkpoint, find_checkpoint, find_tokenizer
from reward_service.device import choose_device
from reward_service.encoding import Conversation, Encoder
from reward_service.errors import InputTooLongError, StartupError
from reward_service.fingerprint import fingerprint, plain_config
from reward_service.model_runner import ModelRunner, Runner
from reward_service.models.causal_lm import is_language_model
from reward_service.models.pretrained import LoadOptions, position_limit, read_config
from reward_service.models.reward_model import RewardModel, RunnerPath
from reward_service.models.sequence_classifier import load_sequence_classifier
from reward_service.policy import Family, Reference, ReferenceIdentity, load_policy
from reward_service.reference_cache import ReferenceCache
from reward_service.reference_runner import ReferenceRunner
from reward_service.score_rule import LabelScore, ScoreRule
from reward_service.sequences import SequenceGroup, TokenSequence
from reward_service.settings import Settings
from reward_service.tokenizer import load_tokenizer, own_template, pad_token_id

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
    """Names of the outputs of a classifier; a language model has none."""
    score_rule: ScoreRule | None
    """How outputs become a score; `None` where there are log-probabilities only."""
    has_logprobs: bool
    reads_last_token: bool
    """The score is read at the last token alone."""
    reference: ReferenceIdentity | None
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
    tokenizer = load_tokenizer(tokenizer_source, trust_remote_code=settings.trust_remote_code)
    template = choose_template(
        settings.chat_template,
        of_tokenizer=own_template(tokenizer, tokenizer_source),
        tokenizer_id=tokenizer_source.model_id,
    )
    options = LoadOptions(
        dtype=settings.dtype,
        device=device,
        trust_remote_code=settings.trust_remote_code,
        allow_pickle=settings.allow_pickle,
    )
    family = _load_family(settings, checkpoint, tokenizer, options)
    encoder = Encoder(
        tokenizer,
        template,
        max_input_tokens=_input_limit(settings, family, tokenizer),
        vocabulary_size=family.model.vocabulary_size,
        reads_first_token=not family.model.is_causal,
    )
    for warning in encoder.start_warnings:
        logger.warning(warning)
    probes = _probe_groups(encoder)
    runner = ModelRunner(family.model, max_batch_tokens=_batch_limit(settings, family.model))
    runner.prove(probes, attention=settings.attention)
    if family.model.device.type == "cuda" and settings.max_batch_tokens is None:
        runner.warm_up(most=settings.max_queue_tokens, longest=encoder.max_input_tokens)
    referenced = _with_reference(settings, runner, family.reference, probes)
    return _described(settings, checkpoint, family, encoder, runner, referenced)


def _load_family(
    settings: Settings, checkpoint: Checkpoint, tokenizer: Any, options: LoadOptions
) -> Family:
    kind = _kind(settings, read_config(checkpoint, trust_remote_code=options.trust_remote_code))
    if kind == "sequence_classifier":
        model, config = load_sequence_classifier(
            checkpoint, options, pad_token_id=pad_token_id(tokenizer)
        )
        index = choose_label(model.labels, settings.score_label)
        rule = LabelScore(index, model.labels[index])
        return Family(kind, model, config, rule, model.labels)
    return load_policy(
        settings, kind, checkpoint, tokenizer, options, pad_token_id=pad_token_id(tokenizer)
    )


def _kind(settings: Settings, config: Any) -> str:
    """The kind that was asked for, or what the checkpoint says it is."""
    if settings.kind != "auto":
        return settings.kind
    kind = "sequence_classifier"
    if config.architectures and is_language_model(config):
        is_compared = settings.ref_model_id or settings.adapter or settings.reference_free
        kind = "dpo" if is_compared else "causal"
    try:
        settings.check_kind(kind)
    except ValueError as error:
        raise StartupError(f"{settings.model_id} is of kind {kind}: {error}") from error
    return kind


def _with_reference(
    settings: Settings,
    policy: ModelRunner,
    reference: Reference | None,
    probes: Sequence[SequenceGroup],
) -> ModelRunner | ReferenceRunner:
    """The policy's runner, or one that asks its reference too."""
    if reference is None:
        return policy
    runner = ModelRunner(reference.model, max_batch_tokens=policy.max_batch_tokens)
    runner.prove(probes, attention=settings.attention)
    if reference.is_policys_base and (policy.path == "tree") is not (runner.path == "tree"):
        # The two are one model, which attends in one way only.
        for one in (policy, runner):
            one.prove(probes, attention="padded")
    cache = None
    if settings.reference_cache_bytes:
        cache = ReferenceCache(
            reference.identity.fingerprint,
            max_bytes=settings.reference_cache_bytes,
            file=settings.reference_cache,
        )
    return ReferenceRunner(policy, runner, cache)


def _described(
    settings: Settings,
    checkpoint: Checkpoint,
    family: Family,
    encoder: Encoder,
    runner: ModelRunner,
    referenced: ModelRunner | ReferenceRunner,
) -> LoadedModel:
    model, config, rule = family.model, family.config, family.rule
    reference = family.reference.identity if family.reference else None
    dtype = str(model.dtype).removeprefix("torch.")
    policy = {
        "version": SCORING_POLICY,
        "kind": family.kind,
        "dtype": dtype,
        "score": rule.formula if rule else "none",
        "adapter": family.adapter,
        "reference": reference.fingerprint if reference else None,
        "max_input_tokens": encoder.max_input_tokens,
        "path": runner.path,
    }
    packages = ["rewardserve", "torch", "transformers", "tokenizers"]
    if family.adapter:
        packages.append("peft")
    return LoadedModel(
        encoder=encoder,
        runner=referenced,
        path=runner.path,
        model_id=" + ".join(filter(None, (checkpoint.model_id, settings.adapter))),
        revision=checkpoint.revision,
        kind=family.kind,
        architecture=(config.architectures or [type(config).__name__])[0],
        dtype=dtype,
        device=str(model.device),
        labels=family.labels,
        score_rule=rule,
        has_logprobs=family.kind != "sequence_classifier",
        reads_last_token=family.kind == "sequence_classifier" and model.is_causal,
        reference=reference,
        fingerprint=fingerprint(
            checkpoint, config=plain_config(config), tokenizer=encoder.state(), policy=policy
        ),
        template=encoder.template,
        max_input_tokens=encoder.max_input_tokens,
        max_batch_tokens=runner.max_batch_tokens,
        versions={package: metadata.version(package) for package in packages},
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


def _input_limit(settings: Settings, family: Family, tokenizer: Any) -> int:
    configs = [family.config, *([family.reference.config] if family.reference else [])]
    limits = [
        limit
        for config in configs
        if (
            limit := position_limit(
                config,
                tokenizer_limit=tokenizer.model_max_length,
                is_decoder=family.model.is_causal,
            )
        )
    ]
    made_for = min(limits, default=None)
    if settings.max_input_tokens is None:
        return made_for or FALLBACK_INPUT_TOKENS
    if made_for is not None and settings.max_input_tokens > made_for:
        raise StartupError(
            f"--max-input-tokens {settings.max_input_tokens} is more than the {made_for} "
            f"positions that {settings.model_id} was made for"
        )
    return settings.max_input_tokens


def _batch_limit(settings: Settings, model: RewardModel) -> int:
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
