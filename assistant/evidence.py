"""What the tagger says for or against what bigger models hear: speech for a recogniser, sounds for a language model."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from assistant.events import SAMPLE_RATE, SpeechEvidence, Tags, Utterance

KEEP = 45 * SAMPLE_RATE  # samples of tags that are kept: an utterance of 30 s, and what waits before it
VERDICTS = 64  # utterances whose verdicts are kept
MOST = 256  # tags that are kept at most, whatever the hop

# AudioSet's display names below "Speech", "Whispering" and "Shout" (ontology of AudioSet, 2017). Singing is music.
SPEECH_LABELS = frozenset(
    {
        "Speech",
        "Child speech, kid speaking",
        "Conversation",
        "Narration, monologue",
        "Babbling",
        "Speech synthesizer",
        "Whispering",
        "Shout",
        "Yell",
        "Children shouting",
    }
)
# Labels that say where, not what: they say nothing against speech.
SCENE_LABELS = frozenset(
    {
        "Silence",
        "Inside, small room",
        "Inside, large room or hall",
        "Inside, public space",
        "Outside, urban or manmade",
        "Outside, rural or natural",
        "Reverberation",
        "Echo",
        "Noise",
        "Environmental noise",
        "Static",
        "White noise",
        "Pink noise",
        "Mains hum",
        "Hum",
        "Distortion",
        "Sidetone",
        "Cacophony",
        "Throbbing",
        "Vibration",
        "Television",
        "Radio",
        "Field recording",
    }
)


class Evidence:
    """Keeps what the tagger said of the last seconds of one stream and answers for an utterance. Pure."""

    def __init__(self, labels: Sequence[str]) -> None:
        """`labels` are the tagger's, in the order of its scores."""
        self._speech = np.flatnonzero([label in SPEECH_LABELS for label in labels])
        self._other = np.flatnonzero([label not in SPEECH_LABELS | SCENE_LABELS for label in labels])
        self._heard: deque[tuple[int, int, float, float]] = deque(maxlen=MOST)  # start, end, speech, other

    def feed(self, tags: Tags) -> None:
        """Remember `tags`; those that ended more than 45 s before them are forgotten."""
        speech = float(tags.scores[self._speech].max(initial=0.0))
        other = float(tags.scores[self._other].max(initial=0.0))
        self._heard.append((tags.window.start, tags.window.end, speech, other))
        while self._heard[0][1] < tags.window.end - KEEP:
            self._heard.popleft()

    def over(self, utterance: Utterance) -> SpeechEvidence:
        """The best scores over the windows that overlap `utterance`, and its level over the noise floor."""
        heard = [tag for tag in self._heard if tag[0] < utterance.end and tag[1] > utterance.start]
        return SpeechEvidence(
            speech_share=utterance.speech_share,
            tagger_score=max((speech for _, _, speech, _ in heard), default=None),
            other_score=max((other for _, _, _, other in heard), default=None),
            snr_db=utterance.level_dbfs - utterance.floor_dbfs,
        )

    def speech_in(self, start: int, end: int) -> float:
        """The best score of speech over the windows that overlap `start` to `end` (samples)."""
        return max((tag[2] for tag in self._heard if tag[0] < end and tag[1] > start), default=0.0)


class Verdicts:
    """Which utterances of one stream were speech, as far as the recogniser has decided. Pure.

    It decides in their order: when one is decided, those before it that are not were shed, and count as speech.
    """

    def __init__(self) -> None:
        self._utterances: deque[tuple[int, int, bool | None]] = deque(maxlen=VERDICTS)  # start, end, is it speech

    def cut(self, utterance: Utterance) -> None:
        """An utterance waits for the recogniser."""
        self._utterances.append((utterance.start, utterance.end, None))

    def decided(self, utterance: Utterance, *, speech: bool) -> None:
        """What became of it; the first word counts."""
        for index, (start, end, known) in enumerate(self._utterances):
            if known is None and start <= utterance.start:
                self._utterances[index] = (start, end, speech if start == utterance.start else True)

    def between(self, start: int, end: int) -> bool | None:
        """Whether there was speech between `start` and `end` (samples); None: that is not decided yet."""
        known = [speech for first, last, speech in self._utterances if first < end and last > start]
        return True if True in known else None if None in known else False


class Witness:
    """Whether the tagger, too, heard something of the kind that a language model says it heard. Pure.

    It is asked for much less than it needs to say so by itself: a word of a language model is to be believed only where
    anything at all speaks for it.
    """

    def __init__(self, labels: Sequence[str], kinds: Sequence[tuple[Sequence[str], float]]) -> None:
        """`labels` are the tagger's, in the order of its scores; `kinds`: labels of one kind, and what they need.

        A label of several kinds belongs to the first.
        """
        index = {label: i for i, label in enumerate(labels)}
        known = [(own, need) for own, need in kinds if any(label in index for label in own)]
        self._row: dict[str, int] = {}  # label → its kind
        for row, (own, _) in enumerate(known):
            for label in own:
                self._row.setdefault(label, row)
        members = [[index[label] for label in own if label in index] for own, _ in known]
        self._members = np.array([i for own in members for i in own], np.intp)
        self._offsets = np.cumsum([0] + [len(own) for own in members[:-1]])
        self._needs = np.array([need for _, need in known])
        self._heard: deque[tuple[int, int, NDArray[np.bool_]]] = deque(maxlen=MOST)  # start, end, which kinds

    def feed(self, tags: Tags) -> None:
        """Remember `tags`."""
        if self._row:
            best = np.maximum.reduceat(tags.scores[self._members], self._offsets)
            self._heard.append((tags.window.start, tags.window.end, best >= self._needs))

    def agrees(self, label: str, start: int, end: int) -> bool:
        """Whether a window that overlaps `start` to `end` (samples) holds something of that label's kind too."""
        row = self._row.get(label)
        if row is None:
            return False
        return any(bool(heard[row]) for first, last, heard in self._heard if first < end and last > start)
