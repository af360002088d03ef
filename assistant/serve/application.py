"""The routes of the API, over whoever holds the models."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import Annotated, Any, Final, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Receive, Scope, Send
from ulid import ULID

from assistant.audio.recording import decoded
from assistant.errors import SourceError
from assistant.events import Samples, seconds
from assistant.models.audio_llm import Answer, Message, Prompt
from assistant.serve import api
from assistant.serve.engine import ApiError, Engine, Served
from assistant.serve.guard import BODY_LIMIT, Guard, error_body
from assistant.serve.settings import ServeSettings

log = logging.getLogger(__name__)

T = TypeVar("T")

DESCRIPTION: Final = """Kikimimi's models behind the API of OpenAI, as far as they can follow, and `/v1/audio/tags`.

Programs send the token as `Authorization: Bearer TOKEN`. Audio is WAV, FLAC, MP3, Ogg and what else FFmpeg reads."""
REFUSED: Final = {
    400: "the request asks for what cannot be done",
    401: "the token is missing or wrong",
    403: "a page of a browser asks",
    404: "there is no such model",
    408: "the rest of the request did not come",
    413: "the request is too long",
    421: "not served under that name",
    503: "too much is asked at once, or the model is out of order",
    504: "there was no answer in time",
}
GONE: Final = 499  # nobody reads it
FIELDS: Final = 32  # of a form
FORMATS: Final = ("json", "text", "verbose_json")


def build(engine: Engine, settings: ServeSettings, version: str) -> Guard:
    """The whole API. Raises `AssistantError` for a token file that holds none."""
    app = FastAPI(
        title="Kikimimi's models",
        version=version,
        description=DESCRIPTION,
        openapi_url="/v1/openapi.json",
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        responses={status: {"description": reason} for status, reason in REFUSED.items()},
    )
    app.add_exception_handler(ApiError, _told)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _missing)
    app.add_exception_handler(Exception, _broken)
    began = int(time.time())

    @app.get("/health", summary="Whether requests can be sent here")
    async def health() -> JSONResponse:
        trouble = engine.trouble()
        return JSONResponse({"status": "ok" if trouble is None else trouble}, 200 if trouble is None else 503)

    @app.get("/v1/models", summary="The models that are served, and what each can do")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(served, began) for served in engine.served()]}

    @app.get("/v1/models/{name}", summary="One of them")
    async def model(name: str) -> dict[str, Any]:
        return _model(_able(engine, name, None), began)

    @app.post("/v1/chat/completions", summary="The next turn of a conversation with audio", response_model=None)
    async def chat(body: api.Chat, request: Request) -> Response:
        body.check()
        _able(engine, body.model, "chat")
        choice = body.choice()
        prompt = Prompt(messages=await _unless_gone(request, _messages(body, settings)))
        most = min(body.max_completion_tokens or body.max_tokens or 256, settings.tokens)
        begun = _Chat(body, choice)
        if body.stream and choice is None:
            return await _streaming(request, engine, prompt, most, begun)
        choices = None if choice is None else choice[1]
        answering = engine.chat(prompt, max_new_tokens=most, choices=choices, stream=None)
        answer = await _unless_gone(request, answering)
        if not body.stream:
            return JSONResponse(begun.whole(answer))
        return StreamingResponse(iter(begun.at_once(answer)), media_type="text/event-stream")

    @app.post(
        "/v1/audio/transcriptions",
        summary="What is said in a recording",
        response_model=None,
        openapi_extra=_form("file", "model", "language", "prompt", "response_format", "timestamp_granularities[]"),
    )
    async def transcriptions(request: Request) -> Response:
        form = await _Form.of(request)
        name = form.text("model")
        _able(engine, name, "transcription")
        wanted = form.text("response_format") or "json"
        if wanted not in FORMATS:
            raise ApiError(
                400, f"response_format: {', '.join(FORMATS)} are known", "unsupported_parameter", "response_format"
            )
        if form.text("stream").lower() == "true":
            raise ApiError(400, "stream: not known here; remedy: leave it out", "unsupported_parameter", "stream")
        timed = wanted == "verbose_json" and "word" in form.texts("timestamp_granularities[]")
        samples = await _unless_gone(request, _decoded(form.file, form.name, settings.longest))
        heard = await _unless_gone(
            request,
            engine.transcribe(samples, model=name, language=form.language(), words=form.words("prompt"), timed=timed),
        )
        if wanted == "text":
            return PlainTextResponse(heard.text + "\n")
        if wanted == "json":
            return JSONResponse({"text": heard.text})
        return JSONResponse(api.transcription(heard, seconds(len(samples)), words=timed))

    @app.post(
        "/v1/audio/tags",
        summary="What can be heard in a recording: AudioSet labels with scores over time",
        response_model=None,
        openapi_extra=_form("file", "model", "top", "threshold"),
    )
    async def tags(request: Request) -> Response:
        form = await _Form.of(request)
        name = form.text("model") or next((s.name for s in engine.served() if "tags" in s.tasks), "")
        _able(engine, name, "tags")
        try:
            options = _TagOptions.model_validate(
                {key: form.text(key) for key in ("top", "threshold") if form.text(key)}
            )
        except ValidationError as error:
            wrong = error.errors()[0]
            name = str(wrong["loc"][0])
            raise ApiError(400, f"{name}: {wrong['msg']}", "invalid_request", name) from None
        samples = await _unless_gone(request, _decoded(form.file, form.name, settings.longest))
        tagged = await _unless_gone(request, engine.tag(samples, top=options.top, threshold=options.threshold))
        # Every score of ten minutes are 20 MB of text: others do not wait for that.
        return await asyncio.to_thread(lambda: JSONResponse(api.tags(name, tagged, seconds(len(samples)))))

    return Guard(app, settings.secret(), settings.requests)


class _TagOptions(BaseModel):
    """How many labels of a window are told."""

    top: Annotated[int, Field(ge=1, le=521)] = 5
    threshold: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1


class _InMemory(MultiPartParser):
    """Recordings never go to a disk."""

    spool_max_size = BODY_LIMIT + 1


class _Form:
    """A form with one file."""

    def __init__(self, file: bytes, name: str, fields: dict[str, list[str]]) -> None:
        self.file, self.name, self._fields = file, name, fields

    @classmethod
    async def of(cls, request: Request) -> _Form:
        """The form of a request. Raises `ApiError`."""
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise ApiError(400, "needs multipart/form-data with a file", "invalid_request")
        try:
            form = await _InMemory(request.headers, request.stream(), max_files=1, max_fields=FIELDS).parse()
        except MultiPartException as error:
            raise ApiError(400, f"the form cannot be read: {error.message}", "invalid_request") from None
        except (KeyError, UnicodeDecodeError):
            raise ApiError(400, "the form cannot be read", "invalid_request") from None
        async with _closing(form):
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise ApiError(400, "file: is missing", "missing_parameter", "file")
            texts = {name: [text for text in form.getlist(name) if isinstance(text, str)] for name in form}
            return cls(await file.read(), file.filename or "file", texts)

    def texts(self, name: str) -> list[str]:
        """All values of a field."""
        return self._fields.get(name, [])

    def text(self, name: str) -> str:
        """The value of a field; empty: none."""
        return next(iter(self.texts(name)), "").strip()

    def words(self, name: str) -> list[str]:
        """A text as the words or names that it lists."""
        return [word.strip() for word in self.text(name)[:1_000].replace("、", ",").split(",") if word.strip()]

    def language(self) -> str | None:
        """ISO 639-1. Raises `ApiError`."""
        code = self.text("language").lower()
        if code and not (2 <= len(code) <= 3 and code.isascii() and code.isalpha()):
            raise ApiError(400, "language: not a code such as en or ja", "invalid_parameter", "language")
        return code or None


class _closing:  # noqa: N801 (reads as contextlib's)
    """Forms have an async `close`."""

    def __init__(self, form: Any) -> None:  # noqa: ANN401 (starlette's FormData)
        self._form = form

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_error: object) -> None:
        await self._form.close()


class _Chat:
    """The answer to one conversation, in the forms that it can be given."""

    def __init__(self, body: api.Chat, choice: tuple[str, list[str]] | None) -> None:
        self._model, self._choice = body.model, choice
        self._with_usage = body.stream_options is not None and body.stream_options.include_usage
        self._head = {"id": f"chatcmpl-{ULID()}", "created": int(time.time()), "model": body.model}

    def _text(self, answer: Answer) -> str:
        return answer.text if self._choice is None else json.dumps({self._choice[0]: answer.text}, ensure_ascii=False)

    def whole(self, answer: Answer) -> dict[str, Any]:
        """One object."""
        message = {"role": "assistant", "content": self._text(answer), "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": api.finish_of(answer)}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": api.usage(answer)}

    def piece(self, delta: dict[str, Any], finish: str | None = None) -> str:
        """An event of a stream."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        used = {"usage": None} if self._with_usage else {}
        return _event({**self._head, "object": "chat.completion.chunk", "choices": [choice], **used})

    def at_once(self, answer: Answer) -> list[str]:
        """A stream of an answer that is there already."""
        return [self.piece({"role": "assistant", "content": self._text(answer)}), *self.end(answer)]

    def end(self, answer: Answer) -> list[str]:
        """The last events."""
        last = {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": api.usage(answer)}
        used = [_event(last)] if self._with_usage else []
        return [self.piece({}, api.finish_of(answer)), *used, "data: [DONE]\n\n"]


def _event(told: dict[str, Any]) -> str:
    return f"data: {json.dumps(told, ensure_ascii=False)}\n\n"


async def _streaming(request: Request, engine: Engine, prompt: Prompt, most: int, begun: _Chat) -> Response:
    """An answer piece by piece. What goes wrong before the first piece is an error like any other."""
    pieces: asyncio.Queue[str | None] = asyncio.Queue()
    task = asyncio.create_task(
        engine.chat(prompt, max_new_tokens=most, choices=None, stream=pieces.put_nowait), name="answer"
    )
    task.add_done_callback(lambda _task: pieces.put_nowait(None))
    try:
        first = await _unless_gone(request, pieces.get())
        if first is None:
            return StreamingResponse(iter(begun.at_once(task.result())), media_type="text/event-stream")
    except BaseException:
        task.cancel()
        raise

    async def events() -> AsyncIterator[str]:
        piece: str | None = first
        yield begun.piece({"role": "assistant", "content": ""})
        while piece is not None:
            yield begun.piece({"content": piece})
            piece = await pieces.get()
        try:
            last = begun.end(task.result())
        except ApiError as error:
            last = [_event(error_body(str(error), error.status, error.code))]
        for event in last:
            yield event

    return _Streamed(events(), task)


class _Streamed(StreamingResponse):
    """A stream of an answer, which is given up when the client goes, even before the first event."""

    def __init__(self, events: AsyncIterator[str], answer: asyncio.Task[Answer]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"cache-control": "no-store"})
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.cancel()


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives; it is cancelled when the client goes, and nobody reads what is answered then."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ApiError(GONE, "the client has gone", "client_gone")
    finally:
        task.cancel()
        gone.cancel()
        with suppress(asyncio.CancelledError):
            await gone


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _messages(body: api.Chat, settings: ServeSettings) -> tuple[Message, ...]:
    """The conversation with its recordings decoded. Raises `ApiError`."""
    if body.messages[-1].role != "user":
        raise ApiError(400, "messages: the last one must be the user's", "invalid_request", "messages")
    messages = []
    left = settings.longest
    for turn in body.messages:
        content: list[str | Samples] = []
        for part in [turn.content] if isinstance(turn.content, str) else turn.content or []:
            if isinstance(part, str):
                content.append(part)
            elif isinstance(part, api.TextPart):
                content.append(part.text)
            elif turn.role != "user":
                raise ApiError(400, "messages: only the user's can hold audio", "invalid_request", "messages")
            else:
                samples = await _decoded(part.input_audio.content(), "input_audio", left)
                left -= seconds(len(samples))
                content.append(samples)
        role = "system" if turn.role == "developer" else turn.role
        messages.append(Message(role, tuple(content)))
    return tuple(messages)


async def _decoded(content: bytes, name: str, longest: float) -> Samples:
    try:
        return await asyncio.to_thread(decoded, content, name, longest=longest)
    except SourceError as error:
        raise ApiError(400, str(error), "invalid_audio") from None


def _able(engine: Engine, name: str, task: str | None) -> Served:
    """The model of that name, if it can do that. Raises `ApiError`."""
    there = engine.served()
    for served in there:
        if served.name == name:
            if task is not None and task not in served.tasks:
                able = ", ".join(other.name for other in there if task in other.tasks) or "none here"
                raise ApiError(
                    400, f"model: {name} cannot do that; remedy: one that can: {able}", "model_not_able", "model"
                )
            return served
    names = ", ".join(served.name for served in there)
    raise ApiError(404, f"model: there is no {name[:100]!a}; there is {names}", "model_not_found", "model")


def _model(served: Served, began: int) -> dict[str, Any]:
    return {
        "id": served.name,
        "object": "model",
        "created": began,
        "owned_by": "kikimimi",
        "tasks": list(served.tasks),
    }


def _form(*fields: str) -> dict[str, Any]:
    """What OpenAPI says of a form that is read piece by piece."""
    kinds: dict[str, Any] = {name: {"type": "string"} for name in fields}
    kinds["file"] = {"type": "string", "format": "binary"}
    schema = {"type": "object", "properties": kinds, "required": ["file"]}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


async def _told(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)  # noqa: S101 (for the type checker)
    headers = {"retry-after": "1"} if error.status == 503 else None
    body = error_body(str(error), error.status, error.code, error.param)
    return JSONResponse(body, error.status, headers=headers)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    """What is wrong, without what was sent: that may be what somebody said."""
    assert isinstance(error, RequestValidationError)  # noqa: S101
    details = max(error.errors(), key=lambda one: len(one["loc"]))  # of alternatives, the one that came furthest
    _body, *path = details["loc"]
    if details["type"] == "json_invalid":
        path = []
    numbers = [str(part) for part in path if part == "messages" or isinstance(part, int)]  # the rest names types
    place = ".".join(numbers) or ".".join(map(str, path[:1]))
    problem = ApiError(400, f"{place or 'body'}: {details['msg']}", "invalid_request", place or None)
    return await _told(_request, problem)


async def _missing(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    body = error_body(str(error.detail), error.status_code, "invalid_request")
    return JSONResponse(body, error.status_code, headers=error.headers)


async def _broken(_request: Request, _error: Exception) -> JSONResponse:
    """A bug, whose traceback goes to the log."""
    return JSONResponse(error_body("the server failed on this request", 500, "internal_error"), 500)
