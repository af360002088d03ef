"""The bounded queue between stages: it never grows, and what it sheds is counted.

It belongs to one asyncio loop; another thread writes through `offer_threadsafe`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

WARN_EVERY = 100  # the first and each hundredth drop is logged


class ClosedError(Exception):
    """The channel is closed and, for a reader, empty."""


class Channel(Generic[T]):
    """A queue of at most `size` items: `put` waits for room, `offer` sheds the oldest instead and counts it."""

    def __init__(
        self, name: str, size: int, *, weigh: Callable[[T], float] = lambda _item: 1.0, limit: float = math.inf
    ) -> None:
        """`weigh` says what a shed item adds to `shed` (for audio: its seconds); all items weigh `limit` at most."""
        if size < 1:
            raise ValueError(f"channel {name}: size {size} is not positive")
        self.name = name
        self.size = size
        self.drops = 0
        self.shed = 0.0
        self._weigh = weigh
        self._limit = limit
        self._weight = 0.0  # of all items
        self._items: deque[T] = deque()
        self._closed = False
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    async def put(self, item: T) -> None:
        """Wait for room, then add. Raises `ClosedError` once closed."""
        while len(self._items) >= self.size and not self._closed:
            self._writable.clear()
            await self._writable.wait()
        self.offer(item)

    def offer(self, item: T) -> None:
        """Add at once, shedding, counting and (1 in 100) logging the oldest item when full. Raises `ClosedError`."""
        if self._closed:
            raise ClosedError(self.name)
        weight = self._weigh(item)
        while self._items and (len(self._items) >= self.size or self._weight + weight > self._limit):
            self.shed += self._weigh(self._take())
            self.drops += 1
            if self.drops % WARN_EVERY == 1:
                log.warning("%s: full at %d, %d shed so far (%.1f)", self.name, self.size, self.drops, self.shed)
        self._items.append(item)
        self._weight += weight
        self._readable.set()

    def offer_threadsafe(self, loop: asyncio.AbstractEventLoop, item: T) -> None:
        """`offer` from another thread; nothing happens once the channel or the loop is closed."""
        try:
            loop.call_soon_threadsafe(self._offer_if_open, item)
        except RuntimeError:  # the loop has been closed: the daemon is stopping
            return

    def _offer_if_open(self, item: T) -> None:
        if not self._closed:
            self.offer(item)

    async def get(self) -> T:
        """The oldest item; waits for one. Raises `ClosedError` when closed and empty."""
        while not self._items:
            if self._closed:
                raise ClosedError(self.name)
            self._readable.clear()
            await self._readable.wait()
        item = self._take()
        self._writable.set()
        return item

    def more(self, fits: Callable[[T], bool]) -> T | None:
        """The oldest item if it fits. Never waits; None: there is none, or it does not."""
        if not self._items or not fits(self._items[0]):
            return None
        item = self._take()
        self._writable.set()
        return item

    def _take(self) -> T:
        item = self._items.popleft()
        self._weight = self._weight - self._weigh(item) if self._items else 0.0
        return item

    def close(self) -> None:
        """No more items; readers get what is left, then `ClosedError`."""
        self._closed = True
        self._readable.set()
        self._writable.set()

    async def __aiter__(self) -> AsyncIterator[T]:
        while True:
            try:
                item = await self.get()
            except ClosedError:
                return
            yield item
