"""The tracker: made-up scores for its rules, real YAMNet over made audio for what a house sounds like."""

import shutil
import subprocess
import wave
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
import soxr

from assistant.errors import ConfigurationError
from assistant.events import SAMPLE_RATE, Chunk, Detection, Sensitivity, State, Tags, Window
from assistant.models.yamnet import Yamnet
from assistant.segment.activity import Activity
from assistant.segment.windows import Windows
from assistant.tracking import (
    SoundGroup,
    SoundSettings,
    SoundTable,
    Standing,
    Tracker,
    in_force,
    kind_of,
    load_table,
    plain_thresholds,
)

SHIPPED = Path(__file__).parent.parent / "config" / "sounds.yaml"
HOP = 3840
LABELS = ("Speech", "Animal", "Dog", "Bark", "Cat", "Smoke detector, smoke alarm", "Glass", "Silence", "Rain", "Plop")
TABLE = SoundTable(
    groups={
        "dog_bark": SoundGroup(labels=("Dog", "Bark")),
        "cat": SoundGroup(labels=("Cat",)),
        "smoke_alarm": SoundGroup(labels=("Smoke detector, smoke alarm",), alert=True),
        "glass_break": SoundGroup(labels=("Glass",), threshold=0.12),
        "rain": SoundGroup(labels=("Rain",), agreement=3),
    },
    general=("Animal",),
    speech=("Speech",),
    scenes=("Silence",),
)


def tags(end: int, onset: int, scores: dict[str, float]) -> Tags:
    window = Window(end - 15_600, end, np.zeros(15_600, np.float32), onset, -30.0, -60.0)
    return Tags(window, np.array([scores.get(label, 0.0) for label in LABELS], np.float32))


def play(tracker: Tracker, windows: Sequence[dict[str, float]], onset: int = 160_000) -> list[Detection]:
    """Windows of one activity, then three seconds of quiet."""
    found, end = [], onset + 7680
    for scores in windows:
        found += tracker.feed(tags(end, onset, scores))
        found += tracker.advance(end)
        end += HOP
    return found + tracker.advance(end + 3 * SAMPLE_RATE)


def tracker(**settings: object) -> Tracker:
    return Tracker(TABLE, LABELS, SoundSettings(**settings))


def started(found: Sequence[Detection]) -> list[str]:
    return [d.label for d in found if d.state is State.STARTED]


def test_a_sound_starts_once_and_ends_once() -> None:
    found = play(tracker(), [{"Bark": 0.7, "Dog": 0.3}] * 6)
    assert [(d.state, d.label, d.event_type, d.key) for d in found] == [
        (State.STARTED, "Bark", "dog_bark", 1),
        (State.ENDED, "Bark", "dog_bark", 1),
    ]
    start, end = found
    assert (start.start, start.heard_at, start.end) == (160_000, 160_000 + 7680, None)
    assert end.end == 160_000 + 7680 + 5 * HOP
    assert start.score == pytest.approx(0.7)


def test_the_general_name_is_said_when_it_is_nearly_as_likely() -> None:
    assert started(play(tracker(), [{"Bark": 0.7, "Dog": 0.65}] * 3)) == ["Dog"]


def test_a_single_window_needs_more_than_several() -> None:
    assert started(play(tracker(), [{"Cat": 0.4}])) == []
    found = play(tracker(), [{"Cat": 0.4}] * 4)
    assert started(found) == ["Cat"]
    assert found[0].heard_at > 160_000 + 7680


def test_agreement_makes_a_group_wait() -> None:
    assert started(play(tracker(), [{"Rain": 0.99}] * 2)) == []
    assert started(play(tracker(), [{"Rain": 0.99}] * 3)) == ["Rain"]


def test_a_soft_class_needs_little() -> None:
    assert started(play(tracker(), [{"Glass": 0.3}])) == ["Glass"]


def test_a_parent_adds_nothing_and_is_said_only_alone() -> None:
    assert started(play(tracker(), [{"Animal": 0.95, "Bark": 0.7}] * 5)) == ["Bark"]
    assert started(play(tracker(), [{"Animal": 0.95}] * 5)) == ["Animal"]


def test_speech_and_scenes_are_never_events() -> None:
    assert play(tracker(sensitivity="miss nothing"), [{"Speech": 1.0, "Silence": 1.0}] * 10) == []


def test_speech_makes_the_tracker_careful() -> None:
    assert started(play(tracker(), [{"Cat": 0.32}] * 5)) == ["Cat"]
    assert started(play(tracker(), [{"Cat": 0.32, "Speech": 0.9}] * 5)) == []


def test_one_sound_has_one_voice() -> None:
    assert started(play(tracker(), [{"Bark": 0.7, "Cat": 0.5}] * 8)) == ["Bark"]
    second = [{"Bark": 0.6}] * 4 + [{"Bark": 0.2, "Smoke detector, smoke alarm": 0.95}] * 4
    assert started(play(tracker(), second)) == ["Bark", "Smoke detector, smoke alarm"]


def test_a_gap_shorter_than_the_hold_does_not_end_a_sound() -> None:
    assert started(play(tracker(), [{"Bark": 0.8}] * 3 + [{}] * 4 + [{"Bark": 0.8}] * 3)) == ["Bark"]


def test_cool_down_keeps_a_sound_from_coming_back_at_once() -> None:
    table = TABLE.model_copy(update={"groups": {"dog_bark": SoundGroup(labels=("Bark",), cool_down=60)}})
    hears = Tracker(table, LABELS)
    assert started(play(hears, [{"Bark": 0.8}] * 3)) == ["Bark"]
    assert started(play(hears, [{"Bark": 0.8}] * 3, onset=160_000 + 10 * SAMPLE_RATE)) == []
    assert started(play(hears, [{"Bark": 0.8}] * 3, onset=160_000 + 90 * SAMPLE_RATE)) == ["Bark"]


def test_what_the_quiet_room_sounds_like_is_subtracted() -> None:
    hears = tracker()
    for i in range(10):
        position = 160_000 + i * 4 * SAMPLE_RATE
        assert hears.feed(tags(position, position, {"Cat": 0.5})) == []
    assert started(play(hears, [{"Cat": 0.6, "Bark": 0.7}] * 4, onset=900_000)) == ["Bark"]


def test_what_lasts_is_learnt_but_never_an_alert() -> None:
    hears, minute = tracker(), round(180 * SAMPLE_RATE / HOP)
    found = play(hears, [{"Cat": 0.5}] * minute)
    assert started(found) == ["Cat"]
    assert found[-1].end is not None and found[-1].end < 160_000 + 120 * SAMPLE_RATE
    later = 160_000 + 200 * SAMPLE_RATE
    assert started(play(hears, [{"Cat": 0.5}] * 5, onset=later)) == []
    alarm = play(tracker(), [{"Smoke detector, smoke alarm": 0.8}] * minute)
    assert started(alarm) == ["Smoke detector, smoke alarm"]
    assert alarm[-1].end == 160_000 + 7680 + (minute - 1) * HOP


def test_the_end_of_a_source_ends_its_sounds() -> None:
    hears = tracker()
    hears.feed(tags(170_000, 160_000, {"Bark": 0.9}))
    (ended,) = hears.end(175_000)
    assert (ended.state, ended.end, ended.heard_at) == (State.ENDED, 170_000, 175_000)
    assert hears.end(175_000) == []


def test_a_sound_late_in_an_activity_starts_near_where_it_was_heard() -> None:
    found = play(tracker(), [{}] * 40 + [{"Bark": 0.9}] * 3)
    heard = 160_000 + 7680 + 40 * HOP
    assert heard - SAMPLE_RATE <= found[0].start <= heard


def test_sensitivity_shifts_every_threshold() -> None:
    windows = [{"Cat": 0.25}] * 5
    assert started(play(tracker(sensitivity="miss nothing"), windows)) == ["Cat"]
    assert started(play(tracker(), windows)) == []
    louder = [{"Cat": 0.35}] * 5
    assert started(play(tracker(), louder)) == ["Cat"]
    assert started(play(tracker(sensitivity="fewer false alarms"), louder)) == []


def test_a_group_takes_its_label_out_of_a_family() -> None:
    table = SoundTable(
        groups={"plop": SoundGroup(labels=("Plop",))}, families={"wet": SoundGroup(labels=("Rain", "Plop"))}
    )
    assert play(Tracker(table, LABELS), [{"Plop": 0.9}] * 3)[0].event_type == "plop"


def test_a_label_in_no_group_is_other() -> None:
    assert play(tracker(), [{"Plop": 0.9}] * 3)[0].event_type == "other"


def test_a_sound_without_a_name_in_this_home_needs_more() -> None:
    assert started(play(tracker(), [{"Cat": 0.34}] * 5)) == ["Cat"]
    assert started(play(tracker(), [{"Plop": 0.34}] * 5)) == []
    assert started(play(tracker(), [{"Plop": 0.42}] * 5)) == ["Plop"]


def test_a_stronger_second_thought_is_said() -> None:
    corrected = [{"Cat": 0.55}] * 3 + [{"Cat": 0.2, "Bark": 0.6}] * 5
    assert started(play(tracker(), corrected)) == ["Cat", "Bark"]
    assert started(play(tracker(), [{"Cat": 0.55}] * 3 + [{"Cat": 0.55, "Bark": 0.4}] * 5)) == ["Cat"]


def test_unknown_and_doubled_labels_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="'Woof' is no label"):
        Tracker(SoundTable(groups={"dog": SoundGroup(labels=("Woof",))}), LABELS)
    twice = {"dog": SoundGroup(labels=("Bark",)), "pet": SoundGroup(labels=("Bark",))}
    with pytest.raises(ConfigurationError, match="'Bark' is in dog and in pet"):
        Tracker(SoundTable(groups=twice), LABELS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("groups: {dog: {labels: [Bark], treshold: 1}}", "groups.dog.treshold"),
        ("groups: {dog: {labels: [Bark], threshold: 7}}", "groups.dog.threshold"),
        ("groups: [", "YAML"),
        ("", "groups"),
    ],
)
def test_a_wrong_table_is_told_with_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "sounds.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_table(path)
    assert str(path) in str(caught.value)


def test_a_missing_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.yaml"):
        load_table(tmp_path / "none.yaml")


# With the real tagger.


@pytest.fixture(scope="module")
def yamnet(yamnet_path: Path) -> Yamnet:
    return Yamnet(yamnet_path)


def hear(yamnet: Yamnet, samples: np.ndarray) -> tuple[list[Detection], int]:
    """Detections of a whole recording and how many windows it took."""
    activity, windows, hears = Activity(), Windows(), Tracker(load_table(SHIPPED), yamnet.labels)
    found: list[Detection] = []
    count = 0
    samples = samples.astype(np.float32)
    for at in range(0, len(samples), 800):
        chunk = Chunk("home", "test", at, samples[at : at + 800], 0.0)
        for window in windows.feed(chunk, activity.feed(chunk)):
            count += 1
            found += hears.feed(Tags(window, yamnet.tag(window.samples)))
        found += hears.advance(chunk.end)
    for window in windows.end():
        count += 1
        found += hears.feed(Tags(window, yamnet.tag(window.samples)))
    return found + hears.end(len(samples)), count


def noise(seconds: float, level_dbfs: float, *, slope: float = 1.0, seed: int = 1) -> np.ndarray:
    """Noise whose power falls by `slope` × 3 dB an octave."""
    n = round(seconds * SAMPLE_RATE)
    rng, f = np.random.default_rng(seed), np.fft.rfftfreq(n, 1 / SAMPLE_RATE)
    spectrum = (rng.normal(size=len(f)) + 1j * rng.normal(size=len(f))) * np.maximum(f, 40) ** (-slope / 2)
    samples = np.fft.irfft(spectrum, n)
    return samples * 10 ** (level_dbfs / 20) / np.sqrt(np.mean(samples**2))


def time(seconds: float) -> np.ndarray:
    return np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def music(seconds: float, level: float = 0.1) -> np.ndarray:
    """A broken-chord tune of decaying harmonic tones."""
    out = np.zeros(round(seconds * SAMPLE_RATE))
    notes = [261.6, 329.6, 392.0, 523.3, 440.0, 349.2, 293.7, 392.0]
    t = time(0.9)
    for i, begin in enumerate(np.arange(0, seconds - 1, 0.22)):
        tone = sum(np.sin(2 * np.pi * notes[i % 8] * k * t) / k for k in range(1, 6)) * np.exp(-4 * t)
        at = round(begin * SAMPLE_RATE)
        out[at : at + len(tone)] += level * tone
    return out


def test_every_label_of_the_tagger_is_in_the_shipped_table_once(yamnet: Yamnet) -> None:
    table = load_table(SHIPPED)
    hears = Tracker(table, yamnet.labels)
    reached = sorted(i for family in hears._families for i in family.indices)
    assert len(reached) == len(set(reached))
    never = {label for label in yamnet.labels if label in table.speech or label in table.scenes}
    assert len(reached) + len(never) == len(yamnet.labels) == 521


def test_a_dead_microphone_raises_nothing(yamnet: Yamnet) -> None:
    assert hear(yamnet, np.zeros(60 * SAMPLE_RATE)) == ([], 0)


def test_a_constant_hum_is_learnt_and_costs_little(yamnet: Yamnet) -> None:
    t = time(120)
    hum = 0.02 * np.sin(2 * np.pi * 50 * t) + 0.008 * np.sin(2 * np.pi * 150 * t) + noise(120, -60)
    found, count = hear(yamnet, hum)
    assert len(started(found)) <= 1  # the first seconds of an unknown room may be a sound
    assert all(d.start < 3 * SAMPLE_RATE for d in found)
    assert count < 80


def test_a_fan_that_starts_raises_at_most_one_sound_and_is_learnt(yamnet: Yamnet) -> None:
    room = noise(120, -60)
    fan = noise(90, -38, slope=1.5, seed=2) + 0.003 * np.sin(2 * np.pi * 120 * time(90))
    room[30 * SAMPLE_RATE :] += fan * np.minimum(1, time(90) / 2)
    found, _ = hear(yamnet, room)
    assert len(started(found)) <= 1
    assert all(d.start < 50 * SAMPLE_RATE for d in found)


def test_a_rhythmic_machine_is_learnt(yamnet: Yamnet) -> None:
    t = time(240)
    beat = np.exp(-((((t * 1.2) % 1) - 0.3) ** 2) / 0.01) + 0.2
    machine = noise(240, -42, slope=0.7) * beat + 0.004 * beat * np.sin(2 * np.pi * 300 * t)
    found, _ = hear(yamnet, machine)
    assert len(started(found)) <= 3
    assert [d.label for d in found if d.state is State.STARTED and d.start > 120 * SAMPLE_RATE] == []


def test_music_is_music_and_once(yamnet: Yamnet) -> None:
    room = noise(60, -60)
    room[10 * SAMPLE_RATE : 50 * SAMPLE_RATE] += music(40)
    found, _ = hear(yamnet, room)
    assert [d.event_type for d in found if d.state is State.STARTED] == ["music"]
    assert abs(found[0].start / SAMPLE_RATE - 10) < 0.5
    assert found[0].heard_at / SAMPLE_RATE < 12


def test_a_loud_television_is_no_flood(yamnet: Yamnet, tmp_path: Path) -> None:
    espeak = shutil.which("espeak-ng")
    if espeak is None:
        pytest.skip("espeak-ng is missing; remedy: apt-get install espeak-ng")
    wav = tmp_path / "speech.wav"
    text = "Good evening. Here is the news. The storm that crossed the coast last night has moved on to the north. " * 6
    subprocess.run([espeak, "-v", "en", "-w", str(wav), text], check=True, timeout=60)
    with wave.open(str(wav)) as file:
        rate, raw = file.getframerate(), file.readframes(file.getnframes())
    voice = soxr.resample(np.frombuffer(raw, np.int16).astype(np.float32) / 32768, rate, SAMPLE_RATE)
    room = noise(180, -60) + music(180, level=0.03)
    for begin in range(5, 170, 45):
        part = 0.4 * voice[: min(len(voice), 35 * SAMPLE_RATE)][: len(room) - begin * SAMPLE_RATE]
        room[begin * SAMPLE_RATE : begin * SAMPLE_RATE + len(part)] += part
    found, _ = hear(yamnet, room)
    assert len(started(found)) <= 6
    assert "music" in {d.event_type for d in found}


def test_a_bell_of_beeps_is_heard_over_a_quiet_room_soon(yamnet: Yamnet) -> None:
    room, t = noise(30, -60), time(0.15)
    beep = 0.2 * np.sign(np.sin(2 * np.pi * 2000 * t)) * np.minimum(1, 100 * t)
    for begin in np.arange(12, 15, 0.3):
        at = round(begin * SAMPLE_RATE)
        room[at : at + len(beep)] += beep
    found, _ = hear(yamnet, room)
    assert found, "beeps were not heard"
    assert found[0].event_type in {"appliance_beep", "alarm_clock", "smoke_alarm", "phone"}
    assert found[0].heard_at / SAMPLE_RATE < 14


def test_sensitivity_may_change_while_a_sound_runs() -> None:
    once = tracker()
    onset, faint = 160_000, {"Cat": 0.25}
    assert started(play(once, [faint] * 4)) == []

    once.sensitivity = Sensitivity.MOST
    end = onset + 10 * SAMPLE_RATE
    heard = [d for i in range(4) for d in once.feed(tags(end + i * HOP, end - 7680, faint))]
    assert started(heard) == ["Cat"]

    # what is faint at the new choice does not keep it alive, and it ends once
    once.sensitivity = Sensitivity.FEWER
    later = end + 3 * HOP
    for i in range(1, 10):
        once.feed(tags(later + i * HOP, end - 7680, {"Cat": 0.15}))
    assert [d.state for d in once.advance(later + 10 * HOP)] == [State.ENDED]


def test_balanced_is_the_table_as_it_stands_and_back_again() -> None:
    plain, moved = tracker(), tracker()
    for sensitivity in (Sensitivity.MOST, Sensitivity.FEWER, Sensitivity.BALANCED):
        moved.sensitivity = sensitivity
    windows = [{"Cat": 0.33, "Bark": 0.1}] * 5
    assert play(moved, windows) == play(plain, windows)
    assert moved.sensitivity is Sensitivity.BALANCED


def test_fewer_false_alarms_never_asks_for_more_than_a_score_can_be() -> None:
    strict = tracker(threshold=0.9, sensitivity="fewer false alarms")
    assert started(play(strict, [{"Cat": 0.99}] * 4)) == ["Cat"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: &a [x, x]\nb: &b [*a, *a]\ngroups: *b\n", "aliases"),
        ("groups: " + "[" * 100_000, "too deeply nested|cannot be read"),
        ("# " + "x" * 300_000, "larger than"),
        ("groups: !!python/object/apply:os.system [true]", "cannot be read"),
    ],
    ids=["bomb", "nested", "large", "python"],
)
def test_a_table_that_is_a_bomb_is_an_error_soon(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "sounds.yaml").write_text(text)
    began = monotonic()
    with pytest.raises(ConfigurationError, match=problem):
        load_table(tmp_path / "sounds.yaml")
    assert monotonic() - began < 3.0


# what a person who tunes a room is shown


def watched(**settings: object) -> Tracker:
    made = tracker(**settings)
    made.watched = True
    return made


def test_nobody_watches_and_nothing_is_left() -> None:
    t = tracker()
    t.feed(tags(200_000, 190_000, {"Dog": 0.9}))
    assert not t.candidates


def test_what_is_shown_is_what_decides() -> None:
    """Random activities: a sound starts just when the first open candidate reaches its line, and it is that sound."""
    random = np.random.default_rng(7)
    t = watched()
    starts = 0
    for activity in range(300):
        onset = activity * 400_000
        t.sensitivity = list(Sensitivity)[activity % 3]
        base = random.random(len(LABELS)) ** 2
        for window in range(int(random.integers(1, 12))):
            end = onset + 7680 + window * HOP
            scores = np.clip(base * random.random() * 1.3, 0, 1)
            found = t.feed(tags(end, onset, dict(zip(LABELS, scores.tolist(), strict=True))))
            over = [c for c in t.candidates if c.standing is Standing.OPEN and c.score >= (c.threshold or 0.0)]
            assert [c.label for c in over[:1]] == [d.label for d in found]
            starts += len(found)
            t.advance(end)
        t.advance(onset + 300_000)
    assert starts > 100


def test_sensitivity_speech_and_a_running_sound_move_the_line() -> None:
    def line(**options: object) -> float:
        t = watched()
        t.sensitivity = options.get("sensitivity", Sensitivity.BALANCED)
        for end in (200_000, 200_000 + HOP) if options.get("dog") else ():
            t.feed(tags(end, 190_000, {"Dog": 0.9}))
        scores = {"Cat": 0.6, "Dog": 0.3, "Speech": options.get("speech", 0.0)}
        t.feed(tags(200_000 + 2 * HOP, 190_000, scores))
        (cat,) = (c for c in t.candidates if c.label == "Cat")
        assert cat.threshold is not None
        return cat.threshold

    usual = line()
    assert usual == pytest.approx(0.3 * 1.75)
    assert line(sensitivity=Sensitivity.MOST) == pytest.approx(0.65 * usual)
    assert line(speech=0.8) == pytest.approx(1.4 * usual)
    assert line(dog=True) != usual  # three windows, and another voice


def test_why_a_candidate_does_not_start() -> None:
    t = watched()
    t.feed(tags(200_000, 190_000, {"Rain": 0.9, "Speech": 0.7}))
    first, second = t.candidates
    assert (first.label, first.standing, first.threshold) == ("Speech", Standing.SPEECH, None)
    assert (second.label, second.standing) == ("Rain", Standing.AGREEING)
    assert second.event_type == "rain"

    t = watched()
    assert t.feed(tags(200_000, 190_000, {"Dog": 0.9}))
    assert t.candidates[0].standing is Standing.OPEN
    t.feed(tags(200_000 + HOP, 190_000, {"Dog": 0.8, "Cat": 0.3, "Animal": 0.9}))
    standing = {c.label: c.standing for c in t.candidates}
    assert standing == {"Dog": Standing.SOUNDING, "Cat": Standing.WEAKER, "Animal": Standing.EXPLAINED}
    (dog,) = (c for c in t.candidates if c.label == "Dog")
    assert (dog.score, dog.threshold) == (pytest.approx(0.8, abs=0.02), pytest.approx(0.4 * 0.3))
    t.advance(400_000)
    t.feed(tags(200_000 + 9 * HOP, 200_000 + 7 * HOP, {"Dog": 0.9}))
    assert [c.standing for c in t.candidates] == [Standing.COOLING]


def test_the_background_is_subtracted_from_what_is_shown_and_shows_nothing_itself() -> None:
    t = watched()
    for end in range(100_000, 200_000, 10_000):
        t.feed(tags(end, end, {"Rain": 0.1, "Cat": 0.1}))
        assert not t.candidates
    t.feed(tags(300_000, 290_000, {"Cat": 0.6}))
    (cat,) = t.candidates
    assert 0.3 < cat.score < 0.4


# verdicts


def test_a_kind_of_sound_is_an_event_type_or_a_family_of_other():
    table = load_table(SHIPPED)
    assert kind_of(table, "dog_bark", "Bark") == "dog_bark"
    assert kind_of(table, "other", "Slam") == kind_of(table, "other", "Door") == "other:door"
    assert kind_of(table, "other", "Mosquito") == "other:insect"
    assert kind_of(table, "other", "Bathroom") == "other:Bathroom"


def test_each_kind_has_the_threshold_that_the_tracker_uses():
    plain = plain_thresholds(TABLE, LABELS, SoundSettings(threshold=0.4))
    assert plain == {
        "dog_bark": 0.4,
        "cat": 0.4,
        "smoke_alarm": 0.4,
        "glass_break": 0.12,
        "rain": 0.4,
        "other:Animal": 0.7,
        "other:Plop": pytest.approx(0.5),
    }


def test_a_factor_moves_one_kind_alone_and_at_once():
    windows = [{"Dog": 0.4}] * 4
    moved = tracker()
    assert started(play(moved, windows)) == ["Dog"]
    moved.weigh({"dog_bark": 1.5})
    assert started(play(moved, windows, 1_600_000)) == []
    assert started(play(moved, [{"Cat": 0.4}] * 4, 3_200_000)) == ["Cat"]
    moved.weigh({})
    assert started(play(moved, windows, 4_800_000)) == ["Dog"]


def test_a_factor_and_the_sensitivity_work_together_within_what_can_be_heard():
    moved = tracker()
    moved.weigh({"dog_bark": 1.5})
    moved.sensitivity = Sensitivity.MOST
    assert started(play(moved, [{"Dog": 0.3}] * 4)) == ["Dog"]  # 0.3 × 1.5 × 0.65 = 0.29
    assert in_force(0.3, Sensitivity.MOST, 1.5) == pytest.approx(0.2925)
    assert in_force(0.5, Sensitivity.FEWER, 3.0) == 0.95
