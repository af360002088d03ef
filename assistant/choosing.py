"""What the sentences do not match, the resident audio language model may take for one command of a list, or for none.

It chooses and cannot say anything else: each command that the devices of the configuration can be told is a line, the
likelihood of each line as the answer is weighed, and a line is taken only if it beats "none of these" and is clearly
ahead of the next. A line's own likelihood (its wording, its place) is subtracted as in `models/classify.py`: contextual
calibration, Zhao et al., 2021, arXiv 2102.09690. "None of these" keeps all of its own, so that doubt does nothing.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from assistant.devices import HEX
from assistant.errors import ModelError
from assistant.events import Intent
from assistant.grammar import LONGEST, language_of
from assistant.models.audio_llm import Message, Prompt
from assistant.resident import BusyError, Priority, Resident

if TYPE_CHECKING:
    from assistant.intents import Intents, Target
    from assistant.models.audio_llm import AudioLLM

log = logging.getLogger(__name__)

MOST: Final = 64  # lines; those of the room that heard it go first
WITHIN: Final = 8.0  # seconds, the wait for other work of the model included
MARGIN: Final = 0.5  # nats per token ahead of the next line; reasoned, not fitted: no weights were at hand
KEPT: Final = 16  # lists whose own likelihood is remembered
NONE: Final = "none of these"
NOTHING: Final = "Hello."  # said instead of a command, to learn what the lines are worth by themselves

LINES: Final[Mapping[str, str]] = {
    "on": "turn on {}",
    "off": "turn off {}",
    "toggle": "toggle {}",
    "open": "open {}",
    "close": "close {}",
    "stop": "stop {}",
    "lock": "lock {}",
    "brightness": "set the brightness of {} to {value} percent",
    "color": "change the colour of {}",
    "position": "move {} to {value} percent",
    "temperature": "set the temperature of {} to {value} degrees",
    "speed": "set the speed of {} to {value} percent",
    "volume": "set the volume of {} to {value} percent",
    "volume_up": "make {} louder",
    "volume_down": "make {} quieter",
    "mute": "mute {}",
    "unmute": "unmute {}",
    "play": "go on playing on {}",
    "pause": "pause {}",
    "next": "play what comes next on {}",
    "previous": "play what came before on {}",
    "start": "start {}",
    "return": "send {} back to its base",
}  # `unlock` is not among them: no door opens on a guess
DOORS: Final = frozenset({"garage", "gate", "door"})  # device classes of covers that are not opened on a guess
NUMBER: Final = re.compile(r"(?<![\d.])\d{1,5}(?:\.\d+)?(?![\d.])")
# Who says what shall not be, or what is not, gives no order that is on the list.
NEGATION: Final = re.compile(
    r"\b(?:not|never|don'?t|doesn'?t|didn'?t|won'?t|isn'?t|aren'?t|without|leave|keep"
    r"|nicht|nie|niemals|kein\w*|ohne|lass\w*"
    r"|ne|pas|jamais|sans|laisse\w*|no|nunca|jamás|sin|deja\w*)\b|\bn'"
    r"|ない|なく|ません|ずに|まま|别|不|没|勿|未",
    re.IGNORECASE,
)


class Chooser:
    """Has the model of the house choose. To be used on the loop of its `Resident`."""

    def __init__(self, intents: Intents, resident: Resident) -> None:
        self._intents = intents
        self._resident = resident
        self._own: dict[tuple[str, ...], NDArray[np.float32]] = {}  # used in the model's thread alone

    async def choose(self, text: str, language: str | None, room: str | None) -> Intent | None:
        """The command that `text`, heard in `room`, was taken for; None: none, or there was no time."""
        code = (language_of(language) if language is not None else None) or self._intents.languages[0]
        # In a thread, since the sentences of this language may not have been compiled yet.
        plain = await asyncio.to_thread(self._intents.plain, text[: 2 * LONGEST], code)
        if not plain or len(plain) > LONGEST or NEGATION.search(plain):
            return None
        numbers = NUMBER.findall(plain)
        lines = lines_of(self._intents.targets(), room, float(numbers[0]) if len(numbers) == 1 else None)
        choice = await self._asked(text, room, lines) if lines else None
        if choice is None:
            return None
        intent = self._intents.chosen(*choice, code)
        return intent if isinstance(intent, Intent) else None

    async def _asked(
        self, text: str, room: str | None, lines: Mapping[str, tuple[Target, float | None]]
    ) -> tuple[Target, float | str | None] | None:
        try:
            return await self._resident.call(
                lambda llm: self._chosen(llm, text, room, lines), priority=Priority.SPEECH, deadline=WITHIN
            )
        except BusyError:
            log.info("the audio language model had no time for a command")
        except ModelError as error:
            log.warning("a command could not be chosen: %s", error)
        return None

    # -------------------------------------------------------------------------------------- in the thread of the model

    def _chosen(
        self, llm: AudioLLM, text: str, room: str | None, lines: Mapping[str, tuple[Target, float | None]]
    ) -> tuple[Target, float | str | None] | None:
        if llm.tagged:  # a base model continues text; it follows no list
            return None
        line = self._best(llm, text, room, "Which of these does the person want the house to do now?", tuple(lines))
        if line is None:
            return None
        target, value = lines[line]
        if target.action != "color":
            return target, value
        color = self._best(llm, text, room, "Which colour does the person want?", tuple(HEX))
        return None if color is None else (target, color)

    def _best(self, llm: AudioLLM, text: str, room: str | None, question: str, lines: tuple[str, ...]) -> str | None:
        """The line that is meant; None: none of them, or it is not clear."""
        labels = (*lines, NONE)
        said = llm.score(prompt_of(text, room, question, labels), labels)
        key = (room or "", question, *labels)
        if key not in self._own:
            if len(self._own) >= KEPT:
                del self._own[next(iter(self._own))]
            self._own[key] = llm.score(prompt_of(NOTHING, room, question, labels), labels)
        if np.isnan(said).any() or np.isnan(self._own[key]).any():
            raise ModelError(f"{llm.name}: its scores are not numbers; remedy: dtype bfloat16 or float32")
        return clearest(said, self._own[key], lines)


def clearest(said: NDArray[np.float32], own: NDArray[np.float32], lines: Sequence[str]) -> str | None:
    """The line that what was said speaks for most, if it is likelier than none and clearly ahead of the next.

    `said` and `own`: mean log-probabilities per token of `lines` and then of none, with the command and without.
    """
    evidence = (said - own)[:-1]
    order = np.argsort(-evidence, kind="stable")
    best = int(order[0])
    if said[best] <= said[-1] or evidence[best] <= 0.0:
        return None
    if len(order) > 1 and evidence[best] - evidence[order[1]] < MARGIN:
        return None
    return lines[best]


def prompt_of(text: str, room: str | None, question: str, labels: Sequence[str]) -> Prompt:
    """The question to a model that converses. What was said is quoted; it never becomes a control token."""
    where = f" in the {room.replace('_', ' ')}" if room else ""
    said = " ".join(text.replace('"', "'").split())
    listed = "\n".join(f"- {label}" for label in labels)
    return Prompt(
        messages=(
            Message(
                "user",
                (
                    f'Somebody{where} said: "{said}"\n{question}\n{listed}\n'
                    f'Answer with one line of the list, and with "{NONE}" if it was a question, a statement or talk.',
                ),
            ),
        )
    )


def lines_of(
    targets: Sequence[Target], room: str | None, value: float | None
) -> dict[str, tuple[Target, float | None]]:
    """What can be chosen, by the line that says it: at most `MOST`, those of `room` first.

    `value`: the only number that was said; without one no line needs one. Two lines that would read the same are not
    clear and left out.
    """
    lines: dict[str, tuple[Target, float | None]] = {}
    twice: Counter[str] = Counter()
    for target in sorted(targets, key=lambda target: room is None or room not in target.rooms):
        device = target.device
        line = LINES.get(target.action)
        needs = line is not None and "{value}" in line
        if line is None or (needs and value is None):
            continue
        if target.action == "open" and (device.domain == "lock" or device.device_class in DOORS):
            continue
        thing = f"{device.name} in {device.area.replace('_', ' ')}" if device.area else device.name
        said = line.format(thing, value=f"{value:g}" if value is not None else "")
        twice[said] += 1
        lines[said] = (target, value if needs else None)
    clear = [line for line in lines if twice[line] == 1]
    if len(clear) > MOST:
        log.debug("%d of %d lines are left out of the choice", len(clear) - MOST, len(clear))
    return {line: lines[line] for line in clear[:MOST]}
