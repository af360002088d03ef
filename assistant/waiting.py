"""Waiting with a limit where `asyncio.timeout` cannot be relied upon."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any


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
