"""`kikimimi teach`: sounds of one's own from a few recordings, listed, and forgotten again."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any, TextIO

from assistant.config import Config, shipped
from assistant.errors import ConfigurationError
from assistant.house_sounds import HouseSounds
from assistant.lessons import Lesson, common_sounds, hearing_of, recording
from assistant.models.yamnet import Yamnet
from assistant.startup import house_sounds, native_chatter_logged, reserved_sounds
from assistant.taught_folder import TaughtFolder
from assistant.taught_sounds import NAME, TaughtSound, check_name, score_of, slug_of
from assistant.teaching import FEWEST, MOST, Sounds, learn
from assistant.tracking import load_table

log = logging.getLogger(__name__)


def teach(config: Config, tagger: Path, title: str, files: list[str], name: str | None = None) -> TaughtSound:
    """Learn a sound and keep it; a daemon that runs hears it two seconds later. Raises `AssistantError`."""
    table = load_table(config.sounds.table or shipped("sounds.yaml"))
    name = name or (title if NAME.fullmatch(title) else slug_of(title))
    check_name(name, reserved_sounds(table))
    if not FEWEST <= len(files) <= MOST:
        raise ConfigurationError(
            f"{len(files)} files; remedy: {FEWEST} to {MOST} recordings of the sound, best are 3 to 5 made where it is "
            "to be heard"
        )
    with native_chatter_logged():
        lesson = Lesson(Yamnet(tagger), table, hearing_of(config))
        examples = [lesson.heard(asyncio.run(recording(Path(file))), Path(file).name) for file in files]
    sound = learn(name, title, examples, common_sounds(), house(house_sounds()))
    TaughtFolder().write(sound)
    return sound


def house(kept: HouseSounds) -> Sounds:
    """What this house sounds like, out of its file."""
    kept.read()
    sounds, days = kept.sounds()
    return Sounds(sounds, days=days)


def show(sound: TaughtSound, out: TextIO, *, as_json: bool = False) -> None:
    """What was learnt, in words."""
    if as_json:
        out.write(json.dumps(described(sound), ensure_ascii=False) + "\n")
        return
    title = "" if sound.title == sound.name else f" ({sound.title})"
    out.write(f"{sound.name}{title}: {words(sound)}\n")
    for example, value in zip(sound.examples, sound.verdict.recognised, strict=True):
        mark = "recognised" if value >= sound.threshold else "not recognised"
        line = f"  {example.title}: {mark} by what the others teach ({100 * score_of(value):.0f} %)"
        out.write("".join(sign if sign.isprintable() else "�" for sign in line) + "\n")
    out.write(f"  it is heard from {100 * score_of(sound.threshold):.0f} % on\n")


def words(sound: TaughtSound) -> str:
    """The verdict as a sentence."""
    verdict = sound.verdict
    like = " or ".join(verdict.confused_with)
    match verdict.kind:
        case "different":
            said = "the examples are too different from each other; remedy: leave one out, or record them again"
        case "confusable":
            said = f"may be confused with {like or 'other sounds'}; remedy: more examples, recorded nearer"
        case _:
            said = "clear" + (f"; the sound most like it is {like}" if like else "")
    if verdict.false_per_day is not None:
        said += f". By what this house sounds like: {verdict.false_per_day:.1f} false alarms a day"
    if verdict.heard_per_day:
        said += f"; something just like it was heard {verdict.heard_per_day:.1f} times a day"
    return said


def described(sound: TaughtSound) -> dict[str, Any]:
    """A sound as JSON."""
    verdict = sound.verdict
    return {
        "name": sound.name,
        "title": sound.title,
        "taught": sound.taught,
        "verdict": verdict.kind,
        "confused_with": list(verdict.confused_with),
        "false_per_day": verdict.false_per_day,
        "heard_per_day": verdict.heard_per_day,
        "threshold": round(score_of(sound.threshold), 3),
        "examples": [
            {"title": example.title, "score": round(score_of(value), 3), "recognised": value >= sound.threshold}
            for example, value in zip(sound.examples, verdict.recognised, strict=True)
        ],
    }


def show_all(out: TextIO, *, as_json: bool = False) -> None:
    """Every taught sound; what is wrong with a file is told after them."""
    sounds, problems = TaughtFolder().read()
    if as_json:
        out.write(json.dumps([described(sound) for sound in sounds], ensure_ascii=False) + "\n")
    else:
        for sound in sounds:
            title = "" if sound.title == sound.name else f"  {sound.title}"
            out.write(f"{sound.name}{title}  {len(sound.examples)} examples, {words(sound)}\n")
        if not sounds:
            out.write("no sound was taught yet; kikimimi teach NAME FILES… teaches one\n")
    for problem in problems:
        log.warning("%s", problem)


def forget(title: str) -> str:
    """Delete a sound by its name or title; a daemon that runs forgets it two seconds later. Raises `AssistantError`."""
    folder = TaughtFolder()
    known = {sound.title: sound.name for sound in folder.read()[0]}
    name = known.get(title, title)
    folder.delete(name)
    return name
