"""Waits that have an end, and that an interrupt always ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


async def ended(task: asyncio.Future[Any]) -> None:
    """End a task and wait for that, however it ends."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # which nobody misses


async def within(seconds: float | None, awaitable: Awaitable[T]) -> T:
    """Return what is waited for; `seconds` is the limit, None for none.

    `asyncio.wait_for` of Python before 3.12 forgets an interrupt that comes while what it waits for does its
    last step, and such a step takes long where it imports something.

    Raises:
        asyncio.TimeoutError: it was not there in time, and is given up.
    """
    if seconds is None:
        return await awaitable
    task = asyncio.ensure_future(awaitable)
    try:
        there, _ = await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        await ended(task)
        raise
    if not there:
        await ended(task)
        raise asyncio.TimeoutError
    return task.result()
