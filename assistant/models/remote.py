"""Models behind somebody's OpenAI-compatible API: vLLM, SGLang, llama.cpp, or `kikimimi serve`.

Audio goes as WAV (`input_audio`, or a file to transcribe) to the one address of the configuration: no redirect is
followed, no proxy and no login is taken from the environment, and the token is told nowhere. Every request has an end,
is sent again where that may help, and every answer has a limit. Of what a server writes nothing but texts and names is
used; of its refusals only the status and a code, since their words may quote what was said.

All requests run on one loop in a thread of its own, so that a model's caller, in whatever thread, can give them up.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import ssl
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from urllib.parse import urlsplit

import numpy as np
from pydantic import Field, SecretStr, field_validator, model_validator

from assistant import __version__, secret_files
from assistant.errors import ConfigurationError, ModelError
from assistant.events import SAMPLE_RATE, Samples, frozen
from assistant.models.audio_llm import Answer, AwayError, Message, Prompt, Stop
from assistant.models.openai_api import (
    CONNECT_WITHIN,
    PassingError,
    Spoken,
    answer_of,
    chosen,
    chosen_from,
    count_of,
    events_of,
    explained,
    message_body,
    most_of,
    not_ours,
    object_of,
    pieces_of,
    read,
    refusal,
    spoken_of,
    wav,
)
from assistant.settings import Settings

if TYPE_CHECKING:
    import httpx2
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

T = TypeVar("T")

WAITS: Final = (0.3, 1.0)  # seconds before a request is sent again; each up to a half more or less
LONGEST_WAIT: Final = 5.0  # seconds that a server may ask us to wait
STREAM_TIMES: Final = 10  # a streamed answer may take so many times as long as its first piece
TICK: Final = 0.05  # seconds between two looks whether somebody still waits
NO_ADDRESS: Final = "models.remote.url: the profile remote needs it; remedy: url: http://HOST:8766/v1 (docs/serve.md)"
TOKEN: Final = re.compile(r"[!-~]{1,200}")


class RemoteSettings(Settings):
    """Where the models of the profile remote are."""

    url: str | None = Field(
        default=None, description="base address of an OpenAI-compatible API, as http://gpu.local:8766/v1"
    )
    model: str | None = Field(
        default=None, min_length=1, description="answers with audio (chat); default: the one that the server lists"
    )
    transcription_model: str | None = Field(
        default=None,
        min_length=1,
        description="writes down speech (/v1/audio/transcriptions); default: one that the server says can, or `model`",
    )
    token: SecretStr | None = Field(default=None, description="sent as Bearer; write ${NAME}")
    token_file: Path | None = Field(default=None, description="file that holds the token alone, read for each request")
    ca: Path | None = Field(default=None, description="PEM file of an authority of your own, instead of the system's")
    timeout: float = Field(default=20.0, ge=1.0, le=300.0, description="seconds for an answer, or its first piece")
    requests: int = Field(default=4, ge=1, le=32, description="at once")

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str | None) -> str | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url)
            good = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        except ValueError:
            good = False
        if not good or re.search(r"[\s?#@]", url):
            raise ValueError("must read http://host:port/v1 or https://…, without a login, ? or #")
        url = url.rstrip("/")
        return url if parts.path.strip("/") else f"{url}/v1"

    @field_validator("token")
    @classmethod
    def _can_be_sent(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and not TOKEN.fullmatch(token.get_secret_value()):
            raise ValueError("not one word of plain ASCII signs")
        return token

    @model_validator(mode="after")
    def _one_token(self) -> Self:
        if self.token is not None and self.token_file is not None:
            raise ValueError("token and token_file are both given: remove one")
        return self

    @property
    def place(self) -> str:
        """`scheme://host:port`, for a person."""
        return "" if self.url is None else "{0.scheme}://{0.netloc}".format(urlsplit(self.url))

    @property
    def in_the_clear(self) -> bool:
        """Whether audio goes over a network without encryption."""
        parts = urlsplit(self.url or "")
        return parts.scheme == "http" and parts.hostname not in {"127.0.0.1", "::1", "localhost"}


class Remote:
    """Implements `AudioLLM`, except that it tells no scores, and writes down speech. Call it in any thread."""

    tagged = False

    def __init__(self, settings: RemoteSettings) -> None:
        """Nothing is asked before `probe`. Raises `ConfigurationError` without an address."""
        if settings.url is None:
            raise ConfigurationError(NO_ADDRESS)
        # httpx tells every address at INFO, and every header, token and all, at DEBUG.
        for name in ("httpx2", "httpcore2"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._settings, self._url = settings, settings.url
        self.model = settings.model  # None until it is known, or for ever when the server only transcribes
        self.transcriber = settings.transcription_model
        self.name = self.model or self.transcriber or "remote"  # of the one that answers; else that transcribes
        self._counts: Counter[str] = Counter()
        self._plain: bool | None = None  # the server knows no verbose_json; None: not known yet
        self._by_url: bool | None = None  # it knows no input_audio, but audio_url (SGLang before August 2026)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._client: httpx2.AsyncClient | None = None
        self._closed = False

    def figures(self) -> Mapping[str, int | float]:
        """For health: requests sent, sent again and failed in the end, and what left the machine."""
        return {
            "requests": self._counts["requests"],
            "retries": self._counts["retries"],
            "failed": self._counts["failed"],
            "sent_mb": round(self._counts["bytes"] / 1e6, 2),
        }

    @property
    def only_transcribes(self) -> bool:
        """Whether it is known to answer no questions."""
        return self.model is None and self.transcriber is not None

    def probe(self) -> None:
        """Find out which models the server has, and ask each a little. Raises `AwayError` with what is wrong."""
        self._plain = self._by_url = None  # it may be another by now
        try:
            self._choose(self._wait([self._submit(self._listed())])[0])
            clip = frozen(np.full(SAMPLE_RATE, 1e-4, np.float32))
            if self.model is not None:
                self.answer([Prompt(messages=(Message("user", (clip, "What is heard?")),))], max_new_tokens=2)
            if self.transcriber is not None:
                self.transcribe(clip)
        except AwayError:
            raise
        except ModelError as error:  # a server that refuses even this
            raise AwayError(f"{self._settings.place}: {error}") from error

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 256,
        choices: Sequence[str] | None = None,
        stream: Callable[[int, str], None] | None = None,
        cancelled: Callable[[int], bool] | None = None,
    ) -> list[Answer]:
        """As `AudioLLM.answer`, each prompt a request of its own.

        Raises `AwayError` and `ModelError`, and `ConfigurationError` for a server that only transcribes.
        """
        if self.model is None:
            raise ConfigurationError(f"{self._settings.place} only transcribes; remedy: models.remote.model")
        pieces: SimpleQueue[tuple[int, str | None]] = SimpleQueue()
        works = []
        for i, prompt in enumerate(prompts):
            body = self._body(prompt, max_new_tokens, choices, streamed=stream is not None)
            take = None if stream is None else partial(_put, pieces, i)
            works.append(self._submit(self._answered(prompt, body, choices, take)))
        return self._wait(works, pieces, stream, cancelled, Answer("", 0, Stop.CANCELLED))

    def score(self, _prompt: Prompt, labels: Sequence[str]) -> NDArray[np.float32]:
        """Not told by any of these servers: not a number for each label."""
        return np.full(len(labels), np.nan, np.float32)

    def transcribe(
        self,
        samples: Samples,
        *,
        language: str | None = None,
        words: Sequence[str] = (),
        cancelled: Callable[[], bool] | None = None,
    ) -> Spoken:
        """What is said in `samples`. Raises `AwayError` and `ModelError`."""
        fields = {"model": self.transcriber or self.name, "temperature": "0"}
        if language is not None:
            fields["language"] = language
        if words:
            fields["prompt"] = ", ".join(words)[:1_000]
        work = self._submit(self._transcribed(fields, wav(samples)))
        nobody = None if cancelled is None else partial(_ignoring, cancelled)
        return self._wait([work], cancelled=nobody, instead=Spoken("", None, None, None))[0]

    def close(self) -> None:
        """Give up what is asked and let the connections go. Blocks for at most three seconds."""
        with self._lock:
            self._closed = True
            loop, thread, self._loop = self._loop, self._thread, None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._leave(), loop)
        thread.join(3.0)

    # ---------------------------------------------------------------------------------------- for whoever calls it

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        with self._lock:
            if self._closed:
                work.close()
                raise ModelError("the daemon is stopping")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_turn, args=(self._loop,), name="remote", daemon=True)
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    @staticmethod
    def _wait(
        works: Sequence[Future[T]],
        pieces: SimpleQueue[tuple[int, str | None]] | None = None,
        stream: Callable[[int, str], None] | None = None,
        cancelled: Callable[[int], bool] | None = None,
        instead: T | None = None,
    ) -> list[T]:
        """The results of all, `instead` for those that nobody waits for any more."""
        queue: SimpleQueue[tuple[int, str | None]] = pieces or SimpleQueue()
        for i, work in enumerate(works):
            work.add_done_callback(partial(_settled, queue, i))
        left = set(range(len(works)))
        try:
            while left:
                for i in left:
                    if cancelled is not None and cancelled(i):
                        works[i].cancel()
                try:
                    i, text = queue.get(timeout=TICK if cancelled is not None else None)
                except Empty:
                    continue
                if text is None:
                    left.discard(i)
                elif stream is not None:
                    stream(i, text)
        finally:
            for work in works:
                work.cancel()
        return [_result(work, instead) for work in works]

    def _body(
        self, prompt: Prompt, max_new_tokens: int, choices: Sequence[str] | None, *, streamed: bool
    ) -> dict[str, Any]:
        if not prompt.messages:
            raise ModelError("a server takes conversations, not tags")
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": max_new_tokens,
            "temperature": 0,
        }
        if choices is not None:
            body["max_tokens"] = max_new_tokens + 64  # the quotes and brackets around it
            body["response_format"] = chosen_from(choices)
        if streamed:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body

    def _choose(self, listed: Mapping[str, frozenset[str]]) -> None:
        """Settle which models to use: those of the settings, or those that the server says can do it."""
        settings = self._settings
        for key, name in (("model", settings.model), ("transcription_model", settings.transcription_model)):
            if name is not None and name not in listed:
                raise AwayError(
                    f"{settings.place} has no model {name!r}, it has {_listing(listed)}; remedy: models.remote.{key}"
                )
        # Servers that say what their models can do: ours.
        transcriber = next((name for name, tasks in listed.items() if "transcription" in tasks), None)
        if settings.model is None and settings.transcription_model is None:
            able = [name for name, tasks in listed.items() if "chat" in tasks]
            found = able or [name for name, tasks in listed.items() if not tasks]
            if len(found) > 1 or (not found and transcriber is None):
                raise AwayError(
                    f"{settings.place}: which model? it has {_listing(listed)}; remedy: models.remote.model"
                )
            self.model = found[0] if found else None
        if settings.transcription_model is None:
            self.transcriber = transcriber
        self.name = self.model or self.transcriber or self.name

    # --------------------------------------------------------------------------------------------- on the own loop

    async def _listed(self) -> dict[str, frozenset[str]]:
        """The names of the server's models, and for each what it can do, if that is told (ours tells)."""

        async def attempt(_patience: asyncio.Timeout) -> dict[str, frozenset[str]]:
            async with self._asking("GET", "/models") as answer:
                told = object_of(await read(answer))
            models = told.get("data")
            if not isinstance(models, list):
                raise AwayError(not_ours("/models"))
            found = {}
            for model in models[:1_000]:
                name = model.get("id") if isinstance(model, dict) else None
                if isinstance(name, str) and name.isprintable() and 0 < len(name) <= 200:
                    tasks = model.get("tasks")
                    found[name] = frozenset(map(str, tasks)) if isinstance(tasks, list) else frozenset[str]()
            return found

        return await self._tried(attempt)

    async def _answered(
        self,
        prompt: Prompt,
        body: dict[str, Any],
        choices: Sequence[str] | None,
        take: Callable[[str], None] | None,
    ) -> Answer:
        with_audio = any(not isinstance(part, str) for message in prompt.messages for part in message.content)
        most = most_of(body["max_tokens"])
        begun = False

        def piece(text: str) -> None:
            nonlocal begun
            begun = True
            assert take is not None  # noqa: S101 (for the type checker)
            take(text)

        async def ask(patience: asyncio.Timeout, by_url: bool) -> Answer:
            messages = [message_body(message, by_url=by_url) for message in prompt.messages]
            content = json.dumps({**body, "messages": messages}).encode()
            async with self._asking("POST", "/chat/completions", content) as answer:
                if take is None or not answer.headers.get("content-type", "").startswith("text/event-stream"):
                    told = answer_of(object_of(await read(answer)))
                    told = told if len(told.text) <= most else Answer(told.text[:most], told.tokens, Stop.LENGTH)
                    if take is not None:
                        piece(told.text)
                    return told
                return await self._streamed(answer, piece, patience, most)

        async def attempt(patience: asyncio.Timeout) -> Answer:
            try:
                told = await ask(patience, bool(self._by_url))
            except ModelError as error:
                if isinstance(error, AwayError) or not with_audio or self._by_url is not None:
                    raise
                try:
                    told = await ask(patience, True)
                except ModelError:
                    raise error from None  # it was not the form of the audio
                self._by_url = True
            if with_audio and self._by_url is None:
                self._by_url = False
            return told

        told = await self._tried(attempt, once=lambda: begun)
        return told if choices is None else chosen(told, choices)

    async def _streamed(
        self, answer: httpx2.Response, piece: Callable[[str], None], patience: asyncio.Timeout, most: int
    ) -> Answer:
        loop = asyncio.get_running_loop()
        last = loop.time() + STREAM_TIMES * self._settings.timeout
        text, tokens, stop = "", 0, None
        async for data in events_of(answer):
            if data == "[DONE]":
                break
            told = object_of(data.encode())
            if "error" in told:
                raise PassingError("gave up in the middle of an answer")
            if isinstance(usage := told.get("usage"), dict):
                tokens = count_of(usage)
            for delta, finish in pieces_of(told):
                if delta:
                    text += delta
                    piece(delta)
                    patience.reschedule(min(last, loop.time() + self._settings.timeout))
                stop = stop or finish
            if len(text) > most:
                stop = "length"  # it goes on beyond what was asked for
                break
        if stop is None:
            raise PassingError("broke off in the middle of an answer")
        return Answer(text, tokens, Stop.LENGTH if stop == "length" else Stop.END)

    async def _transcribed(self, fields: dict[str, str], content: bytes) -> Spoken:
        async def attempt(_patience: asyncio.Timeout) -> Spoken:
            forms = {None: ("verbose_json", "json"), True: ("json",), False: ("verbose_json",)}[self._plain]
            for form in forms:
                files = {"file": ("speech.wav", content, "audio/wav")}
                asking = self._asking(
                    "POST", "/audio/transcriptions", fields={**fields, "response_format": form}, files=files
                )
                try:
                    async with asking as answer:
                        told = spoken_of(object_of(await read(answer)))
                        self._plain = form == "json"
                        return told
                except ModelError as error:
                    if form == forms[-1] or isinstance(error, AwayError):
                        raise
            raise AssertionError("unreachable")

        return await self._tried(attempt)

    async def _tried(
        self, attempt: Callable[[asyncio.Timeout], Awaitable[T]], *, once: Callable[[], bool] = lambda: False
    ) -> T:
        """What `attempt` gives, made again where that may help unless `once`.

        Raises `AwayError` when the server cannot be reached or used, `ModelError` when it refuses this request.
        """
        timeout = self._settings.timeout
        problem = f"no answer within {timeout:.0f} s"
        try:
            async with asyncio.timeout(timeout) as patience:
                for wait in (*WAITS, None):
                    self._counts["requests"] += 1
                    try:
                        return await attempt(patience)
                    except PassingError as error:
                        if wait is None or once():
                            raise AwayError(f"{self._settings.place} {error}") from error
                        self._counts["retries"] += 1
                        problem = f"{error}, and {problem}"
                        log.debug("%s %s; it is asked again", self._settings.place, error)
                        pause = wait * random.uniform(0.5, 1.5)  # noqa: S311 (jitter, not a secret)
                        await asyncio.sleep(max(pause, min(error.after or 0.0, LONGEST_WAIT)))
        except TimeoutError:
            self._counts["failed"] += 1
            raise AwayError(f"{self._settings.place}: {problem}") from None
        except ModelError:
            self._counts["failed"] += 1
            raise
        raise AssertionError("unreachable")

    def _asking(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        *,
        fields: Mapping[str, str] | None = None,
        files: Mapping[str, Any] | None = None,
    ) -> _Asking:
        return _Asking(self, method, f"{self._url}{path}", content, fields, files)

    async def opened(self) -> httpx2.AsyncClient:
        """The client, made when it is first needed. Raises `AwayError` for an authority that cannot be read."""
        if self._client is None:
            import httpx2  # noqa: PLC0415 (0.1 s: only where it is chosen)

            settings = self._settings
            try:
                secure = self._url.startswith("https:")
                context = ssl.create_default_context(cafile=settings.ca) if secure else False
            except (OSError, ValueError) as error:
                raise AwayError(f"models.remote.ca: {settings.ca}: {error}; remedy: a PEM file") from error
            self._client = httpx2.AsyncClient(
                verify=context,
                trust_env=False,
                follow_redirects=False,
                timeout=httpx2.Timeout(None, connect=CONNECT_WITHIN),  # the rest has a time-out as a whole
                limits=httpx2.Limits(max_connections=2 * settings.requests + 4),
                headers={"User-Agent": f"kikimimi/{__version__}", "Accept-Encoding": "identity"},
            )
        return self._client

    def authorization(self) -> dict[str, str]:
        """The header with the token. Raises `AwayError` for a file that holds none."""
        settings = self._settings
        if settings.token is not None:
            return {"Authorization": f"Bearer {settings.token.get_secret_value()}"}
        if settings.token_file is None:
            return {}
        try:
            token = secret_files.read(settings.token_file)
        except (OSError, ValueError) as error:
            raise AwayError(f"models.remote.token_file: {error}; remedy: a file that holds the token alone") from error
        if not TOKEN.fullmatch(token):
            raise AwayError(f"models.remote.token_file: {settings.token_file}: not one word of plain ASCII signs")
        return {"Authorization": f"Bearer {token}"}

    def count_sent(self, size: int) -> None:
        """So many bytes go out now."""
        self._counts["bytes"] += size

    async def _leave(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # so that those who wait for them learn it
        if self._client is not None:
            await self._client.aclose()
        asyncio.get_running_loop().stop()


class _Asking:
    """One request: `async with` gives the answer of a server that took it. What went wrong is told in our words."""

    def __init__(  # noqa: PLR0917 (parts of one request)
        self,
        remote: Remote,
        method: str,
        url: str,
        content: bytes | None,
        fields: Mapping[str, str] | None,
        files: Mapping[str, Any] | None,
    ) -> None:
        self._remote, self._method, self._url = remote, method, url
        self._content, self._fields, self._files = content, fields, files
        self._answer: httpx2.Response | None = None

    async def __aenter__(self) -> httpx2.Response:
        import httpx2  # noqa: PLC0415

        client = await self._remote.opened()
        headers = self._remote.authorization()
        if self._content is not None:
            headers["Content-Type"] = "application/json"
        request = client.build_request(
            self._method, self._url, headers=headers, content=self._content, data=self._fields, files=self._files
        )
        self._remote.count_sent(int(request.headers.get("content-length", 0)))
        try:
            answer = self._answer = await client.send(request, stream=True)
        except httpx2.HTTPError as error:
            raise explained(error) from error
        if not 200 <= answer.status_code < 300:
            try:
                problem = await refusal(answer)
            finally:
                await answer.aclose()
            raise problem
        return answer

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        import httpx2  # noqa: PLC0415

        if self._answer is not None:
            await self._answer.aclose()
        if isinstance(error, httpx2.HTTPError | httpx2.StreamError):
            raise explained(error) from error


def _turn(loop: asyncio.AbstractEventLoop) -> None:
    """Until it is stopped. Connections that are broken off then close one turn later."""
    loop.run_forever()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def _result(work: Future[T], instead: T | None) -> T:
    try:
        return work.result()
    except CancelledError:
        if instead is None:
            raise ModelError("the daemon is stopping") from None
        return instead


def _settled(pieces: SimpleQueue[tuple[int, str | None]], i: int, _work: object) -> None:
    pieces.put((i, None))


def _ignoring(cancelled: Callable[[], bool], _i: int) -> bool:
    return cancelled()


def _put(pieces: SimpleQueue[tuple[int, str | None]], i: int, text: str) -> None:
    pieces.put((i, text))


def _listing(listed: Mapping[str, frozenset[str]]) -> str:
    return ", ".join(list(listed)[:10]) or "none"
