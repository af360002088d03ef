"""Checkpoints of audio language models from the Hugging Face hub: pinned, safetensors only, verified, resumable.

`huggingface_hub` tells what a repository holds at one commit (names, sizes, hashes); the bytes come through
`store.fetch`, because the library starts a file anew when a download broke off
(https://github.com/huggingface/huggingface_hub/issues/4196), and a shard is up to 5 GB.

A folder holds the files as published, `revision.txt` with the commit, and `manifest.json` with what the hub said of
each file, so that later pulls and verifications need no network until the catalogue pins another commit.
"""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import json
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from assistant.errors import ModelError
from assistant.models import store
from assistant.models.catalogue import HUB, File, HubModel

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

ASK_SECONDS = 20.0  # until the hub has told what a repository holds
WANTED = ("*.safetensors", "*.json", "*.tiktoken", "*.jinja", "merges.txt", "LICENSE*")
UNWANTED = ("consolidated*", "manifest.json")  # Voxtral's second copy of its weights, in another layout; our own file
REVISION, MANIFEST = "revision.txt", "manifest.json"
BY_HAND = "or copy the checkpoint's folder here by hand and set models.audio_llm.checkpoint: /path/to/it"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pull of `name` brings."""

    name: str
    model: HubModel
    revision: str  # the commit
    files: tuple[File, ...]
    folder: Path

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def folder(name: str, root: Path | None = None) -> Path:
    """The folder of a pulled checkpoint, its files verified. Raises `ModelError` with the remedy when it is not there.

    `root`: the folder of all models (`models.dir`), else the XDG cache.
    """
    known(name)
    place = store.root(root) / name
    files = _manifest(place)
    if files is None:
        raise ModelError(f"{place}: {name} is not there; remedy: kikimimi models pull {name}, {BY_HAND}")
    wrong = store.unverified(files[1], place)
    if wrong:
        raise ModelError(
            f"{place / wrong[0].name}: missing or damaged; remedy: kikimimi models pull {name} goes on from what is "
            f"there, {BY_HAND}"
        )
    return place


def located(checkpoint: str, root: Path | None = None) -> Path:
    """The folder that `models.audio_llm.checkpoint` means: a name of the catalogue, else a folder.

    Raises `ModelError` when it is not there.
    """
    if checkpoint in HUB:
        return folder(checkpoint, root)
    place = Path(checkpoint).expanduser()
    if place.is_dir():
        return place
    raise ModelError(
        f"models.audio_llm.checkpoint: {checkpoint} is no folder; remedy: the folder of a checkpoint, or one of "
        + ", ".join(HUB)
    )


def pull(name: str, root: Path | None = None, progress: store.Progress | None = None) -> Path:
    """The folder of a checkpoint's verified files, fetched when they are not there. Raises `ModelError`."""
    return fetch(plan(name, root), progress)


def plan(name: str, root: Path | None = None) -> Plan:
    """What a pull would bring. Asks the hub unless a former pull has written it down. Raises `ModelError`."""
    model = known(name)
    place = store.root(root) / name
    written = _manifest(place)
    if written is not None and model.revision in {None, written[0]}:
        return Plan(name, model, written[0], written[1], place)
    info = _ask(model, name)
    revision = info.sha or ""
    if not _COMMIT.fullmatch(revision) or (model.revision or revision) != revision:
        raise ModelError(
            f"{model.repository}: {endpoint()} names the commit {revision or 'nothing'!s}, not {model.revision}"
        )
    files = tuple(sorted(_files(info, model, revision), key=lambda file: file.name))
    names = {file.name for file in files}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise ModelError(f"{model.repository} at {revision[:12]}: holds no config.json with safetensors, {BY_HAND}")
    return Plan(name, model, revision, files, place)


def fetch(planned: Plan, progress: store.Progress | None = None) -> Path:
    """Bring the planned files into their folder, going on from what is there. Raises `ModelError`."""
    place = planned.folder
    former = _manifest(place)
    if former is None or former[0] != planned.revision:
        _write_down(planned, former[1] if former else ())
    # The files' addresses are made anew: HF_ENDPOINT may have changed since they were written down.
    files = [
        File(file.name, file.size, file.sha256, (_address(planned, file.name),), git_blob=file.git_blob)
        for file in planned.files
    ]
    try:
        store.fetch(files, place, progress=progress, loopback_http=_loopback(endpoint()))
    except store.UnreachableError as error:
        raise store.UnreachableError(f"{error}, {BY_HAND}") from error
    return place


def verify(name: str, root: Path | None = None) -> Path:
    """Hash a checkpoint's files again, whatever was remembered. Raises `ModelError` naming the first wrong one."""
    known(name)
    place = store.root(root) / name
    store.forget(place)
    return folder(name, root)


def installed(name: str, root: Path | None = None) -> bool:
    """Whether all files are there, by their size alone."""
    place = store.root(root) / name
    written = _manifest(place)
    return written is not None and all(store.size_of(place / file.name) == file.size for file in written[1])


def listing(root: Path | None = None) -> list[store.Listed]:
    """All checkpoints that can be pulled, as `store.listing`; sizes as published until one is pulled."""
    lines = []
    for name, model in HUB.items():
        place = store.root(root) / name
        written = _manifest(place)
        size = sum(file.size for file in written[1]) if written else model.size
        lines.append(store.Listed(name, model.about, model.licence, size, place, installed(name, root)))
    return lines


def known(name: str) -> HubModel:
    """The entry of the catalogue. Raises `ModelError` with the nearest names."""
    if name in HUB:
        return HUB[name]
    near = difflib.get_close_matches(name, HUB, n=2, cutoff=0.4)
    raise ModelError(
        f"no audio language model named {name!r}; "
        + (f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(HUB)}")
    )


def endpoint() -> str:
    """The hub: `HF_ENDPOINT`, as all tools around it read it, or the public one."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


# ------------------------------------------------------------------------------------------------------- asking the hub


def _loopback(address: str) -> bool:
    return urlsplit(address).hostname in {"127.0.0.1", "::1", "localhost"}


def _address(planned: Plan, name: str) -> str:
    return f"{endpoint()}/{planned.model.repository}/resolve/{planned.revision}/{name}"


def _ask(model: HubModel, name: str) -> ModelInfo:
    """What the repository holds at its commit, within `ASK_SECONDS`."""
    hub = endpoint()
    if not (hub.startswith("https://") or (hub.startswith("http://") and _loopback(hub))):
        raise ModelError(f"HF_ENDPOINT={hub}: only https is spoken")
    answer: list[ModelInfo | Exception] = []

    def ask() -> None:
        try:
            from huggingface_hub import HfApi  # noqa: PLC0415

            # No token: none of these repositories needs one, and none of ours is to leave this machine.
            api = HfApi(endpoint=hub, token=False, library_name="kikimimi")
            answer.append(
                api.model_info(model.repository, revision=model.revision or "main", files_metadata=True, timeout=10.0)
            )
        except Exception as error:  # the library's HTTP client differs with its version
            answer.append(error)

    # A thread, because a name look-up obeys no timeout.
    thread = threading.Thread(target=ask, name=f"ask {hub}", daemon=True)
    thread.start()
    thread.join(ASK_SECONDS)
    result = answer[0] if answer else TimeoutError(f"no answer in {ASK_SECONDS:.0f} s")
    if not isinstance(result, Exception):
        return result
    status = getattr(getattr(result, "response", None), "status_code", None)
    reason = f"HTTP {status}" if status else (str(result).strip().splitlines() or [type(result).__name__])[0]
    kind = ModelError if status else store.UnreachableError
    raise kind(
        f"{model.repository}: {hub} did not tell what it holds ({reason}); remedy: check the network and run "
        f"kikimimi models pull {name} again, {BY_HAND}"
    ) from result


def _files(info: ModelInfo, model: HubModel, revision: str) -> list[File]:
    """The files that are wanted: never code, never a pickle, nothing below a folder."""
    files = []
    for sibling in info.siblings or ():
        name = sibling.rfilename
        wanted = any(fnmatch.fnmatchcase(name, pattern) for pattern in WANTED)
        if not wanted or any(fnmatch.fnmatchcase(name, pattern) for pattern in UNWANTED) or "/" in name:
            continue
        sha256 = sibling.lfs.sha256 if sibling.lfs else ""
        size = sibling.lfs.size if sibling.lfs else sibling.size
        blob = "" if sibling.lfs else sibling.blob_id or ""
        if not _NAME.fullmatch(name) or not size or not re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", sha256 or blob):
            raise ModelError(f"{model.repository} at {revision[:12]}: the hub does not tell size and hash of {name!r}")
        files.append(File(name, size, sha256, git_blob=blob))
    return files


# ----------------------------------------------------------------------------------------------------- what was written


def _write_down(planned: Plan, former: tuple[File, ...]) -> None:
    """Keep the commit and what the hub said; files of a former commit that this one lacks go."""
    place = planned.folder
    manifest = {
        "repository": planned.model.repository,
        "revision": planned.revision,
        "files": [[file.name, file.size, file.sha256, file.git_blob] for file in planned.files],
    }
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name in {file.name for file in former} - {file.name for file in planned.files}:
            (place / name).unlink(missing_ok=True)
        store.write(place / REVISION, f"{planned.revision}\n".encode())
        store.write(place / MANIFEST, json.dumps(manifest, indent=1).encode())
    except OSError as error:
        raise ModelError(store.explained(error, place)) from error


def _manifest(place: Path) -> tuple[str, tuple[File, ...]] | None:
    """The commit and the files of a former pull, if there was one that can be read."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        manifest: Any = json.loads((place / MANIFEST).read_bytes())
        files = tuple(
            File(str(name), int(size), str(sha256), git_blob=str(blob))
            for name, size, sha256, blob in manifest["files"]
        )
        if _COMMIT.fullmatch(manifest["revision"]) and files and all(_NAME.fullmatch(file.name) for file in files):
            return manifest["revision"], files
    return None
