"""What speaks for an utterance being speech, from outside the recogniser: the tagger's labels and the level."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from assistant.events import SAMPLE_RATE, SpeechEvidence, Tags, Utterance

KEEP = 45 * SAMPLE_RATE  # samples of tags that are kept: an utterance of 30 s, and what waits before it
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
        self._speech = np.array([label in SPEECH_LABELS for label in labels], bool)
        self._other = np.array([label not in SPEECH_LABELS | SCENE_LABELS for label in labels], bool)
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
