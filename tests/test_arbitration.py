from __future__ import annotations

import asyncio
import time

import numpy as np

from assistant.arbitration import WINDOW, Arbiter, alike, envelope, overlap
from assistant.events import SAMPLE_RATE, Cut, Samples, Utterance, frozen


def voice(seed: int, seconds: float = 2.0) -> Samples:
    """Syllables of noise: their rhythm is what tells one speaker from another."""
    rng = np.random.default_rng(seed)
    length = int(seconds * SAMPLE_RATE)
    loud = np.interp(np.arange(length), np.arange(0, length + 3200, 1600), rng.uniform(0, 1, length // 1600 + 2) ** 2)
    return (0.2 * loud * rng.standard_normal(length)).astype(np.float32)


def heard(samples: Samples, gain: float = 1.0, noise: float = 0.001, seed: int = 9) -> Utterance:
    rng = np.random.default_rng(seed)
    mixed = (gain * samples + noise * rng.standard_normal(len(samples))).astype(np.float32)
    return Utterance(
        0, len(samples), frozen(mixed), Cut.ENDPOINT, 0.8, -30.0, float(20 * np.log10(noise)),
    )  # fmt: skip


async def test_the_room_that_hears_best_acts() -> None:
    arbiter, said = Arbiter(), voice(1)
    hall = arbiter.claim("hall", heard(said, 0.2, 0.01), 100.1, 8.0)
    kitchen = arbiter.claim("kitchen", heard(said), 100.0, 25.0)
    assert await asyncio.gather(hall.won(), kitchen.won()) == [False, True]
    assert (arbiter.claims, arbiter.shared) == (2, 1)


async def test_what_comes_after_the_decision_loses_however_good_it_is() -> None:
    now = 0.0
    arbiter, said = Arbiter(clock=lambda: now), voice(1)
    hall = arbiter.claim("hall", heard(said, 0.2), 100.0, 8.0)
    now = WINDOW + 0.01
    kitchen = arbiter.claim("kitchen", heard(said), 100.0, 25.0)
    assert not await kitchen.won()
    assert await hall.won()


async def test_two_people_at_once_in_two_rooms_are_both_served() -> None:
    arbiter = Arbiter()
    claims = [arbiter.claim("hall", heard(voice(1)), 100.0, 8.0), arbiter.claim("attic", heard(voice(2)), 100.0, 25.0)]
    assert [await claim.won() for claim in claims] == [True, True]


async def test_the_same_words_again_are_another_utterance() -> None:
    arbiter, said = Arbiter(), voice(1)
    first = arbiter.claim("hall", heard(said), 100.0, 8.0)
    again = arbiter.claim("hall", heard(said), 100.0, 8.0)
    later = arbiter.claim("kitchen", heard(said), 103.0, 8.0)
    assert [await claim.won() for claim in (first, again, later)] == [True, True, True]


async def test_a_house_of_one_room_waits_for_nobody() -> None:
    began = time.monotonic()
    assert await Arbiter(lambda: True).claim("hall", heard(voice(1)), 100.0, 8.0).won()
    assert time.monotonic() - began < WINDOW / 2


def test_envelopes_are_compared_at_their_own_times() -> None:
    said = voice(3, 3.0)
    whole, cut = envelope(said, -60.0), envelope(said[SAMPLE_RATE:], -60.0)
    assert alike(whole, cut, 50)
    assert alike(cut, whole, -50)
    assert not alike(envelope(voice(4, 3.0), -60.0), whole)
    assert alike(whole[:10], cut)  # too short to be told apart


def test_overlap_is_a_share_of_the_shorter() -> None:
    assert overlap(0.0, 4.0, 3.0, 5.0) == 0.5
    assert overlap(0.0, 1.0, 2.0, 3.0) == 0.0
