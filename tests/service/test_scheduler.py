import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_service.errors import OverloadedError
from reward_service.scheduler import MAX_RETRY_AFTER_SECONDS, Scheduler, Work
from reward_service.sequences import SequenceGroup, TokenSequence

NEVER = float("inf")


def _work(tokens: int, *, deadline: float = NEVER, priority: int = 0) -> Work:
    group = SequenceGroup((TokenSequence([0] * tokens, None),), shared_tokens=tokens)
    return Work(group, deadline=deadline, priority=priority)


def _scheduler(*, batch: int = 100, queue: int = 10_000) -> Scheduler:
    return Scheduler(max_batch_tokens=batch, max_queue_tokens=queue)


def _drained(scheduler: Scheduler, now: float = 0.0) -> list[list[Work]]:
    batches = []
    while batch := scheduler.next_batch(now):
        batches.append(batch)
    return batches


def test_batches_are_oldest_first_and_stop_at_the_budget() -> None:
    scheduler = _scheduler(batch=100)
    works = [_work(tokens) for tokens in (60, 40, 1, 99, 100)]
    scheduler.admit(works, tokens_per_second=None)
    assert _drained(scheduler) == [works[:2], works[2:4], works[4:]]


def test_a_group_over_the_budget_is_a_batch_of_its_own() -> None:
    scheduler = _scheduler(batch=100)
    works = [_work(10), _work(500), _work(10)]
    scheduler.admit(works, tokens_per_second=None)
    assert _drained(scheduler) == [[works[0]], [works[1]], [works[2]]]


def test_higher_priority_goes_first() -> None:
    scheduler = _scheduler(batch=10)
    low, high = _work(10), _work(10, priority=5)
    scheduler.admit([low], tokens_per_second=None)
    scheduler.admit([high], tokens_per_second=None)
    assert _drained(scheduler) == [[high], [low]]


def test_cancelled_and_expired_work_is_never_handed_out() -> None:
    scheduler = _scheduler()
    cancelled, expired, wanted = _work(10), _work(10, deadline=5.0), _work(10)
    scheduler.admit([cancelled, expired, wanted], tokens_per_second=None)
    scheduler.cancel([cancelled])
    assert scheduler.queued_tokens == 20
    assert _drained(scheduler, now=5.0) == [[wanted]]
    assert (scheduler.queued_tokens, scheduler.queued_groups) == (0, 0)


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    scheduler = _scheduler(queue=1000)
    scheduler.admit([_work(1000)], tokens_per_second=None)
    with pytest.raises(OverloadedError) as caught:
        scheduler.admit([_work(1)], tokens_per_second=100.0)
    assert caught.value.limit == 1000
    assert caught.value.retry_after_seconds == pytest.approx(5.0)  # until it is half empty
    assert scheduler.queued_tokens == 1000
    assert scheduler.seconds_until_room(None) == 1.0
    assert scheduler.seconds_until_room(1e-9) == MAX_RETRY_AFTER_SECONDS


def test_a_request_larger_than_the_queue_is_taken_while_the_queue_is_not_full() -> None:
    scheduler = _scheduler(queue=1000)
    scheduler.admit([_work(999)], tokens_per_second=None)
    scheduler.admit([_work(5000)], tokens_per_second=None)
    assert scheduler.queued_tokens == 5999


_steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("admit"),
            st.lists(st.tuples(st.integers(1, 150), st.integers(0, 20), st.integers(-2, 2))),
        ),
        st.tuples(st.just("cancel"), st.integers(0, 40)),
        st.tuples(st.just("batch"), st.integers(0, 20)),
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
    now = 0.0
    for kind, value in [*steps, ("batch", 0), *[("batch", 0)] * 50]:
        if kind == "admit":
            works = [_work(t, deadline=now + d + 0.5, priority=p) for t, d, p in value]
            try:
                scheduler.admit(works, tokens_per_second=None)
                admitted += works
            except OverloadedError:
                assert scheduler.queued_tokens >= 600
        elif kind == "cancel" and value < len(admitted):
            if admitted[value] not in given_out:
                cancelled.add(admitted[value])
            scheduler.cancel([admitted[value]])
        elif kind == "batch":
            now += value / 10
            batch = scheduler.next_batch(now)
            assert len(batch) <= 1 or sum(w.group.input_tokens for w in batch) <= 100
            assert all(work.deadline > now for work in batch)
            given_out += batch
    assert len(set(given_out)) == len(given_out)
    assert not cancelled & set(given_out)
    assert {w for w in admitted if w.deadline > now} - cancelled <= set(given_out)
    assert (scheduler.queued_tokens, scheduler.queued_groups) == (0, 0)
    for priority in range(-2, 3):
        order = [admitted.index(w) for w in given_out if w.priority == priority]
        assert order == sorted(order)
