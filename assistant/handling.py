"""What follows from a command: messages to devices, a spoken reply, the intent for whoever reads it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from assistant.attention import Wake
from assistant.events import Event, Intent, IntentRecognised, Publish, Say, without_words
from assistant.grammar import language_of
from assistant.intents import NotUnderstood
from assistant.wyoming_services import Conversation

if TYPE_CHECKING:
    from assistant.attention import Address
    from assistant.intents import Intents

log = logging.getLogger(__name__)

CHOOSING = 4  # commands that wait for the audio language model at once
CHOICE_WITHIN = 10.0  # seconds; nobody waits longer for a light

Choose = Callable[[str, str | None, str | None], Awaitable[Intent | None]]


@cache
def sorry(language: str | None) -> str:
    """What Home Assistant says in `language`, else in English, when it has not understood."""
    from home_assistant_intents import get_intents  # noqa: PLC0415 (takes time; only where commands are understood)

    sentences = get_intents(language_of(language or "en") or "en") or {}
    return str(sentences.get("responses", {}).get("errors", {}).get("no_intent", ""))


class Handler:
    """Understands and carries out the commands of one house."""

    def __init__(
        self,
        intents: Intents,
        *,
        tell: Callable[[IntentRecognised | Publish], None],
        say: Callable[[Say], None],
        transcripts: bool,
        choose: Choose | None = None,
    ) -> None:
        """`choose` has the audio language model choose among what the devices can do; None: there is no such model."""
        self.counts: Counter[str] = Counter()
        self._intents = intents
        self._tell = tell
        self._say = say
        self._transcripts = transcripts
        self._choose = choose
        self._choosing: set[asyncio.Task[None]] = set()

    def use(self, intents: Intents, *, transcripts: bool, choose: Choose | None) -> None:
        """From now on understand these; what is being understood ends as it began."""
        self._intents, self._transcripts, self._choose = intents, transcripts, choose

    async def understand(self, text: str, language: str | None, room: str | None) -> Intent | NotUnderstood:
        """What the sentences of the house's languages make of `text`; in a thread, since some take their time."""
        known = language if language is not None and language_of(language) is not None else None
        try:
            return await asyncio.to_thread(self._intents.understand, text, language=known, area=room)
        except Exception:
            log.exception("a command could not be understood")
            return NotUnderstood("internal error", matched=True)

    async def settled(self, text: str, language: str | None, room: str | None) -> bool:
        """Whether `text` is a command whose meaning nothing can change that its speaker may add."""
        known = language if language is not None and language_of(language) is not None else None
        return await asyncio.to_thread(self._intents.settled, text, language=known, area=room)

    def handle(self, event: Event, meaning: Intent | NotUnderstood, address: Address) -> None:
        """Do what was meant, or ask the audio language model what it may have been, or say that it was nothing.

        The model is not asked where every utterance counts as a command: it would have to judge the television.
        """
        if isinstance(meaning, Intent):
            self._carry_out(event, meaning, address)
            return
        asked = address.by is not Wake.NONE and not meaning.matched
        if asked and self._choose is not None and len(self._choosing) < CHOOSING:
            task = asyncio.create_task(self._chosen(event, meaning, address), name=f"command in {event.room}")
            self._choosing.add(task)
            task.add_done_callback(self._choosing.discard)
            return
        self._sorry(event, meaning, address)

    async def converse(self, text: str, language: str | None, room: str | None) -> Conversation:
        """Do what a sentence says that somebody wrote, or had recognised elsewhere. No event comes of it."""
        meaning = await self.understand(text, language, room)
        if isinstance(meaning, NotUnderstood) and self._choose is not None and not meaning.matched:
            meaning = await self._choice(text, language, room) or meaning
        if isinstance(meaning, NotUnderstood):
            self.counts["not_understood"] += 1
            return Conversation(False, sorry(meaning.language or language))
        self.counts["understood"] += 1
        for message in meaning.publish:
            self._tell(message)
        return Conversation(bool(meaning.publish or (meaning.reply and not meaning.undone)), meaning.reply, meaning)

    def health(self) -> Mapping[str, int]:
        """Commands by what became of them."""
        return {name: self.counts[name] for name in ("understood", "not_understood", "chosen_by_model")}

    def close(self) -> None:
        """Nobody waits for the model any more."""
        for task in self._choosing:
            task.cancel()

    def _carry_out(self, event: Event, intent: Intent, address: Address) -> None:
        self.counts["understood"] += 1
        event = replace(event, intent=intent)
        shown = event if self._transcripts else without_words(event)
        log.info("%s: %s: %d messages", event.room, intent.name, len(intent.publish))
        self._tell(IntentRecognised(shown, handled=bool(intent.publish)))
        for message in intent.publish:
            self._tell(message)
        # Where every utterance counts as a command, nobody need hear that a question of the television was none.
        if intent.reply and not (intent.undone and address.by is Wake.NONE):
            self._say(Say(intent.reply, event.room, intent.language, reply=True))

    async def _chosen(self, event: Event, meaning: NotUnderstood, address: Address) -> None:
        intent = await self._choice(event.text or "", event.language, event.room)
        if intent is None:
            self._sorry(event, meaning, address)
        else:
            self._carry_out(event, intent, address)

    async def _choice(self, text: str, language: str | None, room: str | None) -> Intent | None:
        """What the model chose among what the devices can do; None: nothing, or it took too long."""
        if self._choose is None:
            return None
        try:
            async with asyncio.timeout(CHOICE_WITHIN):
                intent = await self._choose(text, language, room)
        except TimeoutError:
            log.warning("a command was given up: the audio language model took more than %.0f s", CHOICE_WITHIN)
            return None
        except Exception:
            log.exception("a command could not be chosen")
            return None
        self.counts["chosen_by_model"] += intent is not None
        return intent

    def _sorry(self, event: Event, meaning: NotUnderstood, address: Address) -> None:
        self.counts["not_understood"] += 1
        log.info("%s: a command was not understood", event.room)
        log.debug("%s: %s", event.room, meaning.reason)
        # Where every utterance counts as a command, most are none.
        if address.by is not Wake.NONE:
            language = meaning.language or event.language
            self._say(Say(sorry(language), event.room, language, reply=True))
