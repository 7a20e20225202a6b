"""The threads in which a worker answers the tracking API, of which few begin at once.

They take turns at one Python, in no order: a request that shares it with nine others waits anew after each of
its statements, and the slowest take twice as long as most. Of three, each is soon done, and the rest come one
after the other; as many are answered, since the database and the other worker are at work meanwhile.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

AT_ONCE = 3
PATIENCE = 0.2  # seconds after which what is not done, such as a search, keeps no other from its beginning


@dataclass(eq=False)
class Task:
    """What is to be done; it has a timer while it is one of the few."""

    future: Any
    context: contextvars.Context
    work: Callable[..., Any]
    arguments: tuple[Any, ...]
    timer: Any = None


class Threads:
    """So many threads at most, begun when they are needed, that end with the process whatever they do."""

    def __init__(self, most: int) -> None:
        self._most, self._begun, self._busy, self._short = most, 0, 0, 0
        self._waiting: deque[Task] = deque()
        self._work: Any = queue.SimpleQueue()

    async def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Return what `work` does in a thread; one that is cancelled is done, and its result forgotten."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(Task(future, contextvars.copy_context(), work, arguments))
        self._begin()
        return await future

    def _begin(self) -> None:
        """Begin with those that wait, as long as few are at work that may soon be done."""
        while self._waiting and self._busy < self._most and self._short < AT_ONCE:
            if self._busy == self._begun:
                self._begun += 1
                threading.Thread(target=self._serve, daemon=True).start()
            self._busy += 1
            self._short += 1
            task = self._waiting.popleft()
            task.timer = task.future.get_loop().call_later(PATIENCE, self._lapse, task)
            self._work.put(task)

    def _lapse(self, task: Task) -> None:
        task.timer = None
        self._short -= 1
        self._begin()

    def _serve(self) -> None:
        while True:
            task = self._work.get()
            result, error = None, None
            try:
                result = task.context.run(task.work, *task.arguments)
            except BaseException as raised:
                error = raised
            with suppress(RuntimeError):  # the loop has ended
                task.future.get_loop().call_soon_threadsafe(self._settle, task, result, error)
            del task, result, error  # not until the next comes

    def _settle(self, task: Task, result: Any, error: BaseException | None) -> None:
        self._busy -= 1
        if task.timer:
            task.timer.cancel()
            self._short -= 1
        self._begin()
        if task.future.cancelled():
            return
        if error is None:
            task.future.set_result(result)
        else:
            task.future.set_exception(error)
