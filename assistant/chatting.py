"""Who answers the chats of the page: the resident audio language model, else Whisper and YAMNet what they can.

Questions come after sounds and speech and have a deadline, as those over MQTT. Whoever stops an answer, or closes its
connection, frees the model at its next token.
"""

from __future__ import annotations

import asyncio
import io
import logging
import time
import wave
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import numpy as np
import soxr
from numpy.typing import NDArray

from assistant.audio.recording import decoded, shown_name
from assistant.chats import CLIPS, LONGEST, Chat, Chats, Clip, Ended, Kind, Origin, Turn, pcm_of
from assistant.errors import AssistantError, ConfigurationError, ModelError
from assistant.events import SAMPLE_RATE, Samples, iso
from assistant.models import tasks
from assistant.models.audio_llm import Message
from assistant.models.overlap import windows
from assistant.models.tasks import MOST_CLIPS, TASKS, TaskOptions, TaskResult
from assistant.models.whisper import Whisper
from assistant.resident import Priority
from assistant.small_tasks import SPEECH, TAG, Listener, by_tagger, by_whisper
from assistant.web.ask import Abilities, ChatState, ChatSummary, ClipState, Question, TaskAbility, TurnState

if TYPE_CHECKING:
    from assistant.models.audio_llm import AudioLLM
    from assistant.pipeline import Caller, HearingSettings, Models
    from assistant.voices.voice import Spoken
    from assistant.web.ask import Lacks

log = logging.getLogger(__name__)

ANSWER_WITHIN: Final = 180.0  # seconds, the wait for others included: somebody watches, and can stop it
PATIENCE: Final = 10.0  # seconds without a piece until a stream says that it is still there
LOAD_WITHIN: Final = 15.0  # seconds that a list of abilities waits for a recogniser that loads
GRACE: Final = 5.0  # seconds that a room may be late
SAYING: Final = 2  # texts that the voice says at once
RECORDED: Final = 0.25  # seconds between two looks at what a room has heard
OPTIONS: Final = ("text", "to", "language")
NO_LLM: Final = (
    "needs an audio language model, which this profile has not; remedy: profile: hybrid, qwen or remote (kikimimi "
    "doctor tells what fits this machine)"
)
TAG_ABOUT: Final = "name the sounds with their scores and times"


class Stream(Protocol):
    """What is heard in a room."""

    @property
    def position(self) -> int:
        """Samples heard so far."""

    def audio(self, start: int, end: int) -> Samples:
        """What is still in memory of `start` to `end` (samples)."""


@dataclass(frozen=True, slots=True)
class Lent:
    """What the daemon lends to chats; what may change while it runs is asked for each time."""

    models: Models
    hearing: Callable[[], HearingSettings]
    rooms: Callable[[], Mapping[str, str]]  # names by id
    stream: Callable[[str], Stream | None]  # of a room; None: it is not heard just now
    say: Callable[[str, str | None], Awaitable[Spoken]]
    voice: bool
    clip: Callable[[str], bytes] | None  # the kept clip of an event, read in a thread; raises `OSError`


class Chatting:
    """Implements `AskService`. On the loop; decoding goes to a thread, models have theirs."""

    def __init__(self, house: Lent) -> None:
        self._house = house
        self._store = Chats()
        self._making: dict[str, asyncio.Task[None]] = {}  # answers, by chat
        self._recording: dict[str, asyncio.Event] = {}  # set to end it, by chat
        self._saying = asyncio.Semaphore(SAYING)

    def health(self) -> Mapping[str, Any]:
        """Figures; what nobody has used for long is forgotten now."""
        self._store.forget_old(time.time())
        return {
            "chats": len(self._store),
            "audio_s": round(self._store.seconds, 1),
            "answering": len(self._making),
            "refused": self._store.refused,
            "forgotten": self._store.forgotten,
        }

    # -------------------------------------------------------------------------------------------- what there is

    async def abilities(self) -> Abilities:
        """What can be asked, as the models are now. Raises `AssistantError` while that is not known."""
        models = self._house.models
        llm, known = models.conversing, None
        if llm is None:
            try:
                async with asyncio.timeout(LOAD_WITHIN):
                    known, _ = await self._whisper()
            except TimeoutError:
                raise AssistantError("speech recognition is still loading; remedy: try again in a moment") from None
        into = list(tasks.LANGUAGES) if llm is not None else ["en"] if known and known.multilingual else []
        spoken = list(tasks.LANGUAGES) if llm is not None else sorted(known.supported) if known else []
        if known is not None and not known.multilingual:
            spoken = ["en"]
        about = {name: (task.about, task.needs, task.takes) for name, task in TASKS.items()}
        about[TAG] = (TAG_ABOUT, (), ())
        listed = []
        for name, (text, needs, takes) in about.items():
            lacks = self._lacks(name, known)
            listed.append(
                TaskAbility(
                    name=name,
                    about=text,
                    needs=list(needs),
                    takes=[option for option in takes if option in OPTIONS],
                    able=lacks is None,
                    lacks=lacks,
                )
            )
        return Abilities(
            model=None if llm is None else llm.name,
            status="none" if llm is None else llm.status.value,
            tasks=listed,
            spoken=spoken,
            into=into,
            voice=self._house.voice,
            longest=LONGEST,
            clips=CLIPS,
        )

    def _lacks(self, task: str, whisper: Whisper | None) -> Lacks | None:
        if task == TAG or self._house.models.conversing is not None:
            return None
        if task not in SPEECH:
            return "audio_llm"
        if whisper is None:
            return "speech"
        return "multilingual" if task == "translate" and not whisper.multilingual else None

    def chats(self) -> Sequence[ChatSummary]:
        """All, the one used last first."""
        self._store.forget_old(time.time())
        return [
            ChatSummary(
                id=chat.id,
                kind=chat.kind.value,
                title=chat.title,
                made=iso(chat.made),
                used=iso(chat.used),
                turns=len(chat.turns),
                clips=len(chat.clips),
            )
            for chat in self._store.all()
        ]

    def chat(self, chat: str) -> ChatState | None:
        """A chat with its history."""
        try:
            found = self._store.get(chat)
        except KeyError:
            return None
        return ChatState(
            id=found.id,
            kind=found.kind.value,
            title=found.title,
            made=iso(found.made),
            used=iso(found.used),
            turns=[_turn_state(turn) for turn in found.turns],
            clips=[_clip_state(clip) for clip in found.clips.values()],
        )

    def begin(self, kind: Literal["chat", "practice"]) -> ChatState:
        """A new chat."""
        made = self.chat(self._store.begin(Kind(kind), time.time()).id)
        assert made is not None  # noqa: S101 (for the type checker)
        return made

    def end(self, chat: str) -> None:
        """Forget a chat; what is being made for it ends."""
        self.stop(chat)
        self._store.end(chat)

    def stop(self, chat: str) -> None:
        """End the answer or the recording that is being made."""
        if (making := self._making.get(chat)) is not None:
            making.cancel()
        if (recording := self._recording.get(chat)) is not None:
            recording.set()

    # -------------------------------------------------------------------------------------------- recordings

    async def add_recording(
        self, chat: str, content: bytes, name: str, origin: Literal["upload", "microphone"]
    ) -> ClipState:
        """Decode a file in memory. Raises `SourceError` for what is no audio."""
        self._store.fits(chat, 0.0)
        samples = await asyncio.to_thread(decoded, content, name or "the recording", longest=LONGEST)
        return await self._keep(chat, samples, shown_name(name) if name else "", Origin(origin))

    async def add_event(self, chat: str, event: str) -> ClipState:
        """The clip of an event, read from the folder of clips."""
        self._store.fits(chat, 0.0)
        read = self._house.clip
        try:
            found = None if read is None else await asyncio.to_thread(read, event)
        except FileNotFoundError:
            found = None
        except OSError as error:
            raise AssistantError(
                f"the clip cannot be read ({error.strerror}); remedy: the owner of clips.dir"
            ) from error
        if found is None:
            raise AssistantError("no clip of this event was kept, or it is deleted; remedy: clips.keep says which are")
        samples = await asyncio.to_thread(decoded, found, f"the clip of {event}", longest=LONGEST)
        return await self._keep(chat, samples, await asyncio.to_thread(_title_of, found), Origin.EVENT)

    async def add_room(self, chat: str, room: str, seconds: float, *, upcoming: bool) -> ClipState:
        """What was heard last in a room, or will be."""
        self._store.fits(chat, seconds)
        names = self._house.rooms()
        if room not in names:
            raise AssistantError(f"room: there is no room {room}; there is {', '.join(names)}")
        stream = self._house.stream(room)
        if stream is None:
            raise AssistantError(f"{room}: is not heard just now; remedy: turn its listening switch on, see its reason")
        count = round(seconds * SAMPLE_RATE)
        if upcoming:
            samples = await self._recorded(chat, room, stream, count)
        else:
            samples = stream.audio(max(0, stream.position - count), stream.position)
        if not len(samples):
            raise AssistantError(f"{room}: nothing has been heard there yet; remedy: try again in a moment")
        return await self._keep(chat, samples, names[room], Origin.ROOM)

    async def _recorded(self, chat: str, room: str, stream: Stream, count: int) -> Samples:
        """The next `count` samples of a room; fewer when it is stopped, or the room goes offline meanwhile."""
        if chat in self._recording:
            raise AssistantError("a room is being recorded for this chat already; remedy: wait, or stop it")
        stop = self._recording[chat] = asyncio.Event()
        at, end = stream.position, stream.position + count
        until = time.monotonic() + count / SAMPLE_RATE + GRACE
        pieces: list[Samples] = []
        try:
            while at < end and not stop.is_set() and time.monotonic() < until and self._house.stream(room) is stream:
                with suppress(TimeoutError):
                    async with asyncio.timeout(RECORDED):
                        await stop.wait()
                now = min(stream.position, end)
                pieces.append(stream.audio(at, now))
                at = now
        finally:
            del self._recording[chat]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)

    async def _keep(self, chat: str, samples: Samples, name: str, origin: Origin) -> ClipState:
        pcm = await asyncio.to_thread(pcm_of, samples)
        try:
            return _clip_state(self._store.add(chat, pcm, name, origin, time.time()))
        except KeyError:
            raise AssistantError("the chat was deleted meanwhile") from None

    def remove(self, chat: str, clip: str) -> None:
        """Forget a recording."""
        self._store.remove(chat, clip)

    def audio(self, chat: str, clip: str) -> bytes:
        """A recording as WAV."""
        return _wav(self._store.get(chat).clips[clip].pcm)

    async def say(self, text: str, language: str | None) -> bytes:
        """A text as speech. Raises `VoiceError`."""
        async with self._saying:
            spoken = await self._house.say(text, language)
        samples = await asyncio.to_thread(soxr.resample, spoken.samples, spoken.rate, SAMPLE_RATE)
        return _wav(pcm_of(samples))

    # -------------------------------------------------------------------------------------------- answers

    def ask(self, chat: str, question: Question) -> AsyncGenerator[TurnState | str, None]:
        """See `AskService.ask`. What is wrong with the question is raised here, before anything is streamed."""
        found = self._store.get(chat)
        options = self._options_of(question)
        clips = [clip for identity in dict.fromkeys(question.clips) if (clip := found.clips.get(identity))]
        if len(clips) < len(set(question.clips)):
            raise AssistantError("clips: one of them is not in this chat; remedy: leave it out")
        if not clips and question.task != "ask":
            raise AssistantError(f"clips: the task {question.task} needs a recording")
        turn = self._store.ask(chat, question.task, options, tuple(clip.id for clip in clips), time.time())
        steps: asyncio.Queue[str | None] = asyncio.Queue()  # as long as an answer
        making = asyncio.create_task(self._make(found, turn, clips, steps), name="answer of a chat")
        self._making[chat] = making
        making.add_done_callback(lambda _task: self._made(chat, turn, steps))
        return _steps(turn, making, steps)

    def _options_of(self, question: Question) -> dict[str, str]:
        if question.task not in TASKS and question.task != TAG:
            raise AssistantError(f"task: there is no task {question.task}; there are {', '.join((*TASKS, TAG))}")
        needs, takes = ((), ()) if question.task == TAG else (TASKS[question.task].needs, TASKS[question.task].takes)
        options = {}
        for option in OPTIONS:
            value = getattr(question, option)
            if value is not None and option not in (*needs, *takes):
                raise AssistantError(f"{option}: means nothing to the task {question.task}; leave it out")
            if option in needs and not (value or "").strip():
                raise AssistantError(f"{option}: the task {question.task} needs it")
            if value is not None:
                options[option] = value
        if self._house.models.conversing is None and question.task not in (*SPEECH, TAG):
            raise AssistantError(f"task: {question.task} {NO_LLM}")
        return options

    def _made(self, chat: str, turn: Turn, steps: asyncio.Queue[str | None]) -> None:
        """An answer is over, also one that was stopped before it began."""
        turn.ended = turn.ended or Ended.STOPPED
        del self._making[chat]
        steps.put_nowait(None)

    async def _make(self, chat: Chat, turn: Turn, clips: Sequence[Clip], steps: asyncio.Queue[str | None]) -> None:
        def piece(text: str) -> None:
            turn.text += text
            steps.put_nowait(text)

        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                result, turn.model = await self._answer(chat, turn, clips, piece)
        except TimeoutError:
            turn.ended, turn.problem = Ended.FAILED, f"there was no answer within {ANSWER_WITHIN:.0f} s"
        except AssistantError as error:
            turn.ended, turn.problem = Ended.FAILED, str(error)
        except Exception:
            log.exception("a question of the page failed")
            turn.ended, turn.problem = Ended.FAILED, "something went wrong; the log of the daemon says what"
        else:
            turn.text, turn.data = result.text, result.data
            turn.ended = Ended.LENGTH if result.data.get("stop") == "length" else Ended.END
        finally:
            chat.used = time.time()

    async def _answer(
        self, chat: Chat, turn: Turn, clips: Sequence[Clip], piece: Callable[[str], None]
    ) -> tuple[TaskResult, str | None]:
        """The result, and the name of the model."""
        models, hearing = self._house.models, self._house.hearing()
        audio = await asyncio.to_thread(lambda: [clip.samples() for clip in clips])
        given = turn.options
        options = TaskOptions(given.get("language"), given.get("to"), given.get("text"), stream=piece)
        if turn.task == TAG:
            return await by_tagger(audio, models.tagger, models.tagging), "yamnet"
        if turn.task in SPEECH:
            whisper, thread = await self._whisper()
            if whisper is not None:
                listener = Listener(whisper, thread, models, hearing)
                return await by_whisper(turn.task, audio, options, listener), whisper.name
        llm = models.conversing
        if llm is None:
            raise ModelError("speech recognition is off or could not be loaded; remedy: kikimimi doctor")
        loop = asyncio.get_running_loop()

        def from_thread(text: str) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(piece_if_wanted, text)

        def piece_if_wanted(text: str) -> None:
            if turn.ended is None:
                piece(text)

        options = replace(options, stream=from_thread)
        outcome = await llm.call(
            lambda model: _asked(model, chat, turn, audio, options), priority=Priority.QUESTION, deadline=ANSWER_WITHIN
        )
        if isinstance(outcome, ConfigurationError):
            raise outcome
        return outcome, llm.name

    async def _whisper(self) -> tuple[Whisper | None, Caller]:
        """Whisper where it is the recogniser now; None: the audio language model is, or nobody."""
        models = self._house.models
        if models.llm is not None and models.stand_in is None:
            return None, models.recognising
        if models.llm is not None and models.conversing is None and models.stand_in and models.standing_in:
            recogniser, thread = await models.stand_in(), models.standing_in  # a server tells no times of words
            return recogniser if isinstance(recogniser, Whisper) else None, thread
        recogniser, thread = await models.recognition()
        return recogniser if isinstance(recogniser, Whisper) else None, thread


async def _steps(
    turn: Turn, making: asyncio.Task[None], steps: asyncio.Queue[str | None]
) -> AsyncGenerator[TurnState | str, None]:
    try:
        yield _turn_state(turn)
        while True:
            try:
                async with asyncio.timeout(PATIENCE):
                    step = await steps.get()
            except TimeoutError:
                yield ""
                continue
            if step is None:
                break
            yield step
        yield _turn_state(turn)
    finally:
        making.cancel()  # nobody reads it any more


def _asked(
    llm: AudioLLM, chat: Chat, turn: Turn, audio: Sequence[Samples], options: TaskOptions
) -> TaskResult | ConfigurationError:
    """In the model's thread. A mistake of who asks is no failure of the model."""
    try:
        if turn.task != "ask":
            return TASKS[turn.task].run(llm, audio, options)
        alone = len(audio) == 1 and len(windows(audio[0])) > MOST_CLIPS
        if llm.tagged or alone:
            return TASKS["ask"].run(llm, audio, options)
        reply = tasks.chat(llm, conversation(chat, turn, audio), stream=options.stream)
    except ConfigurationError as error:
        return error
    return TaskResult(reply.text, {"answer": reply.text, "stop": reply.stop.value})


def conversation(chat: Chat, turn: Turn, audio: Sequence[Samples]) -> list[Message]:
    """What was said before `turn`, and its question; clips that were removed, or are too many, are left out."""
    messages: list[Message] = []
    for past in list(chat.turns):
        if past is turn:
            break
        if past.text and past.ended is not Ended.FAILED:
            heard = [clip.samples() for identity in past.clips if (clip := chat.clips.get(identity))]
            if sum(len(windows(one)) for one in heard) > MOST_CLIPS:
                heard = []
            messages.append(Message("user", (*heard, _wording(past))))
            messages.append(Message("assistant", (past.text,)))
    return [*messages, Message("user", (*audio, _wording(turn)))]


def _wording(turn: Turn) -> str:
    """A task in words, as the model reads what was asked before."""
    if turn.task == "ask":
        return turn.options.get("text", "")
    about = TAG_ABOUT if turn.task == TAG else TASKS[turn.task].about
    given = ", ".join(f"{name}: {value}" for name, value in turn.options.items())
    return f"Please {about}{f' ({given})' if given else ''}."


def _turn_state(turn: Turn) -> TurnState:
    return TurnState(
        id=turn.id,
        asked=iso(turn.asked),
        task=turn.task,
        options=turn.options,
        clips=list(turn.clips),
        text=turn.text,
        data=turn.data,
        model=turn.model,
        ended=None if turn.ended is None else turn.ended.value,
        problem=turn.problem,
    )


def _clip_state(clip: Clip) -> ClipState:
    return ClipState(
        id=clip.id, name=clip.name, origin=clip.origin.value, added=iso(clip.added), seconds=round(clip.seconds, 2)
    )


def _wav(pcm: NDArray[np.int16]) -> bytes:
    packed = io.BytesIO()
    with wave.open(packed, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(pcm.astype("<i2").tobytes())
    return packed.getvalue()


def _title_of(flac: bytes) -> str:
    """What a kept clip says it is of."""
    import soundfile  # noqa: PLC0415

    try:
        with soundfile.SoundFile(io.BytesIO(flac)) as file:
            return shown_name(str(file.title or "event").replace("_", " "))
    except soundfile.LibsndfileError:
        return ""
