"""Taught sounds on disk: whole or not at all, no pickle, and one bad file costs no other."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from taught import taught

from assistant.errors import AssistantError
from assistant.taught_folder import FILE_LIMIT, TaughtFolder, packed, unpacked
from assistant.taught_sounds import TaughtSound


@pytest.fixture(scope="module")
def door() -> TaughtSound:
    return taught(labels=frozenset({"Music", "Bell"}))


def test_what_is_written_is_read_again(tmp_path: Path, door: TaughtSound) -> None:
    folder = TaughtFolder(tmp_path)
    assert folder.read() == ([], [])
    before = folder.stamp()
    folder.write(door)
    assert folder.stamp() != before
    (again,), problems = folder.read()
    assert not problems
    np.testing.assert_array_equal(again.weights, door.weights)
    assert (again.name, again.title, again.bias, again.threshold) == (door.name, door.title, door.bias, door.threshold)
    assert (again.verdict, again.labels, again.taught) == (door.verdict, door.labels, door.taught)
    for one, other in zip(again.examples, door.examples, strict=True):
        assert (one.title, one.labels) == (other.title, other.labels)
        for mine, theirs in zip(one.activities, other.activities, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert (folder.path / "front_door.npz").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in folder.path.iterdir()] == ["front_door.npz"]
    folder.delete("front_door")
    assert folder.read() == ([], [])


def test_a_damaged_file_is_told_and_the_others_are_heard(tmp_path: Path, door: TaughtSound) -> None:
    folder = TaughtFolder(tmp_path)
    folder.write(door)
    content = packed(door)
    middle = bytearray(content)
    middle[len(middle) // 2] ^= 0xFF
    evil = io.BytesIO()
    np.savez(evil, kept=np.array([{"a": 1}], dtype=object), weights=np.zeros(3), windows=np.zeros(3), allow_pickle=True)
    bad = {
        "half": content[: len(content) // 2],
        "empty": b"",
        "noise": bytes(middle),
        "pickled": evil.getvalue(),
        "bare_pickle": pickle.dumps({"weights": 1}),
        "huge": bytes(FILE_LIMIT + 1),
    }
    for name, data in bad.items():
        (folder.path / f"{name}.npz").write_bytes(data)
    (folder.path / "folder.npz").mkdir()
    (folder.path / "Not A Name.npz").write_bytes(b"x")
    sounds, problems = folder.read()
    assert [sound.name for sound in sounds] == ["front_door"]
    assert len(problems) == len(bad) + 1
    assert all("remedy: teach it again" in problem for problem in problems)


@pytest.mark.parametrize("change", ["weights", "nan", "windows", "count", "json", "key"])
def test_what_does_not_fit_is_refused(door: TaughtSound, change: str) -> None:
    with np.load(io.BytesIO(packed(door))) as file:
        arrays = {name: file[name] for name in file.files}
    text = arrays["kept"].tobytes().decode()
    match change:
        case "weights":
            arrays["weights"] = arrays["weights"][:-1]
        case "nan":
            arrays["weights"][0] = np.nan
        case "windows":
            arrays["windows"] = arrays["windows"].astype(np.int16)
        case "count":
            arrays["windows"] = arrays["windows"][:-1]
        case "json":
            text = "[" * 100_000
        case "key":
            text = text.replace('"bias"', '"other"')
    arrays["kept"] = np.frombuffer(text.encode(), np.uint8)
    changed = io.BytesIO()
    np.savez(changed, **arrays)
    with pytest.raises(ValueError, match=r"its (weights|examples|text)|no whole"):
        unpacked("x", changed.getvalue())


def test_a_name_that_is_none_is_not_deleted(tmp_path: Path, door: TaughtSound) -> None:
    folder = TaughtFolder(tmp_path)
    folder.write(door)
    (tmp_path / "precious.npz").write_bytes(b"x")
    for name in ("../precious", "", "nothing"):
        with pytest.raises(AssistantError, match="there is front_door"):
            folder.delete(name)
    assert (tmp_path / "precious.npz").exists()


def test_a_full_disk_leaves_the_old_one(small_disk: Path, door: TaughtSound) -> None:
    folder = TaughtFolder(small_disk)
    folder.write(door)
    (small_disk / "filler").write_bytes(b"")
    with (small_disk / "filler").open("wb") as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(65_536))
            file.flush()
    with pytest.raises(AssistantError, match="free space"):
        folder.write(door)
    assert [sound.name for sound in folder.read()[0]] == ["front_door"]
    assert [path.name for path in folder.path.iterdir()] == ["front_door.npz"]
