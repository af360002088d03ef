"""Pulling checkpoints: the real huggingface_hub and real HTTP against a small hub on loopback."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from assistant.errors import ModelError
from assistant.models import hub, store
from assistant.models.catalogue import HUB

COMMIT = "c0ffee" + 34 * "0"
LATER = "beef" + 36 * "0"
CHAT = "Qwen/Qwen-Audio-Chat"
SHARD = bytes(range(256)) * 2_000  # 512 kB

Usage = namedtuple("Usage", "total used free")


def git_blob(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


class Hub(http.server.ThreadingHTTPServer):
    """The two endpoints that a pull asks: what a repository holds at a commit, and a file of it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.commit = COMMIT
        self.files: dict[str, bytes] = {
            "config.json": b'{"model_type": "qwen"}',
            "model-00001-of-00001.safetensors": SHARD,
            "model.safetensors.index.json": b"{}",
            "qwen.tiktoken": b"IQ== 0\n",
            "modeling_qwen.py": b"import os",
            "pytorch_model.bin": b"pickle",
            "spk_dict.pt": b"pickle",
            "assets/audio.json": b"{}",
        }
        self.large = {"model-00001-of-00001.safetensors"}
        self.served: dict[str, bytes] = {}  # instead of what was told
        self.cut: list[int] = []  # bytes of each answer before the connection is closed
        self.asked: list[str] = []
        self.ranges: list[str | None] = []
        self.status = 0
        self.silent = 0.0
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(path)
        time.sleep(self.server.silent)
        if self.server.status:
            self.send_error(self.server.status)
        elif path.startswith("/api/models/"):
            self.tell(path)
        else:
            self.send_file(path.rpartition("/resolve/")[2].partition("/")[2])

    def tell(self, path: str) -> None:
        siblings = []
        for name, content in self.server.files.items():
            entry = {"rfilename": name, "size": len(content), "blobId": git_blob(content)}
            if name in self.server.large:
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 134}
            siblings.append(entry)
        told = {"id": path.removeprefix("/api/models/").partition("/revision/")[0]}
        body = json.dumps({**told, "sha": self.server.commit, "siblings": siblings, "tags": []}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, name: str) -> None:
        content = self.server.served.get(name, self.server.files.get(name))
        if content is None:
            self.send_error(404)
            return
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        body = content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if len(body) > 1_000 and self.server.cut:
            body = body[: self.server.cut.pop(0)]
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def server(monkeypatch):
    with Hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr(store, "_dead_hosts", set())
        yield running
        running.shutdown()


def there(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))


def test_a_pull_brings_weights_and_tokenizer_and_nothing_that_runs(server, tmp_path):
    steps = []
    folder = hub.pull("qwen-audio-chat", tmp_path, lambda *step: steps.append(step))
    assert there(folder) == [
        "config.json",
        "manifest.json",
        "model-00001-of-00001.safetensors",
        "model.safetensors.index.json",
        "qwen.tiktoken",
        "revision.txt",
    ]
    assert (folder / "model-00001-of-00001.safetensors").read_bytes() == SHARD
    assert (folder / "revision.txt").read_text() == COMMIT + "\n"
    assert steps[-1][1] == steps[-1][2] > 0
    assert hub.folder("qwen-audio-chat", tmp_path) == folder == hub.verify("qwen-audio-chat", tmp_path)
    assert hub.located("qwen-audio-chat", tmp_path) == folder
    assert hub.located(str(folder)) == folder


def test_without_a_pin_main_is_looked_up_once_and_kept(server, tmp_path):
    hub.pull("qwen-audio-chat", tmp_path)
    assert server.asked[0] == f"/api/models/{CHAT}/revision/main"
    server.commit = LATER
    server.files["config.json"] = b'{"model_type": "another"}'
    asked = len(server.asked)
    folder = hub.pull("qwen-audio-chat", tmp_path)
    assert len(server.asked) == asked  # nothing was asked: the commit is written down
    assert b"qwen" in (folder / "config.json").read_bytes()


def test_a_pin_is_asked_for_and_held(server, tmp_path):
    pin = HUB["qwen2-audio-7b-instruct"].revision
    with pytest.raises(ModelError, match=COMMIT):
        hub.plan("qwen2-audio-7b-instruct", tmp_path)
    server.commit = pin
    hub.pull("qwen2-audio-7b-instruct", tmp_path)
    assert f"/api/models/Qwen/Qwen2-Audio-7B-Instruct/revision/{pin}" in server.asked
    assert f"/Qwen/Qwen2-Audio-7B-Instruct/resolve/{pin}/config.json" in server.asked


def test_a_new_pin_replaces_what_changed(server, tmp_path, monkeypatch):
    folder = hub.pull("qwen-audio-chat", tmp_path)
    del server.files["qwen.tiktoken"]
    server.commit, server.ranges = LATER, []
    entry = HUB["qwen-audio-chat"]
    fields = {name: getattr(entry, name) for name in entry.__slots__} | {"revision": LATER}
    monkeypatch.setitem(HUB, "qwen-audio-chat", type(entry)(**fields))
    hub.pull("qwen-audio-chat", tmp_path)
    assert "qwen.tiktoken" not in there(folder)
    assert (folder / "revision.txt").read_text() == LATER + "\n"
    assert server.ranges == []  # the other files are the same: not fetched again


def test_a_broken_off_download_goes_on_in_the_next_run(server, tmp_path):
    server.cut = [100_000, 0]
    with pytest.raises(ModelError, match="broke off at 100000 of 512000 bytes"):
        hub.pull("qwen-audio-chat", tmp_path)
    with pytest.raises(ModelError, match=r"kikimimi models pull qwen-audio-chat goes on"):
        hub.folder("qwen-audio-chat", tmp_path)
    server.ranges = []
    hub.pull("qwen-audio-chat", tmp_path)
    assert "bytes=100000-" in server.ranges
    assert hub.verify("qwen-audio-chat", tmp_path)


@pytest.mark.parametrize("name", ["model-00001-of-00001.safetensors", "config.json"])
def test_other_bytes_than_the_hub_told_are_refused(server, tmp_path, name):
    server.served[name] = bytes(reversed(server.files[name]))
    with pytest.raises(ModelError, match="has other bytes than"):
        hub.pull("qwen-audio-chat", tmp_path)
    assert not hub.installed("qwen-audio-chat", tmp_path)


def test_verify_finds_a_changed_byte_that_kept_size_and_time(server, tmp_path):
    folder = hub.pull("qwen-audio-chat", tmp_path)
    shard = folder / "model-00001-of-00001.safetensors"
    status = shard.stat()
    shard.write_bytes(b"x" + SHARD[1:])
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ModelError, match=r"00001\.safetensors: missing or damaged; remedy: kikimimi models pull"):
        hub.verify("qwen-audio-chat", tmp_path)
    assert hub.pull("qwen-audio-chat", tmp_path) == folder
    assert shard.read_bytes() == SHARD


@pytest.mark.parametrize("status", [401, 404, 500])
def test_a_hub_that_refuses_is_one_line(server, tmp_path, status):
    server.status = status
    with pytest.raises(
        ModelError, match=rf"^Qwen/Qwen-Audio-Chat: .*HTTP {status}.*models.audio_llm.checkpoint: /"
    ) as e:
        hub.pull("qwen-audio-chat", tmp_path)
    assert "\n" not in str(e.value)
    assert not isinstance(e.value, store.UnreachableError)


def test_no_hub_is_one_line_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(store.UnreachableError, match=r"did not tell what it holds .*copy the checkpoint's folder") as e:
        hub.pull("qwen-audio-chat", tmp_path)
    assert "\n" not in str(e.value)


def test_a_hub_that_says_nothing_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "ASK_SECONDS", 0.3)
    server.silent = 2.0
    began = time.monotonic()
    with pytest.raises(store.UnreachableError, match="no answer in 0 s"):
        hub.pull("qwen-audio-chat", tmp_path)
    assert time.monotonic() - began < 1.5


def test_plain_http_is_spoken_to_this_machine_only(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    with pytest.raises(ModelError, match="only https"):
        hub.pull("qwen-audio-chat", tmp_path)


def test_a_full_disk_is_told_before_the_download(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 1_000, 1_000))
    with pytest.raises(ModelError, match=r"33 MB are needed and 0 MB are free; remedy: free space or set models.dir"):
        hub.pull("qwen-audio-chat", tmp_path)
    assert server.ranges == []


def test_a_disk_that_fills_up_meanwhile_is_one_line(server, tmp_path):
    code = (
        "import resource, signal, sys; from assistant.models import hub; from assistant.errors import ModelError\n"
        "from pathlib import Path\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "try: hub.pull('qwen-audio-chat', Path(sys.argv[1]))\n"
        "except ModelError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "remedy" in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda files: files.pop("config.json"), "holds no config.json with safetensors"),
        (lambda files: files.pop("model-00001-of-00001.safetensors"), "holds no config.json with safetensors"),
        (lambda files: files.update({"..evil.json": b"{}"}), "does not tell size and hash of '..evil.json'"),
        (lambda files: files.update({"empty.json": b""}), "does not tell size and hash of 'empty.json'"),
    ],
)
def test_a_repository_that_is_no_checkpoint_is_refused(server, tmp_path, change, said):
    change(server.files)
    with pytest.raises(ModelError, match=said):
        hub.pull("qwen-audio-chat", tmp_path)


def test_what_is_not_there_names_both_remedies(tmp_path):
    with pytest.raises(ModelError, match=r"kikimimi models pull qwen-audio-chat, or copy .*checkpoint: /path/to/it"):
        hub.folder("qwen-audio-chat", tmp_path)
    with pytest.raises(ModelError, match="did you mean qwen-audio-chat"):
        hub.folder("qwen-audio-caht", tmp_path)
    with pytest.raises(ModelError, match=r"models\.audio_llm\.checkpoint: /nowhere is no folder"):
        hub.located("/nowhere", tmp_path)


def test_a_spoilt_manifest_is_asked_for_again(server, tmp_path):
    folder = hub.pull("qwen-audio-chat", tmp_path)
    (folder / "manifest.json").write_text("{")
    assert not hub.installed("qwen-audio-chat", tmp_path)
    assert hub.pull("qwen-audio-chat", tmp_path) == folder
    assert hub.installed("qwen-audio-chat", tmp_path)


def test_the_catalogue_is_whole():
    assert set(HUB) == {
        "qwen-audio-chat", "qwen-audio", "qwen2-audio-7b-instruct", "qwen2.5-omni-7b", "qwen2.5-omni-3b",
        "qwen3-omni-30b-a3b-instruct", "voxtral-mini-3b-2507",
    }  # fmt: skip
    for model in HUB.values():
        assert model.revision is None or len(model.revision) == 40
        assert model.licence_url.startswith("https://")
        # All that is loaded is in the files; what is not loaded (talkers) makes the files larger.
        assert model.weights.loaded * 2e9 < model.size * 1.01
        assert model.weights.kept < model.weights.loaded


def kikimimi(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from assistant.cli import main; raise SystemExit(main())", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment}
    )


def test_the_command_shows_size_licence_and_commit_before_it_fetches(server, tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "COLUMNS": "200"}
    done = kikimimi("models", "pull", "qwen-audio-chat", environment=environment)
    assert done.returncode == 0, done.stderr
    first, licence, last = done.stdout.splitlines()
    assert first == f"qwen-audio-chat: {CHAT} at {COMMIT}: 0.0 GB in 4 files"
    assert licence.startswith("licence: Tongyi Qianwen License Agreement, https://")
    assert last == f"qwen-audio-chat: {tmp_path}/kikimimi/models/qwen-audio-chat"
    listed = kikimimi("models", "list", environment=environment).stdout
    assert any(line.split()[:2] == ["qwen-audio-chat", "yes"] for line in listed.splitlines())
    assert any(line.split()[:4] == ["qwen-audio", "no", "16.8", "GB"] for line in listed.splitlines())
    server.shutdown()
    offline = kikimimi("models", "pull", "qwen-audio", environment={**environment, "HF_HUB_OFFLINE": "1"})
    assert offline.returncode == 4
    assert offline.stderr.count("\n") == 1
    assert "models.audio_llm.checkpoint: /path/to/it" in offline.stderr
