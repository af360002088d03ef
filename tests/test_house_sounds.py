"""What the house sounds like: a bounded sample that survives restarts and damage."""

from pathlib import Path

import numpy as np
import pytest
from taught import tags, windows

from assistant.house_sounds import WINDOWS, Collector, HouseSounds

LABELS = ("Speech", "Music", "Bell")


def scores(best: int) -> np.ndarray:
    return np.eye(3, dtype=np.float32)[best]


def heard(collector: Collector, onset: int, count: int, best: int = 1) -> None:
    for i, one in enumerate(windows(onset, count, of=3)):
        window = tags(onset + 7_000 + i * 3_520, onset)
        collector.feed(type(window)(window.window, scores(best)), one)


def test_a_sound_gives_its_first_windows_and_the_best_label() -> None:
    house = HouseSounds(None)
    collector = Collector(house, LABELS)
    heard(collector, 10_000, 8)
    heard(collector, 100_000, 2, best=2)
    collector.end()
    (kept, _), seen = house.sounds(), house.seen
    assert [(label, len(windows)) for label, windows in kept] == [("Music", WINDOWS), ("Bell", 2)]
    assert seen == 2


def test_a_sound_that_lasts_is_heard_again_every_ten_seconds() -> None:
    house = HouseSounds(None)
    collector = Collector(house, LABELS)
    heard(collector, 10_000, 150)  # half a minute
    collector.end()
    assert 3 <= len(house) <= 4


def test_the_background_is_no_sound() -> None:
    house = HouseSounds(None)
    collector = Collector(house, LABELS)
    collector.feed(tags(50_000, 50_000), windows(1, 1, of=3)[0])
    collector.end()
    assert not len(house)


def test_it_stays_bounded_and_old_ones_fade() -> None:
    house = HouseSounds(None, most=50, seed=1)
    for number in range(500):
        house.add(f"{number}", windows(1, 1, of=3))
    house.passed(86_400.0)
    kept, days = house.sounds()
    assert len(kept) == 50
    assert house.seen == 500
    assert days == pytest.approx(0.1)  # so many sounds stand for a tenth of the day
    assert np.mean([int(label) for label, _ in kept]) > 350


def test_it_survives_a_restart(tmp_path: Path) -> None:
    house = HouseSounds(tmp_path / "new" / "house-sounds.npz")
    house.read()
    house.add("Music", windows(1, 3, of=3))
    house.add("Bell", windows(2, 1, of=3))
    house.passed(43_200.0)
    assert house.changed
    house.write(house.snapshot()())
    assert not house.changed
    again = HouseSounds(house.path)
    again.read()
    assert (len(again), again.seen, again.days) == (2, 2, 0.5)
    np.testing.assert_array_equal(again.sounds()[0][0][1], windows(1, 3, of=3))
    assert house.path is not None
    assert house.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04nonsense", b"x" * 5_000_000])
def test_a_damaged_file_is_told_and_it_begins_anew(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "house-sounds.npz"
    path.write_bytes(content)
    house = HouseSounds(path)
    house.read()
    assert not len(house)
    assert "is learnt anew" in caplog.text


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    house = HouseSounds(tmp_path / "file" / "house-sounds.npz")
    for _ in range(2):
        house.write(b"x")
    assert caplog.text.count("cannot be written") == 1
