"""Who is computed next: a queue of groups, cut into batches by a token budget.

Pure bookkeeping: no torch, no clock, no I/O. There is no timer either: when the device is free,
what waits is the next batch (text-embeddings-inference's rule).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from reward_service.errors import OverloadedError
from reward_service.sequences import SequenceGroup

MAX_RETRY_AFTER_SECONDS = 60.0


@dataclass(slots=True, eq=False)
class Work:
    """One group on its way to the device."""

    group: SequenceGroup
    deadline: float
    """On the caller's clock; work is not computed after it."""
    priority: int = 0
    is_wanted: bool = field(default=True, init=False)


class Scheduler:
    """Holds admitted work, oldest first within each priority.

    Args:
        max_batch_tokens: budget of one batch; a larger group is a batch of its own.
        max_queue_tokens: with this many tokens waiting, the queue is full.
    """

    def __init__(self, *, max_batch_tokens: int, max_queue_tokens: int) -> None:
        self.max_batch_tokens = max_batch_tokens
        self.max_queue_tokens = max_queue_tokens
        self.queued_tokens = 0
        self.queued_groups = 0
        self._queues: dict[int, deque[Work]] = {}

    def admit(self, works: Sequence[Work], *, tokens_per_second: float | None) -> None:
        """Queue all of a request's work, or none of it.

        A request larger than what is left is still taken while the queue is not full, so that a
        large one is not refused for ever by a stream of small ones.

        Args:
            tokens_per_second: how fast the queue drains, where it has been measured.

        Raises:
            OverloadedError: the queue is full; it says when to come back.
        """
        if self.queued_tokens >= self.max_queue_tokens:
            raise OverloadedError(
                f"{self.queued_tokens:,} tokens are waiting, the limit is "
                f"{self.max_queue_tokens:,}: send this request again later",
                limit=self.max_queue_tokens,
                retry_after_seconds=self.seconds_until_room(tokens_per_second),
            )
        for work in works:
            self._queues.setdefault(work.priority, deque()).append(work)
            self.queued_tokens += work.group.input_tokens
        self.queued_groups += len(works)

    def cancel(self, works: Sequence[Work]) -> None:
        """Give up work that nobody waits for; what was already taken is not affected."""
        for work in works:
            if work.is_wanted:
                self._leave_queue(work)

    def next_batch(self, now: float) -> list[Work]:
        """Take the next batch: highest priority first, oldest first, within the budget.

        Work whose deadline has passed is dropped on the way; its caller's own timer tells it.
        """
        batch: list[Work] = []
        tokens = 0
        for priority in sorted(self._queues, reverse=True):
            queue = self._queues[priority]
            while queue:
                work = queue[0]
                if work.is_wanted and work.deadline > now:
                    size = work.group.input_tokens
                    if batch and tokens + size > self.max_batch_tokens:
                        return batch
                    batch.append(work)
                    tokens += size
                if work.is_wanted:
                    self._leave_queue(work)
                queue.popleft()
            del self._queues[priority]
        return batch

    def seconds_until_room(self, tokens_per_second: float | None) -> float:
        """How long until the queue is half empty at this rate; a guess where there is no rate."""
        if not tokens_per_second:
            return 1.0
        excess = self.queued_tokens - self.max_queue_tokens / 2
        return min(max(1.0, excess / tokens_per_second), MAX_RETRY_AFTER_SECONDS)

    def _leave_queue(self, work: Work) -> None:
        work.is_wanted = False
        self.queued_tokens -= work.group.input_tokens
        self.queued_groups -= 1
