"""Questions that come over MQTT: what they may ask, where the answer may go, and how many are answered.

Whatever arrives is untrusted. An answer goes to a topic below `<base>/reply/` and nowhere else, so that nobody can make
the model's words a command to something in the house.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from assistant.errors import AssistantError
from assistant.outputs.topics import Message

log = logging.getLogger(__name__)

PAYLOAD_LIMIT = 8_192  # bytes of a question
TOPIC_LIMIT = 512  # bytes of a reply topic
LONGEST = 30.0  # seconds of audio that a question can be about
AT_ONCE = 4  # questions that wait for the model; more are told to come again
BURST, PER_SECOND = 20.0, 1.0  # questions taken at once, and from then on
STOPPING = "kikimimi is stopping"
REPLY_LIFETIME = 60  # seconds after which nobody waits for an answer any more

Line = Annotated[str, Field(min_length=1, max_length=64)]


class Question(BaseModel):
    """What somebody asks about a room: a free question, or one of the model's tasks."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    text: Annotated[str, Field(min_length=1, max_length=2_000)] | None = None  # the question, or what a task needs
    task: Line | None = None  # a name of `kikimimi ask --task`; None: answer the question
    room: Line | None = None  # None: the only room there is
    seconds: Annotated[float, Field(ge=0.0, le=LONGEST, allow_inf_nan=False)] = 10.0  # of audio; 0: the text alone
    language: Line | None = None  # ISO 639-1: what is spoken
    to: Line | None = None  # ISO 639-1: what is translated into
    style: Line | None = None  # of a caption
    reply_to: str | None = None  # topic of the answer, where MQTT 5 does not tell it


Answer = Callable[[Question], Awaitable[Mapping[str, Any]]]  # raises AssistantError with what is wrong


class Questions:
    """Answers what arrives on the topic `<base>/ask`. `send` takes a message that goes to the broker when it can."""

    def __init__(self, base: str, answer: Answer, send: Callable[[Message], None], clock: Callable[[], float]) -> None:
        self.topic = f"{base}/ask"
        self.answered = 0
        self.failed = 0  # answered with an error
        self.refused = 0  # not answered at all
        self._replies = f"{base}/reply/"
        self._answer = answer
        self._send = send
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._tokens, self._refilled = BURST, clock()
        self._told: set[str] = set()  # kinds of refusal that were logged
        self._closed = False

    def received(
        self, payload: bytes, *, retained: bool, response_topic: str | None, correlation: bytes | None
    ) -> None:
        """Take a question. Never raises; the answer, or what is wrong, is sent when it is there."""
        if retained:
            self._refuse("a retained question would be asked again at each start; remedy: publish it without retain")
            return
        if not self._token():
            self._refuse(f"more than {PER_SECOND:.0f} question a second")
            return
        question, problem, reply_to = _read(payload)
        topic = response_topic or reply_to
        if topic is None:
            self._refuse(
                f"it does not say where its answer goes; remedy: an MQTT 5 response topic, or reply_to, below"
                f" {self._replies}"
            )
            return
        if not self._may_reply_to(topic):
            self._refuse(f"answers go to topics below {self._replies} only")
            return
        if question is None:
            self._reply(topic, correlation, {"error": problem})
        elif self._closed:
            self._reply(topic, correlation, {"error": STOPPING})
        elif len(self._tasks) >= AT_ONCE:
            self._reply(topic, correlation, {"error": "too many questions wait; ask again later"})
        else:
            task = asyncio.create_task(self._ask(question, topic, correlation), name="mqtt question")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Stop thinking; who waits, or comes later, is told so."""
        self._closed = True
        for task in self._tasks:
            task.cancel()

    async def closed(self) -> None:
        """`close`, and wait until everyone has been told."""
        self.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def health(self) -> dict[str, int]:
        """Figures for the health topic."""
        return {
            "questions": self.answered,
            "questions_failed": self.failed,
            "questions_refused": self.refused,
        }

    async def _ask(self, question: Question, topic: str, correlation: bytes | None) -> None:
        log.info("MQTT: a question about %s", question.room or "the house")
        body: Mapping[str, Any]
        try:
            body = await self._answer(question)
        except asyncio.CancelledError:
            self._reply(topic, correlation, {"error": STOPPING})
            raise
        except AssistantError as error:
            body = {"error": str(error)}
        except Exception:
            log.exception("MQTT: a question could not be answered")
            body = {"error": "internal error; the log says more"}
        self._reply(topic, correlation, body)

    def _reply(self, topic: str, correlation: bytes | None, body: Mapping[str, Any]) -> None:
        if "error" in body:
            self.failed += 1
            log.debug("MQTT: a question was answered with an error: %s", body["error"])
        else:
            self.answered += 1
        self._send(
            Message(topic, body, self._clock(), expiry=REPLY_LIFETIME, lifetime=REPLY_LIFETIME, correlation=correlation)
        )

    def _refuse(self, why: str) -> None:
        self.refused += 1
        if why not in self._told:
            self._told.add(why)
            log.warning("MQTT: a question on %s is not answered: %s (told once)", self.topic, why)

    def _token(self) -> bool:
        now = self._clock()
        self._tokens = min(BURST, self._tokens + PER_SECOND * (now - self._refilled))
        self._refilled = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def _may_reply_to(self, topic: str) -> bool:
        rest = topic.removeprefix(self._replies)
        plain = rest.isprintable() and not set("+#") & set(rest)
        return topic.startswith(self._replies) and bool(rest) and plain and len(topic.encode()) <= TOPIC_LIMIT


def _read(payload: bytes) -> tuple[Question | None, str | None, str | None]:
    """The question, or what is wrong with it; and the topic that it names for its answer, where one can be read."""
    if len(payload) > PAYLOAD_LIMIT:
        return None, f"the question has {len(payload)} bytes, at most {PAYLOAD_LIMIT} are read", None
    try:
        text = payload.decode().strip()
    except UnicodeDecodeError:
        return None, "the question is not UTF-8 text", None
    values: object = {"text": text}
    if text.startswith("{"):
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            return None, "the question begins with { but is not JSON", None
    reply_to = values.get("reply_to") if isinstance(values, dict) else None
    reply_to = reply_to if isinstance(reply_to, str) else None
    try:
        question = Question.model_validate(values)
    except ValidationError as error:
        return None, _problem(error), reply_to
    if question.text is None and question.task is None:
        return None, 'nothing is asked; write {"text": "…"} or {"task": "…"}', reply_to
    return question, None, reply_to


def _problem(error: ValidationError) -> str:
    """The first mistake, in plain words."""
    first = error.errors(include_url=False, include_input=False)[0]
    key = str(first["loc"][0])[:64] if first["loc"] else "the question"
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key; there are {', '.join(Question.model_fields)}"
    if key == "text" and first["type"] == "string_too_short":
        return 'nothing is asked; write {"text": "…"} or {"task": "…"}'
    return f"{key}: {str(first['msg'])[:1].lower()}{str(first['msg'])[1:]}"
