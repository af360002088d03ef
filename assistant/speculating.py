"""Recognition ahead of time: in the first pause of a command, in case the speaker has finished.

The end of an utterance is declared after a long silence (`hangover`). Recognising what was said in the short pause that
each such silence begins with makes its text ready by then. Whoever goes on speaking makes it worthless: it is dropped
and the utterance is recognised at its end as ever. A text that is a whole command ends the utterance sooner, and
half a sentence later.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from assistant.events import SAMPLE_RATE, Cut, Transcript, Utterance
from assistant.segment.speech import Speech

PAUSE: Final = SAMPLE_RATE // 5  # samples of silence after which the end is suspected
PENDING: Final = 1.5  # of the hangover: until then an end waits for a guess, without which nothing can be told anyway
LONGEST: Final = 6 * SAMPLE_RATE  # samples: longer utterances are no commands and take longer to recognise


@dataclass(frozen=True, slots=True, eq=False)
class Foreseen:
    """What an utterance says if it ends here."""

    model: str  # that recognised it
    transcript: Transcript
    patience: float  # how much of the hangover the speaker is waited for: 1 is all of it


@dataclass(frozen=True, slots=True, eq=False)
class Guess:
    """A recognition that may be for nothing."""

    utterance: Utterance
    start: int  # samples: where its words begin
    pause: int  # samples: where the pause begins
    task: asyncio.Task[Foreseen | None]


class Speculation:
    """The guesses of one stream, one at a time."""

    def __init__(
        self,
        hangover: float,
        counts: Counter[str],
        *,
        begin: Callable[[Utterance, int], Coroutine[Any, Any, Foreseen | None]],
        foresee: Callable[[Utterance], int | None],
        busy: Callable[[], bool],
        patient: Callable[[], bool],
    ) -> None:
        """`hangover`: seconds. `counts` is told what was kept, dropped and, while the recogniser was `busy`, skipped.

        `begin` recognises an utterance from a position on; `foresee` tells that position, None where nobody waits;
        `patient`: an end may wait for its guess.
        """
        self._counts = counts
        self._begin = begin
        self._foresee = foresee
        self._busy = busy
        self._patient = patient
        self._hangover = hangover * SAMPLE_RATE
        self._guess: Guess | None = None
        self._looked: int | None = None  # where the pause begins that was considered last

    def follow(self, speech: Speech) -> bool:
        """Look at what is said, after each chunk. Whether it is complete, so that it may be concluded."""
        pause = speech.pause
        if self._guess is not None and (pause is None or pause[0] != self._guess.pause):
            self.drop()
        if pause is None or pause[1] < PAUSE:
            return False
        if self._guess is None:
            if pause[0] != self._looked:
                self._looked = pause[0]
                self._start(speech, pause[0])
            return False
        if not self._guess.task.done():
            speech.patience = PENDING if self._patient() else 1.0
            return False
        foreseen = self._guess.task.result()
        speech.patience = 1.0 if foreseen is None else foreseen.patience
        return pause[1] >= speech.patience * self._hangover

    def _start(self, speech: Speech, pause: int) -> None:
        utterance = speech.so_far()
        if utterance is None or len(utterance.samples) > LONGEST:
            return
        start = self._foresee(utterance)
        if start is None:
            return
        if self._busy():
            self._counts["skipped"] += 1
            return
        task = asyncio.create_task(self._begin(utterance, start), name="speculation")
        self._guess = Guess(utterance, start, pause, task)

    def take(self, utterance: Utterance, start: int) -> asyncio.Task[Foreseen | None] | None:
        """What was made of `utterance`, which has ended and whose words begin at `start`; None: nothing of use."""
        guess = self._guess
        if guess is None or utterance.cut is not Cut.ENDPOINT or guess.start != start:
            self.drop()
            return None
        self._guess = None
        return guess.task

    def drop(self) -> None:
        """The speaker goes on, or it was for nothing in another way."""
        if self._guess is not None:
            self._guess.task.cancel()
            self._guess = None
            self._counts["dropped"] += 1
