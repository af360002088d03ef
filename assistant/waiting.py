"""Waiting with a limit where `asyncio.timeout` cannot be relied upon, and for what may hang for ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def at_most(seconds: float, work: Awaitable[Any]) -> bool:
    """Whether `work` ended within `seconds`; else it is cancelled and left. Raises what `work` raises.

    For what a task does after it was cancelled itself: up to Python 3.11.2, that of Debian 12, `asyncio.timeout` ends
    there with CancelledError instead of TimeoutError (gh-102780).
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait((task,), timeout=seconds)
    except BaseException:
        task.cancel()
        raise
    if not done:
        task.cancel()
        await asyncio.sleep(0)  # so that it learns it
        return False
    task.result()
    return True


async def in_thread(function: Callable[[], T], name: str) -> T:
    """Run in a daemon thread: what hangs in a driver must not keep the program from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def deliver(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = function()
        except Exception as caught:
            error = caught
        try:
            loop.call_soon_threadsafe(deliver, result, error)
        except RuntimeError:  # the loop has been closed meanwhile
            return

    threading.Thread(target=run, name=name, daemon=True).start()
    return await future
