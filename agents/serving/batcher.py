"""Requests that arrive together are decided together: threads that hand what waits to a policy, a batch at a time.

Nobody waits for a batch to fill: a thread takes what is there, and while it is busy the next batch gathers. A request
whose client has gone, or whose time is over, is left out. One that makes the policy fail does not take the others of
its batch with it: they are decided one by one, each on a memory of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue

from toolenv.agents.policy import ConversationPolicy, Decision, PolicyStopped
from toolenv.agents.serving.conversation import ServedConversation


class Waiting:
    """A conversation in the queue; `decided` will have the decision, or why there is none."""

    __slots__ = ("conversation", "decided")

    def __init__(self, conversation: ServedConversation) -> None:
        self.conversation = conversation
        self.decided: Future[Decision] = Future()


class Batcher:
    """The threads of a policy.

    Args:
        policy: acts in several threads at once if there are several.
        batch: conversations at once.
        acted: called with the size of each batch.
    """

    def __init__(
        self,
        policy: ConversationPolicy,
        *,
        batch: int,
        threads: int = 1,
        acted: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._policy, self._batch, self._acted = policy, batch, acted
        self._queue: SimpleQueue[Waiting | None] = SimpleQueue()
        self._busy_since: dict[int, float] = {}
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"toolenv-serve-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, conversation: ServedConversation) -> Future[Decision]:
        """Have a conversation decided. A future that is cancelled while it waits costs nothing."""
        waiting = Waiting(conversation)
        self._queue.put(waiting)
        return waiting.decided

    @property
    def length(self) -> int:
        """How many wait for a thread."""
        return self._queue.qsize()

    def healthy(self, longest_s: float) -> bool:
        """Whether every thread lives, and none has been at one batch for longer than that."""
        now = time.monotonic()
        stuck = any(now - since > longest_s for since in list(self._busy_since.values()))
        return not stuck and all(thread.is_alive() for thread in self._threads)

    def close(self, timeout_s: float) -> None:
        """End the threads, after what waits now; one that does not end in time is left behind."""
        until = time.monotonic() + timeout_s
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self, number: int) -> None:
        while (first := self._queue.get()) is not None:
            batch, last = self._gathered(first)
            if running := [waiting for waiting in batch if waiting.decided.set_running_or_notify_cancel()]:
                self._busy_since[number] = time.monotonic()
                self._decide(running)
                del self._busy_since[number]
                self._acted(len(running))
            if last:
                return

    def _gathered(self, first: Waiting) -> tuple[list[Waiting], bool]:
        """The first and what else waits; and whether it was the last."""
        batch = [first]
        while len(batch) < self._batch:
            try:
                waiting = self._queue.get_nowait()
            except Empty:
                break
            if waiting is None:
                return batch, True
            batch.append(waiting)
        return batch, False

    def _decide(self, batch: Sequence[Waiting]) -> None:
        try:
            decisions: Sequence[Decision | None] = self._policy.act([waiting.conversation for waiting in batch])
        except PolicyStopped as stopped:
            decisions = stopped.decided or [None] * len(batch)
            for waiting, decision in zip(batch, decisions, strict=True):
                if decision is None:
                    waiting.decided.set_exception(stopped)
                else:
                    waiting.decided.set_result(decision)
        except Exception as error:  # of whatever kind: it is told to the one request that it is about
            if len(batch) == 1:
                batch[0].decided.set_exception(error)
                return
            for waiting in batch:
                waiting.conversation.memory = {}  # the failed attempt may have left it half changed
                self._decide([waiting])
        except BaseException as error:
            for waiting in batch:
                waiting.decided.set_exception(error)
            raise
        else:
            for waiting, decision in zip(batch, decisions, strict=True):
                assert decision is not None
                waiting.decided.set_result(decision)
