"""Why a rule did or did not fire on what it was told: small tuples, the last few of each rule."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from assistant.events import Event, State
from assistant.rules.matching import matches, names_sound
from assistant.rules.settings import When

KEPT = 20  # of each rule


class Outcome(StrEnum):
    """What came of an event, or of time that passed."""

    FIRED = "fired"
    ROOM = "room"  # another room
    SCORE = "score"  # less sure than the rule asks; value: the score
    LABEL = "label"  # another label of the same event type
    LANGUAGE = "language"  # another language
    WORDS = "words"  # something else was said
    HOURS = "hours"  # outside its hours or days
    DOUBTED = "doubted"  # only an audio language model heard it
    COOLDOWN = "cooldown"  # it fired a short time ago; value: Unix seconds until which it rests
    COUNTING = "counting"  # not often enough yet; value: how often so far
    WAITING = "waiting"  # it does not last long enough yet; value: Unix seconds when it will have
    SHORT = "short"  # it ended before; value: seconds that it lasted
    PRESENT = "present"  # it was heard, so that its absence counts anew
    FAILED = "failed"  # a template could not be filled
    REFUSED = "refused"  # no broker takes the topic
    UNANSWERED = "unanswered"  # it went on without the answer to a question


class Evaluation(NamedTuple):
    """One of them. What was said is not in it."""

    time: float  # Unix seconds
    outcome: Outcome
    room: str | None = None  # None: nothing was heard, which is what the rule waited for
    event_type: str | None = None
    event_id: str | None = None
    value: float | None = None


def missed(when: When, event: Event, text: str | None) -> Outcome | None:
    """Why an event of the kind that `when` names is not what it waits for; None: it is, or is of another kind."""
    wanted = when.state or (State.HEARD if when.is_speech else State.STARTED)
    near = event.kind == "speech" and text is not None if when.is_speech else names_sound(when, event)
    if event.state != wanted or not near or matches(when, event, text):
        return None
    if when.room and event.room not in when.room:
        return Outcome.ROOM
    if when.score is not None and (event.score is None or event.score < when.score):
        return Outcome.SCORE
    if not when.is_speech:
        return Outcome.LABEL
    return Outcome.LANGUAGE if when.language and event.language not in when.language else Outcome.WORDS
