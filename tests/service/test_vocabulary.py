"""Two tokenizers that mean different things by a token id are told apart."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from reward_service.debug_model import cached_debug_model
from reward_service.vocabulary import first_difference

Merges = Sequence[tuple[str, str]]
MERGES: Merges = [("q", "u"), ("u", "i"), ("h", "e"), ("1", "3")]


def _tokenizer(
    merges: Merges = MERGES,
    *,
    edit: Callable[[dict[str, int]], None] = lambda _: None,
    pre_tokenizer: Any = None,
    normalizer: Any = None,
    added: Sequence[Any] = (),
    **special: str,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; its ids do not depend on the order of the merges."""
    tokens = ["<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "qu", "ui", "he", "13"]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    edit(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[*merges]))
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", **special)
    made.add_tokens([*added])
    return made


def _difference(**options: Any) -> str:
    """What tells another tokenizer from the plain one; the same the other way round."""
    plain, other = _tokenizer(), _tokenizer(**options)
    difference, mirrored = first_difference(plain, other), first_difference(other, plain)
    assert difference is not None
    assert mirrored is not None
    assert sorted(difference) == sorted(mirrored)
    assert "\n" not in difference
    assert len(difference) < 500
    return difference


def test_equal_tokenizers_do_not_differ() -> None:
    assert first_difference(_tokenizer(), _tokenizer()) is None
    debug = AutoTokenizer.from_pretrained(cached_debug_model("debug-policy"))
    same = AutoTokenizer.from_pretrained(cached_debug_model("debug-reference"))
    assert first_difference(debug, same) is None


def _swap(vocabulary: dict[str, int]) -> None:
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


def test_the_first_swapped_token_is_named() -> None:
    token_id = _tokenizer().get_vocab()["a"]
    assert _difference(edit=_swap) == f"token id {token_id} is 'a' and 'b'"


def test_an_added_token_is_named() -> None:
    size = len(_tokenizer())
    assert _difference(added=["<think>"]) == f"token id {size} is missing and '<think>'"


def test_a_special_token_beyond_the_vocabulary_is_named() -> None:
    assert "is missing and '<eos>'" in _difference(eos_token="<eos>")


def test_another_number_of_tokens_is_named() -> None:
    def shorten(vocabulary: dict[str, int]) -> None:
        del vocabulary["13"]

    assert "is '13' and missing" in _difference(edit=shorten, merges=MERGES[:-1])


DIFFERENCES_IN_USE: dict[str, dict[str, Any]] = {
    "merges in another order": {"merges": [MERGES[1], MERGES[0], *MERGES[2:]]},
    "a merge less": {"merges": MERGES[:-1]},
    "another pre-tokenizer": {
        "pre_tokenizer": pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
        )
    },
    "a space in front": {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)},
    "no spaces": {
        "pre_tokenizer": pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(False)]
        )
    },
    "letters in lower case": {"normalizer": normalizers.Lowercase()},
    "composed characters": {"normalizer": normalizers.NFKC()},
    "decomposed characters": {"normalizer": normalizers.NFD()},
    "no accents": {
        "normalizer": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    },
}


@pytest.mark.parametrize("case", DIFFERENCES_IN_USE)
def test_the_same_vocabulary_used_in_another_way_is_noticed(case: str) -> None:
    options = DIFFERENCES_IN_USE[case]
    assert _tokenizer(**options).get_vocab() == _tokenizer().get_vocab()
    difference = _difference(**options)
    assert "has the token ids [" in difference
    assert " and [" in difference


def test_the_ids_are_shown_up_to_where_they_part() -> None:
    difference = _difference(merges=MERGES[:-1])
    shown = difference.split(" has the token ids ")[1].split(" and ")
    ours, theirs = (one.strip("[]").removesuffix(", …").split(", ") for one in shown)
    assert len(ours) == len(theirs) > 10
    assert ours[:-1] == theirs[:-1]
    assert ours[-1] != theirs[-1]


@pytest.mark.parametrize(
    "options",
    [
        {"bos_token": "a"},
        {"chat_template": "{{ messages }}"},
        {"model_max_length": 7},
        {"padding_side": "left"},
    ],
)
def test_what_does_not_change_the_meaning_of_ids_is_no_difference(options: dict[str, Any]) -> None:
    assert first_difference(_tokenizer(), _tokenizer(**options)) is None
