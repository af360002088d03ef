"""How often a reply stops itself, and how soon a talker stops it: espeak-ng on both sides in simulated rooms.

python benchmarks/barge_in.py [--rounds 24]
"""

# ruff: noqa: ANN001, ANN201, ANN202, D103 (a bench)
from __future__ import annotations

import argparse
import asyncio
import json
import time

import numpy as np
import soxr

from assistant.echo import Echo
from assistant.voices.espeak import Espeak

REPLIES = [
    "The kitchen light is on now, and the heating in the living room is set to twenty one degrees.",
    "It is a quarter past seven. The washing machine finished ten minutes ago and the front door is locked.",
    "I did not find a lamp of that name. There is a reading lamp in the bedroom and a floor lamp in the hall.",
]
TALKERS = [("Stop, be quiet please, that is enough", "en"), ("Arrête, ça suffit maintenant, tais toi", "fr")]


def level(samples: np.ndarray, dbfs: float) -> np.ndarray:
    return samples * 10 ** (dbfs / 20) / np.sqrt(np.mean(samples[np.abs(samples) > 0.01] ** 2))


def room(random: np.random.Generator, rt60: float) -> np.ndarray:
    """An impulse response: direct sound, then noise that decays by 60 dB in `rt60`."""
    length = int(16000 * rt60)
    tail = random.normal(size=length) * 10 ** (-3 * np.arange(length) / length) * 0.06
    tail[0] = 1.0
    return tail


def mixed(random, reply, talker, *, echo_db, talker_db, noise_db, rt60, delay, at):
    echo = np.convolve(reply, room(random, rt60)) if echo_db is not None else np.zeros(len(reply))
    mic = np.zeros(len(reply) + int(16000 * 1.5))
    start = int(delay * 16000)
    if echo_db is not None:
        echo = level(echo, echo_db)[: len(mic) - start]
        mic[start : start + len(echo)] += echo
    if talker is not None:
        voice = level(np.convolve(talker, room(random, rt60)), talker_db)[: len(mic) - int(at * 16000)]
        mic[int(at * 16000) : int(at * 16000) + len(voice)] += voice
    noise = np.cumsum(random.normal(size=len(mic)))  # brown, its lowest taken away
    noise = np.convolve(noise, np.r_[1, -np.ones(200) / 200], "same")
    mic += noise / noise.std() * 10 ** (noise_db / 20)
    return mic.astype(np.float32)


def fires(reply, mic) -> float | None:
    echo = Echo(reply)
    for start in range(0, len(mic), 640):
        if echo.feed(mic[start : start + 640]):
            return (start + 640) / 16000
    return None


async def voices() -> tuple[list[np.ndarray], list[np.ndarray]]:
    espeak = Espeak()

    async def said(text, language):
        speech = await espeak.synthesise(text, language)
        return soxr.resample(speech.samples, speech.rate, 16000).astype(np.float32)

    return [await said(text, "en") for text in REPLIES], [await said(*talker) for talker in TALKERS]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=24)
    rounds = parser.parse_args().rounds
    replies, talkers = asyncio.run(voices())
    random = np.random.default_rng(4)
    result, minutes, false, cost, fed = {}, 0.0, 0, 0.0, 0.0
    for number in range(3 * rounds):
        reply = replies[number % 3]
        levels = {"echo_db": random.uniform(-50, -12), "talker_db": 0, "noise_db": random.uniform(-70, -45)}
        mic = mixed(random, reply, None, **levels, rt60=random.uniform(0.1, 0.9), delay=random.uniform(0, 0.5), at=0)
        began = time.process_time()
        false += fires(reply, mic) is not None
        cost, fed = cost + time.process_time() - began, fed + len(mic) / 16000
        minutes += len(mic) / 16000 / 60
    result["alone"] = {"minutes": round(minutes, 1), "false": false, "cpu_share": round(cost / fed, 3)}
    false = 0
    for number in range(2 * rounds):
        late = np.concatenate([np.zeros(int(16000 * random.uniform(1.0, 3.3)), np.float32), replies[number % 3]])
        levels = {"echo_db": random.uniform(-45, -12), "talker_db": 0, "noise_db": -60}
        mic = mixed(random, late, None, **levels, rt60=random.uniform(0.1, 0.9), delay=0, at=0)
        false += fires(replies[number % 3], mic) is not None
    result["late loudspeaker"] = {"of": 2 * rounds, "false": false}
    for name, echo_db, talker_db in [
        ("+10 dB", -35, -25),
        ("0 dB", -30, -30),
        ("-6 dB", -27, -33),
        ("-12 dB", -24, -36),
        ("cancelled", None, -30),
    ]:
        took, early, missed = [], 0, 0
        for number in range(rounds):
            reply, talker = replies[number % 3], talkers[number % 2]
            at = random.uniform(1.8, 3.0)
            mic = mixed(
                random,
                reply,
                talker,
                echo_db=echo_db,
                talker_db=talker_db,
                noise_db=-60,
                rt60=random.uniform(0.1, 0.6),
                delay=random.uniform(0, 0.5),
                at=at,
            )
            fired = fires(reply, mic)
            missed += fired is None
            early += fired is not None and fired < at
            if fired is not None and fired >= at:
                took.append(fired - at)
        result[name] = {
            "heard": len(took),
            "of": rounds,
            "early": early,
            "p50_s": round(float(np.median(took)), 2) if took else None,
        }
    for name, figures in result.items():
        print(name, figures)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
