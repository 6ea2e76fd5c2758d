"""Attention over a packed prefix tree, inside transformers' own models.

A model whose attention implementation is `PREFIX_TREE` calls `tree_attention` in every layer, with
all tokens of a tree in one row. Each run of the tree (`prefix_tree.Run`) attends to the tokens
before it on its path and, causally, to itself. Nothing else is visible to it and nothing is padded.

The plan reaches the layers through a context variable, because not every model hands unknown
keyword arguments down. What an architecture asks of attention and is not known here raises
`UnsupportedAttentionError`: it is refused, never approximated.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import current_flash_attention_impl
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface

from reward_service.device import to_device
from reward_service.prefix_tree import PrefixTree, Range, Run

PREFIX_TREE = "prefix_tree"
"""Name of the attention implementation, for `model.set_attn_implementation(...)`."""

BLOCK_TOKENS = 64
"""Most queries of one masked call. A call computes a rectangle, of which the corner above the
diagonal is in vain: shorter blocks waste less and cost more calls (docs/experiments.md)."""

FUSED_TOKENS = 128
"""Short runs behind one prefix share a call up to this many queries in all."""

_HARMLESS = frozenset({"position_ids", "cache_position", "use_cache", "position_embeddings"})
"""Arguments that models hand to any attention function and that do not change its result."""

_VARLEN_TAKES = frozenset(inspect.signature(varlen_attn).parameters)
"""`scale` and `window_size` came with torch 2.11, `enable_gqa` and `num_splits` with 2.12."""

GATHERED_KEYS = 1 << 18
"""Most keys that are gathered at once on a GPU (1 GiB for Llama-3-8B, keys and values): many short
completions of a long prompt would otherwise need memory that no token budget counts."""


class UnsupportedAttentionError(Exception):
    """The model asks for something that attention over a tree does not compute."""


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive queries, `start:stop` of the packed tokens, computed together."""

    start: int
    stop: int
    keys: int
    """The last of the queries sees the first this many of its call's keys."""


@dataclass(frozen=True, slots=True)
class Call:
    """A run, or several short ones with one prefix, against the same gathered keys."""

    runs: tuple[Run, ...]
    keys: tuple[Range, ...]
    """Packed ranges: the prefix, then the runs themselves."""
    blocks: tuple[Block, ...]

    @property
    def is_fused(self) -> bool:
        """Several runs, which must not see each other."""
        return len(self.runs) > 1

    @property
    def is_whole_path(self) -> bool:
        """One run without a prefix: the causal mask that kernels have built in is the right one."""
        return len(self.runs) == 1 and not self.runs[0].prefix


@dataclass(frozen=True, slots=True)
class VarlenLayout:
    """Some runs in a row, and how their keys are laid out for a variable-length kernel."""

    start: int
    stop: int
    """Packed range of the queries."""
    key_rows: torch.Tensor | None
    """[keys] Packed row of each key, run after run; `None` where the queries are the keys."""
    query_starts: torch.Tensor
    """[runs + 1] int32"""
    key_starts: torch.Tensor
    """[runs + 1] int32"""
    longest_run: int
    longest_path: int


class PathMasks:
    """Masks of queries at the end of a path, cut out of one band instead of made each time.

    Whether a query sees a key depends only on how far apart they are. So the lower right corner of
    one band is the mask for every number of queries and keys.
    """

    def __init__(self) -> None:
        self._bands: dict[tuple[int | None, torch.dtype, torch.device], torch.Tensor] = {}

    def cut(
        self, *, queries: int, keys: int, window: int | None, like: torch.Tensor
    ) -> torch.Tensor:
        """[queries, keys]: 0 where a query sees a key, -inf elsewhere; a view."""
        name = (window, like.dtype, like.device)
        band = self._bands.get(name)
        if band is None or band.shape[1] < keys:
            width = max(2 * keys, 8 * BLOCK_TOKENS)
            apart = (
                torch.arange(BLOCK_TOKENS)[:, None]
                + (width - BLOCK_TOKENS)
                - torch.arange(width)[None, :]
            )
            band = self._bands[name] = _additive(apart, window).to(like)
        return band[BLOCK_TOKENS - queries :, band.shape[1] - keys :]


@dataclass(slots=True, eq=False)
class TreePlan:
    """A tree as the layers of a model need it; made once per batch."""

    token_ids: torch.Tensor
    """[1, tokens]"""
    positions: torch.Tensor
    """[1, tokens]"""
    depth: int
    """Tokens of the longest path."""
    calls: tuple[Call, ...]
    varlen: tuple[VarlenLayout, ...]
    """For a GPU with half precision, instead of the calls; empty elsewhere."""
    path_masks: PathMasks
    windows: list[int | None] = field(default_factory=list)
    """The sliding window that each layer asked for, in the order of the layers."""
    _fused_masks: dict[tuple[int, int | None], torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.token_ids.shape[1]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Whatever runs inside attends by this plan."""
        self.windows.clear()
        token = _active_plan.set(self)
        try:
            yield
        finally:
            _active_plan.reset(token)

    def fused_mask(self, call: Call, *, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """[queries, keys] of a call with several runs; made by the first layer, used by all."""
        name = (call.blocks[0].start, window)
        if name not in self._fused_masks:
            prefix = call.runs[0].prefix_tokens
            run_of = torch.repeat_interleave(torch.tensor([*map(len, call.runs)]))
            depths = torch.cat([prefix + torch.arange(len(run)) for run in call.runs])
            # Keys of another run lie infinitely far ahead.
            apart = torch.cat(
                [
                    depths[:, None] - torch.arange(prefix)[None, :],
                    torch.where(
                        run_of[:, None] == run_of[None, :], depths[:, None] - depths[None, :], -1
                    ),
                ],
                dim=1,
            )
            self._fused_masks[name] = _additive(apart, window).to(like)
        return self._fused_masks[name]


_active_plan: ContextVar[TreePlan | None] = ContextVar("active_plan", default=None)


class TreePlanner:
    """Makes plans for models on one device, in one number format."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self._uses_varlen = _has_varlen(device, dtype)
        self._path_masks = PathMasks()

    def plan(self, tree: PrefixTree) -> TreePlan:
        """The plan of a tree, its tensors on the planner's device."""
        runs = tuple(tree.runs())
        return TreePlan(
            token_ids=to_device(torch.from_numpy(tree.token_ids), self._device)[None],
            positions=to_device(torch.from_numpy(tree.positions), self._device)[None],
            depth=int(tree.positions.max(initial=-1)) + 1,
            calls=tuple(_calls(runs)),
            varlen=tuple(self._varlen_layouts(runs)) if self._uses_varlen else (),
            path_masks=self._path_masks,
        )

    def _varlen_layouts(self, runs: Sequence[Run]) -> Iterator[VarlenLayout]:
        part: list[Run] = []
        keys = 0
        for run in runs:
            path = run.prefix_tokens + len(run)
            if part and keys + path > GATHERED_KEYS:
                yield self._varlen_layout(part)
                part, keys = [], 0
            part.append(run)
            keys += path
        if part:
            yield self._varlen_layout(part)

    def _varlen_layout(self, runs: Sequence[Run]) -> VarlenLayout:
        lengths = torch.tensor([0, *map(len, runs)])
        paths = torch.tensor([0, *(run.prefix_tokens + len(run) for run in runs)])
        rows = [
            torch.arange(*span) for run in runs for span in (*run.prefix, (run.start, run.stop))
        ]
        gathers = any(run.prefix for run in runs)
        return VarlenLayout(
            start=runs[0].start,
            stop=runs[-1].stop,
            key_rows=to_device(torch.cat(rows), self._device) if gathers else None,
            query_starts=to_device(lengths.cumsum(0).int(), self._device),
            key_starts=to_device(paths.cumsum(0).int(), self._device),
            longest_run=int(lengths.max()),
            longest_path=int(paths.max()),
        )


def tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **other: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer by the active plan; transformers' signature for such functions.

    Args:
        query: [1, heads, tokens, head size]; `key` and `value` alike, with as many heads or fewer.
        sliding_window: a token sees this many tokens, itself included.
        softcap: scores are squeezed into (-softcap, softcap) by a tanh (Gemma-2).
        s_aux: [heads] logits of attention sinks, keys without a value (GPT-OSS).

    Returns:
        [1, tokens, heads, head size of the values], and no weights.

    Raises:
        UnsupportedAttentionError: no plan is active, or it does not cover what the layer asks.
    """
    plan = _active_plan.get()
    if plan is None:
        raise UnsupportedAttentionError("attention over a tree was called without a plan")
    unknown = [name for name, given in other.items() if name not in _HARMLESS and _is_set(given)]
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if unknown or dropout or attention_mask is not None or not causal:
        asked = ", ".join(unknown) or "dropout, a mask of its own, or what follows a token"
        raise UnsupportedAttentionError(f"a layer asks attention for {asked}")
    if query.shape[0] != 1 or not query.shape[2] == key.shape[2] == len(plan):
        raise UnsupportedAttentionError("a layer attends to other tokens than those of the tree")
    plan.windows.append(sliding_window)
    window = sliding_window if sliding_window and sliding_window < plan.depth else None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if softcap is not None or s_aux is not None:
        output = _by_calls(
            plan,
            (query, key, value),
            window=window,
            needs_mask=True,
            attend=lambda q, k, v, mask: _written_out(
                q, k, v, mask, scale=scale, softcap=softcap, sinks=s_aux
            ),
        )
    elif plan.varlen:
        parts = [
            _varlen(query, key, value, layout, scale=scale, window=window) for layout in plan.varlen
        ]
        output = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
    else:
        shares_heads = query.shape[1] != key.shape[1]
        output = _by_calls(
            plan,
            (query, key, value),
            window=window,
            needs_mask=window is not None,
            attend=lambda q, k, v, mask: functional.scaled_dot_product_attention(
                q, k, v, mask, is_causal=mask is None, scale=scale, enable_gqa=shares_heads
            ),
        )
    return output, None


def _no_mask(*, use_vmap: bool = False, **_: Any) -> None:
    """transformers' mask interface: the plan is the mask.

    Raises:
        UnsupportedAttentionError: the model lays something of its own over the causal mask.
    """
    if use_vmap:
        raise UnsupportedAttentionError("the model has a mask function of its own")


AttentionInterface.register(PREFIX_TREE, tree_attention)
AttentionMaskInterface.register(PREFIX_TREE, _no_mask)


def check_layers(text_config: Any, windows: Sequence[int | None]) -> None:
    """Hold what the layers asked of attention against what the configuration says they need.

    Some models put a sliding window into their mask only, and a tree has no mask to put it in.

    Args:
        windows: the sliding window that each layer asked for.

    Raises:
        UnsupportedAttentionError: a layer is of a kind that a tree does not know, or did not say
            what its kind needs.
    """
    layers = text_config.num_hidden_layers
    kinds = getattr(text_config, "layer_types", None) or []
    if unknown := sorted(set(kinds) - {"full_attention", "sliding_attention"}):
        raise UnsupportedAttentionError(f"the model has layers of type {', '.join(unknown)}")
    if len(windows) != layers:
        raise UnsupportedAttentionError(
            f"{len(windows)} of the model's {layers} layers attend through transformers' interface"
        )
    slides = bool(getattr(text_config, "sliding_window", None)) and (
        getattr(text_config, "use_sliding_window", True) is not False
    )
    expected = kinds.count("sliding_attention") if kinds else layers * slides
    asked = sum(window is not None for window in windows)
    if asked != expected:
        raise UnsupportedAttentionError(
            f"{expected} layers have a sliding window, {asked} tell attention about it"
        )


# ------------------------------------------------------------------------------------- planning


def _calls(runs: Sequence[Run]) -> Iterator[Call]:
    """Runs in packed order, short neighbours with the same prefix fused."""
    fused: list[Run] = []
    for run in runs:
        fits = sum(map(len, fused)) + len(run) <= FUSED_TOKENS
        if fused and not (fits and run.prefix == fused[0].prefix):
            yield _call(fused)
            fused = []
        fused.append(run)
    if fused:
        yield _call(fused)


def _call(runs: Sequence[Run]) -> Call:
    start, stop = runs[0].start, runs[-1].stop
    prefix = runs[0].prefix
    size = stop - start if len(runs) > 1 else BLOCK_TOKENS
    seen_before = runs[0].prefix_tokens - start
    blocks = [
        Block(at, min(at + size, stop), seen_before + min(at + size, stop))
        for at in range(start, stop, size)
    ]
    return Call(tuple(runs), (*prefix, (start, stop)), tuple(blocks))


def _has_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the variable-length kernel runs there; FlashAttention 2 needs an Ampere."""
    return (
        device.type == "cuda"
        and dtype in (torch.float16, torch.bfloat16)
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def _additive(apart: torch.Tensor, window: int | None) -> torch.Tensor:
    """0 for keys that are 0 to `window` - 1 tokens behind their query, -inf for others."""
    visible = apart >= 0 if window is None else (apart >= 0) & (apart < window)
    return torch.zeros(apart.shape).masked_fill_(~visible, -torch.inf)


def _is_set(argument: object) -> bool:
    return argument is not None and argument is not False


# ------------------------------------------------------------------------------------ computing


def _by_calls(
    plan: TreePlan,
    tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    *,
    window: int | None,
    needs_mask: bool,
    attend: Callable[..., torch.Tensor],
) -> torch.Tensor:
    """The plan's calls one after the other, [1, tokens, heads, head size].

    Args:
        attend: maps queries, keys, values and a mask to [1, heads, queries, head size]; without a
            mask the queries are the keys' tokens, and causal.
    """
    query, key, value = tensors
    output = query.new_empty((1, query.shape[2], query.shape[1], value.shape[-1]))
    for call in plan.calls:
        keys, values = _gathered(key, call.keys), _gathered(value, call.keys)
        if call.is_whole_path and not needs_mask:
            rows = slice(call.blocks[0].start, call.blocks[-1].stop)
            output[:, rows] = attend(query[:, :, rows], keys, values, None).transpose(1, 2)
            continue
        for block in call.blocks:
            rows = slice(block.start, block.stop)
            queries = block.stop - block.start
            first = 0
            if call.is_fused:
                mask = plan.fused_mask(call, window=window, like=query)
            else:
                if window is not None:
                    # What lies before every query's window need not be looked at.
                    first = max(0, block.keys - queries - window + 1)
                mask = plan.path_masks.cut(
                    queries=queries, keys=block.keys - first, window=window, like=query
                )
            seen = slice(first, block.keys)
            attended = attend(query[:, :, rows], keys[:, :, seen], values[:, :, seen], mask)
            output[:, rows] = attended.transpose(1, 2)
    return output


def _gathered(rows: torch.Tensor, ranges: tuple[Range, ...]) -> torch.Tensor:
    if len(ranges) == 1:
        return rows[:, :, slice(*ranges[0])]
    return torch.cat([rows[:, :, start:stop] for start, stop in ranges], dim=2)


def _written_out(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    *,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attention as a formula, for what the fused kernels do not have."""
    heads_per_key = query.shape[1] // key.shape[1]
    key = key.repeat_interleave(heads_per_key, dim=1)
    value = value.repeat_interleave(heads_per_key, dim=1)
    scores = query @ key.transpose(2, 3) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.float() + mask
    if sinks is not None:
        of_sinks = sinks.float().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, of_sinks], dim=3)
    weights = torch.softmax(scores, dim=3)[..., : key.shape[2]]
    return weights.to(value.dtype) @ value


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: VarlenLayout,
    *,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """A layout's runs by one variable-length kernel, [1, queries, heads, head size].

    Causality is aligned to the last query and the last key, as FlashAttention 2.1 and later do.
    """
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    own = slice(layout.start, layout.stop)
    query = query[own]
    if layout.key_rows is None:
        key, value = key[own], value[own]
    else:
        key, value = (tensor.index_select(0, layout.key_rows) for tensor in (key, value))
    arguments: dict[str, Any] = {}
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in _VARLEN_TAKES:
            arguments["enable_gqa"] = True
        else:
            heads_per_key = query.shape[1] // key.shape[1]
            key = key.repeat_interleave(heads_per_key, dim=1)
            value = value.repeat_interleave(heads_per_key, dim=1)
    if "window_size" in _VARLEN_TAKES:
        arguments["window_size"] = (-1 if window is None else window - 1, 0)
    elif window is None:
        arguments["is_causal"] = True
    else:
        raise UnsupportedAttentionError("torch before 2.11 has no sliding windows on a GPU")
    if "scale" in _VARLEN_TAKES:
        arguments["scale"] = scale
    else:
        query = query * (scale * query.shape[-1] ** 0.5)
    if "num_splits" in _VARLEN_TAKES and current_flash_attention_impl() is not None:
        # FlashAttention 3 and later may split keys by the batch's longest path: then a sequence's
        # result would depend on its neighbours. Version 2, the default, does not and refuses this.
        arguments["num_splits"] = 1
    output = varlen_attn(
        query,
        key,
        value,
        layout.query_starts,
        layout.key_starts,
        layout.longest_run,
        layout.longest_path,
        **arguments,
    )
    assert isinstance(output, torch.Tensor)
    return output[None]
