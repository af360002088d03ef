"""What was said and meant, as Rhasspy tells it: for flows that were made for the Hermes topics of Rhasspy and Snips.

Pure. Payloads after rhasspy-hermes (`asr.AsrTextCaptured`, `nlu.NluIntent`, `intent.Slot`); only these two are told,
and nothing is listened to. `siteId` is the room, `sessionId` the id of the speech event.
"""

from __future__ import annotations

from typing import Any

from assistant.events import Event, Fact, IntentRecognised, Publish, without_words
from assistant.outputs.topics import INTENT_EXPIRY, LATE_AFTER, Message, level_topic_part

CERTAIN = 1.0  # Hermes knows no unknown; Rhasspy's own services say this where they cannot tell


def hermes_messages(item: Fact | Publish, now: float, *, transcripts: bool) -> list[Message]:
    """The Hermes messages of a fact. Without `transcripts` neither text nor slots with words as they were said."""
    match item:
        case Event(kind="speech", text=str(text)) if transcripts and text:
            return [_message("hermes/asr/textCaptured", _captured(item, text), now)]
        case IntentRecognised():
            event = item.event if transcripts else without_words(item.event)
            if event.intent is None:
                return []
            return [_message(f"hermes/intent/{level_topic_part(event.intent.name)}", _meant(event), now)]
    return []


def _message(topic: str, payload: dict[str, Any], now: float) -> Message:
    """An old command must not act: it expires as ours do."""
    return Message(topic, payload, now, expiry=INTENT_EXPIRY, lifetime=LATE_AFTER)


def _captured(event: Event, text: str) -> dict[str, Any]:
    return {
        "text": text,
        "likelihood": CERTAIN if event.score is None else event.score,
        "seconds": event.duration or 0.0,
        "siteId": event.room,
        "sessionId": event.id,
        "wakewordId": None,
        "asrTokens": None,
        "lang": event.language,
    }


def _meant(event: Event) -> dict[str, Any]:
    """An event with an intent as `NluIntent`. The confidence is that of the words: a grammar matches or does not."""
    intent = event.intent
    assert intent is not None  # noqa: S101 - the caller looked
    confidence = CERTAIN if event.score is None else event.score
    return {
        "input": event.text or "",
        "rawInput": event.text or "",
        "intent": {"intentName": intent.name, "confidenceScore": confidence},
        "slots": [_slot(name, value) for name, value in intent.slots.items() if value is not None],
        "siteId": event.room,
        "sessionId": event.id,
        "id": event.id,
        "customData": None,
        "asrTokens": None,
        "asrConfidence": event.score,
        "wakewordId": None,
        "lang": intent.language,
    }


def _slot(name: str, value: object) -> dict[str, Any]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return {
        "entity": name,
        "slotName": name,
        "value": {"kind": "Number" if number else "Custom", "value": value},
        "rawValue": str(value),
        "confidence": CERTAIN,
        "range": None,
    }
