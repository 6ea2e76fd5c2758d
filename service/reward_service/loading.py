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
from reward_service.checkpoint import (
    Checkpoint,
    find_checkpoint,
    find_tokenizer,
)
from reward_service.defaults import with_known_defaults
from reward_service.device import choose_device
from reward_service.encoding import Encoder
from reward_service.errors import InputTooLongError, StartupError
from reward_service.fingerprint import fingerprint, plain_config
from reward_service.inputs import Conversation, InputEncoder
from reward_service.kinds import load_family
from reward_service.model_runner import ModelRunner, Runner
from reward_service.models.headed_model import HeadedModel
from reward_service.models.pretrained import LoadOptions, position_limit
from reward_service.models.quantization import packages_of, quantization_state
from reward_service.models.reward_model import RewardModel, RunnerPath
from reward_service.objectives import ObjectiveLayout
from reward_service.pair_encoding import PairEncoder
from reward_service.pair_format import pair_format
from reward_service.policy import Family, Reference, ReferenceIdentity
from reward_service.preference import PreferenceRule
from reward_service.reference_cache import ReferenceCache
from reward_service.reference_runner import ReferenceRunner
from reward_service.score_rule import ScoreRule
from reward_service.sequences import SequenceGroup, TokenSequence
from reward_service.settings import Settings
from reward_service.tokenizer import load_tokenizer, own_template

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

TWO_SEGMENTS = "two-segments"
"""The built-in template that writes question and answer as an encoder's two segments."""

_LONG_PROBE_TOKENS = 160
"""More than `attention.BLOCK_TOKENS`, and few enough for a large model on a CPU."""

_FORKS = ((20, 3), (20, 9), (20, 0), (24, 5), (100, 4), (100, 40))
"""Where a probe leaves the long one, and by how many tokens it goes on."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to score, and what can be said about it."""

    encoder: InputEncoder
    runner: Runner[Any]
    path: RunnerPath
    """How the runner packs sequences."""
    model_id: str
    revision: str | None
    kind: str
    architecture: str
    dtype: str
    device: str
    family: str
    """How the head is read: a name of `docs/models.md`."""
    quantization: str | None
    objectives: ObjectiveLayout | None
    """What is among the outputs of a reward head; a language model has none."""
    score_rule: ScoreRule | None
    """How outputs become a score; `None` where there is none of one completion."""
    preference_rule: PreferenceRule | None
    """How a pairwise model's outputs become a probability."""
    has_logprobs: bool
    reads_last_token: bool
    """The score is read at the last token alone."""
    reads_any_token: bool
    """A score can be read at every token, as if nothing followed it."""
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
    settings, default_template = with_known_defaults(settings)
    checkpoint = find_checkpoint(
        settings.model_id,
        revision=settings.revision,
        allow_pickle=settings.allow_pickle,
        trust_remote_code=settings.trust_remote_code,
        base_id=settings.base_model_id,
    )
    tokenizer_id = settings.tokenizer_id or settings.base_model_id
    tokenizer_source = find_tokenizer(tokenizer_id) if tokenizer_id else checkpoint
    tokenizer = load_tokenizer(tokenizer_source, trust_remote_code=settings.trust_remote_code)
    options = LoadOptions(
        dtype=settings.dtype,
        device=device,
        trust_remote_code=settings.trust_remote_code,
        allow_pickle=settings.allow_pickle,
        quantization=settings.quantization,
    )
    family = load_family(settings, checkpoint, tokenizer, options)
    encoder = _encoder(
        settings, family, tokenizer, tokenizer_source, default_template=default_template
    )
    for warning in encoder.start_warnings:
        logger.warning(warning)
    probes = _probe_groups(encoder, family)
    runner = ModelRunner(family.model, max_batch_tokens=_batch_limit(settings, family.model))
    runner.prove(probes, attention=settings.attention)
    if family.model.device.type == "cuda" and settings.max_batch_tokens is None:
        runner.warm_up(most=settings.max_queue_tokens, longest=encoder.max_input_tokens)
    referenced = _with_reference(settings, runner, family.reference, probes)
    return _described(settings, checkpoint, family, encoder, runner, referenced)


def _encoder(
    settings: Settings,
    family: Family,
    tokenizer: Any,
    tokenizer_source: Checkpoint,
    *,
    default_template: str | None,
) -> Encoder | PairEncoder:
    """What turns this family's inputs into tokens."""
    limit = _input_limit(settings, family, tokenizer)
    vocabulary_size = family.model.vocabulary_size
    own = own_template(tokenizer, tokenizer_source)
    if family.kind == "pairwise":
        if settings.chat_template:
            raise StartupError(
                f"--chat-template has no meaning for {settings.model_id}: the family "
                f"{family.name} has its own form of a pair"
            )
        pairs = pair_format(family.name, tokenizer, max_input_tokens=limit)
        return PairEncoder(
            tokenizer,
            pairs,
            ChatTemplate(own or "", source=f"pairs of {pairs.name}"),
            max_input_tokens=limit,
            vocabulary_size=vocabulary_size,
        )
    template = choose_template(
        settings.chat_template,
        of_tokenizer=own,
        tokenizer_id=tokenizer_source.model_id,
        default=default_template or family.template,
    )
    if own is None and not settings.chat_template and not default_template:
        logger.warning(
            "the tokenizer of %s has no chat template: that of the family %s is taken, %s",
            tokenizer_source.model_id,
            family.name,
            template.source,
        )
    if template.source == TWO_SEGMENTS:
        _check_two_segments(settings, family, tokenizer)
    return Encoder(
        tokenizer,
        template,
        max_input_tokens=limit,
        vocabulary_size=vocabulary_size,
        reads_first_token=not family.model.is_causal,
        form=family.input_form,
    )


def _check_two_segments(settings: Settings, family: Family, tokenizer: Any) -> None:
    """See that a separator in the text is all that makes two segments of it."""
    segments, joined = (
        tokenizer(*texts).input_ids for texts in (("a", "b"), (f"a{tokenizer.sep_token}b",))
    )
    if segments != joined or getattr(family.config, "type_vocab_size", 0):
        raise StartupError(
            f"--chat-template {TWO_SEGMENTS} cannot be used with {settings.model_id}: its "
            "tokenizer joins two segments otherwise, or its model has token types for them"
        )


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
    encoder: InputEncoder,
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
        "score": formula.formula if (formula := rule or family.preference_rule) else "none",
        "adapter": family.adapter,
        "reference": reference.fingerprint if reference else None,
        "family": family.name,
        "quantization": quantization_state(settings.quantization),
        "max_input_tokens": encoder.max_input_tokens,
        "path": runner.path,
    }
    packages = ["rewardserve", "torch", "transformers", "tokenizers"]
    if family.adapter:
        packages.append("peft")
    packages += packages_of(settings.quantization)
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
        family=family.name,
        quantization=settings.quantization,
        objectives=family.objectives,
        score_rule=rule,
        preference_rule=family.preference_rule,
        has_logprobs=family.kind in ("causal", "dpo"),
        reads_last_token=family.kind == "sequence_classifier" and model.is_causal,
        reads_any_token=(
            family.kind == "sequence_classifier"
            and family.input_form.ending_token is None
            and isinstance(model, HeadedModel)
            and model.reads_any_token
        ),
        reference=reference,
        fingerprint=fingerprint(
            checkpoint, config=plain_config(config), tokenizer=encoder.state(), policy=policy
        ),
        template=encoder.template,
        max_input_tokens=encoder.max_input_tokens,
        max_batch_tokens=runner.max_batch_tokens,
        versions={package: metadata.version(package) for package in packages},
    )


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
    made_for = family.max_tokens or min(limits, default=None)
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


def _probe_groups(encoder: InputEncoder, family: Family) -> list[SequenceGroup]:
    """What the runner proves itself on: real prompts, forks, duplicates, a long sequence."""
    try:
        groups = encoder.encode(
            _PROBES,
            truncation="prompt_start",
            unit="pairs" if family.kind == "pairwise" else "completions",
        )
    except InputTooLongError as error:
        raise StartupError(
            f"--max-input-tokens {encoder.max_input_tokens} is too small for even a short "
            "question and answer"
        ) from error
    if family.kind == "pairwise" and not family.model.is_causal:
        return groups  # made of parts that arbitrary tokens do not have
    ids = [token for group in groups for one in group.sequences for token in one.token_ids]
    start, end = family.input_form.frame
    most = encoder.max_input_tokens - len(end)
    long = ([*start, *ids] * _LONG_PROBE_TOKENS)[: min(_LONG_PROBE_TOKENS, most)]
    forked = [long[:cut] + ids[cut % 7 : cut % 7 + rest] for cut, rest in _FORKS]
    fitting = [[*one, *end] for one in [long, long, *forked] if len(one) <= len(long)]
    return [*groups, SequenceGroup(tuple(TokenSequence(one, None) for one in fitting), 0)]
