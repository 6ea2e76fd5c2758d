"""Whether two tokenizers mean the same by a token id: a policy's and its reference's."""

from typing import Any

_PROBES = (
    "The quick brown fox jumps over 13 lazy dogs.",
    "  def f(x):\n\treturn x**2  # 3.14159\n\n",
    "naïve café — “quoted” … ﬁne ½ Ⅳ",
    "你好，世界。こんにちは 안녕하세요 Привет 👩‍👩‍👧",
    "https://example.com/a_b?c=d&e=%20 1,234,567.89",
)
"""Where tokenizers part: spaces, digits, accents, normalisation, other scripts."""


def first_difference(policy: Any, reference: Any) -> str | None:
    """The first way in which two transformers tokenizers differ; `None` where they do not."""
    ours, theirs = (_by_id(tokenizer) for tokenizer in (policy, reference))
    for token_id in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(token_id), theirs.get(token_id)
        if mine != other:
            return f"token id {token_id} is {_shown(mine)} and {_shown(other)}"
    for text in _PROBES:
        mine, other = (
            tokenizer(text, add_special_tokens=False).input_ids for tokenizer in (policy, reference)
        )
        if mine != other:
            return f"{text!r} has the token ids {_start(mine, other)} and {_start(other, mine)}"
    return None


def _by_id(tokenizer: Any) -> dict[int, str]:
    return {token_id: token for token, token_id in tokenizer.get_vocab().items()}


def _shown(token: str | None) -> str:
    return "missing" if token is None else repr(token)


def _start(ids: list[int], other: list[int]) -> str:
    """The ids up to where they differ from the others."""
    same = next((i for i, (a, b) in enumerate(zip(ids, other, strict=False)) if a != b), len(ids))
    return str([*ids[: same + 1], *(["…"] if same + 1 < len(ids) else [])]).replace("'…'", "…")
