"""Whether an event is what a rule names, and when a rule may fire."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta, tzinfo

from assistant.events import Event
from assistant.rules.settings import ANY, DAYS, Span, When
from assistant.rules.wording import fold, says

WHOLE_TEXT = 1_000  # characters of an utterance that rules look at: bounds what a regular expression can cost


def _text_matches(when: When, text: str) -> bool:
    text = text[:WHOLE_TEXT]
    if when.speech and ANY not in when.speech and not any(says(text, phrase) for phrase in when.speech):
        return False
    if when.exactly and not any(
        fold(text).replace(" ", "") == fold(phrase).replace(" ", "") for phrase in when.exactly
    ):
        return False
    return not when.regex or re.search(when.regex, text, re.IGNORECASE) is not None


def matches(when: When, event: Event, text: str | None) -> bool:
    """Whether the event is of the kind that `when` names, whatever its state and the time."""
    if when.room and event.room not in when.room:
        return False
    if when.score is not None and (event.score is None or event.score < when.score):
        return False
    if when.is_speech:
        spoken = event.kind == "speech" and text is not None
        return spoken and (not when.language or event.language in when.language) and _text_matches(when, text or "")
    return names_sound(when, event) and (not when.label or _labelled(when, event))


def names_sound(when: When, event: Event) -> bool:
    """Whether it is a sound of a type that `when` names; without types, of a label that it names."""
    if event.kind != "sound":
        return False
    if not when.sound:
        return bool(when.label) and _labelled(when, event)
    return ANY in when.sound or event.event_type in when.sound


def _labelled(when: When, event: Event) -> bool:
    return event.label.casefold() in {label.casefold() for label in when.label or ()}


@dataclass(frozen=True, slots=True)
class Hours:
    """The local hours and days in which a rule may fire."""

    between: Span | None
    days: tuple[str, ...] | None
    timezone: tzinfo | None  # None: the daemon's own

    def hold(self, now: float) -> bool:
        """Whether the rule may fire at `now`. A night belongs to the day on which it began."""
        local = datetime.fromtimestamp(now, self.timezone)
        minute = local.hour * 60 + local.minute
        span = self.between or Span(0, 24 * 60)
        began_today = span.start <= minute and (minute < span.end or span.end < span.start)
        began_yesterday = span.end < span.start and minute < span.end
        day = local.weekday() - (1 if began_yesterday else 0)
        return (began_today or began_yesterday) and (not self.days or DAYS[day % 7] in self.days)

    def opening(self, now: float) -> float | None:
        """The first moment from `now` on at which `hold` is true; None if there is none."""
        if self.hold(now):
            return now
        span = self.between or Span(0, 24 * 60)
        today = datetime.fromtimestamp(now, self.timezone).date()
        begin = time(span.start // 60 % 24, span.start % 60)
        for days in range(9):
            moment = datetime.combine(today + timedelta(days=days), begin, tzinfo=self.timezone).timestamp()
            if moment >= now and self.hold(moment):
                return moment
        return None
