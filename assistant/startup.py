"""From the configuration to the parts of a run: rooms, sources, verified model files, loaded models."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import re
import secrets
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from assistant import __version__, registry
from assistant.attention import Wake
from assistant.audio.address import kind_of, without_secrets
from assistant.config import RESERVED_ROOMS, Config, RoomSettings, shipped
from assistant.errors import AssistantError, ConfigurationError, ModelError
from assistant.events import Samples
from assistant.house_sounds import HouseSounds
from assistant.judging import LIFE_SAFETY
from assistant.models import hub, store, tasks
from assistant.models.batching import Batched
from assistant.models.catalogue import HUB
from assistant.models.classify import LLMTagger
from assistant.models.llm_recogniser import LLMRecogniser
from assistant.models.relatives import model_type
from assistant.models.remote import Remote
from assistant.models.remote_recogniser import RemoteRecogniser
from assistant.outputs.topics import Home, SoundType
from assistant.outputs.topics import Room as AnnouncedRoom
from assistant.pipeline import MODEL_TIMEOUT, HearingSettings, Models, ModelThread, Recogniser, Tagger
from assistant.resident import BATCH_CPU, BATCH_GPU, Lane, Priority, Resident
from assistant.switches import Switches
from assistant.taught_folder import TaughtFolder
from assistant.taught_sounds import TaughtSound
from assistant.tracking import OTHER, SoundTable, load_table
from assistant.understanding import SharedTagger

if TYPE_CHECKING:
    from assistant.audio.source import Source
    from assistant.models.audio_llm import AudioLLM, AudioLLMSettings

log = logging.getLogger(__name__)

WHISPERS = {"base": "whisper-base", "tiny.en": "whisper-tiny.en"}  # `speech.model` → the store's name
LLM_PACKAGES = ("torch", "transformers", "accelerate", "tiktoken")  # the extra qwen
LARGE = 2_000_000_000  # bytes of weights from which a CPU is no home for a model, unless somebody insists
JOBS = 16  # that may be under way with the audio language model; each asks one thing at a time
SPEECH_DEADLINE = 30.0  # seconds that an utterance may wait for the audio language model
DEVICES = {
    "microphone": "Microphone",
    "file": "Recording",
    "pcm": "Audio pipe",
    "stream": "Network stream",
    "satellite": "Satellite",
}
ROOM_ID = re.compile(r"[a-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Room:
    """A room to listen to."""

    id: str
    address: str  # device, file, URL or "-"
    name: str | None = None
    area: str | None = None
    languages: tuple[str, ...] | None = None
    wake: Wake = Wake.WAKE
    speaker: str | None = None  # where replies are heard; None: as fits its source
    required: bool = False  # the daemon gives up when this source cannot be opened

    @property
    def live(self) -> bool:
        """Whether the source lasts (a microphone, a stream, a satellite) or ends by itself (a file, a pipe)."""
        return kind_of(self.address) in {"microphone", "stream", "satellite"}

    @property
    def microphone(self) -> bool:
        """Whether the source is a microphone of this machine."""
        return kind_of(self.address) == "microphone"

    @property
    def recorded(self) -> bool:
        """Whether the source is a file."""
        return kind_of(self.address) == "file"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Verified files of the models that a profile needs."""

    tagger: Path
    recogniser: Path | None  # None: speech is switched off, or the audio language model recognises it
    audio_llm: Path | None = None  # a checkpoint's folder: profiles qwen and hybrid


def room_id(address: str) -> str:
    """The room of a source that names none: a file's stem in lower case, `home` for anything else."""
    if kind_of(address) != "file":
        return "home"
    stem = re.sub(r"[^a-z0-9_]+", "-", Path(address).stem.lower()).strip("-") or "home"
    return f"{stem}-room" if stem in RESERVED_ROOMS else stem


def rooms_of(config: Config, sources: Sequence[str]) -> list[Room]:
    """The rooms of the command line, else those of the configuration, else the default microphone as `home`.

    A source of the command line is `ROOM=ADDRESS` or an address alone. Raises `ConfigurationError` for a room
    given twice and for one that cannot be a room.
    """
    rooms: list[Room] = []
    for text in sources:
        identity, address = _room_and_address(text)
        known = config.rooms.get(identity)
        # The only source that was asked for must be there at once; beside others it may come later.
        required = len(sources) == 1
        rooms.append(
            replace(configured_room(identity, known), address=address, required=required)
            if known is not None
            else Room(identity, address, required=required)
        )
    if not sources:
        # Without a microphone there is nothing to hear, but with the page another source can be chosen there.
        rooms = [configured_room(identity, room) for identity, room in config.rooms.items()] or [
            Room("home", "default", required=not config.web.enabled)
        ]
    for room in rooms:
        if sum(other.id == room.id for other in rooms) > 1:
            raise ConfigurationError(f"room {room.id} has two sources; remedy: --source ROOM=… with another room id")
    return rooms


def configured_room(identity: str, room: RoomSettings) -> Room:
    """A room as the configuration has it."""
    return Room(
        identity,
        room.source,
        name=room.name,
        area=room.area,
        languages=room.languages,
        wake=room.wake,
        speaker=room.speaker,
    )


def _room_and_address(text: str) -> tuple[str, str]:
    name, equals, address = text.partition("=")
    # The = of a URL's query or inside a path is not ours.
    if not equals or re.search(r"[/:]", name) or os.path.lexists(text):
        return room_id(text), text
    shown = f"{name}={without_secrets(address)}" if "://" in address else text
    if ROOM_ID.fullmatch(name) is None:
        raise ConfigurationError(
            f"--source {shown}: {name!r} is not a room id; remedy: use a-z, 0-9, _ and -, or leave {name}= out"
        )
    if name in RESERVED_ROOMS:
        raise ConfigurationError(
            f"--source {shown}: {name} is a topic of the daemon; remedy: another room id, for example {name}-room"
        )
    if not address:
        raise ConfigurationError(f"--source {shown}: the source is missing; remedy: --source {name}=DEVICE")
    return name, address


def open_source(room: Room, speed: float) -> Source:
    """The source of a room; nothing is opened before its chunks are asked for."""
    kind = kind_of(room.address)
    source = registry.load(registry.SOURCES, kind)
    opened: Source = source(room.id, room.address, speed=speed) if kind == "file" else source(room.id, room.address)
    return opened


def fetch_tagger(config: Config, progress: Callable[[str, int, int], None] | None = None) -> Path:
    """The tagger's file, fetched and verified where it is not yet there. Raises `ModelError`."""
    return store.pull("yamnet", config.models.dir, progress) / "yamnet.tflite"


def fetch_models(config: Config, progress: Callable[[str, int, int], None] | None = None) -> ModelFiles:
    """The files of the tagger and of the recogniser, fetched and verified where they are not yet there.

    An audio language model is not fetched here: it is too large to come unasked. Raises `ModelError` with everything
    that its profile lacks on this machine.
    """
    if config.profile == "remote":
        Remote(config.models.remote)  # without an address nothing is fetched
    checkpoint = audio_llm_folder(config) if config.profile in {"qwen", "hybrid"} else None
    tagger = fetch_tagger(config, progress)
    if checkpoint is not None:
        return ModelFiles(tagger, None, checkpoint)
    if not config.speech.enabled:
        return ModelFiles(tagger, None)
    name = WHISPERS.get(config.speech.model)
    if name is None:
        folder = Path(config.speech.model).expanduser()
        if not (folder / "model.bin").is_file():
            raise ModelError(
                f"speech.model: {config.speech.model!r} is neither {' nor '.join(WHISPERS)} nor a folder with model.bin"
            )
        return ModelFiles(tagger, folder)
    return ModelFiles(tagger, store.pull(name, config.models.dir, progress))


def audio_llm_folder(config: Config) -> Path:
    """Where the checkpoint of the profile is, when everything that it needs is there.

    Raises `ModelError` that names each thing that is missing, what to do about it, and which profile runs without.
    """
    settings = config.models.audio_llm
    missing = [f"the package {name}" for name in LLM_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        missing = [f"{' and '.join(missing)} (remedy: pip install 'kikimimi[qwen]')"]
    folder, size = None, 0
    try:
        folder = hub.located(settings.checkpoint, config.models.dir)
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    except ModelError as error:
        missing.append(str(error))
        size = HUB[settings.checkpoint].size if settings.checkpoint in HUB else 0
    if settings.device == "auto" and size >= LARGE and not (importlib.util.find_spec("torch") and _has_gpu()):
        missing.append(
            f"a GPU: with {size / 1e9:.1f} GB of weights a CPU takes minutes where a GPU takes seconds (remedy: a CUDA "
            "GPU and a CUDA build of torch; kikimimi doctor tells what fits; or insist: models.audio_llm.device: cpu)"
        )
    if missing or folder is None:
        raise ModelError(
            f"the profile {config.profile} lacks {'; and '.join(missing)}. "
            "The profile embedded runs without: --profile embedded"
        )
    return folder


def _has_gpu() -> bool:
    import torch  # noqa: PLC0415 (seconds: only where it is chosen)

    return torch.cuda.is_available()


def on_gpu(settings: AudioLLMSettings) -> bool:
    """Whether the audio language model lives on a GPU, by choice or because torch finds one."""
    return settings.device.startswith("cuda") or (settings.device == "auto" and _has_gpu())


def load_audio_llm(folder: Path, settings: AudioLLMSettings) -> AudioLLM:
    """The audio language model of a checkpoint, of whichever family its config.json names. Raises `ModelError`.

    Call it in the thread that will call the model (`resident_llm` does).
    """
    family = model_type(folder)
    if family not in registry.AUDIO_LLMS:
        raise ModelError(
            f"{folder / 'config.json'}: model_type is {family!r}, none of {', '.join(registry.AUDIO_LLMS)}; remedy: "
            "another checkpoint, see kikimimi models list"
        )
    try:
        llm: AudioLLM = registry.load(registry.AUDIO_LLMS, family)(folder, settings)
    except ImportError as error:
        raise ModelError(f"{error}; remedy: pip install 'kikimimi[qwen]'") from error
    return llm


def resident_llm(folder: Path, settings: AudioLLMSettings) -> Resident:
    """The audio language model of a checkpoint for all rooms; it begins to load. To be made inside a running loop."""
    batch = BATCH_GPU if on_gpu(settings) else BATCH_CPU
    return Resident(
        lambda: Batched(lambda: load_audio_llm(folder, settings)), batch=batch, threads=JOBS, reserve=JOBS // 4
    )


def model_names(config: Config) -> list[str]:
    """The names of the models that this configuration uses: the store's, and those of checkpoints of the hub."""
    if config.profile in {"qwen", "hybrid"}:
        return ["yamnet"] + [name for name in (config.models.audio_llm.checkpoint,) if name in HUB]
    recogniser = WHISPERS.get(config.speech.model) if config.speech.enabled else None
    return ["yamnet"] + ([recogniser] if recogniser else [])


def house_words(config: Config) -> tuple[str, ...]:
    """Names of rooms and devices as people say them, for the recogniser to favour."""
    rooms = (name for room in config.rooms.values() for name in (room.name, room.area) if name)
    devices = (name for device in config.devices for name in (device.name, *device.aliases, device.area) if name)
    return tuple(dict.fromkeys((*rooms, *devices)))


def hearing_settings(config: Config, state: Path | None = None) -> HearingSettings:
    """What the stages of every stream need. Raises `ConfigurationError` for a broken sound table.

    `state` is the folder where taught sounds are; None: that of the user.
    """
    table = load_table(config.sounds.table or shipped("sounds.yaml"))
    return HearingSettings(
        activity=config.sounds.activity,
        windows=config.sounds.windows,
        speech=config.speech.utterances,
        sounds=config.sounds,
        table=table,
        words=house_words(config),
        recognise=config.speech.enabled,
        taught=taught_sounds(TaughtFolder(state), table),
        ignored=frozenset(config.sounds.ignore),
    )


def house_sounds(state: Path | None = None) -> HouseSounds:
    """What this house sounds like, as far as it was heard; not yet read."""
    return HouseSounds((state or platformdirs.user_state_path("kikimimi")) / "house-sounds.npz")


def taught_sounds(folder: TaughtFolder, table: SoundTable) -> tuple[TaughtSound, ...]:
    """The household's own sounds; what is wrong with a file, or a name that the table has by now, is logged."""
    sounds, problems = folder.read()
    clashing = [sound.name for sound in sounds if sound.name in reserved_sounds(table)]
    problems += [f"{name}: the sound table has a sound of that name; teach yours by another name" for name in clashing]
    for problem in problems:
        log.warning("taught sounds: %s", problem)
    return tuple(sound for sound in sounds if sound.name not in clashing)


def reserved_sounds(table: SoundTable) -> frozenset[str]:
    """Event types that cannot be taught."""
    return frozenset({*table.groups, OTHER, "speech", "test", "any"})


def home_of(
    config: Config, rooms: Sequence[Room], table: SoundTable, switches: Switches, taught: Sequence[TaughtSound] = ()
) -> Home:
    """What the MQTT output announces: rooms, how they are switched, and every event type, taught ones too."""
    return Home(
        install=install_id(),
        version=__version__,
        rooms=tuple(announced_room(room, switches) for room in rooms),
        sounds=tuple(
            SoundType(name, name.replace("_", " ").capitalize(), group.alert, name in LIFE_SAFETY)
            for name, group in table.groups.items()
            if name not in config.sounds.ignore
        )
        + tuple(
            SoundType(sound.name, sound.title)
            for sound in taught
            if sound.name not in {*table.groups, *config.sounds.ignore}
        ),
        transcripts=config.privacy.transcripts,
        url=config.web.public_url if config.web.enabled else None,
        listening=switches.own(None),
        clips=config.clips.enabled,
    )


def announced_room(room: Room, switches: Switches) -> AnnouncedRoom:
    """A room as the house announces it; the address itself stays at home: it may hold a password."""
    return AnnouncedRoom(
        room.id,
        room.name or room.id.replace("-", " ").capitalize(),
        room.area,
        DEVICES[kind_of(room.address)],
        listening=switches.own(room.id),
        sensitivity=switches.sensitivity(room.id),
    )


def install_id() -> str:
    """A few letters that tell this installation from others on one broker, the same for ever.

    Raises `AssistantError` when they can neither be read nor kept: new ones at each start would fill Home Assistant
    with dead devices.
    """
    path = platformdirs.user_state_path("kikimimi") / "install-id"
    try:
        if path.is_file():
            known = path.read_text("ascii").strip()
            if re.fullmatch(r"[a-z0-9]{4,16}", known):
                return known
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = secrets.token_hex(4)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(fresh + "\n", "ascii")
        temporary.replace(path)
    except (OSError, UnicodeDecodeError) as error:
        raise AssistantError(
            f"{path}: cannot keep the id of this installation ({error}); remedy: check its owner"
        ) from error
    return fresh


@contextmanager
def native_chatter_logged() -> Iterator[None]:
    """What native libraries write to stderr meanwhile goes to the DEBUG log: LiteRT greets with every interpreter."""
    with tempfile.TemporaryFile() as captured:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            captured.seek(0)
            for line in captured.read().decode("utf-8", "replace").splitlines():
                log.debug("%s", line)


async def load_models(config: Config, files: ModelFiles, *, recognisers: int = 1) -> Models:
    """Load the tagger now, the recogniser or audio language model in the background, each in its own thread.

    `recognisers` utterances are recognised at once (by Whisper, in the profile embedded), in as many threads.
    Raises `ModelError` for the tagger. Another one that cannot be loaded is logged, and sounds are heard all the same.
    """
    tagging = ModelThread("tagger")
    tagger = await _load_tagger(files, tagging)
    if config.profile == "remote":
        return _remote(config, tagger, tagging)
    if files.audio_llm is not None:
        return _understanding(config, files.audio_llm, tagger, tagging)
    recognising = ModelThread("recogniser", recognisers)
    work = _load_recogniser(config, files.recogniser, recognising, recognisers)
    loading = asyncio.create_task(work, name="load recogniser")
    return Models(tagger, tagging, lambda: asyncio.shield(loading), recognising)


def _understanding(config: Config, folder: Path, tagger: Tagger, tagging: ModelThread) -> Models:
    """The models of the profiles qwen and hybrid; the audio language model begins to load."""
    settings = config.models.audio_llm
    llm = resident_llm(folder, settings)

    made: Recogniser | None = None

    async def recogniser() -> Recogniser | None:
        nonlocal made
        if not config.speech.enabled or not await llm.ready():
            return None
        if made is None:
            made = await llm.call(
                lambda model: LLMRecogniser(model, config.speech.languages), priority=Priority.SPEECH, deadline=None
            )
        return made

    standing_in = ModelThread("recogniser")
    tagger_of_llm = None
    if config.profile == "qwen":
        table = load_table(config.sounds.table or shipped("sounds.yaml"))
        tagger_of_llm = SharedTagger(table, LLMTagger)
    return Models(
        tagger,
        tagging,
        recogniser,
        Lane(llm, Priority.SPEECH, SPEECH_DEADLINE),
        llm=llm,
        describe=_caption,
        llm_tagger=tagger_of_llm,
        stand_in=_stand_in(config, standing_in),
        standing_in=standing_in,
    )


def _remote(config: Config, tagger: Tagger, tagging: ModelThread) -> Models:
    """The models of the profile remote; its server begins to be asked what it has."""
    settings = config.models.remote
    remote = Remote(settings)
    log.info("speech and questions, with their audio, are sent to %s (models.remote.url)", settings.place)
    if settings.in_the_clear:
        log.warning(
            "%s: what was said can be read on its way; remedy: https:// in models.remote.url, or a network that is "
            "yours alone",
            settings.place,
        )
    llm = Resident(lambda: remote, batch=1, threads=settings.requests, trial=lambda _llm: remote.probe())
    made: Recogniser | None = None

    async def recogniser() -> Recogniser | None:
        nonlocal made
        if not config.speech.enabled or not await llm.ready():
            return None
        if made is None or made.name != (remote.transcriber or remote.name):
            if remote.transcriber is not None:
                made = RemoteRecogniser(remote, config.speech.languages, llm.given_up)
            else:
                made = await llm.call(
                    lambda model: LLMRecogniser(model, config.speech.languages), priority=Priority.SPEECH, deadline=None
                )
        return made

    standing_in = ModelThread("recogniser")
    return Models(
        tagger,
        tagging,
        recogniser,
        Lane(llm, Priority.SPEECH, SPEECH_DEADLINE),
        llm=llm,
        describe=lambda model, clip: None if remote.only_transcribes else _caption(model, clip),
        stand_in=_stand_in(config, standing_in),
        standing_in=standing_in,
        remote=remote,
    )


def _recogniser_files(config: Config) -> Path:
    """Where the recogniser of the profile embedded is. Raises `ModelError` when it was not fetched."""
    name = WHISPERS.get(config.speech.model)
    return Path(config.speech.model).expanduser() if name is None else store.path(name, config.models.dir)


def _stand_in(config: Config, recognising: ModelThread) -> Callable[[], Awaitable[Recogniser | None]]:
    """The recogniser of the profile embedded, loaded when it is first asked for, if its files are there.

    It is not fetched: most who run an audio language model never need it, and there may be no network.
    """
    loading: asyncio.Task[Recogniser | None] | None = None

    async def load() -> Recogniser | None:
        try:
            folder = await asyncio.to_thread(_recogniser_files, config)
        except ModelError as error:
            log.error("speech is not recognised while the audio language model is unwell: %s", error)  # noqa: TRY400
            return None
        return await _load_recogniser(config, folder, recognising)

    async def recogniser() -> Recogniser | None:
        nonlocal loading
        if not config.speech.enabled:
            return None
        if loading is None:
            loading = asyncio.create_task(load(), name="load stand-in recogniser")
        return await asyncio.shield(loading)

    return recogniser


def _caption(llm: AudioLLM, clip: Samples) -> str | None:
    (description,) = tasks.caption(llm, [clip], style="audiocaps")
    return description.text


async def _load_tagger(files: ModelFiles, tagging: ModelThread) -> Tagger:
    try:
        with native_chatter_logged():
            tagger: Tagger = await tagging.call(lambda: registry.load(registry.TAGGERS, "yamnet")(files.tagger))
            return tagger
    except ModelError:
        raise
    except TimeoutError as error:
        raise ModelError(f"{files.tagger}: took more than {MODEL_TIMEOUT:.0f} s to load; remedy: try again") from error
    except Exception as error:  # of the native library: one that this machine cannot load, a missing instruction set
        raise ModelError(
            f"{files.tagger}: cannot be loaded ({type(error).__name__}: {error}); remedy: kikimimi models verify "
            "yamnet, and install Kikimimi again"
        ) from error


async def _load_recogniser(
    config: Config, folder: Path | None, recognising: ModelThread, callers: int = 1
) -> Recogniser | None:
    if folder is None:
        return None
    started = time.monotonic()
    try:
        recogniser: Recogniser = await recognising.call(
            lambda: registry.load(registry.RECOGNISERS, "whisper")(folder, config.speech, callers)
        )
    except ModelError as error:
        log.error("speech is not recognised: %s", error)  # noqa: TRY400 (a person reads this: no traceback)
        return None
    except TimeoutError:
        log.error("speech is not recognised: loading took more than %.0f s", MODEL_TIMEOUT)  # noqa: TRY400
        return None
    except Exception:  # of the native library; sounds are heard all the same
        log.exception("speech is not recognised")
        return None
    log.info("%s is ready after %.1f s", recogniser.name, time.monotonic() - started)
    return recogniser
