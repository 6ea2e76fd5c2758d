"""The scheduler by itself: what it holds and hands out, whatever is thrown at it."""

from collections import Counter
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_service.errors import OverloadedError
from reward_service.prefix_tree import DistinctTokens
from reward_service.scheduler import (
    MAX_RETRY_AFTER_SECONDS,
    OUTRANKED_COSTS,
    QUANTUM,
    Scheduler,
    Work,
)
from reward_service.sequences import SequenceGroup, TokenSequence

NEVER = float("inf")

_fresh = count(1000)


def _new_tokens(length: int) -> list[int]:
    """Tokens that no other sequence has."""
    return [next(_fresh)] * length


def _work(tokens: int, *, deadline: float = NEVER, priority: int = 0, client: str = "") -> Work:
    group = SequenceGroup((TokenSequence(_new_tokens(tokens), None),), shared_tokens=tokens)
    return Work(group, deadline=deadline, priority=priority, client=client)


def _prompted(
    prompt: list[int],
    *completions: int,
    deadline: float = NEVER,
    priority: int = 0,
    client: str = "",
) -> Work:
    """Completions of these lengths to one prompt."""
    sequences = tuple(
        TokenSequence([*prompt, *_new_tokens(length)], len(prompt)) for length in completions
    )
    shared = len(prompt) if len(sequences) > 1 else len(sequences[0])
    group = SequenceGroup(sequences, shared_tokens=shared)
    return Work(group, deadline=deadline, priority=priority, client=client)


def _scheduler(*, batch: int = 100, queue: int = 1_000_000) -> Scheduler:
    return Scheduler(max_batch_tokens=batch, max_queue_tokens=queue)


def _admit(scheduler: Scheduler, *works: Work) -> None:
    scheduler.admit(works, tokens_per_second=None)


def _drained(scheduler: Scheduler, now: float = 0.0) -> list[list[Work]]:
    batches = []
    while works := scheduler.next_batch(now).works:
        batches.append(works)
    return batches


def _distinct_tokens(works: list[Work]) -> int:
    distinct = DistinctTokens()
    distinct.add(sequence.key for work in works for sequence in work.group.sequences)
    return distinct.count


def _holds_nothing(scheduler: Scheduler) -> bool:
    return not (
        scheduler.queued_tokens
        or scheduler.queued_groups
        or scheduler._by_prompt
        or any(level.flows for level in scheduler._levels.values())
    )


# -------------------------------------------------------------------------------------- batches


def test_batches_are_oldest_first_and_stop_at_the_budget() -> None:
    scheduler = _scheduler(batch=100)
    works = [_work(tokens) for tokens in (60, 40, 1, 99, 100)]
    _admit(scheduler, *works)
    assert _drained(scheduler) == [works[:2], works[2:4], works[4:]]


def test_a_group_over_the_budget_is_a_batch_of_its_own() -> None:
    scheduler = _scheduler(batch=100)
    works = [_work(10), _work(500), _work(10)]
    _admit(scheduler, *works)
    assert _drained(scheduler) == [[works[0]], [works[1]], [works[2]]]


def test_the_budget_counts_a_prompt_once_for_all_its_completions() -> None:
    scheduler = _scheduler(batch=600)
    group = _prompted(_new_tokens(500), *[5] * 16)
    _admit(scheduler, group, _work(20))
    assert scheduler.queued_tokens == 500 + 16 * 5 + 20
    batch = scheduler.next_batch(0.0)
    assert (len(batch.works), batch.tokens) == (2, 600)


def test_requests_with_one_prompt_leave_together() -> None:
    """As trainers send them: one completion a request, many prompts at once."""
    scheduler = _scheduler(batch=160)
    prompts = [_new_tokens(100) for _ in range(3)]
    works = [_prompted(prompt, 10) for _ in range(6) for prompt in prompts]
    _admit(scheduler, *works)
    assert scheduler.queued_tokens == 3 * (100 + 6 * 10)
    assert _drained(scheduler) == [works[0::3], works[1::3], works[2::3]]


def test_a_prompt_is_known_by_its_tokens_alone() -> None:
    """A group, a single completion, and text of which nobody knows where its prompt ends."""
    scheduler = _scheduler(batch=150)
    prompt = _new_tokens(100)
    group, single = _prompted(prompt, 5, 5), _prompted(prompt, 5)
    text = Work(SequenceGroup((TokenSequence([*prompt, 7, 7], None),), 102), deadline=NEVER)
    _admit(scheduler, group, _work(90), text, single)
    assert [len(works) for works in _drained(scheduler)] == [2, 1, 1]


def test_pulling_forward_delays_by_a_batch_at_most() -> None:
    """The n-th work of a client begins the n-th batch at the latest, however much is pulled."""
    scheduler = _scheduler(batch=110)
    one, other = _new_tokens(50), _new_tokens(50)
    late = _work(100)
    _admit(scheduler, _prompted(one, 20), _prompted(other, 20), late)
    for _ in range(50):
        _admit(scheduler, _prompted(one, 20), _prompted(other, 20))
    assert (
        late
        in scheduler.next_batch(0.0).works
        + scheduler.next_batch(0.0).works
        + (scheduler.next_batch(0.0).works[:1])
    )


# --------------------------------------------------------------------------- whose turn it is


def test_higher_priority_goes_first() -> None:
    scheduler = _scheduler(batch=10)
    low, high, highest = _work(10), _work(10, priority=5), _work(10, priority=10**30)
    for work in (low, high, highest):
        _admit(scheduler, work)
    assert _drained(scheduler) == [[highest], [high], [low]]


def test_low_priority_is_not_starved() -> None:
    scheduler, share = _scheduler(batch=100), OUTRANKED_COSTS[1] + 1
    low = [_work(100, priority=-100) for _ in range(3)]
    _admit(scheduler, *low)
    served = []
    for _ in range(3 * share):
        _admit(scheduler, _work(100, client="a"), _work(100, client="b"))
        served += scheduler.next_batch(0.0).works
    positions = [served.index(work) for work in low]
    # The first turn ties and goes to the higher priority; from then on it is 1 in 33.
    assert positions == [1, 1 + share, 1 + 2 * share]


def test_leaving_and_coming_back_does_not_make_a_high_priority_greedy() -> None:
    """One request at a time fills every batch; what it was served is remembered meanwhile."""
    scheduler = _scheduler(batch=100)
    low = _work(100, priority=0)
    _admit(scheduler, low)
    served = []
    for turn in range(3):
        _admit(scheduler, _work(100, priority=1, client=str(turn)))
        served += scheduler.next_batch(0.0).works
    assert low in served


def test_a_priority_that_was_idle_has_saved_nothing() -> None:
    scheduler = _scheduler(batch=100)
    _admit(scheduler, *[_work(100) for _ in range(400)])
    served = [scheduler.next_batch(0.0).works[0] for _ in range(300)]
    _admit(scheduler, *[_work(100, priority=-1) for _ in range(100)])
    served += [scheduler.next_batch(0.0).works[0] for _ in range(100)]
    assert {work.priority for work in served} == {0}


def test_a_client_that_comes_back_finds_its_debt() -> None:
    """One large request at a time, again and again, is no better than a queue of small ones."""
    scheduler = _scheduler(batch=1000)
    _admit(scheduler, *[_work(50, client="small") for _ in range(1000)])
    served: Counter[str] = Counter()
    for _ in range(40):
        if not any(work.client == "large" for work in _waiting(scheduler)):
            _admit(scheduler, _work(900, client="large"))
        for work in scheduler.next_batch(0.0).works:
            served[work.client] += work.tokens
    assert abs(served["large"] - served["small"]) <= 1000 + 900 + 2 * QUANTUM


def test_a_stream_of_short_requests_does_not_delay_a_long_one() -> None:
    scheduler = _scheduler(batch=1000)
    stream = [_work(50, client=f"short {number % 4}") for number in range(1000)]
    _admit(scheduler, *stream[:900])
    long = _work(900, client="long")
    _admit(scheduler, long)
    served = []
    for number in range(4):
        served += scheduler.next_batch(0.0).works
        _admit(scheduler, *stream[900 + 20 * number :][:20])
    assert long in served


def test_always_new_clients_do_not_delay_an_old_one() -> None:
    scheduler = _scheduler(batch=1000)
    _admit(scheduler, *[_work(900, client="old") for _ in range(3)])
    served = 0
    for number in range(12):
        _admit(scheduler, *[_work(500, client=f"new {number}.{i}") for i in range(2)])
        served += sum(work.client == "old" for work in scheduler.next_batch(0.0).works)
    assert served == 3


def test_a_client_with_one_request_shares_the_first_batches_with_a_flood() -> None:
    scheduler = _scheduler(batch=2 * QUANTUM)
    _admit(scheduler, *[_work(64, client="flood") for _ in range(1000)])
    single = _work(64, client="single")
    _admit(scheduler, single)
    assert single in scheduler.next_batch(0.0).works


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 1500), min_size=1, max_size=6),
    st.lists(st.integers(1, 1500), min_size=1, max_size=6),
    st.sampled_from([0, 100, 900]),
    st.lists(st.integers(0, 3), min_size=1, max_size=5),
)
def test_two_backlogged_clients_are_served_alike(
    lengths_of_a: list[int], lengths_of_b: list[int], prompt_tokens: int, strangers: list[int]
) -> None:
    """They differ by one batch, one group and two quanta at most, whatever they send and share."""
    scheduler = _scheduler(batch=1000)
    prompt = _new_tokens(prompt_tokens)
    for client, lengths in (("a", lengths_of_a), ("b", lengths_of_b)):
        for length in lengths * 40:
            _admit(scheduler, _prompted(prompt, length, client=client))
    served: Counter[str] = Counter()
    for number in range(40):
        newcomers = strangers[number % len(strangers)]
        _admit(scheduler, *[_work(30, client=f"{number}.{i}") for i in range(newcomers)])
        distinct = DistinctTokens()
        for work in scheduler.next_batch(0.0).works:
            served[work.client] += distinct.add(one.key for one in work.group.sequences)
        if len({work.client for work in _waiting(scheduler)} & {"a", "b"}) < 2:
            break
        largest = prompt_tokens + 1500
        assert abs(served["a"] - served["b"]) <= 1000 + largest + 2 * QUANTUM


def _waiting(scheduler: Scheduler) -> list[Work]:
    flows = [flow for level in scheduler._levels.values() for flow in level.flows.values()]
    return [work for flow in flows for work in flow.works]


# -------------------------------------------------------------------- leaving without a batch


def test_cancelled_and_expired_work_is_never_handed_out() -> None:
    scheduler = _scheduler()
    cancelled, expired, wanted = _work(10), _work(10, deadline=5.0), _work(10)
    _admit(scheduler, cancelled, expired, wanted)
    scheduler.cancel([cancelled])
    assert scheduler.queued_tokens == 20
    assert _drained(scheduler, now=5.0) == [[wanted]]
    assert _holds_nothing(scheduler)


def test_a_stream_of_cancellations_leaves_nothing_behind() -> None:
    scheduler = _scheduler()
    prompt = _new_tokens(5)
    stays = _prompted(prompt, 1)
    _admit(scheduler, stays)
    for number in range(100):
        work = _prompted(prompt, 3, client=str(number), priority=number)
        _admit(scheduler, work)
        scheduler.cancel([work, work])
    assert scheduler.queued_tokens == 6
    assert _waiting(scheduler) == [stays]
    assert sum(len(level.flows) for level in scheduler._levels.values()) == 1
    assert len(scheduler._levels) <= 2
    assert scheduler._by_prompt == {stays.prompt: {stays: None}}


# -------------------------------------------------------------------------------- a full queue


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    scheduler = _scheduler(queue=1000)
    _admit(scheduler, _work(1000))
    with pytest.raises(OverloadedError) as caught:
        scheduler.admit([_work(1)], tokens_per_second=100.0)
    assert caught.value.limit == 1000
    assert caught.value.retry_after_seconds == pytest.approx(5.0)  # until it is half empty
    assert scheduler.queued_tokens == 1000
    assert scheduler.seconds_until_room(None) == 1.0
    assert scheduler.seconds_until_room(1e-9) == MAX_RETRY_AFTER_SECONDS


def test_a_request_larger_than_the_queue_is_taken_while_the_queue_is_not_full() -> None:
    scheduler = _scheduler(queue=1000)
    _admit(scheduler, _work(999))
    _admit(scheduler, _work(5000))
    assert scheduler.queued_tokens == 5999


# ---------------------------------------------------------------------------------- everything

_PROMPTS = [_new_tokens(length) for length in (0, 1, 30, 70)]

_works = st.builds(
    _prompted,
    st.sampled_from(_PROMPTS),
    st.integers(1, 60),
    priority=st.integers(-2, 2),
    client=st.sampled_from("abc"),
    deadline=st.integers(1, 30).map(float),
) | st.builds(
    lambda prompt, lengths, client: _prompted(prompt, *lengths, client=client),
    st.sampled_from(_PROMPTS),
    st.lists(st.integers(1, 40), min_size=2, max_size=5),
    st.sampled_from("abc"),
)

_steps = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), st.lists(_works, max_size=8)),
        st.tuples(st.just("cancel"), st.integers(0, 40)),
        st.tuples(st.just("batch"), st.integers(0, 2)),
    ),
    max_size=40,
)


@given(_steps)
def test_under_random_load_nothing_is_lost_duplicated_or_over_budget(
    steps: list[tuple[str, object]],
) -> None:
    scheduler = _scheduler(batch=100, queue=600)
    admitted: list[Work] = []
    cancelled: set[Work] = set()
    given_out: list[Work] = []
    now = 0.5
    for kind, value in [*steps, *[("batch", 0)] * 400]:
        if kind == "admit":
            try:
                _admit(scheduler, *value)
                admitted += value
            except OverloadedError:
                assert scheduler.queued_tokens >= 600
        elif kind == "cancel" and value < len(admitted):
            if admitted[value] not in given_out:
                cancelled.add(admitted[value])
            scheduler.cancel([admitted[value]])
        elif kind == "batch":
            now += value
            batch = scheduler.next_batch(now)
            assert batch.tokens == _distinct_tokens(batch.works)
            assert len(batch.works) <= 1 or batch.tokens <= 100
            assert all(work.deadline > now for work in batch.works)
            given_out += batch.works
    assert len(set(given_out)) == len(given_out)
    assert not cancelled & set(given_out)
    assert {w for w in admitted if w.deadline > now} - cancelled <= set(given_out)
    assert _holds_nothing(scheduler)


@given(st.lists(_works, max_size=30))
def test_within_one_client_and_prompt_the_order_is_kept(works: list[Work]) -> None:
    scheduler = _scheduler(batch=100)
    _admit(scheduler, *works)
    given_out = [work for batch in _drained(scheduler) for work in batch]
    assert set(given_out) == set(works)
    for flow in {(work.client, work.priority, work.prompt) for work in works}:
        order = [w for w in given_out if (w.client, w.priority, w.prompt) == flow]
        assert order == [w for w in works if (w.client, w.priority, w.prompt) == flow]
