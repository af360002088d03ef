"""A picture of sound: time to the right, pitch upwards, loudness as brightness, small enough for a push message.

Pure, and always the same for the same samples. Colours: cubehelix (D. A. Green, "A colour scheme for the display of
astronomical intensity images", Bulletin of the Astronomical Society of India 39, 2011), whose brightness rises evenly,
so that the picture also reads in grey.
"""

from __future__ import annotations

import io
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from assistant.events import SAMPLE_RATE, Samples, seconds

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST = 10.0  # seconds that are shown; of more the last
WIDTH, HEIGHT = 640, 320  # pixels
LEFT, BOTTOM = 40, 20  # pixels for the labels of the axes
COLUMNS, ROWS = (WIDTH - LEFT) // 2, (HEIGHT - BOTTOM) // 2  # each two pixels wide and high: half the bytes to pack
LOWEST, HIGHEST = 60.0, 7_800.0  # Hz
CROWDED = 12.0  # seconds: in a longer picture only each fifth is marked
FRAME = 1024  # samples of one spectrum: 64 ms, 15.6 Hz apart
RANGE = 60.0  # dB between the darkest and the brightest colour
TILT = 3.0  # dB an octave that high pitches are raised by: a room's noise falls by about as much
QUIETEST = -60.0  # dBFS of the brightest colour at least: silence is dark, however little there is beside it
CONTRAST = 1.5  # exponent: noise is dimmed more than what stands out
SHADES = 32  # colours of the sound; a 33rd writes the labels
PITCHES = {125: "125", 250: "250", 500: "500", 1000: "1k", 2000: "2k", 4000: "4k"}  # Hz


def spectrogram(samples: Samples, longest: float = LONGEST) -> bytes:
    """PNG of `WIDTH` × `HEIGHT` pixels, at most 60 kB, for mono 16 kHz `samples` of shape (n,), -1 to 1.

    The time axis spans what is given, at most the last `longest` seconds; its marks are seconds before the end.
    """
    from PIL import Image  # noqa: PLC0415 - only when something was heard

    samples = np.nan_to_num(samples[-round(longest * SAMPLE_RATE) :], posinf=0.0, neginf=0.0)
    picture = np.zeros((HEIGHT, WIDTH), np.uint8)
    picture[: HEIGHT - BOTTOM, LEFT:] = _shades(samples).repeat(2, axis=0).repeat(2, axis=1)
    image = Image.fromarray(picture, "P")
    image.putpalette(_palette())
    _label(image, seconds(len(samples)))
    packed = io.BytesIO()
    image.save(packed, "PNG", compress_level=6)
    return packed.getvalue()


def _shades(samples: Samples) -> NDArray[np.uint8]:
    """Shape (ROWS, COLUMNS), 0 to SHADES - 1: loudness over pitch (high on top) and time."""
    padded = np.pad(samples, (FRAME // 2, FRAME // 2 + 1))
    centres = np.linspace(0, max(len(samples) - 1, 0), COLUMNS).round().astype(int)
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[centres]
    window = np.hanning(FRAME).astype(np.float32)
    power = np.abs(np.fft.rfft(frames * window)) ** 2 / (window.sum() / 2) ** 2  # a full-scale sine is 1
    octaves = np.log2(HIGHEST / LOWEST) * np.linspace(0.0, 1.0, ROWS)  # below the highest
    decibels = 10.0 * np.log10(power @ _bands().T + 1e-12).T - TILT * octaves[:, None]
    top = max(float(decibels.max()), QUIETEST)
    shares = np.clip((decibels - top) / RANGE + 1.0, 0.0, 1.0)
    shades: NDArray[np.uint8] = (shares**CONTRAST * (SHADES - 1)).round().astype(np.uint8)
    return shades


@cache
def _bands() -> NDArray[np.float64]:
    """Shape (ROWS, FRAME // 2 + 1): what each row takes of a spectrum, evenly spaced in octaves, high pitches first.

    A low row is narrower than the spectrum's lines and is interpolated between two; a high one takes the mean of many.
    """
    edges = np.geomspace(LOWEST, HIGHEST, ROWS + 1) * FRAME / SAMPLE_RATE  # in lines
    centres, half = (edges[1:] + edges[:-1]) / 2, np.maximum((edges[1:] - edges[:-1]) / 2, 1.0)
    weights = np.maximum(1.0 - np.abs(np.arange(FRAME // 2 + 1) - centres[:, None]) / half[:, None], 0.0)
    bands: NDArray[np.float64] = (weights / weights.sum(axis=1, keepdims=True))[::-1]
    return bands


@cache
def _palette() -> bytes:
    """RGB of each shade, then that of the labels: cubehelix with start 2.75, 0.6 rotations, hue 1.2, gamma 1."""
    lightness = np.linspace(0.0, 1.0, SHADES)
    angle = 2.0 * np.pi * (2.75 / 3.0 + 1.0 + 0.6 * lightness)
    amplitude = 1.2 * lightness * (1.0 - lightness) / 2.0
    mix = np.array([[-0.14861, 1.78277], [-0.29227, -0.90649], [1.97294, 0.0]])
    colours = lightness + amplitude * (mix @ np.array([np.cos(angle), np.sin(angle)]))
    rgb: NDArray[np.uint8] = (np.clip(colours, 0.0, 1.0).T * 255.0).round().astype(np.uint8)
    return bytes(rgb.tobytes()) + bytes((200, 200, 200))


def _label(image: Image, duration: float) -> None:
    """Pitches in Hz at the left, seconds before the end below."""
    from PIL import ImageDraw, ImageFont  # noqa: PLC0415

    draw, font = ImageDraw.Draw(image), ImageFont.load_default(11)
    draw.fontmode = "1"  # no shades of grey: the palette has none
    width, height = WIDTH - LEFT, HEIGHT - BOTTOM
    for pitch, name in PITCHES.items():
        y = round(height * (1.0 - np.log(pitch / LOWEST) / np.log(HIGHEST / LOWEST)))
        draw.line((LEFT - 5, y, LEFT - 1, y), SHADES)
        draw.text((LEFT - 8, y), name, SHADES, font, anchor="rm")
    for second in range(0, int(duration) + 1, 1 if duration <= CROWDED else 5):
        x = WIDTH - 1 - round(width * second / duration) if duration else WIDTH - 1
        if x < LEFT:
            continue
        draw.line((x, height, x, height + 4), SHADES)
        if second and x - LEFT > 5:
            draw.text((x, height + 5), f"-{second} s", SHADES, font, anchor="mt")
