"""The whole vocabulary: what one stage hands to the next, from Chunk to Action.

Facts are in the past tense, requests in the present. Positions are counted in samples of the 16 kHz stream since its
first sample, so that no stage needs a clock; `seconds` turns them into the numbers of an `Event`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
SCHEMA = 1

Samples = NDArray[np.float32]


def seconds(samples: int) -> float:
    """Samples of the 16 kHz stream as seconds."""
    return samples / SAMPLE_RATE


def frozen(samples: Samples) -> Samples:
    """The same array, read-only: whoever receives it may keep it, nobody may write to it."""
    samples.flags.writeable = False
    return samples


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """20 to 100 ms of mono 16 kHz audio of one source, where nothing is heard up to 1.92 s.

    A gap between `start` and the end of the chunk before it means that audio was lost; `start` never goes back.
    """

    room: str
    source: str
    start: int  # samples since the first of the source
    samples: Samples  # shape (n,), nominally -1 to 1, read-only
    time: float  # Unix seconds of the first sample

    @property
    def end(self) -> int:
        """Position after the last sample."""
        return self.start + len(self.samples)


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Audio of a tagger's fixed length, cut while something could be heard."""

    start: int  # samples; may lie before the first heard sample when the window was filled from earlier audio
    end: int  # samples; the last sample used is end - 1
    samples: Samples  # shape (length of the tagger,), read-only
    onset: int  # samples: where the activity that this window belongs to began
    level_dbfs: float  # RMS of the active part
    floor_dbfs: float  # noise floor at the time
    gain: float | None = None  # what every sample was multiplied by; None: not known, or some were clipped


@dataclass(frozen=True, slots=True, eq=False)
class Tags:
    """What a tagger said of a window."""

    window: Window
    scores: NDArray[np.float32]  # shape (labels,), 0 to 1


class Cut(StrEnum):
    """Why an utterance ended."""

    ENDPOINT = "endpoint"  # silence after speech
    CAP = "cap"  # 30 s were full; the next utterance overlaps
    END = "end"  # the source ended or lost audio


@dataclass(frozen=True, slots=True, eq=False)
class Utterance:
    """One stretch of speech, pre-roll and hangover included, ready for a recogniser."""

    start: int  # samples
    end: int  # samples
    samples: Samples  # shape (end - start,), read-only
    cut: Cut
    speech_share: float  # 0 to 1: share of frames the voice activity detector called speech
    level_dbfs: float  # RMS of the frames called speech
    floor_dbfs: float  # noise floor at the time
    silence: int = 0  # samples at its end without speech


@dataclass(frozen=True, slots=True)
class SpeechEvidence:
    """What speaks for an utterance being speech, gathered outside the recogniser."""

    speech_share: float  # 0 to 1: share of frames the voice activity detector called speech
    tagger_score: float | None  # 0 to 1: best score of the tagger's speech labels over the utterance; None: no window
    other_score: float | None  # 0 to 1: best score of any other sound meanwhile
    snr_db: float  # level of the speech frames above the noise floor


@dataclass(frozen=True, slots=True)
class Word:
    """One recognised word, in seconds from the start of its utterance."""

    word: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """What a recogniser made of an utterance. Empty `text` means that nothing was said, or nothing believable."""

    text: str
    language: str | None  # ISO 639-1
    score: float | None  # 0 to 1: mean probability of the chosen tokens; None: the model does not tell
    words: tuple[Word, ...] | None = None
    emotion: str | None = None  # of the speaker
    rejected: str | None = None  # why a text was not believed, for the DEBUG log (never the text itself)
    agreed: str = ""  # who else heard speech, after the name of a recogniser whose word alone does not count
    witnessed: bool = True


class State(StrEnum):
    """`started` then `ended` for a sound, `heard` for speech."""

    STARTED = "started"
    ENDED = "ended"
    HEARD = "heard"


@dataclass(frozen=True, slots=True)
class Detection:
    """A sound began or ended, as the tracker or a cadence detector decided."""

    key: int  # the same for `started` and `ended` of one sound within one stream
    state: State
    event_type: str  # slug of the home group, `other` for a label in none
    label: str  # the model's own best label (AudioSet display name)
    score: float  # 0 to 1; for `ended` the best score of the whole sound
    start: int  # samples: onset
    end: int | None  # samples: where it ended; None while it lasts
    heard_at: int  # samples: position after the last sample used for this decision
    level_dbfs: float | None
    model: str  # "yamnet", "t3", "t4", "yamnet+t3"…
    witnessed: bool = True  # a tagger or a cadence heard it; False: only an audio language model says so
    also: frozenset[str] = frozenset()  # of a taught sound: labels that the tagger may give the very same sound


def iso(time: float) -> str:
    """Unix seconds as the event's UTC time, to the millisecond."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True)
class Publish:
    """A rule or a command asks for an MQTT message."""

    topic: str
    payload: str
    qos: int = 1
    retain: bool = False
    rule: str = ""  # name of the rule, for the log
    within: float | None = None  # seconds after which it is not worth sending; None: however late


@dataclass(frozen=True, slots=True)
class Intent:
    """What a command means, and what follows from it."""

    name: str  # as Home Assistant names it: HassTurnOn
    slots: Mapping[str, Any]  # {"name": "kitchen light", "area": "kitchen", "brightness": 40}
    source: Literal["hassil", "model"]
    language: str  # ISO 639-1 of the command
    publish: tuple[Publish, ...] = ()  # what its devices are told; empty: left to whoever reads the intent
    reply: str = ""  # what to say, in `language`
    undone: str = ""  # why nothing follows here, for a person; empty: something does, or it was only to be answered
    free: frozenset[str] = frozenset()  # slots that hold words as they were said, not names of this home

    def to_json(self) -> dict[str, Any]:
        """As it stands in an event."""
        return {"name": self.name, "slots": dict(self.slots), "source": self.source}


@dataclass(frozen=True, slots=True)
class Event:
    """What the house is told. The same JSON goes to MQTT, `kikimimi listen --json`, the history and the web page.

    Unknown is None, never a guess. Repeats are told by (`id`, `state`).
    """

    id: str  # ULID, the same for `started` and `ended` of one sound
    room: str
    source: str
    kind: Literal["sound", "speech"]
    state: State
    event_type: str
    label: str
    score: float | None  # 0 to 1
    text: str | None = None
    language: str | None = None
    words: tuple[Word, ...] | None = None
    intent: Intent | None = None
    caption: str | None = None
    emotion: str | None = None
    start: str | None = None  # UTC, ISO 8601
    end: str | None = None  # UTC, ISO 8601
    offset: float = 0.0  # seconds from the first sample of the source to `start`
    duration: float | None = None  # seconds
    heard_at: float = 0.0  # seconds: the same clock at the last sample used when the event was raised
    level_dbfs: float | None = None
    model: str = ""  # who heard it, joined by +: "yamnet+t3", "qwen-audio-chat+yamnet", "qwen-audio-chat" alone
    latency: float = 0.0  # seconds from the last sample used until it was handed to outputs
    late: bool = False
    clip: str | None = None  # where its recording is or will be, below the folder of the clips
    witnessed: bool = True  # a tagger, cadence or recogniser heard it too; False: only an audio language model says so

    def to_json(self) -> dict[str, Any]:
        """A dictionary in the documented order, ready for `json.dumps`.

        `witnessed` is left out: it is for the rules of this house, others read `model`, which lists who agreed.
        """
        fields = asdict(replace(self, intent=None))
        del fields["witnessed"]
        fields["intent"] = None if self.intent is None else self.intent.to_json()
        fields["words"] = None if self.words is None else [asdict(word) for word in self.words]
        return {"schema": SCHEMA, **fields}


def without_words(event: Event) -> Event:
    """The same event for those who may not know what was said: no text, no words, no caption, no free slots."""
    intent = event.intent
    if intent is not None:
        slots = {name: None if name in intent.free else value for name, value in intent.slots.items()}
        intent = replace(intent, slots=slots, reply="")
    return replace(event, text=None, words=None, caption=None, intent=intent)


def link_to(page: str | None, identity: str | None) -> str | None:
    """Where people see an event: below the address of the page, where that is known."""
    return None if page is None or identity is None else f"{page}#/events/{identity}"


class Presence(StrEnum):
    """Retained state of a room's source."""

    ONLINE = "online"
    OFFLINE = "offline"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class RoomChanged:
    """A room's source came, went or was switched off."""

    room: str
    presence: Presence
    reason: str | None = None


class Problem(StrEnum):
    """What is wrong with what a live source gives."""

    NONE = "none"
    SILENT = "silent"  # digital silence
    STUCK = "stuck"  # a constant value, or the same stretch over and over
    CLIPPED = "clipped"  # at full scale all the time


@dataclass(frozen=True, slots=True)
class ProblemChanged:
    """A room's source gives what no room sounds like, or does so no more."""

    room: str
    problem: Problem


@dataclass(frozen=True, slots=True)
class LevelMeasured:
    """How loud a room is."""

    room: str
    dbfs: float
    floor: float
    peak: float


class Sensitivity(StrEnum):
    """How easily a sound is believed in a room."""

    FEWER = "fewer false alarms"
    BALANCED = "balanced"
    MOST = "miss nothing"


@dataclass(frozen=True, slots=True)
class ListeningChanged:
    """A listening switch was turned; `room` None is that of the whole house."""

    room: str | None
    on: bool


@dataclass(frozen=True, slots=True)
class SensitivityChanged:
    """How easily a sound is believed in `room` from now on."""

    room: str
    sensitivity: Sensitivity


@dataclass(frozen=True, slots=True, eq=False)
class Pictured:
    """The spectrogram of an alert."""

    room: str
    png: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClipSettled:
    """The clip that an event was to have is on disk, or there is none."""

    room: str
    id: str  # of the event
    clip: str | None  # as in the event
    reason: str | None = None  # why there is none


@dataclass(frozen=True, slots=True)
class IntentRecognised:
    """A command was understood: the speech event that it was said in, with its intent."""

    event: Event
    handled: bool  # devices of the configuration were told; False: left to whoever reads it


@dataclass(frozen=True, slots=True)
class HealthMeasured:
    """The state of the daemon, for the health topic and the log line."""

    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Log:
    """A rule asks for a log line."""

    message: str
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """A rule asks the audio language model about the clip of an event; its other actions wait for the answer.

    Give it back with the answer to `Rules.answered`.
    """

    rule: str
    event: Event
    prompt: str | None  # None: describe what is heard
    name: str  # of the answer, for the templates of the actions that wait
    within: float  # seconds; after that nobody waits for the answer
    choices: tuple[str, ...] = ()  # the answer is one of these; empty: any text
    max_tokens: int = 64
    step: int = 0  # which of the rule's actions this is
    values: Mapping[str, Any] = field(default_factory=dict)  # what the templates of the actions that wait see


@dataclass(frozen=True, slots=True)
class Say:
    """Something is to be said aloud."""

    text: str
    room: str | None = None  # None: wherever there is a loudspeaker
    language: str | None = None  # ISO 639-1; None: that of the voice
    rule: str = ""
    reply: bool = False  # answers a command: what is said next may be a command without a wake word


@dataclass(frozen=True, slots=True)
class Webhook:
    """A rule asks for an HTTP request. Its address and headers may hold secrets: they are shown nowhere."""

    url: str = field(repr=False)
    method: str = "POST"
    headers: tuple[tuple[str, str | Path], ...] = field(default=(), repr=False)  # a path: the file that holds the value
    body: bytes | None = field(default=None, repr=False)
    content_type: str | None = None
    rule: str = ""


@dataclass(frozen=True, slots=True)
class KeepClip:
    """A rule asks to keep the clip of an event; its other actions follow from `Rules.kept`."""

    rule: str
    event: Event
    step: int = 0  # which of the rule's actions this is
    values: Mapping[str, Any] = field(default_factory=dict)  # what the templates of the actions that follow see


Action = Publish | Log | Ask | Say | KeepClip | Webhook


@dataclass(frozen=True, slots=True)
class SetListening:
    """Somebody turns a listening switch; `room` None is that of the whole house."""

    room: str | None
    on: bool


@dataclass(frozen=True, slots=True)
class SetSensitivity:
    """Somebody chooses how easily a sound is believed in `room`."""

    room: str
    sensitivity: Sensitivity


@dataclass(frozen=True, slots=True)
class SendTest:
    """Somebody wants to see a test event of `room`."""

    room: str


Command = SetListening | SetSensitivity | SendTest | Say
Fact = (
    Event
    | RoomChanged
    | ProblemChanged
    | LevelMeasured
    | HealthMeasured
    | ListeningChanged
    | SensitivityChanged
    | Pictured
    | ClipSettled
    | IntentRecognised
)
