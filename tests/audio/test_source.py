from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from assistant.audio.source import (
    CHUNK,
    LATE_CHUNK,
    Block,
    Chunker,
    Converter,
    Gathering,
    Pace,
    SourceStats,
    Splicer,
    late,
)
from assistant.channel import Channel
from assistant.events import SAMPLE_RATE, Chunk

LONG = 12 * CHUNK  # of a quiet room


def tone(rate: float, seconds: float = 1.0, frequency: float = 440.0, amplitude: float = 0.5) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def convert(block: np.ndarray, rate: float, pieces: int = 1, stats: SourceStats | None = None) -> np.ndarray:
    converter = Converter("test", stats or SourceStats())
    fed = [converter.feed(piece, rate) for piece in np.array_split(block, pieces)]
    return np.concatenate([*fed, converter.flush()])


class TestConverter:
    @pytest.mark.parametrize("rate", [8000, 11025, 22050, 32000, 44100, 48000, 96000])
    def test_any_rate_keeps_length_and_tone(self, rate):
        heard = convert(tone(rate)[:, None], rate, pieces=7)
        assert abs(len(heard) - SAMPLE_RATE) <= 1
        expected = tone(SAMPLE_RATE)[: len(heard)]
        assert np.abs(heard - expected)[400:-400].max() < 0.01

    def test_pieces_equal_the_whole(self):
        block = np.stack([tone(44100), tone(44100, frequency=1000)], axis=1)
        assert np.allclose(convert(block, 44100, 50), convert(block, 44100), atol=1e-6)

    def test_16_khz_mono_is_untouched(self):
        assert np.array_equal(convert(tone(16000)[:, None], 16000), tone(16000))

    def test_channels_are_averaged(self):
        block = np.stack([tone(16000), np.full(16000, 0.25, np.float32)], axis=1)
        assert np.allclose(convert(block, 16000), (tone(16000) + 0.25) / 2, atol=1e-6)

    def test_a_silent_channel_does_not_halve_the_other(self):
        block = np.stack([np.zeros(16000, np.float32), tone(16000)], axis=1)
        assert np.allclose(convert(block, 16000, 25), tone(16000), atol=1e-6)

    def test_anti_phase_is_heard(self, caplog):
        block = np.stack([tone(16000), -tone(16000)], axis=1)
        heard = convert(block, 16000, 25)
        assert np.allclose(np.abs(heard), np.abs(tone(16000)), atol=1e-6)
        assert "cancel each other; only channel 1" in caplog.text

    def test_wide_stereo_is_still_averaged(self):
        noise = np.random.default_rng(1).normal(size=(48000, 2)).astype(np.float32) * 0.1
        assert np.allclose(convert(noise, 16000, 75), noise.mean(axis=1), atol=1e-6)

    def test_all_silence_is_silence(self):
        assert not convert(np.zeros((16000, 2), np.float32), 16000, 25).any()

    def test_bad_samples_are_zeroed_counted_and_told_once(self, caplog):
        block = tone(16000)[:, None].copy()
        block[[5, 700, 9000]] = [[np.nan], [np.inf], [-np.inf]]
        stats = SourceStats()
        heard = convert(block, 16000, 10, stats)
        assert stats.bad_samples == 3
        assert np.isfinite(heard).all()
        assert heard[5] == heard[700] == 0
        assert len(caplog.records) == 1

    def test_clipping_is_counted_and_clamped(self):
        stats = SourceStats()
        heard = convert(tone(16000, amplitude=4.0)[:, None], 16000, 10, stats)
        assert stats.clipped_samples > 8000
        assert np.abs(heard).max() == 1.0

    def test_rate_and_channels_may_change(self):
        converter = Converter("test", SourceStats())
        fed = [converter.feed(tone(48000)[:, None], 48000), converter.feed(tone(44100)[:, None].repeat(2, 1), 44100)]
        assert abs(len(np.concatenate([*fed, converter.flush()])) - 32000) <= 2


class TestLate:
    def block(self, start: float, rate: float = 16_000.0) -> Block:
        return Block(start, np.full((1_280, 1), start, np.float32), rate, 1000.0 + start)

    def held(self, *blocks: Block) -> Channel[Block]:
        held: Channel[Block] = Channel("test", 100)
        for block in blocks:
            held.offer(block)
        return held

    def test_who_is_late_hears_what_waits_in_one_piece(self):
        held = self.held(*(self.block(0.08 * n) for n in range(1, 9)))
        whole = late(self.block(0.0), held)
        assert (whole.start, len(whole.samples), whole.taken) == (0.0, LATE_CHUNK, 1000.4)
        assert len(held) == 3
        assert np.unique(whole.samples).tolist() == pytest.approx([0.08 * n for n in range(6)])

    def test_who_is_not_hears_the_block_as_it_is(self):
        block = self.block(0.0)
        assert late(block, self.held()) is block

    @pytest.mark.parametrize("other", [(0.24, 16_000.0), (0.08, 48_000.0)])
    def test_what_does_not_follow_stays_apart(self, other):
        held = self.held(self.block(*other))
        assert len(late(self.block(0.0), held).samples) == 1_280
        assert len(held) == 1

    def test_its_chunks_are_as_long(self):
        splicer = Splicer("room", "name", SourceStats(), Pace())
        samples = np.concatenate([self.block(0.08 * n).samples for n in range(8)])
        chunks = list(splicer.feed(Block(0.0, samples, 16_000.0, 1000.0)))
        assert [len(chunk.samples) for chunk in chunks] == [LATE_CHUNK, 2 * CHUNK]
        assert np.array_equal(np.concatenate([chunk.samples for chunk in chunks]), samples[:, 0])


class TestChunker:
    def test_exact_chunks_without_loss(self):
        chunker = Chunker("room", "name", 100.0)
        audio = tone(16000, 1.01)
        chunks = [chunk for piece in np.array_split(audio, 33) for chunk in chunker.feed(piece)]
        chunks += chunker.flush()
        assert [len(chunk.samples) for chunk in chunks] == [CHUNK] * (16_160 // CHUNK) + [16_160 % CHUNK]
        assert [chunk.start for chunk in chunks] == list(range(0, 16_160, CHUNK))
        assert np.array_equal(np.concatenate([chunk.samples for chunk in chunks]), audio)
        assert chunks[3].time == pytest.approx(100.0 + 3 * CHUNK / 16_000)
        assert (chunks[0].room, chunks[0].source) == ("room", "name")

    def test_chunks_are_as_long_as_its_pace_says_and_none_is_lost_when_that_changes(self):
        pace = Pace()
        chunker, audio = Chunker("room", "name", 100.0, pace), tone(16000, 1.68)
        chunks: list[Chunk] = []
        for n, piece in enumerate(np.split(audio, 21)):  # of 80 ms
            pace.samples = LONG if 3 <= n < 17 else CHUNK
            chunks += chunker.feed(piece)
        assert [len(chunk.samples) for chunk in chunks] == [CHUNK] * 3 + [LONG] + [CHUNK] * 6
        assert [chunk.start for chunk in chunks] == [*np.cumsum([0] + [len(c.samples) for c in chunks[:-1]])]
        assert np.array_equal(np.concatenate([chunk.samples for chunk in chunks]), audio)

    def test_chunks_are_read_only_and_own_their_samples(self):
        (chunk,) = Chunker("room", "name").feed(tone(16000)[:CHUNK])
        with pytest.raises(ValueError, match="read-only"):
            chunk.samples[0] = 1
        assert chunk.samples.base is None

    def test_the_clock_is_followed(self):
        chunker = Chunker("room", "name", 0.0)
        for second in range(3600):  # a device 100 ppm too slow
            for _ in chunker.feed(tone(16000)):
                pass
            chunker.align((second + 1) * 1.0001)
        (chunk,) = chunker.feed(tone(16000)[:CHUNK])
        assert chunk.time == pytest.approx(3600.36, abs=0.1)

    def test_a_clock_that_was_set_is_followed_and_a_hold_up_is_not(self):
        chunker = Chunker("room", "name", 0.0)
        for held_up in [0.0] * 100 + [3.0] * 149 + [0.0]:
            (chunk,) = chunker.feed(tone(16000)[:CHUNK])
            assert chunk.time == pytest.approx(chunk.start / 16000)
            chunker.align(chunk.end / 16000 + held_up)
        for _ in range(250):
            (chunk,) = chunker.feed(tone(16000)[:CHUNK])
            chunker.align(chunk.end / 16000 + 1000)
        (chunk,) = chunker.feed(tone(16000)[:CHUNK])
        assert chunk.time == pytest.approx(1000 + chunk.start / 16000)


class TestSplicer:
    def test_lost_audio_is_a_jump(self):
        stats = SourceStats()
        splicer = Splicer("room", "name", stats)
        block = tone(48000, 0.05)[:, None]
        starts = [0.0, 0.05, 0.6, 0.65]
        chunks = [chunk for at in starts for chunk in splicer.feed(Block(at, block, 48000.0, 1000 + at + 0.05))]
        chunks += splicer.flush()
        assert stats.lost_seconds == pytest.approx(0.5)
        jumps = [(one.end, two.start) for one, two in pairwise(chunks) if one.end != two.start]
        assert jumps == [(1600, 9600)]
        assert chunks[-1].end == 11200
        assert chunks[-1].time == pytest.approx(1000 + chunks[-1].start / 16000, abs=0.01)

    def test_no_gap_no_jump_for_hours(self):
        stats = SourceStats()
        splicer = Splicer("room", "name", stats)
        at, end = 0.0, 0
        block = np.zeros((4410, 1), np.float32)
        for n in range(20_000):
            at = n * 4410 / 44100
            for chunk in splicer.feed(Block(at, block, 44100.0, at)):
                assert chunk.start == end
                end = chunk.end
        assert stats.lost_seconds == 0


class TestPace:
    def test_it_tells_where_something_loud_has_been_heard(self):
        samples = np.concatenate((tone(16_000, 0.5, amplitude=0.1), tone(16_000, 0.5, amplitude=0.2)))
        assert Pace(loud=0.01).loud_at(samples[:, None], 16_000) == 8_320
        assert Pace(loud=0.03).loud_at(samples[:, None], 16_000) is None
        assert Pace(loud=0.01).loud_at(samples[:0, None], 16_000) is None
        assert Pace(loud=0.01).loud_at(np.full((100, 1), np.nan, np.float32), 16_000) is None

    def test_a_hiss_that_no_room_hears_is_not_loud(self):
        """48 kHz: two thirds of white noise lie where nothing is heard, a stereo device has it twice."""
        pace, rng = Pace(LONG, loud=2.5e-6), np.random.default_rng(0)
        noise = (0.0025 * rng.normal(size=(96_000, 2))).astype(np.float32)  # a mean square of 6.3e-6, 1e-6 once heard
        splicer, gathering = Splicer("room", "name", SourceStats(), pace), Gathering(pace)
        chunks: list[Chunk] = []
        for n, samples in enumerate(np.split(noise, 50)):
            for block in gathering.feed(Block(0.04 * n, samples, 48_000.0, 1000.0 + 0.04 * n)):
                chunks += splicer.feed(block)
                pace.samples = LONG  # so the pipeline, each time
        assert [len(chunk.samples) for chunk in chunks] == [LONG] * 2
        for n in range(2):  # 4 dB more, in what is heard
            block = noise[:1920] + tone(48_000, 0.04, 300.0, 0.003)[:, None]
            gathered = list(gathering.feed(Block(2.0 + 0.04 * n, block, 48_000.0, 1002.0)))
        assert gathered
        assert pace.samples == CHUNK


class TestGathering:
    def blocks(self, count: int, start: float = 0.0) -> list[Block]:
        audio = tone(48_000, 3.0)[: 1920 * count].reshape(count, 1920, 1)
        return [Block(start + 0.04 * n, samples, 48_000, 1000.0 + 0.04 * n) for n, samples in enumerate(audio)]

    def test_every_block_goes_on_at_once_while_something_is_heard(self):
        gathering = Gathering(Pace())
        for block in self.blocks(5):
            assert list(gathering.feed(block)) == [block]

    def test_blocks_go_on_together_while_nothing_is(self):
        pace, blocks = Pace(LONG), self.blocks(51)
        gathering = Gathering(pace)
        out = [whole for block in blocks[:50] for whole in gathering.feed(block)]
        assert [(round(whole.start, 2), round(whole.seconds, 2)) for whole in out] == [(0.0, 0.96), (0.96, 0.96)]
        assert out[0].taken == blocks[23].taken
        pace.samples = CHUNK
        out += gathering.feed(blocks[50])
        assert round(out[-1].seconds, 2) == 0.12
        given, taken = (np.concatenate([block.samples for block in some]) for some in (blocks, out))
        assert np.array_equal(given, taken)
        assert not list(gathering.flush())

    @pytest.mark.parametrize("channels", [1, 2])
    def test_what_is_loud_goes_on_at_once(self, channels):
        pace = Pace(LONG, loud=0.01)
        gathering = Gathering(pace)
        quiet, loud = (np.zeros((1920, channels), np.float32) for _ in range(2))
        quiet[:, -1] = tone(48_000, 0.04, amplitude=0.13)  # a mean square of 0.0085
        loud[1200:, -1] = tone(48_000, 0.015, amplitude=0.25)
        assert [*gathering.feed(Block(0.0, quiet, 48_000, 1000.0))] == []
        (whole,) = gathering.feed(Block(0.04, loud, 48_000, 1000.04))
        assert (whole.start, len(whole.samples)) == (0.0, 2 * 1920)
        assert pace.samples == CHUNK

    def test_a_gap_stays_a_gap(self):
        gathering = Gathering(Pace(LONG))
        out = [whole for block in (*self.blocks(3), *self.blocks(3, start=1.0)) for whole in gathering.feed(block)]
        out += gathering.flush()
        assert [(round(whole.start, 2), round(whole.seconds, 2)) for whole in out] == [(0.0, 0.12), (1.0, 0.12)]
