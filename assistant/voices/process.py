"""Engines as separate processes: started without a shell, bounded in time and output, and killed on a cancel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence

from assistant.errors import VoiceError
from assistant.waiting import at_most

OUTPUT_LIMIT = 20_000_000  # bytes of standard output: three minutes at 48 kHz and a header
ERROR_LIMIT = 8_000  # bytes of standard error that are read for the message
KILL_SECONDS = 2.0  # until a killed process must be gone


async def start(
    command: Sequence[str], engine: str, remedy: str, environment: Mapping[str, str] | None = None
) -> asyncio.subprocess.Process:
    """The process of an engine, in a group of its own. Raises `VoiceError` with `remedy` when it cannot be started."""
    pipe = asyncio.subprocess.PIPE
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=None if environment is None else {**os.environ, **environment},
            start_new_session=True,
        )
    except OSError as error:
        raise VoiceError(f"{engine}: {command[0]} cannot be run ({error.strerror}); remedy: {remedy}") from error


async def kill(process: asyncio.subprocess.Process) -> None:
    """End the process and its children; harmless when it has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdin is not None:
        process.stdin.close()
    await at_most(KILL_SECONDS, process.wait())


async def run(command: Sequence[str], text: str, *, engine: str, remedy: str, seconds: float) -> bytes:
    """What `command` writes to standard output when it reads `text`. Raises `VoiceError`."""
    process = await start(command, engine, remedy)
    try:
        async with asyncio.timeout(seconds):
            output, error = await _exchange(process, text.encode())
            code = await process.wait()
    except TimeoutError:
        raise VoiceError(f"{engine}: gave no speech within {seconds:.0f} s; remedy: {remedy}") from None
    finally:
        await asyncio.shield(kill(process))
    if code != 0 or not output:
        raise VoiceError(f"{engine}: failed with {code} ({said(error)}); remedy: {remedy}")
    if len(output) > OUTPUT_LIMIT:
        raise VoiceError(f"{engine}: gave more than {OUTPUT_LIMIT >> 20} MB for one text; that is not played")
    return output


async def _exchange(process: asyncio.subprocess.Process, text: bytes) -> tuple[bytes, bytes]:
    assert process.stdin and process.stdout and process.stderr  # noqa: S101 (start asks for all three)

    async def write(stream: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            stream.write(text)
            await stream.drain()
            stream.close()

    _, output, error = await asyncio.gather(
        write(process.stdin), read(process.stdout, OUTPUT_LIMIT + 1), read(process.stderr, ERROR_LIMIT)
    )
    return output, error


async def read(stream: asyncio.StreamReader, limit: int) -> bytes:
    """The first `limit` bytes; what comes after them is read and thrown away, so that the process can end."""
    kept = bytearray()
    while piece := await stream.read(65_536):
        kept += piece[: limit - len(kept)]
    return bytes(kept)


def said(error: bytes) -> str:
    """The last line an engine wrote to standard error, short. It may quote no more than its own options."""
    lines = error.decode(errors="replace").strip().splitlines()
    return lines[-1].strip()[:200] if lines else "without a word"
