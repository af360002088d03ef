"""The queue between stages is bounded and counts what it sheds."""

from __future__ import annotations

import asyncio
import threading

import pytest

from assistant.channel import Channel, ClosedError


async def test_items_come_out_in_order() -> None:
    channel: Channel[int] = Channel("test", 3)
    for item in range(3):
        channel.offer(item)
    assert [await channel.get() for _ in range(3)] == [0, 1, 2]


async def test_a_full_channel_sheds_the_oldest_and_weighs_it() -> None:
    channel: Channel[float] = Channel("test", 2, weigh=lambda item: item)
    for item in (0.5, 1.0, 2.0, 4.0):
        channel.offer(item)
    assert [await channel.get(), await channel.get()] == [2.0, 4.0]
    assert (channel.drops, channel.shed) == (2, 1.5)


async def test_one_drop_in_a_hundred_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    channel: Channel[int] = Channel("microphone", 1)
    for item in range(202):
        channel.offer(item)
    assert len(caplog.records) == 3  # the 1st, 101st and 201st
    assert "microphone" in caplog.text


async def test_put_waits_for_room_and_sheds_nothing() -> None:
    channel: Channel[int] = Channel("test", 1)
    await channel.put(1)
    waiting = asyncio.create_task(channel.put(2))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert await channel.get() == 1
    await asyncio.wait_for(waiting, 1)
    assert await channel.get() == 2
    assert channel.drops == 0


async def test_close_lets_readers_finish() -> None:
    channel: Channel[int] = Channel("test", 4)
    channel.offer(1)
    channel.close()
    assert [item async for item in channel] == [1]
    with pytest.raises(ClosedError):
        channel.offer(2)
    with pytest.raises(ClosedError):
        await channel.get()


async def test_close_wakes_a_waiting_reader_and_a_waiting_writer() -> None:
    empty: Channel[int] = Channel("empty", 1)
    reader = asyncio.create_task(empty.get())
    full: Channel[int] = Channel("full", 1)
    full.offer(1)
    writer = asyncio.create_task(full.put(2))
    await asyncio.sleep(0)
    empty.close()
    full.close()
    for task in (reader, writer):
        with pytest.raises(ClosedError):
            await asyncio.wait_for(task, 1)


async def test_another_thread_may_offer_even_after_close() -> None:
    channel: Channel[int] = Channel("test", 10)
    loop = asyncio.get_running_loop()
    thread = threading.Thread(target=lambda: [channel.offer_threadsafe(loop, item) for item in range(5)])
    thread.start()
    assert [await asyncio.wait_for(channel.get(), 5) for _ in range(5)] == list(range(5))
    thread.join()
    channel.close()
    channel.offer_threadsafe(loop, 6)
    await asyncio.sleep(0)
    assert len(channel) == 0


def test_a_size_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="not positive"):
        Channel("test", 0)


def test_what_all_items_weigh_is_bounded_too() -> None:
    channel: Channel[float] = Channel("blocks", 100, weigh=lambda seconds: seconds, limit=1.0)
    for _ in range(5):
        channel.offer(0.25)
    assert (len(channel), channel.drops, channel.shed) == (4, 1, 0.25)
    channel.offer(0.6)
    assert (len(channel), channel.drops, channel.shed) == (2, 4, 1.0)
    channel.offer(3.0)  # more than all may weigh: it is alone
    assert (len(channel), channel.drops) == (1, 6)
