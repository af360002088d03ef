"""A limit holds, also in a task that was cancelled: what asyncio's own does not do in Debian's Python 3.11.2."""

from __future__ import annotations

import asyncio

import pytest

from assistant.waiting import at_most


async def test_what_ends_in_time_and_what_does_not() -> None:
    assert await at_most(5.0, asyncio.sleep(0))
    began = asyncio.get_running_loop().time()
    task = asyncio.ensure_future(asyncio.sleep(5.0))
    assert not await at_most(0.05, task)
    assert task.cancelled()
    assert asyncio.get_running_loop().time() - began < 1.0


async def test_errors_come_through() -> None:
    async def broken() -> None:
        raise OSError("no route")

    with pytest.raises(OSError, match="no route"):
        await at_most(5.0, broken())


async def test_the_limit_holds_in_a_task_that_was_cancelled() -> None:
    told: list[bool] = []

    async def cleans_up() -> None:
        try:
            await asyncio.sleep(5.0)
        finally:
            told.append(await at_most(0.05, asyncio.sleep(5.0)))

    task = asyncio.create_task(cleans_up())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == [False]


async def test_a_cancel_meanwhile_cancels_the_work() -> None:
    work = asyncio.ensure_future(asyncio.sleep(5.0))
    task = asyncio.create_task(at_most(5.0, work))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait((work,), timeout=1.0)
    assert work.cancelled()
