"""Makes `config/common_sounds.npz`: what YAMNet makes of common sounds, from which taught sounds are told.

    python benchmarks/common_sounds.py YAMNET.tflite [OUT.npz]

The sounds are computed, or read by espeak-ng, so that the file is ours to give away; each is heard as it is and three
times in a made-up room, as examples of taught sounds are. Kept are embeddings of the windows, never audio.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assistant.demo_recording import spoken
from assistant.events import SAMPLE_RATE, Samples
from assistant.lessons import HEARD, activities_of, in_a_room
from assistant.models.yamnet import Yamnet
from assistant.synthesis import door_chime, placed, scaled, silence, siren, struck, t3, telephone, tone

COPIES = 3  # in made-up rooms
WINDOWS = 8  # of an activity
SPEECH = {
    "en-us": "good morning, did you sleep well? the coffee is ready",
    "de": "kannst du bitte das Fenster zumachen, es zieht",
    "fr": "il faut que nous partions maintenant",
    "es": "qué vamos a comer esta noche",
    "ja": "おはよう、きょうは いい てんきですね",
}


def white(rng: np.random.Generator, length: float) -> Samples:
    """White noise."""
    return rng.standard_normal(round(length * SAMPLE_RATE)).astype(np.float32)


def band(samples: Samples, low: float, high: float) -> Samples:
    """Only what lies between two frequencies."""
    spectrum = np.fft.rfft(samples)
    frequencies = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    spectrum[(frequencies < low) | (frequencies > high)] = 0
    return np.fft.irfft(spectrum, len(samples)).astype(np.float32)


def burst(rng: np.random.Generator, length: float, tau: float, low: float, high: float) -> Samples:
    """Noise that dies away."""
    time = np.arange(round(length * SAMPLE_RATE)) / SAMPLE_RATE
    return np.asarray(band(white(rng, length), low, high) * np.exp(-time / tau), np.float32)


def regular(sound: Samples, times: int, gap: float) -> Samples:
    """Again and again, every `gap` seconds."""
    bed = np.zeros(round(times * gap * SAMPLE_RATE) + len(sound), np.float32)
    for turn in range(times):
        bed = placed(bed, sound, turn * gap)
    return bed


def clicks(  # noqa: PLR0917
    rng: np.random.Generator, length: float, rate: float, tau: float, low: float, high: float
) -> Samples:
    """At random, `rate` a second."""
    bed = silence(length)
    for at in np.cumsum(rng.exponential(1 / rate, int(length * rate * 1.5))):
        if at < length - 0.05:
            bed = placed(bed, burst(rng, 0.05, tau, low, high) * np.float32(rng.uniform(0.3, 1)), float(at))
    return bed


def harmonic(frequency: float | NDArray[np.floating], length: float, count: int, tilt: float = 1.0) -> Samples:
    """A buzz of `count` harmonics."""
    course = np.broadcast_to(frequency, (round(length * SAMPLE_RATE),))
    phase = 2 * np.pi * np.cumsum(course) / SAMPLE_RATE
    parts = (np.sin(n * phase) / n**tilt for n in range(1, count + 1) if n * course.max() < 7_500)
    return np.asarray(sum(parts, start=np.zeros_like(phase)), np.float32)


def voiced(samples: Samples, *formants: tuple[float, float]) -> Samples:
    """Through a throat."""
    spectrum = np.fft.rfft(samples)
    frequencies = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    gain = sum(1 / (1 + ((frequencies - centre) / width) ** 2) for centre, width in formants)
    return np.fft.irfft(spectrum * gain, len(samples)).astype(np.float32)


def edged(samples: Samples, rise: float = 0.02, fall: float = 0.05) -> Samples:
    """Without a click at either end."""
    time = np.arange(len(samples)) / SAMPLE_RATE
    return np.asarray(samples * np.minimum(1, np.minimum(time / rise, time[::-1] / fall)), np.float32)


def glide(*points: float, length: float) -> NDArray[np.float64]:
    """A frequency that moves evenly from point to point."""
    return np.interp(np.linspace(0, len(points) - 1, round(length * SAMPLE_RATE)), range(len(points)), points)


def sounds() -> list[tuple[str, Samples]]:
    """A word for each, as AudioSet has it, and the sound."""
    rng = np.random.default_rng(5)
    made: list[tuple[str, Samples]] = [
        ("Doorbell", door_chime()),
        ("Telephone", telephone(1)),
        ("Siren", siren()),
        ("Smoke detector, smoke alarm", t3(cycles=1)),
        ("Smoke detector, smoke alarm", t3(520.0, cycles=1)),
        *(("Bell", regular(struck(f, 1.5, 0.4), 2, 0.9)) for f in (330.0, 880.0, 1760.0)),
        *(("Beep, bleep", regular(tone(f, 0.2), 4, 0.4)) for f in (440.0, 1000.0, 2000.0, 3500.0)),
        ("Buzzer", regular(edged(harmonic(120, 0.6, 40, 0.5)), 3, 0.9)),
        ("Sine wave", edged(harmonic(glide(300, 2500, length=2), 2, 2))),
        *(
            ("Noise", edged(band(white(rng, 3), *b), 0.3, 0.3))
            for b in ((2000, 8000), (20, 300), (20, 8000), (300, 2000))
        ),
        ("Wind", band(white(rng, 4), 60, 900) * glide(*rng.uniform(0.2, 1, 17), length=4).astype(np.float32)),
        ("Water", band(white(rng, 4), 500, 6000) * (0.5 + np.abs(band(white(rng, 4), 1, 30)) / 6)),
        ("Rain", clicks(rng, 4, 180, 0.004, 800, 8000)),
        ("Crackle", clicks(rng, 4, 9, 0.003, 1000, 8000)),
        ("Typing", clicks(rng, 4, 5, 0.008, 900, 5000)),
        ("Tick-tock", regular(burst(rng, 0.05, 0.004, 1500, 6000), 8, 0.5)),
        ("Knock", regular(burst(rng, 0.15, 0.03, 80, 700), 4, 0.22)),
        ("Walk, footsteps", regular(burst(rng, 0.2, 0.03, 50, 1200), 6, 0.55)),
        ("Thump, thud", regular(burst(rng, 0.4, 0.1, 30, 200), 2, 1.2)),
        ("Clapping", regular(burst(rng, 0.1, 0.015, 600, 4000), 6, 0.3)),
        ("Applause", clicks(rng, 3, 60, 0.01, 600, 5000)),
        *(("Engine", edged(harmonic(f, 3, 40, 0.7) + 0.3 * white(rng, 3), 0.3, 0.3)) for f in (70, 130)),
        ("Vacuum cleaner", edged(band(white(rng, 3), 100, 6000) + 0.5 * harmonic(240, 3, 20, 0.8), 0.4, 0.4)),
        ("Hum", edged(harmonic(100, 3, 12, 1.2), 0.2, 0.2)),
        ("Drill", edged(harmonic(glide(190, 210, 170, 190, length=3), 3, 30, 0.4) + 0.5 * white(rng, 3), 0.1, 0.1)),
        ("Sawing", regular(edged(band(white(rng, 0.3), 500, 5000), 0.1, 0.1), 6, 0.45)),
        ("Whistling", edged(harmonic(glide(1500, 1800, 1200, 1500, length=2), 2, 1), 0.1, 0.1)),
        ("Cough", regular(voiced(burst(rng, 0.3, 0.08, 100, 6000), (600, 300), (1700, 500)), 2, 0.6)),
        ("Crow", regular(edged(voiced(harmonic(300, 0.4, 20, 0.4) + white(rng, 0.4), (1400, 300)), 0.03, 0.1), 3, 0.8)),
    ]
    pane = placed(silence(2), burst(rng, 0.3, 0.05, 1500, 8000), 0)
    for at in rng.uniform(0, 0.6, 30):
        pane = placed(pane, np.float32(rng.uniform(0.2, 1)) * struck(rng.uniform(1500, 6000), 0.4, 0.06), at)
    dishes = silence(3)
    for at in rng.uniform(0, 2.4, 9):
        dishes = placed(dishes, struck(rng.uniform(800, 3500), 0.5, 0.08), at)
    chirp = edged(harmonic(glide(3000, 5000, length=0.08), 0.08, 1))
    bark = voiced(harmonic(glide(500, 300, length=0.2), 0.2, 12, 0.6) + 0.3 * white(rng, 0.2), (700, 200), (1500, 300))
    meow = voiced(harmonic(glide(500, 750, 600, 450, length=0.9), 0.9, 12, 0.8), (1000, 300), (2500, 500))
    cry = voiced(harmonic(glide(350, 500, 440, 380, length=0.8), 0.8, 16, 0.5), (1100, 250), (3000, 500))
    snore = voiced(harmonic(60, 1, 40, 0.4) * (0.6 + 0.4 * white(rng, 1)), (300, 150), (900, 300))
    sneeze = (
        band(white(rng, 0.5), 1000, 8000) * np.linspace(0.1, 1, SAMPLE_RATE // 2).astype(np.float32),
        silence(0.01),
    )
    made += [
        ("Glass", pane),
        ("Dishes, pots, and pans", dishes),
        ("Bird", regular(np.concatenate([chirp, chirp[::-1]]), 8, 0.33)),
        ("Bark", regular(edged(bark, 0.01, 0.08), 3, 0.5)),
        ("Cat", regular(edged(meow, 0.1, 0.2), 2, 1.3)),
        ("Baby cry, infant cry", regular(edged(cry, 0.05, 0.1), 4, 1.0)),
        ("Snoring", regular(edged(snore, 0.3, 0.3), 2, 2.0)),
        ("Sneeze", np.concatenate([0.3 * sneeze[0], burst(rng, 0.4, 0.1, 300, 7000)])),
    ]
    for turn in range(3):
        melody = silence(5)
        for step, note in enumerate(rng.choice([220, 247, 262, 294, 330, 392, 440, 494, 523, 587, 659], 12)):
            melody = placed(melody, edged(harmonic(note, 0.5, 8, (1.0, 1.6, 2.2)[turn]), 0.01, 0.2), 0.35 * step)
        chord = sum((edged(harmonic(f, 4, 8, 1.3)) for f in rng.choice([110, 165, 220, 277, 330, 440], 3)), silence(4))
        made += [("Music", melody), ("Music", chord + 3 * clicks(rng, 4, 4, 0.02, 60, 6000))]
    for language, text in SPEECH.items():
        for voice in ("", "+f3"):
            made.append(("Speech", spoken(text, language + voice)[0][: 5 * SAMPLE_RATE]))
    return made


def main() -> None:
    """Hear all of them and write the file."""
    yamnet = Yamnet(Path(sys.argv[1]))
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent.parent / "config" / "common_sounds.npz"
    words, windows = [], []
    for number, (word, made) in enumerate(sounds()):
        rng = np.random.default_rng(number)
        sound = scaled(np.nan_to_num(made), -20.0)
        for samples in (sound, *(in_a_room(sound, rng) for _ in range(COPIES))):
            for activity in activities_of(samples, HEARD):
                heard = activity[:WINDOWS]
                for window in heard:
                    yamnet.tag(window.samples)
                    windows.append(yamnet.embedding())
                words.append((word, len(heard)))
    packed = io.BytesIO()
    text = np.frombuffer(json.dumps(words).encode(), np.uint8)
    np.savez_compressed(packed, words=text, windows=np.array(windows, np.uint8))
    out.write_bytes(packed.getvalue())
    print(f"{out}: {len(words)} activities, {len(windows)} windows, {len(packed.getvalue()) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
