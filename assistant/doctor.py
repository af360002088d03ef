"""`kikimimi doctor`: what this machine can run, what is missing, and which audio language model fits where.

Nothing is started, fetched or changed, and torch is not needed: it is imported only where it can compute on a GPU.

What a model needs, in bytes: its weights (2 for each parameter; when the decoder is quantised, 1.05 or 0.6 for those of
the decoder's matrices, their scales included, and 2 for the rest), its keys and values for `CONTEXT` tokens, and
`RESERVE` for activations and the GPU's own context. Weights and layers are read from a checkpoint's headers where one
is there, and come from the catalogue where none is.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from assistant import __version__, checkup, startup
from assistant.checkup import Check
from assistant.errors import AssistantError, ModelError
from assistant.models import hub, store
from assistant.models.catalogue import HUB, Weights

if TYPE_CHECKING:
    from assistant.config import Config

T = TypeVar("T")

CONTEXT = 2_048  # tokens that are held at once: two clips of 30 s (750 each) with what is asked and answered
RESERVE = 1_000_000_000  # bytes
DECODER_BYTES = {"none": 2.0, "int8": 1.05, "int4": 0.6}  # of one parameter of the decoder's matrices
CPU_BYTES = 4.0  # of one parameter: float32, which is what a CPU computes by default
NEEDED = ("ai_edge_litert", "faster_whisper", "av", "soundfile", "soxr", "webrtcvad", "paho", "amqtt")
NATIVE = "import ai_edge_litert.interpreter, ctranslate2, soundfile, soxr, webrtcvad, av"
EXTRA = "pip install 'kikimimi[qwen]'"
PATIENCE = 1.5  # seconds for a sound server
NO_ANSWER = (Check("broker", False, "it was not asked in time; remedy: mqtt.url"),)
NO_SERVER = (Check("remote models", False, "no answer in time; remedy: models.remote.url"),)
HEADER_LIMIT = 100_000_000  # bytes of a safetensors header, the format's own limit

_DECODER = re.compile(r"(?:^|\.)(?:h|layers)\.\d+\.")
_ENCODER = re.compile(r"audio|visual|vision|encoder|tower")
_EXPERT = re.compile(r"\.experts\.")
_UNUSED = re.compile(r"^(?:talker|token2wav|code2wav)\.")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that torch can compute on, or that is there at least."""

    name: str
    total: int  # bytes
    free: int  # bytes
    usable: bool  # by the torch that is installed


@dataclass(frozen=True, slots=True)
class Torch:
    """The torch that is installed."""

    version: str
    build: str  # cuda 12.8, rocm 6.4, or cpu


@dataclass(frozen=True, slots=True)
class Llm:
    """An audio language model and where it would fit now."""

    name: str
    installed: bool
    licence: str
    measured: bool  # its weights are read from the files that are there
    weight: int  # bytes of its weights in 16 bits
    need: dict[str, int]  # bytes on a GPU by quantisation
    need_cpu: int  # bytes of memory, in float32
    fits: str | None  # the least quantisation that fits the largest GPU; None: no GPU or none fits
    fits_cpu: bool


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile and what it lacks, each with its remedy."""

    name: str
    works: bool
    missing: tuple[str, ...]
    remark: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """All of it."""

    version: str
    python: str
    system: str
    processor: str
    cores: int
    memory: int  # bytes
    memory_free: int  # bytes that programs could get
    disk_free: int  # bytes where models are kept
    folder: str  # of the models
    microphones: tuple[str, ...]
    microphone_trouble: str | None
    loudspeakers: tuple[str, ...]
    voices: dict[str, str | None]  # each engine: what it lacks; None: nothing
    checks: tuple[Check, ...]  # broker, disk, clock, rights
    models: dict[str, bool]  # of the store: whether they are there
    torch: Torch | None
    gpus: tuple[Gpu, ...]
    llms: tuple[Llm, ...]
    profiles: tuple[Profile, ...]

    @property
    def exit_code(self) -> int:
        """0 when the embedded profile works and no check fails."""
        works = next(profile.works for profile in self.profiles if profile.name == "embedded")
        return 0 if works and all(check.works for check in self.checks) else 1

    def json(self) -> str:
        """One line for programs."""
        return json.dumps(asdict(self), ensure_ascii=False)


def examine(config: Config, *, running: bool = False) -> Report:
    """Look at this machine. Takes about a second, longer only where torch must be asked for GPUs.

    `running`: in the daemon itself, which loaded its libraries and opened its devices long ago: these are left alone,
    and torch is not loaded for the sake of a report.
    """
    with (
        _beside((lambda: None) if running else _native_trouble) as native,
        _beside((lambda: ((), None, ())) if running else (lambda: (*_microphones(), _loudspeakers()))) as sound,
        _beside(lambda: checkup.broker(config)) as broker,
        _beside(lambda: checkup.remote(config)) as remote,
    ):
        directory = config.models.dir
        memory, memory_free = _memory()
        torch = _torch()
        gpus = _gpus(torch) if not running or "torch" in sys.modules else _idle_gpus()
        listed = store.listing(directory)
        llms = tuple(_llm(name, directory, gpus, memory_free) for name in HUB)
        chosen, chosen_trouble = _chosen(config, gpus, memory_free)
        if chosen is not None and chosen.name not in HUB:
            llms = (chosen, *llms)
        microphones, trouble, loudspeakers = sound(
            PATIENCE, ((), f"the sound server gave no answer in {PATIENCE} s", ())
        )
        native_trouble = native(10.0, "the native libraries took more than 10 s to load")
        embedded = _embedded(config, native_trouble)
        servers = remote(3 * checkup.REMOTE_PATIENCE + 1.0, NO_SERVER)
        return Report(
            version=__version__,
            python=platform.python_version(),
            system=platform.platform(),
            processor=processor(),
            cores=cores(),
            memory=memory,
            memory_free=memory_free,
            disk_free=_disk_free(store.root(directory)),
            folder=str(store.root(directory)),
            microphones=microphones,
            microphone_trouble=trouble,
            loudspeakers=loudspeakers,
            voices=_voices(config),
            checks=(*broker(checkup.PROBE_PATIENCE + 1.0, NO_ANSWER), *servers, *checkup.checks(config)),
            models={model.name: model.installed for model in listed},
            torch=torch,
            gpus=gpus,
            llms=llms,
            profiles=(
                embedded,
                *_llm_profiles(config, native_trouble, chosen, chosen_trouble, gpus),
                _remote(embedded, servers),
            ),
        )


# ------------------------------------------------------------------------------------------------------------ profiles


def _embedded(config: Config, native: str | None) -> Profile:
    missing = _small(config, native, startup.model_names(config.model_copy(update={"profile": "embedded"})))
    return Profile("embedded", not missing, tuple(missing))


def _remote(embedded: Profile, servers: Sequence[Check]) -> Profile:
    """`remote` needs what `embedded` needs, which stands in for it, and a server."""
    missing = [check.detail for check in servers if not check.works]
    if not servers:
        missing = ["a server; remedy: models.remote.url (docs/serve.md)"]
    return Profile("remote", not missing and embedded.works, (*embedded.missing, *missing))


def _small(config: Config, native: str | None, names: Sequence[str]) -> list[str]:
    """What the small models lack."""
    missing = [
        f"the package {name}; remedy: install kikimimi again" for name in NEEDED if not importlib.util.find_spec(name)
    ]
    if native and not missing:
        missing.append(native)
    for name in names:
        try:
            store.path(name, config.models.dir)
        except ModelError as error:
            missing.append(str(error))
    return missing


def _llm_profiles(
    config: Config, native: str | None, chosen: Llm | None, trouble: str | None, gpus: tuple[Gpu, ...]
) -> tuple[Profile, ...]:
    """`qwen` and `hybrid`, which need the same: YAMNet, the checkpoint, its packages and room for it."""
    missing = _small(config, native, ("yamnet",))
    missing += [
        f"the package {name}; remedy: {EXTRA}" for name in startup.LLM_PACKAGES if not importlib.util.find_spec(name)
    ]
    remark = None
    if trouble is not None:
        missing.append(trouble)
    if chosen is not None:
        remark, lacking = _room(config, chosen, gpus)
        missing += lacking
    return tuple(Profile(name, not missing, tuple(missing), remark) for name in ("qwen", "hybrid"))


def _room(config: Config, chosen: Llm, gpus: tuple[Gpu, ...]) -> tuple[str | None, list[str]]:
    """How the chosen model finds room, and what is missing for it."""
    least = _gb(min(chosen.need.values()))
    device = config.models.audio_llm.device
    if device != "cpu" and any(gpu.usable for gpu in gpus):
        if chosen.fits is None:
            return None, [f"GPU memory: {chosen.name} needs {least} at least; remedy: a smaller model (docs/models.md)"]
        if chosen.fits == "none":
            return None, []
        lacking = [] if importlib.util.find_spec("bitsandbytes") else [f"the package bitsandbytes; remedy: {EXTRA}"]
        return f"with models.audio_llm.quantisation: {chosen.fits}", lacking
    if not chosen.fits_cpu:
        smaller = "remedy: a smaller model (docs/models.md)"
        return None, [f"a GPU with {least} free, or {_gb(chosen.need_cpu)} of free memory; {smaller}"]
    if device != "cpu" and chosen.weight >= startup.LARGE:
        return None, [f"a GPU with {least} free; remedy: one, or insist on the CPU: models.audio_llm.device: cpu"]
    return f"{chosen.name} computes on the CPU, slowly", []


def _chosen(config: Config, gpus: tuple[Gpu, ...], memory: int) -> tuple[Llm | None, str | None]:
    """The audio language model of the configuration, and why it cannot be loaded."""
    name = config.models.audio_llm.checkpoint
    if name in HUB:
        llm = _llm(name, config.models.dir, gpus, memory)
        if llm.installed:
            return llm, None
        return llm, f"the checkpoint; remedy: kikimimi models pull {name}, {hub.BY_HAND}"
    folder = Path(name).expanduser()
    try:
        weights = weights_of(folder)
    except ModelError as error:
        return None, str(error)
    return _fitted(name, True, "see the folder", weights, True, gpus, memory), None


def _llm(name: str, directory: Path | None, gpus: tuple[Gpu, ...], memory: int) -> Llm:
    there = hub.installed(name, directory)
    weights, measured = HUB[name].weights, False
    if there:
        with suppress(ModelError):
            weights, measured = weights_of(store.root(directory) / name), True
    return _fitted(name, there, HUB[name].licence, weights, measured, gpus, memory)


def _fitted(  # noqa: PLR0917 (facts of one model)
    name: str, installed: bool, licence: str, weights: Weights, measured: bool, gpus: tuple[Gpu, ...], memory: int
) -> Llm:
    possible = DECODER_BYTES if weights.quantisable else ("none",)
    need = {quantisation: needed(weights, quantisation) for quantisation in possible}
    room = max((gpu.free for gpu in gpus if gpu.usable), default=0)
    need_cpu = int(weights.loaded * 1e9 * CPU_BYTES) + 2 * _context_bytes(weights) + RESERVE
    fits = next((quantisation for quantisation, size in need.items() if size <= room), None)
    return Llm(name, installed, licence, measured, int(weights.loaded * 2e9), need, need_cpu, fits, need_cpu <= memory)


# -------------------------------------------------------------------------------------------------------------- memory


def needed(weights: Weights, quantisation: str) -> int:
    """Bytes of GPU memory that a model takes; see the head of this module."""
    decoder = (weights.loaded - weights.kept) * DECODER_BYTES[quantisation]
    return int((decoder + weights.kept * 2.0) * 1e9) + _context_bytes(weights) + RESERVE


def _context_bytes(weights: Weights) -> int:
    return CONTEXT * weights.layers * weights.kv_values * 2


def weights_of(folder: Path) -> Weights:
    """Parameters and layers of a checkpoint, read from the headers of its files. Raises `ModelError`."""
    files = sorted(folder.glob("*.safetensors"))
    try:
        config = json.loads((folder / "config.json").read_bytes())
        tensors = [tensor for file in files for tensor in _header(file)]
        loaded = sum(size for name, size, _ in tensors if not _UNUSED.match(name))
        decoder = sum(size for name, size, rank in tensors if _quantised(name, rank))
        layers, kv_values = _attention(config)
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise ModelError(f"{folder}: no checkpoint that can be read ({error}); remedy: fetch it again") from error
    if not tensors:
        raise ModelError(f"{folder}: holds no safetensors; remedy: kikimimi models pull NAME, {hub.BY_HAND}")
    quantisable = not any(_EXPERT.search(name) for name, _, _ in tensors if not _UNUSED.match(name))
    return Weights(loaded / 1e9, (loaded - decoder) / 1e9, layers, kv_values, quantisable)


def _header(file: Path) -> Iterator[tuple[str, int, int]]:
    """Name, parameters and rank of each tensor (https://github.com/huggingface/safetensors#format)."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > HEADER_LIMIT:
            raise ValueError(f"{file.name}: not a safetensors file")
        header = json.loads(stream.read(length))
    for name, tensor in header.items():
        if name != "__metadata__":
            count = 1
            for extent in tensor["shape"]:
                count *= extent
            yield name, count, len(tensor["shape"])


def _quantised(name: str, rank: int) -> bool:
    return rank >= 2 and bool(_DECODER.search(name)) and not _ENCODER.search(name) and not _UNUSED.match(name)


def _attention(config: dict[str, Any]) -> tuple[int, int]:
    """Layers, and values that keys and values of one token take in each."""
    for key in ("thinker_config", "text_config"):
        config = config.get(key, config)
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    width = (
        config.get("head_dim") or config.get("kv_channels") or config["hidden_size"] // config["num_attention_heads"]
    )
    return int(config["num_hidden_layers"]), 2 * int(heads) * int(width)


def _memory() -> tuple[int, int]:
    """Bytes in all, and those that programs could get."""
    with suppress(OSError, KeyError, ValueError):
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text("ascii").splitlines())
        return int(lines["MemTotal"].split()[0]) << 10, int(lines["MemAvailable"].split()[0]) << 10
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return total, total


def _disk_free(folder: Path) -> int:
    there = next(place for place in (folder, *folder.parents) if place.is_dir())
    return shutil.disk_usage(there).free


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def processor() -> str:
    """What it calls itself."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# ---------------------------------------------------------------------------------------------------- torch and GPUs


def _torch() -> Torch | None:
    """What is installed, without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    build = "cpu"
    with suppress(OSError):
        text = Path(spec.origin).with_name("version.py").read_text("utf-8")
        for name in ("cuda", "hip"):
            if found := re.search(rf"^{name}\b[^=\n]*= '([^']+)'", text, re.MULTILINE):
                build = f"{'rocm' if name == 'hip' else name} {found[1]}"
    return Torch(importlib.metadata.version("torch"), build)


def _gpus(torch: Torch | None) -> tuple[Gpu, ...]:
    if torch is not None and torch.build != "cpu":
        try:
            import torch as library  # noqa: PLC0415 (seconds: only where it can use a GPU)

            found = []
            for index in range(library.cuda.device_count()):
                free, total = library.cuda.mem_get_info(index)
                found.append(Gpu(library.cuda.get_device_name(index), total, free, True))
            if found:
                return tuple(found)
        except (ImportError, OSError, RuntimeError, AssertionError):
            pass  # a driver that does not fit: the GPU is shown as one that cannot be used
    return _idle_gpus()


def _idle_gpus() -> tuple[Gpu, ...]:
    """GPUs that NVIDIA's own tool knows, but torch cannot use."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return ()
    query = [tool, "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
        rows = [line.rsplit(",", 2) for line in answer.splitlines() if line.strip()]
        return tuple(Gpu(name.strip(), int(total) << 20, int(free) << 20, False) for name, total, free in rows)
    except (OSError, ValueError, subprocess.SubprocessError):
        return ()


# ----------------------------------------------------------------------------------------------------- looked at beside


@contextmanager
def _beside(look: Callable[[], T]) -> Iterator[Callable[[float, T], T]]:
    """`look` in a thread meanwhile; what is yielded waits for it so many seconds and else gives the other value."""
    found: list[T] = []
    thread = threading.Thread(target=lambda: found.append(look()), name="doctor", daemon=True)
    thread.start()

    def wait(seconds: float, otherwise: T) -> T:
        thread.join(seconds)
        return found[0] if found else otherwise

    yield wait


def _native_trouble() -> str | None:
    """Whether the libraries load, in a process of its own: an instruction that the CPU lacks would end this one."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", NATIVE], capture_output=True, text=True, timeout=10, check=False, env={**os.environ}
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"the native libraries were not tried ({error})"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines() or [f"signal {-done.returncode}, as on a CPU that is too old for them"]
    return f"the native libraries do not load: {lines[-1]}; remedy: install kikimimi again"


def _loudspeakers() -> tuple[str, ...]:
    from assistant.outputs.loudspeaker import outputs  # noqa: PLC0415 (loads PortAudio)

    try:
        return tuple(output.name for output in outputs())
    except AssistantError:  # the microphones' line says what PortAudio lacks
        return ()


def _voices(config: Config) -> dict[str, str | None]:
    """What each engine lacks; those that are neither chosen nor installed are left out."""
    from assistant.voices import espeak, kokoro, piper  # noqa: PLC0415

    program = config.say.piper.program
    lacking = {
        "espeak": None if shutil.which("espeak-ng") else espeak.REMEDY,
        "piper": None if shutil.which(program) and config.say.piper.voice else piper.REMEDY,
        "kokoro": None if all(map(importlib.util.find_spec, kokoro.PACKAGES)) else kokoro.REMEDY,
    }
    shown = {"espeak", config.say.engine}
    return {name: remedy for name, remedy in lacking.items() if remedy is None or name in shown}


def _microphones() -> tuple[tuple[str, ...], str | None]:
    from assistant.audio.microphone import devices  # noqa: PLC0415 (loads PortAudio)

    try:
        return tuple(f"{device.index}: {device.name}" for device in devices()), None
    except AssistantError as error:
        return (), str(error)


# ------------------------------------------------------------------------------------------------------- for a person


def lines(report: Report) -> Iterator[str]:
    """The report as text."""
    yield f"Kikimimi {report.version}, Python {report.python}, {report.system}"
    yield (
        f"processor: {report.processor}, {report.cores} cores; memory: {_gb(report.memory)}, "
        f"{_gb(report.memory_free)} free"
    )
    yield f"microphones: {'; '.join(report.microphones) or report.microphone_trouble}"
    yield f"loudspeakers: {'; '.join(report.loudspeakers) or 'none found'}"
    voices = (f"{name} (missing; remedy: {remedy})" if remedy else name for name, remedy in report.voices.items())
    yield f"voices: {'; '.join(voices)}"
    for check in report.checks:
        yield f"{check.name}: {'' if check.works else 'FAILS: '}{check.detail}"
    yield f"models: {report.folder}, {_gb(report.disk_free)} of the disk free"
    yield f"  there: {', '.join(name for name, there in report.models.items() if there) or 'none'}"
    if report.torch is None:
        yield f"torch: not installed; only the profiles qwen and hybrid need it ({EXTRA})"
    elif report.torch.build == "cpu":
        yield f"torch: {report.torch.version}, a build for the CPU alone"
    else:
        yield f"torch: {report.torch.version} ({report.torch.build})"
    for gpu in report.gpus:
        usable = "" if gpu.usable else f"; the torch that is installed cannot use it (remedy: {EXTRA} with CUDA)"
        yield f"GPU: {gpu.name}, {_gb(gpu.total)}, {_gb(gpu.free)} free{usable}"
    if not report.gpus:
        yield "GPU: none found"
    yield f"audio language models (calculated, for {CONTEXT} tokens; docs/models.md):"
    for llm in report.llms:
        need = ", ".join(f"{_gb(size)} {'bf16' if name == 'none' else name}" for name, size in llm.need.items())
        yield f"  {llm.name}{' (there)' if llm.installed else ''}: needs {need}; {_verdict(llm, report)}"
    yield "profiles:"
    for profile in report.profiles:
        yield f"  {profile.name}: {'works' if profile.works else 'does not work'}" + (
            f" ({profile.remark})" if profile.remark else ""
        )
        for item in profile.missing:
            yield f"    missing: {item}"


def _verdict(llm: Llm, report: Report) -> str:
    if llm.fits is not None:
        return "fits the GPU" if llm.fits == "none" else f"fits the GPU with quantisation: {llm.fits}"
    if any(gpu.usable for gpu in report.gpus):
        return "does not fit the GPU"
    if llm.fits_cpu:
        return f"no GPU; would run on the CPU in {_gb(llm.need_cpu)}, slowly"
    return f"no GPU, and not {_gb(llm.need_cpu)} of free memory for the CPU"


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
