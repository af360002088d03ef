"""`kikimimi serve`: the models of this machine behind the API, in one process."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from assistant import __version__, startup
from assistant.doctor import cores
from assistant.errors import AssistantError, ConfigurationError, ModelError
from assistant.events import (
    SAMPLE_RATE,
    Cut,
    Samples,
    SpeechEvidence,
    Tags,
    Transcript,
    Utterance,
    Window,
    Word,
    frozen,
    seconds,
)
from assistant.evidence import Evidence
from assistant.models import tasks
from assistant.models.audio_llm import Answer, Message, Prompt, PromptError
from assistant.models.overlap import joined_words, windows
from assistant.models.yamnet import WINDOW
from assistant.resident import BusyError, Priority, Resident, Status, UnwellError
from assistant.serve.engine import ApiError, Heard, Segment, Served, Tagged
from assistant.transcribing import cut, text_of

if TYPE_CHECKING:
    from assistant.config import Config
    from assistant.models.audio_llm import AudioLLM
    from assistant.pipeline import HearingSettings, Models, Recogniser

log = logging.getLogger(__name__)

T = TypeVar("T")

HOP = WINDOW // 2  # samples between two windows of the tagger
SHORT = 15 * SAMPLE_RATE  # samples of a recording that is recognised as it is
AT_ONCE = 64  # windows tagged in one go: others wait no longer than that
TAGGER = "yamnet"
MOST_RECOGNISERS = 16  # each has working memory of its own
CONNECTIONS = 256  # at once; more are answered 503
HEAD_WITHIN = 10.0  # seconds for the head of a request
NOTHING = "profile: remote has nothing to serve; remedy: --profile embedded, hybrid or qwen"
IDLE = 60  # seconds: longer than clients keep one (httpx: 5), or a request meets a connection that is being closed
STOP = 10  # seconds for answers on their way when the server ends


class House:
    """Implements the API's `Engine` with resident models."""

    def __init__(self, models: Models, recogniser: Recogniser | None, hearing: HearingSettings, timeout: float) -> None:
        self._models, self._recogniser, self._hearing, self._timeout = models, recogniser, hearing, timeout

    def served(self) -> Sequence[Served]:
        """What is there now; transcribers first that are made for it."""
        found = [] if self._recogniser is None else [Served(self._recogniser.name, ("transcription",))]
        llm = self._models.llm
        if llm is not None and llm.name is not None:
            found.append(Served(llm.name, ("chat", "transcription")))
        return (*found, Served(TAGGER, ("tags",)))

    def trouble(self) -> str | None:
        """Why nobody should be sent here."""
        llm = self._models.llm
        if llm is not None and llm.status is not Status.READY:
            return f"the audio language model is {llm.status}"
        return self.hanging()

    def hanging(self) -> str | None:
        """Which model will never answer again; None: none."""
        return self._models.hanging(time.monotonic())

    async def chat(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int,
        choices: Sequence[str] | None,
        stream: Callable[[str], None] | None,
    ) -> Answer:
        """The next turn; what waits with the same limits is answered in one batch."""
        llm = self._llm()
        fitting = Prompt(messages=tuple(_fitting(message) for message in prompt.messages))
        return await _in_time(
            self._timeout,
            llm.answer(
                fitting,
                priority=Priority.QUESTION,
                deadline=self._timeout,
                max_new_tokens=max_new_tokens,
                choices=choices,
                stream=stream,
            ),
        )

    async def transcribe(
        self, samples: Samples, *, model: str, language: str | None, words: Sequence[str], timed: bool
    ) -> Heard:
        """What is said, utterance by utterance."""
        if self._recogniser is None or model != self._recogniser.name:
            return await _in_time(self._timeout, self._written(samples, language, timed=timed))
        return await _in_time(self._timeout, self._recognised(self._recogniser, samples, language, words, timed=timed))

    async def tag(self, samples: Samples, *, top: int, threshold: float) -> Sequence[Tagged]:
        """Windows of 0.975 s, each half over the next."""
        return await _in_time(self._timeout, self._tagged(samples, top, threshold))

    async def _recognised(
        self, recogniser: Recogniser, samples: Samples, language: str | None, words: Sequence[str], *, timed: bool
    ) -> Heard:
        said: list[tuple[Utterance, Transcript]] = []
        for utterance, evidence in await self._utterances(samples):
            heard = await self._models.recognising.call(
                partial(
                    recogniser.transcribe,
                    utterance.samples,
                    evidence,
                    languages=None if language is None else (language,),
                    words=words,
                )
            )
            if heard.text:
                said.append((utterance, heard))
        languages = [heard.language for _, heard in said if heard.language]
        windowed = [(utterance.start, utterance.end, heard.words or ()) for utterance, heard in said]
        return Heard(
            text_of(said),
            languages[0] if languages else language,
            tuple(_segment(utterance, heard) for utterance, heard in said),
            joined_words(windowed) if timed else None,
        )

    async def _utterances(self, samples: Samples) -> Sequence[tuple[Utterance, SpeechEvidence]]:
        """A short recording as it is, a longer one cut where nobody speaks: Whisper gets lost in long pauses."""
        if len(samples) > SHORT:
            return await cut(samples, self._models, self._hearing)
        whole = Utterance(0, len(samples), samples, Cut.END, 1.0, 0.0, 0.0)
        return [(whole, await self._models.tagging.call(partial(self._evidence, whole)))]

    async def _written(self, samples: Samples, language: str | None, *, timed: bool) -> Heard:
        """By the audio language model."""
        if language is not None and language not in tasks.LANGUAGES:
            language = None  # it has no tag for that one and finds out itself
        task = tasks.word_times if timed else tasks.transcribe

        def ask(llm: AudioLLM) -> tuple[str | None, str | None, tuple[Word, ...] | None]:
            (said,) = task(llm, [samples], language=language)
            return said.text, said.language, getattr(said, "words", None)

        text, heard, words = await self._llm().call(ask, priority=Priority.SPEECH, deadline=self._timeout)
        if not text:
            return Heard("", heard, (), words)
        return Heard(text, heard, (Segment(0.0, seconds(len(samples)), text, None),), words)

    async def _tagged(self, samples: Samples, top: int, threshold: float) -> Sequence[Tagged]:
        tagger = self._models.tagger
        starts = range(0, max(1, len(samples) - WINDOW + HOP), HOP)

        def some(part: Sequence[int]) -> list[Tagged]:
            found = []
            for start in part:
                scores = tagger.tag(_window(samples, start))
                best = [i for i in np.argsort(-scores)[:top] if scores[i] >= threshold]
                end = min(start + WINDOW, len(samples))
                labels = tuple((tagger.labels[i], float(scores[i])) for i in best)
                found.append(Tagged(seconds(start), seconds(end), labels))
            return found

        tagged: list[Tagged] = []
        for first in range(0, len(starts), AT_ONCE):
            tagged += await self._models.tagging.call(partial(some, starts[first : first + AT_ONCE]))
        return tagged

    def _evidence(self, utterance: Utterance) -> SpeechEvidence:
        """What the tagger says for or against speech. In its thread."""
        tagger, audio = self._models.tagger, utterance.samples
        evidence = Evidence(tagger.labels)
        for start in range(0, max(1, len(audio) - WINDOW + HOP), HOP):
            window = Window(start, start + WINDOW, _window(audio, start), 0, 0.0, 0.0)
            evidence.feed(Tags(window, tagger.tag(window.samples)))
        return evidence.over(utterance)

    def _llm(self) -> Resident:
        assert self._models.llm is not None  # noqa: S101 (the API asks only for what is served)
        return self._models.llm


def _segment(utterance: Utterance, heard: Transcript) -> Segment:
    likely = None if not heard.score else round(math.log(heard.score), 4)
    return Segment(seconds(utterance.start), seconds(utterance.end), heard.text, likely)


def _window(samples: Samples, start: int) -> Samples:
    """The tagger's window from `start` on, with silence where the recording has ended."""
    window = samples[start : start + WINDOW]
    return window if len(window) == WINDOW else frozen(np.pad(window, (0, WINDOW - len(window))))


def _fitting(message: Message) -> Message:
    """The same with each clip as windows of 30 s. Raises `ApiError` for more than fit."""
    parts: list[str | Samples] = []
    for part in message.content:
        parts += [part] if isinstance(part, str) else [audio for _, audio in windows(part)]
    count = sum(not isinstance(part, str) for part in parts)
    if count > tasks.MOST_CLIPS:
        most = f"more than {tasks.MOST_CLIPS} clips of 30 s in one message"
        raise ApiError(400, f"messages: {most}; remedy: less audio at once", "too_much_audio", "messages")
    return replace(message, content=tuple(parts))


async def _in_time(timeout: float, work: Coroutine[Any, Any, T]) -> T:  # noqa: ASYNC109 (told to the models too)
    """What `work` gives. Raises `ApiError` for whatever goes wrong, without its words: they may be what was said."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(timeout + 1.0):
            return await work
    except ConfigurationError as error:
        raise ApiError(400, str(error), "invalid_request") from error
    except (TimeoutError, BusyError) as error:
        if isinstance(error, UnwellError):
            raise ApiError(503, "the model is out of order; remedy: try again in a minute", "unwell") from error
        if isinstance(error, TimeoutError) or time.monotonic() - began >= timeout:
            raise ApiError(504, f"no answer within {timeout:.0f} s", "timeout") from error
        raise ApiError(503, "too much is asked at once; remedy: try again", "overloaded") from error
    except PromptError as error:
        raise ApiError(400, f"messages: {error}", "invalid_prompt", "messages") from error
    except ModelError as error:
        log.warning("a request failed: %s", error)
        raise ApiError(500, "the model failed on this request", "model_failed") from error


@asynccontextmanager
async def loaded(config: Config, cores: int) -> AsyncIterator[House]:
    """YAMNet, Whisper and, with profile qwen or hybrid, the audio language model, all ready. Raises `ModelError`.

    Whisper recognises as many utterances at once as fit on so many cores.
    """
    if config.profile == "remote":
        raise ConfigurationError(NOTHING)
    checkpoint = None if config.profile == "embedded" else startup.audio_llm_folder(config)
    speech = config.speech.model_copy(update={"word_times": True})
    small = config.model_copy(update={"profile": "embedded", "speech": speech})
    recognisers = max(1, min(MOST_RECOGNISERS, cores // speech.threads))
    files = await asyncio.to_thread(startup.fetch_models, small)
    models = await startup.load_models(small, files, recognisers=recognisers)
    try:
        recogniser = await models.recogniser()
        if config.speech.enabled and recogniser is None:
            raise ModelError("speech.model cannot be loaded; remedy: kikimimi doctor")
        if checkpoint is not None:
            llm = startup.resident_llm(checkpoint, config.models.audio_llm)
            models = replace(models, llm=llm)
            if not await llm.ready():
                raise ModelError(f"the audio language model is not there: {llm.reason}")
            if await llm.call(lambda model: model.tagged, priority=Priority.QUESTION, deadline=None):
                raise ModelError(f"{llm.name} is a base model and does not converse; remedy: qwen-audio-chat")
        yield House(models, recogniser, startup.hearing_settings(config), config.serve.timeout)
    finally:
        models.shutdown()


async def serve(config: Config, stopping: asyncio.Event) -> None:
    """Serve in this process until `stopping`. Raises `AssistantError`."""
    from assistant.serve.application import build  # noqa: PLC0415 (FastAPI only where it serves)
    from assistant.web.application import Server  # noqa: PLC0415

    settings = config.serve
    settings.secret()  # what is wrong with it is told before a model is loaded
    async with loaded(config, cores()) as house:
        server = Server(
            build(house, settings, __version__),
            connections=CONNECTIONS,
            head_within=HEAD_WITHIN,
            stop=STOP,
            idle=IDLE,
        )
        with opened(settings.host, settings.port) as sock:
            port = sock.getsockname()[1]
            names = ", ".join(served.name for served in house.served())
            serving = asyncio.create_task(
                server.serve_on(sock, lambda: log.info("http://%s/v1 serves %s", at(settings.host, port), names)),
                name="serve",
            )
            stopped = asyncio.create_task(stopping.wait())
            await asyncio.wait((serving, stopped), return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving


def opened(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises `AssistantError`."""
    try:
        sock = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise AssistantError(
            f"{at(host, port)} cannot be opened ({error.strerror or error}); remedy: serve.host, serve.port or --port"
        ) from error
    sock.setblocking(False)
    return sock


def at(host: str, port: int) -> str:
    """`host:port` as in an address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
