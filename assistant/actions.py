"""What rules ask for is done: told, said, sent, kept; and what they ask the audio language model, with what follows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assistant.answering import answer_rule, span_of_clip
from assistant.events import Action, Ask, Event, KeepClip, Log, Publish, Samples, Say, Webhook

if TYPE_CHECKING:
    from assistant.outputs.webhook import Webhooks
    from assistant.resident import Resident
    from assistant.rules import Rules

log = logging.getLogger(__name__)

QUESTIONS = 16  # of rules that wait for the audio language model at once; more go without an answer


@dataclass(frozen=True, slots=True)
class Hands:
    """What actions reach of the daemon."""

    rules: Callable[[], Rules]  # those that are followed now
    llm: Resident | None
    webhooks: Webhooks | None
    tell: Callable[[Publish], None]
    say: Callable[[Say], None]
    keep_clip: Callable[[Event], str | None]  # the name of the clip; None when there is none
    heard_in: Callable[[str, Callable[[int], tuple[int, int]]], Samples]
    transcripts: Callable[[], bool]  # whether words may be told


class Actions:
    """Does what rules ask for. Questions are answered in the background."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands
        self._asking: set[asyncio.Task[None]] = set()
        self._hurried = False  # nothing is asked any more

    def do(self, actions: Sequence[Action], clip: Samples | None = None, rules: Rules | None = None) -> None:
        """Do what rules ask for. `clip` is what earlier questions of the same rule were about.

        `rules`: those that asked earlier, before a reload; their answers go to them.
        """
        hands = self._hands
        for action in actions:
            match action:
                case Publish():
                    hands.tell(action)
                case Log():
                    log.info("rule %s: %s", action.rule, action.message)
                case Ask():
                    self._ask(action, clip, rules or hands.rules())
                case Say():
                    hands.say(action)
                case Webhook() if hands.webhooks is not None:
                    hands.webhooks.offer(action)
                case KeepClip():
                    asking = rules or hands.rules()
                    self.do(asking.kept(action, hands.keep_clip(action.event)), clip, rules)

    def _ask(self, ask: Ask, clip: Samples | None, rules: Rules) -> None:
        """Have a rule's question answered in the background; its other actions follow."""
        if self._hurried or len(self._asking) >= QUESTIONS:
            self.do(rules.answered(ask, None), clip, rules)
            return
        if clip is None:
            clip = self._hands.heard_in(ask.event.room, lambda now: span_of_clip(ask.event, now))
        task = asyncio.create_task(self._answer(ask, clip, rules), name=f"question of {ask.rule}")
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _answer(self, ask: Ask, clip: Samples, rules: Rules) -> None:
        answer = None
        with suppress(asyncio.CancelledError):  # the daemon stops: the rule goes on without
            answer = await answer_rule(self._hands.llm, ask, clip)
        if rules is not self._hands.rules() and not self._hands.transcripts():
            log.info("rule %s: its answer comes after a reload that made words private, and is dropped", ask.rule)
            return
        try:
            self.do(rules.answered(ask, answer), clip, rules)
        except Exception:
            log.exception("rule %s failed after its question", ask.rule)

    async def answered(self, stopping: asyncio.Event) -> None:
        """Wait for the questions of rules, which have deadlines of their own, unless `stopping` is set."""
        stop = asyncio.create_task(stopping.wait())
        try:
            while self._asking and not stop.done():
                await asyncio.wait({stop, *self._asking}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()

    async def close(self, left: float) -> None:
        """What rules still ask has `left` seconds; then they go on without an answer."""
        if self._asking:
            await asyncio.wait(self._asking, timeout=max(0.0, left))
        self._hurried = True
        for task in self._asking:
            task.cancel()
        if self._asking:
            await asyncio.wait(self._asking)
