from __future__ import annotations

import io
import time

import numpy as np
import pytest
from PIL import Image

from assistant.events import SAMPLE_RATE, Samples
from assistant.spectrogram import BOTTOM, HEIGHT, HIGHEST, LEFT, LOWEST, SHADES, WIDTH, spectrogram


def tone(hertz: float, seconds: float = 10.0) -> Samples:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE)).astype(np.float32)


def shades(png: bytes) -> np.ndarray:
    """The sound's part of a picture, as numbers of colours."""
    image = Image.open(io.BytesIO(png))
    assert (image.format, image.size, image.mode) == ("PNG", (WIDTH, HEIGHT), "P")
    return np.asarray(image)[: HEIGHT - BOTTOM, LEFT:]


def row_of(hertz: float) -> float:
    return (HEIGHT - BOTTOM) * (1 - np.log(hertz / LOWEST) / np.log(HIGHEST / LOWEST))


@pytest.mark.parametrize("hertz", [125.0, 520.0, 3100.0, 7000.0])
def test_a_tone_is_a_bright_line_at_its_pitch(hertz: float) -> None:
    picture = shades(spectrogram(tone(hertz)))
    brightest = picture[:, 100].argmax()

    assert abs(brightest - row_of(hertz)) <= 4
    assert picture.max() == SHADES - 1


def test_time_goes_to_the_right_and_ends_at_the_end() -> None:
    samples = np.concatenate([np.zeros(5 * SAMPLE_RATE, np.float32), tone(1000.0, 2.5)])
    picture = shades(spectrogram(samples))
    bright = np.flatnonzero(picture.max(axis=0) > SHADES // 2)

    assert bright[0] == pytest.approx(picture.shape[1] * 5.0 / 7.5, abs=6)
    assert bright[-1] >= picture.shape[1] - 4


def test_of_more_than_ten_seconds_the_last_are_shown() -> None:
    early = np.concatenate([tone(1000.0, 4.0), np.zeros(10 * SAMPLE_RATE, np.float32)])

    assert spectrogram(early) == spectrogram(np.zeros(10 * SAMPLE_RATE, np.float32))


def test_a_longer_picture_shows_all_that_is_asked_for() -> None:
    early = np.concatenate([tone(1000.0, 4.0), np.zeros(26 * SAMPLE_RATE, np.float32)])
    bright = np.flatnonzero(shades(spectrogram(early, 30.0)).max(axis=0) > SHADES // 2)

    assert bright[0] == 0
    assert bright[-1] == pytest.approx((WIDTH - LEFT) * 4.0 / 30.0, abs=6)


def test_silence_is_dark_and_faint_noise_is_not_blown_up() -> None:
    noise = (1e-5 * np.random.default_rng(1).standard_normal(SAMPLE_RATE)).astype(np.float32)

    assert shades(spectrogram(np.zeros(SAMPLE_RATE, np.float32))).max() == 0
    assert shades(spectrogram(noise)).max() < SHADES // 2


@pytest.mark.parametrize("loudness", [1.0, 0.1, 0.001])
def test_the_worst_sound_to_pack_is_small_and_quick(loudness: float) -> None:
    noise = (loudness * np.random.default_rng(2).standard_normal(10 * SAMPLE_RATE)).astype(np.float32)
    spectrogram(noise)
    began = time.process_time()
    png = spectrogram(noise)

    assert time.process_time() - began < 0.1  # 15 ms on a quiet machine
    assert len(png) <= 60_000


def test_the_same_samples_are_the_same_picture() -> None:
    assert spectrogram(tone(440.0)) == spectrogram(tone(440.0))


@pytest.mark.parametrize("count", [0, 1, 511, 1024])
def test_hardly_any_samples_are_a_picture_too(count: int) -> None:
    shades(spectrogram(tone(440.0)[:count]))


def test_numbers_that_are_none_are_silence() -> None:
    broken = np.array([np.nan, np.inf, -np.inf] * 1000, np.float32)

    assert shades(spectrogram(broken)).max() == 0
