"""One short string that stands for everything a score depends on.

Two equal fingerprints promise equal scores. Reading 100 GB to start a service is no option, so
large tensors are sampled; every tensor is touched, and small ones (a reward head) are read whole.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reward_service.checkpoint import Checkpoint

WHOLE_TENSOR_BYTES = 256 * 1024
"""Tensors up to this size are hashed whole; of larger ones three samples are."""

SAMPLE_BYTES = 4096

_IDENTITY_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".py")
"""Weights, and the code that a checkpoint may bring along (`--trust-remote-code`)."""


def fingerprint(
    checkpoint: Checkpoint, *, config: str, tokenizer: str, policy: Mapping[str, object]
) -> str:
    """Hash of weights identity, configuration, tokenizer and scoring policy, as 16 hex digits.

    Args:
        config: the model's configuration as JSON.
        tokenizer: the tokenizer's complete state, chat template included, as text.
        policy: whatever else a score depends on: dtype, label, limits.
    """
    parts = {
        "weights": weights_identity(checkpoint),
        "config": _digest(config.encode()),
        "tokenizer": _digest(tokenizer.encode()),
        "policy": dict(policy),
    }
    return _digest(json.dumps(parts, sort_keys=True).encode())[:16]


def weights_identity(checkpoint: Checkpoint) -> str:
    """The hub's commit, or a hash of the weight files' names, sizes, headers and sampled bytes."""
    if checkpoint.revision is not None:
        return f"commit:{checkpoint.revision}"
    digest = hashlib.sha256()
    for path in sorted(checkpoint.folder.iterdir()):
        if path.suffix not in _IDENTITY_SUFFIXES:
            continue
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        for start, length in _samples(path):
            with path.open("rb") as file:
                file.seek(start)
                digest.update(file.read(length))
    return f"files:{digest.hexdigest()}"


def plain_config(config: Any) -> str:
    """A transformers configuration as JSON, without where it was read from."""
    fields = config.to_dict()
    for name in ("_name_or_path", "transformers_version"):
        fields.pop(name, None)
    return json.dumps(fields, sort_keys=True, default=str)


def _samples(path: Path) -> list[tuple[int, int]]:
    """(offset, length) of the bytes to hash; a safetensors file says where its tensors lie."""
    size = path.stat().st_size
    if path.suffix != ".safetensors":
        return _spread(0, size)
    with path.open("rb") as file:
        header_end = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_end - 8))
    samples = [(0, header_end)]
    for name in sorted(header):
        if name != "__metadata__":
            start, end = header[name]["data_offsets"]
            samples += _spread(header_end + start, end - start)
    return samples


def _spread(start: int, length: int) -> list[tuple[int, int]]:
    if length <= WHOLE_TENSOR_BYTES:
        return [(start, length)]
    middle, last = start + length // 2, start + length - SAMPLE_BYTES
    return [(start, SAMPLE_BYTES), (middle, SAMPLE_BYTES), (last, SAMPLE_BYTES)]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
