"""Clips on a real disk: whole or not at all, private, forgotten in order, and nothing else is ever touched."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ulid import ULID

from assistant.clip_folder import MEGABYTE, PICTURE, SOUND, ClipFolder, NearlyFullError, name_of

DAY = 86_400.0


def folder_in(path: Path, **limits: float) -> ClipFolder:
    wanted = {"days": 30.0, "megabytes": 1_000.0, "at_least": 0, "free": 0.0, **limits}
    folder = ClipFolder(path, **wanted)  # type: ignore[arg-type]
    folder.open()
    return folder


def name(age: float = 0.0) -> str:
    """A clip raised `age` seconds ago."""
    raised = time.time() - age
    return name_of(time.strftime("%Y-%m-%d", time.gmtime(raised)), str(ULID.from_timestamp(raised)))


def files(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*") if not file.is_dir()}


def test_a_clip_and_its_picture_are_private(tmp_path: Path) -> None:
    folder = folder_in(tmp_path / "state" / "clips")
    clip = name()
    folder.write(clip, b"sound", b"picture")
    assert (folder.path / clip).read_bytes() == b"sound"
    assert (folder.path / clip).with_suffix(".png").read_bytes() == b"picture"
    assert files(folder.path) == {clip, clip.replace(".flac", ".png")}
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert (folder.path / clip).parent.stat().st_mode & 0o777 == 0o700
    assert (folder.path / clip).stat().st_mode & 0o777 == 0o600
    assert (len(folder), folder.bytes) == (1, 12)


def test_without_a_picture_there_is_the_sound_alone(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    folder.write(clip := name(), b"sound")
    assert files(tmp_path) == {clip}


def test_what_is_kept_can_be_read_by_the_id_of_its_event(tmp_path: Path) -> None:
    folder = folder_in(tmp_path, at_least=1)
    clip = name()
    identity = Path(clip).stem
    folder.write(clip, b"sound", b"picture")
    assert folder.has(identity) == {SOUND, PICTURE}
    assert (folder.read(identity, SOUND), folder.read(identity, PICTURE)) == (b"sound", b"picture")
    assert folder.has("nobody") == frozenset()
    with pytest.raises(FileNotFoundError):
        folder.read("../../etc/passwd", SOUND)
    (tmp_path / clip).unlink()
    with pytest.raises(FileNotFoundError):
        folder.read(identity, SOUND)


def test_a_link_in_place_of_a_file_is_not_read(tmp_path: Path) -> None:
    folder = folder_in(tmp_path / "clips")
    (tmp_path / "secret").write_text("secret")
    clip = name()
    folder.write(clip, b"sound")
    (folder.path / clip).unlink()
    (folder.path / clip).symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic"):
        folder.read(Path(clip).stem, SOUND)
    (folder.path / clip).unlink()
    os.mkfifo(folder.path / clip)
    with pytest.raises(OSError, match="it is no file"):
        folder.read(Path(clip).stem, SOUND)


def test_what_is_too_old_goes_at_the_start_and_its_day_with_it(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    old, young = name(31 * DAY), name(29 * DAY)
    for clip in (old, young):
        (tmp_path / clip).parent.mkdir(exist_ok=True)
        (tmp_path / clip).write_bytes(b"x")
        (tmp_path / clip).with_suffix(".png").write_bytes(b"x")
    again = folder_in(tmp_path)
    assert files(tmp_path) == {young, young.replace(".flac", ".png")}
    assert not (tmp_path / old).parent.exists()
    assert (len(again), again.bytes, again.deleted) == (1, 2, 1)
    assert len(folder) == 0  # it knows what it has written itself


def test_the_oldest_make_room_but_never_the_last(tmp_path: Path) -> None:
    folder = folder_in(tmp_path, megabytes=5 / 1000, at_least=2)  # 5 kB
    clips = [name(age) for age in (400.0, 300.0, 200.0, 100.0)]
    for clip in clips[:3]:
        folder.write(clip, b"x" * 1_500, b"x" * 500)
    assert files(tmp_path) == {file for clip in clips[1:3] for file in (clip, clip.replace(".flac", ".png"))}
    folder.write(clips[3], b"x" * 9_000)
    assert {clip for clip in files(tmp_path) if clip.endswith(".flac")} == set(clips[2:])  # the last two, too large
    assert folder.deleted == 2


def test_the_last_stay_however_old_they_are(tmp_path: Path) -> None:
    folder = folder_in(tmp_path, days=1.0, at_least=2)
    for age in (50.0, 40.0, 30.0):
        folder.write(name(age * DAY), b"x")
    assert len(folder_in(tmp_path, days=1.0, at_least=2)) == 2


def test_nothing_else_is_touched(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    old = name(90 * DAY)
    day, _, file = old.partition("/")
    (elsewhere / file).write_bytes(b"mine")
    path = tmp_path / "clips"
    path.mkdir()
    (path / "2020-01-01").symlink_to(elsewhere)  # a link to a folder with a file named like a clip
    (path / day).mkdir()
    (path / day / file).symlink_to(elsewhere / file)
    others = [
        f"{day}/notes.txt",
        f"{day}/{file}.bak",
        f"{day}/{file.lower()}",
        f"{day}/x{file}",
        file,
        f"{day}/.{file}.part2",
        "2020-01-0x",
        "../outside.flac",
    ]
    for other in others:
        (path / other).write_bytes(b"mine")
    (path / "holiday").mkdir()
    (path / "holiday" / file).write_bytes(b"mine")
    (path / "2020-02-02").mkdir()
    (path / "2020-02-02" / file).mkdir()  # a folder named like a clip
    folder = folder_in(path, days=0.001, megabytes=0.001)
    folder.write(name(), b"x" * 5_000)
    assert all((path / other).read_bytes() == b"mine" for other in others)
    assert (path / "holiday" / file).read_bytes() == b"mine"
    assert (elsewhere / file).read_bytes() == b"mine"
    assert (path / day / file).is_symlink()
    assert (path / "2020-02-02" / file).is_dir()
    assert len(folder) == 0  # the new one was larger than all that may be kept


def test_a_link_in_place_of_the_day_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder = folder_in(tmp_path / "clips")
    clip = name()
    (folder.path / clip).parent.symlink_to(elsewhere)
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        folder.write(clip, b"x")
    assert files(elsewhere) == set()
    assert len(folder) == 0


def test_half_written_files_are_removed_at_the_start(tmp_path: Path) -> None:
    day, _, file = name().partition("/")
    (tmp_path / day).mkdir()
    (tmp_path / day / f".{file}.part").write_bytes(b"half")
    folder = folder_in(tmp_path)
    assert files(tmp_path) == set()
    assert not (tmp_path / day).exists()
    assert folder.bytes == 0


WRITER = """
import sys
from pathlib import Path
from ulid import ULID
from assistant.clip_folder import ClipFolder, name_of
folder = ClipFolder(Path(sys.argv[1]), days=30, megabytes=10_000, at_least=0, free=0)
folder.open()
print("ready", flush=True)
while True:
    folder.write(name_of("2026-11-28", str(ULID())), b"s" * 300_000, b"p" * 30_000)
"""


def test_a_process_killed_in_the_middle_leaves_whole_clips_only(tmp_path: Path) -> None:
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(0.2)
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.communicate(timeout=10)
    halves = [file for file in files(tmp_path) if file.endswith(".part")]
    clips = [tmp_path / file for file in files(tmp_path) if file.endswith(".flac")]
    assert clips
    assert all(clip.stat().st_size == 300_000 for clip in clips)
    assert all(clip.with_suffix(".png").stat().st_size == 30_000 for clip in clips)
    folder = folder_in(tmp_path)
    assert not any(file.endswith(".part") for file in files(tmp_path)), halves
    assert len(folder) >= len(clips)


def test_a_nearly_full_disk_takes_no_clip_until_there_is_room_again(small_disk: Path) -> None:
    folder = folder_in(small_disk / "clips", free=2.0)
    folder.write(name(), b"x" * 500_000)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 2_000_000)
    with pytest.raises(NearlyFullError, match=r"nearly full: 2 MB are free at .*, 2 must stay free"):
        folder.write(name(), b"x" * 500_000)
    filler.write_bytes(b"x" * 1_600_000)  # just above the limit is not yet enough: it would come and go
    with pytest.raises(NearlyFullError):
        folder.check()
    filler.unlink()
    folder.check()
    folder.write(name(), b"x" * 500_000)
    assert len(folder) == 2


def test_a_disk_that_fills_up_in_the_middle_keeps_nothing_of_the_clip(small_disk: Path) -> None:
    folder = folder_in(small_disk / "clips", free=0.0)
    with pytest.raises(OSError, match="No space left") as error:
        folder.write(name(), b"x" * 6 * MEGABYTE, b"picture")
    assert error.value.errno == errno.ENOSPC
    assert files(small_disk) == set()
    assert (len(folder), folder.bytes) == (0, 0)


def test_a_folder_that_cannot_be_made_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        folder_in(tmp_path / "file" / "clips")


def test_a_clip_that_somebody_else_deleted_does_no_harm(tmp_path: Path) -> None:
    folder = folder_in(tmp_path, megabytes=1 / 1000)
    folder.write(first := name(100.0), b"x" * 900)
    shutil.rmtree((tmp_path / first).parent)
    folder.write(second := name(), b"x" * 900)
    assert files(tmp_path) == {second}
    assert (len(folder), folder.bytes) == (1, 900)


def test_ten_thousand_clips_are_read_once_and_then_cost_nothing(tmp_path: Path) -> None:
    for hours in range(100):
        (tmp_path / name(hours * 3_600.0)).parent.mkdir(exist_ok=True)
        for second in range(100):
            (tmp_path / name(hours * 3_600.0 + second)).touch()
    began = time.perf_counter()
    folder = folder_in(tmp_path)
    opened = time.perf_counter() - began
    assert len(folder) == 10_000
    began = time.perf_counter()
    for _ in range(100):
        folder.tidy()
    assert time.perf_counter() - began < 0.1  # 100 looks; a scan would take seconds
    assert opened < 10.0
