"""Few answers begin at once, in the order of their coming; what takes long keeps no other waiting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from in_job.serving import threads
from in_job.serving.threads import AT_ONCE, Threads

MOST = AT_ONCE + 2


class Desk:
    """Work that goes on until its number is let go."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self._come = threading.Condition()
        self._gone = [threading.Event() for _ in range(20)]

    def work(self, number: int) -> int:
        with self._come:
            self.begun.append(number)
            self._come.notify_all()
        assert self._gone[number].wait(30)
        return number

    def let_go(self, *numbers: int) -> None:
        for number in numbers:
            self._gone[number].set()

    async def until(self, number: int) -> None:
        """Wait until so many have begun."""

        def wait() -> bool:
            with self._come:
                return self._come.wait_for(lambda: len(self.begun) >= number, 30)

        assert await asyncio.get_running_loop().run_in_executor(None, wait)


def at_desk(test: Callable[[Desk, Threads], Awaitable[None]]) -> None:
    """Run a test with a desk, whose threads all end with it."""
    desk = Desk()

    async def run() -> None:
        try:
            await asyncio.wait_for(test(desk, Threads(MOST)), 60)
        finally:
            desk.let_go(*range(20))

    asyncio.run(run())


def test_few_begin_at_once_in_the_order_of_their_coming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "PATIENCE", 60)

    async def test(desk: Desk, pool: Threads) -> None:
        tasks = [asyncio.ensure_future(pool.run(desk.work, number)) for number in range(AT_ONCE + 3)]
        await desk.until(AT_ONCE)
        assert sorted(desk.begun) == list(range(AT_ONCE))
        for done in range(3):
            desk.let_go(done)
            assert await tasks[done] == done
            await desk.until(AT_ONCE + 1 + done)
            assert desk.begun[-1] == AT_ONCE + done
        assert len(desk.begun) == AT_ONCE + 3

    at_desk(test)


def test_those_that_take_long_let_others_begin_up_to_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "PATIENCE", 0.01)

    async def test(desk: Desk, pool: Threads) -> None:
        tasks = [asyncio.ensure_future(pool.run(desk.work, number)) for number in range(MOST + 2)]
        await desk.until(MOST)
        await asyncio.sleep(0.1)
        assert sorted(desk.begun) == list(range(MOST))
        desk.let_go(*range(MOST))
        await desk.until(MOST + 2)
        desk.let_go(MOST, MOST + 1)
        assert await asyncio.gather(*tasks) == list(range(MOST + 2))
        monkeypatch.setattr(threads, "PATIENCE", 60)  # none is counted twice
        again = [asyncio.ensure_future(pool.run(desk.work, number)) for number in range(10, 10 + MOST)]
        await desk.until(MOST + 2 + AT_ONCE)
        await asyncio.sleep(0.05)
        assert sorted(desk.begun[MOST + 2 :]) == list(range(10, 10 + AT_ONCE))
        desk.let_go(*range(10, 10 + MOST))
        await asyncio.gather(*again)

    at_desk(test)


def test_an_error_is_its_callers_and_who_is_cancelled_is_forgotten() -> None:
    async def test(desk: Desk, pool: Threads) -> None:
        with pytest.raises(ZeroDivisionError):
            await pool.run(lambda: 1 // 0)
        tasks = [asyncio.ensure_future(pool.run(desk.work, number)) for number in range(AT_ONCE)]
        await desk.until(AT_ONCE)
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        desk.let_go(*range(AT_ONCE))
        await asyncio.gather(*tasks[1:])
        assert await pool.run(str, 7) == "7"

    at_desk(test)
