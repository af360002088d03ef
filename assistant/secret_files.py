"""Secrets that stand in files: a password alone, read anew whenever it is needed and told nowhere."""

from __future__ import annotations

import stat
from pathlib import Path

LIMIT = 4_096  # bytes: more is no password


def read(path: Path) -> str:
    """The one line of `path`. Raises `OSError` when it cannot be read, `ValueError` when it holds something else."""
    with path.expanduser().open("rb") as file:
        content = file.read(LIMIT + 1)
    try:
        secret = content.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8 text; it must hold the secret alone") from None
    if not secret or len(content) > LIMIT or not secret.isprintable():
        raise ValueError(f"{path}: {'empty' if not secret else 'more than one line'}; it must hold the secret alone")
    return secret


def exposed(path: Path) -> str | None:
    """What is wrong with the rights of a file that holds a secret, with the remedy; None: nothing, or it is missing."""
    try:
        mode = path.expanduser().stat().st_mode
    except (OSError, RuntimeError):
        return None
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        return f"{path}: every user of this machine can read it; remedy: chmod 600 {path}"
    return None
