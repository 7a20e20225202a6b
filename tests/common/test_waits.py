"""Waits that have an end, and that an interrupt always ends."""

from __future__ import annotations

import asyncio

import pytest

from common.waits import ended, within


async def soon(result: object) -> object:
    await asyncio.sleep(0)
    return result


async def test_the_result_the_error_or_the_limit() -> None:
    assert await within(60, soon(1)) == 1
    assert await within(None, soon(1)) == 1

    async def failing() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await within(60, failing())
    given_up = asyncio.ensure_future(asyncio.sleep(60))
    with pytest.raises(asyncio.TimeoutError):
        await within(0.01, given_up)
    assert given_up.cancelled()


async def test_an_interrupt_in_the_last_step_of_what_is_waited_for() -> None:
    """As ^C while the platform's SDK is imported: `asyncio.wait_for` goes on with the result, up to 3.11."""

    async def waiting() -> None:
        me = asyncio.current_task()
        assert me

        async def last_step() -> int:
            me.cancel()
            return 1

        await within(60, last_step())

    task = asyncio.create_task(waiting())
    await asyncio.wait({task})
    assert task.cancelled()


async def test_an_interrupt_while_another_task_ends() -> None:
    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ending.set()
            await asyncio.sleep(0.01)

    ending, other = asyncio.Event(), asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    ender = asyncio.create_task(ended(other))
    await ending.wait()
    ender.cancel()
    await asyncio.wait({ender, other})
    assert ender.cancelled()
