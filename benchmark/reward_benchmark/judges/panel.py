"""Who is on a jury, as the user names them, and how they are brought together."""

import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from reward_benchmark.chat import ChatClient, Sampling
from reward_benchmark.datasets import Benchmark
from reward_benchmark.errors import BenchmarkError
from reward_benchmark.judges.cache import AnswerCache
from reward_benchmark.judges.judge import Judge, Price
from reward_benchmark.judges.jury import Jury, Mode, Orders
from reward_benchmark.judges.prompts import PromptSet
from reward_benchmark.scorers import Scorer

T = TypeVar("T")

_MEMBER = re.compile(r"(?P<model>.+?)(?:@(?P<url>https?://.+))?")


@dataclass(frozen=True, slots=True)
class Member:
    """A judge to be."""

    model: str
    url: str
    api_key: str | None = None
    price: Price | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A jury before its endpoints are open; see `Jury`."""

    members: Sequence[Member]
    sampling: Sampling
    prompts: PromptSet
    mode: Mode
    orders: Orders
    seed: int
    """Of the orders, and, plus its number among the judges of one model, of a judge's sampling."""
    benchmark: Benchmark
    cache: Path | None
    timeout_seconds: float

    @asynccontextmanager
    async def open(self, _: Console) -> AsyncIterator[Scorer]:
        """The jury, as long as its connections are open."""
        models = Counter(member.model for member in self.members)
        [(model, times)] = models.most_common(1)
        if times > 1 and self.sampling.temperature == 0:
            raise BenchmarkError(
                f"--judge {model} is there {times} times, and with --temperature 0 all would say "
                "the same: name it once, or choose a temperature above 0"
            )
        cache = AnswerCache(self.cache) if self.cache else None
        seen = Counter[str]()
        judges = []
        async with AsyncExitStack() as endpoints:
            for member in self.members:
                repetition = seen[member.model]
                seen[member.model] += 1
                chat = ChatClient(
                    member.url,
                    model=member.model,
                    api_key=member.api_key,
                    timeout_seconds=self.timeout_seconds,
                )
                judges.append(
                    Judge(
                        name=f"{member.model} #{repetition + 1}" if repetition else member.model,
                        chat=await endpoints.enter_async_context(chat),
                        sampling=self._sampling(repetition),
                        cache=cache,
                        price=member.price,
                    )
                )
            yield Jury(
                judges,
                prompts=self.prompts,
                mode=self.mode,
                orders=self.orders,
                seed=self.seed,
                benchmark=self.benchmark,
            )

    def _sampling(self, repetition: int) -> Sampling:
        # Without chance a seed changes nothing, and some endpoints refuse to be given one.
        seed = None if self.sampling.temperature == 0 else self.seed + repetition
        return replace(self.sampling, seed=seed)


def panel_members(
    judges: Sequence[str],
    *,
    url: str | None,
    api_keys: Sequence[str] = (),
    input_prices: Sequence[float] = (),
    output_prices: Sequence[float] = (),
) -> list[Member]:
    """The judges that a user means by `MODEL` or `MODEL@URL`.

    Args:
        url: of the judges that name none.
        api_keys: one a judge, or one for all, which then must have one URL.
        input_prices: per million tokens, one a judge, or one for all.
        output_prices: likewise.

    Raises:
        BenchmarkError: a judge has no URL, or there are more or fewer values than judges.
    """
    keys = _one_each(api_keys, judges, "--api-key")
    if bool(input_prices) != bool(output_prices):
        raise BenchmarkError("--price-input and --price-output need each other: give both")
    prices = zip(
        _one_each(input_prices, judges, "--price-input"),
        _one_each(output_prices, judges, "--price-output"),
        strict=True,
    )
    members = []
    for judge, key, (input_price, output_price) in zip(judges, keys, prices, strict=True):
        named = _MEMBER.fullmatch(judge)
        address = (named and named["url"]) or url
        if named is None or address is None:
            raise BenchmarkError(
                f"--judge {judge!r} has no address: give --url, or --judge MODEL@http://HOST"
            )
        price = None
        if input_price is not None and output_price is not None:
            price = Price(input_price, output_price)
        members.append(Member(named["model"], address, key or None, price))
    if len(api_keys) == 1 and len({member.url for member in members}) > 1:
        raise BenchmarkError(
            "one --api-key would be sent to the addresses of all judges: give one a judge, in the "
            "same order, '' where there is none"
        )
    return members


def _one_each(values: Sequence[T], judges: Sequence[str], option: str) -> Sequence[T | None]:
    if not values:
        return [None] * len(judges)
    if len(values) not in (1, len(judges)):
        raise BenchmarkError(
            f"{len(judges)} judges cannot have {len(values)} times {option}: give one for all, or "
            "one a judge in the same order"
        )
    return list(values) * (len(judges) // len(values))
