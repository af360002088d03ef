"""Ask: chats with the models about recordings, and the practice of a language."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, StrictBool

UPLOADS = 4  # recordings that are sent at once: each may be as long as a body may be

Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}$", description="ISO 639-1 code")]
Lacks = Literal["audio_llm", "speech", "multilingual"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TaskAbility(_Model):
    """Something that can be asked, if this house has the model for it."""

    name: str
    about: str
    needs: list[str] = Field(description="options it cannot do without: text, to")
    takes: list[str] = Field(description="further options it heeds")
    able: bool
    lacks: Lacks | None = Field(
        description="what is needed; remedies: profile: hybrid, qwen or remote; speech.enabled: true"
    )


class Abilities(_Model):
    """What can be asked here, and within which limits."""

    model: str | None = Field(description="the audio language model; null: there is none (profile: embedded)")
    status: str = Field(description="of that model: loading, ready, unwell, failed, stopped; none")
    tasks: list[TaskAbility]
    spoken: list[str] = Field(description="languages that are understood, ISO 639-1")
    into: list[str] = Field(description="languages that can be translated into")
    voice: bool = Field(description="a text can be said")
    longest: float = Field(description="seconds of a recording")
    clips: int = Field(description="recordings of a chat")


class ClipState(_Model):
    """A recording of a chat."""

    id: str
    name: str = Field(description="of the file or the room; may be empty")
    origin: Literal["upload", "microphone", "event", "room"]
    added: str = Field(description="UTC, ISO 8601")
    seconds: float


class TurnState(_Model):
    """A question and its answer."""

    id: str
    asked: str = Field(description="UTC, ISO 8601")
    task: str
    options: dict[str, str] = Field(description="text, to, language: those that were given")
    clips: list[str] = Field(description="ids of the recordings it is about")
    text: str = Field(description="the answer; what there was of it when it was stopped or failed")
    data: dict[str, Any] | None = Field(description="the same for a program: words, spans, labels of each recording")
    model: str | None
    ended: Literal["end", "length", "stopped", "failed"] | None = Field(description="null: it is being made")
    problem: str | None = Field(description="why it failed")


class ChatState(_Model):
    """A chat with its history."""

    id: str
    kind: Literal["chat", "practice"]
    title: str = Field(description="may be empty")
    made: str = Field(description="UTC, ISO 8601")
    used: str = Field(description="UTC, ISO 8601")
    turns: list[TurnState]
    clips: list[ClipState]


class ChatSummary(_Model):
    """A chat in the list."""

    id: str
    kind: Literal["chat", "practice"]
    title: str
    made: str
    used: str
    turns: int
    clips: int


class NewChat(_Model):
    """What a chat is for."""

    kind: Literal["chat", "practice"] = "chat"


class FromEvent(_Model):
    """The clip that was kept of an event."""

    event: Annotated[str, Field(pattern=r"^[0-7][0-9A-HJKMNP-TV-Z]{25}$", description="id of the event")]


class FromRoom(_Model):
    """Audio of a room's own microphone."""

    room: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$", max_length=64)]
    seconds: Annotated[float, Field(ge=1.0, le=30.0)]
    upcoming: StrictBool = Field(
        default=False, description="from now on; false: what was heard last, as far as it is kept"
    )


class Question(_Model):
    """What is asked about recordings of the chat."""

    task: Annotated[str, Field(max_length=32, description="a name of `tasks`")] = "ask"
    text: Annotated[str, Field(max_length=2_000)] | None = Field(default=None, description="question or words to find")
    to: Language | None = Field(default=None, description="language to translate into")
    language: Language | None = Field(default=None, description="what is spoken; null: unknown")
    clips: Annotated[list[Annotated[str, Field(max_length=40)]], Field(max_length=8)] = Field(
        default=[], description="ids of recordings of this chat"
    )


class Say(_Model):
    """A text for the voice."""

    text: Annotated[str, Field(min_length=1, max_length=1_000)]
    language: Language | None = None


class AskService(Protocol):
    """What the daemon answers. `AssistantError`: it cannot, or was asked for what is not there."""

    async def abilities(self) -> Abilities:
        """What can be asked."""

    def chats(self) -> Sequence[ChatSummary]:
        """All chats, the one used last first."""

    def begin(self, kind: Literal["chat", "practice"]) -> ChatState:
        """A new chat."""

    def chat(self, chat: str) -> ChatState | None:
        """A chat; None: there is no such."""

    def end(self, chat: str) -> None:
        """Forget a chat."""

    async def add_recording(
        self, chat: str, content: bytes, name: str, origin: Literal["upload", "microphone"]
    ) -> ClipState:
        """Decode a file and keep its audio."""

    async def add_event(self, chat: str, event: str) -> ClipState:
        """Keep the clip of an event."""

    async def add_room(self, chat: str, room: str, seconds: float, *, upcoming: bool) -> ClipState:
        """Keep audio of a room; when it is still to come, returns when it was recorded, or `stop` was called."""

    def remove(self, chat: str, clip: str) -> None:
        """Forget a recording."""

    def audio(self, chat: str, clip: str) -> bytes:
        """A recording as a WAV file."""

    def ask(self, chat: str, question: Question) -> AsyncGenerator[TurnState | str, None]:
        """The question as it was taken, pieces of its answer (empty ones mean patience), and the whole turn.

        Closing it before its end stops the answer.
        """

    def stop(self, chat: str) -> None:
        """End the answer or recording that is being made, with what there is of it."""

    async def say(self, text: str, language: str | None) -> bytes:
        """A text as speech, a WAV file."""


ChatId = Annotated[str, Path(max_length=40, description="id of a chat")]
ClipId = Annotated[str, Path(max_length=40, description="id of a recording")]
UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"description": "there is no such chat or recording"}}
NOT_NOW: dict[int | str, dict[str, Any]] = {409: {"description": "it cannot be done now, or does not fit"}}
NOT_AUDIO: dict[int | str, dict[str, Any]] = {
    408: {"description": "the rest of the recording did not come"},
    413: {"description": "more than 32 MB"},
    503: {"description": "others are sending recordings"},
}
WAV: dict[int | str, dict[str, Any]] = {200: {"content": {"audio/wav": {}}, "description": "mono, 16 bit"}}
STREAM = """Server-sent events: `turn` (the question as it was taken), `piece` (`{"text": …}`, to be joined) and `done`
(the whole turn). Closing the connection stops the answer."""


def routes(service: AskService) -> APIRouter:
    """`/api/ask`."""
    router = APIRouter(prefix="/api/ask", tags=["ask"])
    uploads = 0

    def known(chat: str) -> ChatState:
        found = service.chat(chat)
        if found is None:
            raise HTTPException(404, "there is no such chat; it may have been deleted, or forgotten after a day")
        return found

    def known_clip(chat: str, clip: str) -> None:
        if all(one.id != clip for one in known(chat).clips):
            raise HTTPException(404, "there is no such recording in this chat")

    @router.get("", summary="What can be asked here", responses=NOT_NOW)
    async def abilities() -> Abilities:
        return await service.abilities()

    @router.get("/chats", summary="All chats, the one used last first")
    async def chats() -> list[ChatSummary]:
        return list(service.chats())

    @router.post("/chats", summary="Begin a chat", status_code=201, responses=NOT_NOW)
    async def begin(new: NewChat) -> ChatState:
        return service.begin(new.kind)

    @router.get("/chats/{chat}", summary="A chat with its history", responses=UNKNOWN)
    async def chat(chat: ChatId) -> ChatState:
        return known(chat)

    @router.delete("/chats/{chat}", summary="Forget a chat and its recordings", status_code=204, responses=UNKNOWN)
    async def end(chat: ChatId) -> None:
        known(chat)
        service.end(chat)

    @router.post(
        "/chats/{chat}/clips",
        summary="Send a recording",
        description="The body is the file itself, of a content type other than JSON: WAV, FLAC, MP3, Ogg, M4A, WebM …",
        status_code=201,
        responses={**UNKNOWN, **NOT_NOW, **NOT_AUDIO},
        openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {}}}},
    )
    async def add(
        chat: ChatId,
        request: Request,
        name: Annotated[str, Query(max_length=200)] = "",
        origin: Literal["upload", "microphone"] = "upload",
    ) -> ClipState:
        nonlocal uploads
        known(chat)
        if uploads >= UPLOADS:
            raise HTTPException(503, f"{UPLOADS} recordings are being sent already; remedy: try again in a moment")
        uploads += 1
        try:
            return await service.add_recording(chat, await request.body(), name, origin)
        finally:
            uploads -= 1

    @router.post(
        "/chats/{chat}/clips/event",
        summary="Take the clip of an event",
        status_code=201,
        responses={**UNKNOWN, **NOT_NOW},
    )
    async def add_event(chat: ChatId, wanted: FromEvent) -> ClipState:
        known(chat)
        return await service.add_event(chat, wanted.event)

    @router.post(
        "/chats/{chat}/clips/room",
        summary="Take audio of a room",
        description="`upcoming`: the answer comes when it was recorded; `stop` ends that early.",
        status_code=201,
        responses={**UNKNOWN, **NOT_NOW},
    )
    async def add_room(chat: ChatId, wanted: FromRoom) -> ClipState:
        known(chat)
        return await service.add_room(chat, wanted.room, wanted.seconds, upcoming=wanted.upcoming)

    @router.delete("/chats/{chat}/clips/{clip}", summary="Forget a recording", status_code=204, responses=UNKNOWN)
    async def remove(chat: ChatId, clip: ClipId) -> None:
        known_clip(chat, clip)
        service.remove(chat, clip)

    @router.get(
        "/chats/{chat}/clips/{clip}/audio",
        summary="A recording as WAV",
        response_class=Response,
        responses={**UNKNOWN, **WAV},
    )
    async def audio(chat: ChatId, clip: ClipId) -> Response:
        known_clip(chat, clip)
        return Response(service.audio(chat, clip), media_type="audio/wav")

    @router.post(
        "/chats/{chat}/ask",
        summary="Ask about recordings",
        description=STREAM,
        response_class=StreamingResponse,
        responses={**UNKNOWN, **NOT_NOW, 200: {"content": {"text/event-stream": {}}, "description": "the answer"}},
    )
    async def ask(chat: ChatId, question: Question) -> StreamingResponse:
        known(chat)
        return StreamingResponse(
            _told(service.ask(chat, question)),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},  # nginx passes it on as it comes
        )

    @router.post("/chats/{chat}/stop", summary="Stop the answer or the recording", status_code=204, responses=UNKNOWN)
    async def stop(chat: ChatId) -> None:
        known(chat)
        service.stop(chat)

    @router.post("/say", summary="A text as speech", response_class=Response, responses={**NOT_NOW, **WAV})
    async def say(wanted: Say) -> Response:
        return Response(await service.say(wanted.text, wanted.language), media_type="audio/wav")

    return router


async def _told(steps: AsyncGenerator[TurnState | str, None]) -> AsyncIterator[str]:
    """The steps of an answer as server-sent events."""
    first = True
    async with aclosing(steps):
        async for step in steps:
            if isinstance(step, TurnState):
                yield f"event: {'turn' if first else 'done'}\ndata: {step.model_dump_json()}\n\n"
                first = False
            elif step:
                yield f"event: piece\ndata: {_Piece(text=step).model_dump_json()}\n\n"
            else:
                yield ": patience\n\n"  # so that a proxy keeps the connection, and one that is gone is noticed


class _Piece(BaseModel):
    text: str
