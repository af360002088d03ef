"""Recognition ahead of time, over real utterances of a synthetic voice."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest

from assistant.commanding import SETTLED, UNFINISHED
from assistant.events import SAMPLE_RATE, Chunk, Samples, Transcript, Utterance
from assistant.segment.activity import Activity
from assistant.segment.speech import Speech, SpeechSettings
from assistant.speculating import PENDING, Foreseen, Speculation
from assistant.synthesis import noise, placed

HANGOVER = SpeechSettings().hangover
CHUNK = 1280


def voice(length: float) -> Samples:
    """What webrtcvad takes for speech: a buzz with formants that comes and goes like syllables."""
    t = np.arange(round(length * SAMPLE_RATE)) / SAMPLE_RATE
    buzz = sum(np.sin(2 * np.pi * 140 * n * t) / n for n in range(1, 25))
    return np.asarray(0.15 * buzz * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t)), np.float32)


def room(*said: tuple[float, float]) -> Samples:
    heard = noise(20.0, -65.0)
    for start, length in said:
        heard = placed(heard, voice(length), start)
    return heard


@dataclass
class Listener:
    """A stream whose utterances are guessed."""

    patience: float = 1.0
    busy: bool = False
    patient: bool = True
    wait: float = 0.0  # seconds that a guess takes
    begun: list[Utterance] = field(default_factory=list)
    ended: list[tuple[Utterance, bool]] = field(default_factory=list)  # and whether its guess was of use
    counts: Counter[str] = field(default_factory=Counter)

    async def begin(self, utterance: Utterance, start: int) -> Foreseen:
        assert start == utterance.start + self.skipped
        self.begun.append(utterance)
        await asyncio.sleep(self.wait)
        return Foreseen("test", Transcript("turn on the lamp", "en", 0.9), self.patience)

    skipped: int = 0

    async def hear(self, samples: Samples, start_of: int = 0) -> None:
        activity, speech = Activity(), Speech()
        speculation = Speculation(
            HANGOVER,
            self.counts,
            begin=self.begin,
            foresee=lambda utterance: utterance.start + self.skipped,
            busy=lambda: self.busy,
            patient=lambda: self.patient,
        )
        for start in range(0, len(samples), CHUNK):
            chunk = Chunk("home", "test", start, samples[start : start + CHUNK], 0.0)
            utterances = speech.feed(chunk, activity.feed(chunk))
            if not utterances and speculation.follow(speech):
                utterances = [u for u in [speech.conclude()] if u is not None]
            for utterance in utterances:
                guess = speculation.take(utterance, utterance.start + self.skipped + start_of)
                self.ended.append((utterance, guess is not None and (await guess) is not None))
            for _ in range(3):
                await asyncio.sleep(0)
        speculation.drop()


def silence_of(utterance: Utterance) -> float:
    return utterance.silence / SAMPLE_RATE


async def test_what_was_said_is_recognised_while_the_end_is_waited_for() -> None:
    listener = Listener()
    await listener.hear(room((12.0, 1.5)))
    ((utterance, kept),) = listener.ended
    (guess,) = listener.begun
    assert kept
    assert guess.start == utterance.start
    assert 0.2 <= silence_of(guess) <= 0.3
    assert abs(silence_of(utterance) - HANGOVER) < 0.03
    assert np.array_equal(guess.samples, utterance.samples[: len(guess.samples)])
    assert listener.counts == {}


async def test_a_whole_command_ends_the_utterance_sooner() -> None:
    listener = Listener(patience=SETTLED)
    await listener.hear(room((12.0, 1.5), (16.0, 1.0)))
    assert [kept for _, kept in listener.ended] == [True, True]
    for utterance, _ in listener.ended:
        assert 0.4 <= silence_of(utterance) <= 0.5
        assert utterance.end - utterance.start == len(utterance.samples)


async def test_half_a_sentence_is_waited_for_longer_in_this_pause_only() -> None:
    listener = Listener(patience=UNFINISHED)
    await listener.hear(room((10.0, 1.0), (11.75, 1.0), (15.0, 1.0)))
    assert [kept for _, kept in listener.ended] == [True, True]
    for (utterance, _), end in zip(listener.ended, (12.75, 16.0), strict=True):
        assert abs(silence_of(utterance) - UNFINISHED * HANGOVER) < 0.03
        assert abs((utterance.end - utterance.silence) / SAMPLE_RATE - end) < 0.1
    assert listener.counts == {"dropped": 1}


async def test_the_patience_with_one_pause_ends_with_it() -> None:
    speech, activity = Speech(), Activity()
    ended: list[Utterance] = []
    heard = room((12.0, 1.0), (13.8, 1.0))
    for start in range(0, len(heard), CHUNK):
        chunk = Chunk("home", "test", start, heard[start : start + CHUNK], 0.0)
        ended += speech.feed(chunk, activity.feed(chunk))
        if speech.pause is not None and start < 13.7 * SAMPLE_RATE:
            speech.patience = 2.0
    (utterance,) = ended
    assert utterance.start < 12.0 * SAMPLE_RATE
    assert abs(silence_of(utterance) - HANGOVER) < 0.03


async def test_whoever_goes_on_is_heard_to_the_end() -> None:
    listener = Listener(patience=SETTLED)
    await listener.hear(room((12.0, 1.0), (13.3, 1.0)))
    ((utterance, kept),) = listener.ended
    assert kept
    assert len(listener.begun) == 2
    assert listener.counts == {"dropped": 1}
    assert utterance.start <= 12.0 * SAMPLE_RATE
    assert utterance.end >= 14.3 * SAMPLE_RATE


@pytest.mark.parametrize(("patient", "waited"), [(True, PENDING), (False, 1.0)])
async def test_a_guess_that_takes_longer_than_the_pause_is_waited_for(patient: bool, waited: float) -> None:
    """So that its words may ask for more patience; not where nobody has the patience."""
    listener = Listener(patience=SETTLED, wait=0.2, patient=patient)
    await listener.hear(room((12.0, 1.0)))
    ((utterance, kept),) = listener.ended
    assert kept
    assert abs(silence_of(utterance) - waited * HANGOVER) < 0.1


async def test_nothing_is_guessed_while_the_recogniser_is_busy() -> None:
    listener = Listener(patience=SETTLED, busy=True)
    await listener.hear(room((12.0, 1.5)))
    assert [kept for _, kept in listener.ended] == [False]
    assert listener.begun == []
    assert listener.counts == {"skipped": 1}


async def test_a_long_speech_is_no_command() -> None:
    listener = Listener()
    await listener.hear(room((10.0, 7.0)))
    assert [kept for _, kept in listener.ended] == [False]
    assert listener.begun == []
    assert listener.counts == {}


async def test_a_wake_word_that_was_noticed_late_makes_the_guess_worthless() -> None:
    listener = Listener()
    await listener.hear(room((12.0, 1.5)), start_of=8_000)
    assert [kept for _, kept in listener.ended] == [False]
    assert len(listener.begun) == 1
    assert listener.counts == {"dropped": 1}
