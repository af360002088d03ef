"""How many commands are cut in two, and how late their ends are known: many commands, faster than real time.

    python benchmarks/cutoffs.py [--audio FOLDER] [--languages en,de,fr,es] [--kind plain|hesitant] [--most N]

espeak-ng says the commands of tests/data/intents in several voices and speeds over noise at -65 dBFS: whole (`plain`),
and with a pause of 0.2 to 0.6 s before a place, a value or a thing (`hesitant`; `|` in PAUSES). FOLDER (`manifest.csv`,
`clips/`) adds its English and Japanese recordings of 1 to 4 s. All go through the daemon's own gate, tagger, detector,
recogniser, `Speculation` and sentences in chunks of 80 ms; time is counted in samples: a recognition is there when the
processor time that it took has passed in the stream. So the clips need not be played in real time. That the decisions
are those of real time was not shown yet; `benchmarks/endpointing.py --group` plays the same clips to a daemon. On a
machine with other work `--cost` says what a recognition takes.

`cut off`: an utterance ends before the clip's speech does. `late`: from there to the text, of clips that were not cut.
Policies, over the same recognitions: an utterance `never` ends early; or after `any` whole command (as it was once), or
only a `settled` one, which nothing that follows can change; `patient` (what the daemon does) waits longer after what is
no command yet as well. The share is given with its 95 % interval (Wilson). The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from endpointing import HESITANT, PAUSE, VOICES, Clip, clips, quantile, said, speech_of

from assistant.commanding import SETTLED, UNFINISHED
from assistant.events import SAMPLE_RATE, Chunk, Intent, Samples, SpeechEvidence, Tags, Transcript, Utterance
from assistant.evidence import Evidence
from assistant.intents import Intents, NotUnderstood
from assistant.models import store
from assistant.models.whisper import Whisper, WhisperSettings
from assistant.models.yamnet import Yamnet
from assistant.segment.activity import Activity
from assistant.segment.speech import Speech, SpeechSettings
from assistant.segment.windows import Windows
from assistant.speculating import Foreseen, Speculation
from assistant.synthesis import noise

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE / "tests"))

import spoken_house  # noqa: E402

CHUNK = 1280
SPEEDS = (130, 150, 175)  # words a minute
SPEAKERS = {
    "en": VOICES,
    "de": ("de", "de+f2", "de+m3"),
    "fr": ("fr-fr", "fr-fr+f4", "fr-fr+m3"),
    "es": ("es", "es+f2", "es-419+m3"),
}
PAUSES = {  # before these words people think
    "en": r" (?=in the |to (?!movie)|on for|the (?!living|kitchen|TV off|lights off)|forty|twenty|seventy|\d)",
    "de": r" (?=im |auf |in der |ein\b|aus\b|an\b|zu\b|rot\b|\d+ |vierzig|zweiundzwanzig)",
    "fr": r" (?=du |de la cuisine|de la chambre|à (?!café)|en rouge|partout|quarante|\d)",
    "es": r" (?=del |de la |al |a \d|a vein|en rojo|cuarenta|\d)",
}


def commands(language: str, kind: str) -> list[Clip]:
    """What is said, in an order that is always the same."""
    dice = random.Random(11)
    found: list[Clip] = []
    for i, sentence in enumerate(one for one in spoken_house.sentences(language) if one.does):
        voices = SPEAKERS[language]
        if kind == "plain":
            voice, speed = voices[i % len(voices)], SPEEDS[i // 2 % len(SPEEDS)]
            found.append(Clip(f"{sentence.say} ({voice}, {speed})", said(sentence.say, voice, speed)))
            continue
        parts = re.split(PAUSES[language], sentence.say)
        for at in range(1, len(parts)):
            first, second = " ".join(parts[:at]), " ".join(parts[at:])
            voice, speed = voices[(i + at) % len(voices)], SPEEDS[(i + at) % len(SPEEDS)]
            pause = dice.choice((0.2, 0.3, 0.4, 0.5, 0.6))
            found.append(broken(first, second, pause, voice, speed))
    if kind == "hesitant" and language == "en":
        for i, (first, second) in enumerate(HESITANT):
            found += [broken(first, second, p, VOICES[(i + round(10 * p)) % len(VOICES)], 150) for p in (0.3, 0.4, 0.5)]
    return found


def broken(first: str, second: str, pause: float, voice: str, speed: int) -> Clip:
    """A command with a pause in it."""
    one, two = said(first, voice, speed), said(second, voice, speed)
    (_, end), (onset, _) = speech_of(one), speech_of(two)
    gap = np.zeros(round(pause * SAMPLE_RATE), np.float32)
    parts = (one[: round(end * SAMPLE_RATE)], gap, two[round(onset * SAMPLE_RATE) :])
    return Clip(f"{first} [{pause} s] {second} ({voice}, {speed})", np.concatenate(parts))


@dataclass
class Heard:
    """What became of one clip; seconds of the stream."""

    clip: Clip
    end: float  # of its speech
    ends: list[float] = field(default_factory=list)  # of utterances: their last speech
    texts: list[str] = field(default_factory=list)
    known: float = 0.0  # when the last text was there


class Recogniser:
    """Whisper, asked once for the same samples whatever the policy, and what each answer cost."""

    def __init__(self, model: str, languages: tuple[str, ...], cost: float | None) -> None:
        self._whisper = Whisper(store.pull(f"whisper-{model}"), WhisperSettings(model=model, languages=languages))
        self._cost = cost
        self._known: dict[tuple[str, str], tuple[Transcript, float]] = {}

    def transcribe(self, samples: Samples, evidence: SpeechEvidence) -> tuple[Transcript, float]:
        """The text and the processor seconds that it took."""
        key = (hashlib.sha256(samples.tobytes()).hexdigest(), repr(evidence))
        if key not in self._known:
            began = time.process_time()
            transcript = self._whisper.transcribe(samples, evidence)
            self._known[key] = transcript, self._cost or time.process_time() - began
        return self._known[key]


class Stream:
    """One room under one policy."""

    def __init__(
        self, tagger: Yamnet, recogniser: Recogniser, patience: Callable[[Transcript], float], *, waits: bool
    ) -> None:
        self._tagger, self._recogniser, self._patience = tagger, recogniser, patience
        self._activity, self._windows, self._evidence = Activity(), Windows(), Evidence(tagger.labels)
        settings = SpeechSettings()
        self._speech = Speech(settings)
        self._speculation = Speculation(
            settings.hangover,
            Counter(),
            begin=self._begin,
            foresee=lambda utterance: utterance.start,
            busy=lambda: bool(self._due),
            patient=lambda: waits,
        )
        self._due: list[tuple[float, asyncio.Future[None]]] = []
        self._position = 0
        self.heard: list[Heard] = []

    async def _begin(self, utterance: Utterance, _start: int) -> Foreseen | None:
        transcript, cost = self._recogniser.transcribe(utterance.samples, self._evidence.over(utterance))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        due = (self._position / SAMPLE_RATE + cost, done)
        self._due.append(due)
        await done
        return Foreseen("whisper", transcript, self._patience(transcript)) if transcript.text else None

    async def feed(self, samples: Samples) -> None:
        """One chunk."""
        chunk = Chunk("kitchen", "test", self._position, samples, 0.0)
        self._position = chunk.end
        frames = self._activity.feed(chunk)
        for window in self._windows.feed(chunk, frames):
            self._evidence.feed(Tags(window, self._tagger.tag(window.samples)))
        await self._answer()
        utterances = self._speech.feed(chunk, frames)
        if not utterances and self._speculation.follow(self._speech):
            utterances = [one for one in [self._speech.conclude()] if one is not None]
        for utterance in utterances:
            await self._ended(utterance)
        await self._answer()

    async def _answer(self, *, all_: bool = False) -> None:
        """Give the recognitions that are there by now."""
        for due in list(self._due):
            if all_ or due[0] * SAMPLE_RATE <= self._position or due[1].cancelled():
                self._due.remove(due)
                if not due[1].cancelled():
                    due[1].set_result(None)
        for _ in range(3):
            await asyncio.sleep(0)

    async def _ended(self, utterance: Utterance) -> None:
        at = self._position / SAMPLE_RATE
        guess = self._speculation.take(utterance, utterance.start)
        if guess is not None:
            if not guess.done():
                at = max(at, self._due[-1][0])
                await self._answer(all_=True)
            foreseen = await guess
        if guess is None or foreseen is None:
            transcript, cost = self._recogniser.transcribe(utterance.samples, self._evidence.over(utterance))
            at += cost
        else:
            transcript = foreseen.transcript
        middle = (utterance.start + utterance.end) / 2 / SAMPLE_RATE
        heard = next((one for one in reversed(self.heard) if one.end - (one.clip.end - one.clip.onset) <= middle), None)
        if heard is not None:
            heard.ends.append((utterance.end - utterance.silence) / SAMPLE_RATE)
            heard.texts.append(transcript.text)
            heard.known = at

    async def hear(self, playlist: list[Clip]) -> list[Heard]:
        """All clips, one after the other."""
        hum = noise(10.0, -65.0)
        rest = np.zeros(0, np.float32)
        quiet = np.zeros(round(PAUSE * SAMPLE_RATE), np.float32)
        written = 0
        for clip in (None, *playlist, None):
            samples = np.zeros(3 * SAMPLE_RATE, np.float32) if clip is None else np.concatenate((clip.samples, quiet))
            if clip is not None:
                self.heard.append(Heard(clip, written / SAMPLE_RATE + clip.end))
            written += len(samples)
            rest = np.concatenate((rest, samples))
            while len(rest) >= CHUNK:
                bed = hum[self._position % (len(hum) - CHUNK) :][:CHUNK]
                await self.feed(bed + rest[:CHUNK])
                rest = rest[CHUNK:]
        self._speculation.drop()
        return self.heard


def interval(count: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, in percent."""
    z, share = 1.96, count / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return round(100 * max(0.0, middle - half), 1), round(100 * min(1.0, middle + half), 1)


def policies(house: Intents, languages: tuple[str, ...]) -> dict[str, Callable[[Transcript], float]]:
    """How much of the hangover each text is given."""

    def meant(found: Transcript) -> Intent | NotUnderstood:
        return house.understand(found.text, language=understood(found), area="kitchen")

    def understood(found: Transcript) -> str | None:
        return found.language if found.language in languages else None

    def settled(found: Transcript) -> float:
        return SETTLED if house.settled(found.text, language=understood(found), area="kitchen") else 1.0

    def patient(found: Transcript) -> float:
        meaning = meant(found)
        return settled(found) if isinstance(meaning, Intent) or meaning.matched else UNFINISHED

    return {
        "never": lambda _found: 1.0,
        "any": lambda found: SETTLED if isinstance(meant(found), Intent) else 1.0,
        "settled": settled,
        "patient": patient,
    }


def report(policy: str, heard: list[Heard], house: Intents, *, verbose: bool) -> dict[str, object]:
    """Print and return the figures."""
    cut = [one for one in heard if any(end < one.end - 0.15 for end in one.ends)]
    late = [one.known - one.end for one in heard if one.ends and one not in cut]
    acted = [
        one.known - one.end
        for one in heard
        if one.ends
        and one not in cut
        and isinstance(meant := house.understand(one.texts[-1], area="kitchen"), Intent)
        and meant.publish
    ]
    for one in heard if verbose else cut:
        print(f"  {policy} {'cut' if one in cut else ''} {one.known - one.end:.2f} {one.clip.name}: {one.texts}")
    figures: dict[str, object] = {
        "policy": policy,
        "clips": len(heard),
        "cut_off": len(cut),
        "cut_off_percent": round(100 * len(cut) / max(1, len(heard)), 1),
        "interval_percent": interval(len(cut), len(heard)),
        "late_s_p50": quantile(late, 0.5),
        "late_s_p95": quantile(late, 0.95),
        "commands": len(acted),
        "command_s_p50": quantile(acted, 0.5),
        "command_s_p95": quantile(acted, 0.95),
    }
    print("  ".join(f"{key} {value}" for key, value in figures.items()), flush=True)
    return figures


async def main() -> int:
    """Hear, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path)
    parser.add_argument("--languages", default="en,de,fr,es", help="of the commands, comma-separated")
    parser.add_argument("--kind", choices=("plain", "hesitant"), default="plain")
    parser.add_argument(
        "--group", choices=("spoken", "hesitant"), help="the clips of benchmarks/endpointing.py instead"
    )
    parser.add_argument("--most", type=int, default=1000, help="clips of each language")
    parser.add_argument("--model", default="base")
    parser.add_argument("--cost", type=float, help="seconds that each recognition counts as, whatever it took")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    tagger = Yamnet(store.pull("yamnet") / "yamnet.tflite")
    whole: dict[str, list[Heard]] = {}
    houses: dict[str, Intents] = {}
    results = []
    for language in ["en"] if options.group else options.languages.split(","):
        spoken = ("en", "ja") if language == "en" else (language,)
        if options.group:
            playlist = clips(options.group, options.audio)
        else:
            playlist = commands(language, options.kind)
            if language == "en" and options.audio and options.kind == "plain":
                texts = {sentence.say for sentence in spoken_house.sentences("en")}
                playlist += [clip for clip in clips("spoken", options.audio) if clip.name not in texts]
        playlist = playlist[: options.most]
        house = spoken_house.house(language)
        recogniser = Recogniser(options.model, spoken, options.cost)
        for policy, patience in policies(house, (language,)).items():
            heard = await Stream(tagger, recogniser, patience, waits=policy == "patient").hear(playlist)
            results.append(
                {"language": language, **report(f"{language} {policy}", heard, house, verbose=options.verbose)}
            )
            whole.setdefault(policy, []).extend(heard)
            houses[language] = house
    if len(houses) > 1:
        everyone = spoken_house.several("en")
        for policy, heard in whole.items():
            results.append({"language": "all", **report(f"all {policy}", heard, everyone, verbose=False)})
    print(json.dumps({"kind": options.kind, "group": options.group, "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
