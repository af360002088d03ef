from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import tiny_qwen_audio as tiny
from hypothesis import given
from hypothesis import strategies as st

from assistant.errors import ModelError
from assistant.models.qwen_audio.tokenizer import AUDIO_TAGS, RANKS, SPECIAL, STAMPS, QwenAudioTokenizer, TextStream


@pytest.fixture(scope="module")
def tokenizer(qwen_audio_checkpoint: Path) -> QwenAudioTokenizer:
    return QwenAudioTokenizer.from_pretrained(qwen_audio_checkpoint)


def test_special_tokens_are_those_of_the_original(tokenizer: QwenAudioTokenizer) -> None:
    assert tokenizer.special_ids == tiny.table("special_tokens")
    assert len(tokenizer.special_ids) == 3522
    misc = tiny.table("tokenizer_goldens")["misc"]
    assert len(tokenizer) == misc["n_vocab"]
    assert misc["mergeable_ranks"] == RANKS
    ids = (tokenizer.end_of_text, tokenizer.im_start, tokenizer.im_end)
    assert ids == (misc["eod_id"], misc["im_start_id"], misc["im_end_id"])
    spans = (tokenizer.audio_start, tokenizer.audio_end, tokenizer.audio_pad)
    assert spans == (misc["audio_start_id"], misc["audio_end_id"], misc["audio_pad_id"])
    assert (STAMPS[0], STAMPS[233], STAMPS[-1]) == ("<|0.00|>", "<|2.33|>", "<|30.00|>")


@pytest.mark.parametrize(
    ("column", "allowed"), [("ids", SPECIAL), ("ids_audio_st_only", AUDIO_TAGS), ("ids_no_special", ())]
)
def test_encoding_is_that_of_the_original(tokenizer: QwenAudioTokenizer, column: str, allowed: tuple[str, ...]) -> None:
    compared = 0
    for entry in tiny.table("tokenizer_goldens")["encode"]:
        if isinstance(entry[column], list):  # an error where the original cannot leave <audio> open
            assert tokenizer.encode(entry["text"], allowed) == entry[column], entry["text"]
            compared += 1
    assert compared == {"ids": 60, "ids_audio_st_only": 60, "ids_no_special": 61}[column]


def test_decoding_is_that_of_the_original(tokenizer: QwenAudioTokenizer) -> None:
    compared = 0
    for entry in tiny.table("tokenizer_goldens")["decode"]:
        for column, skip in (("text", False), ("skip_special", True)):
            if "ok" in entry[column]:
                assert tokenizer.decode(entry["ids"], skip_special_tokens=skip) == entry[column]["ok"]
                compared += 1
    assert compared == 24
    for case in tiny.table("cases").values():
        for ids, text in zip(case["greedy_ids"], case["greedy_text"], strict=True):
            assert tokenizer.decode(ids) == text


def test_ids_that_are_no_token_do_not_stop_decoding(tokenizer: QwenAudioTokenizer) -> None:
    assert tokenizer.decode([9707, 155_165, 155_946, -1]) == "Hello\ufffd\ufffd\ufffd"
    assert tokenizer.decode([9707, 155_165], skip_special_tokens=True) == "Hello"
    assert tokenizer.decode([tokenizer.audio_start]) == "<audio>"  # the original raises


def test_what_people_write_never_becomes_a_special_token(tokenizer: QwenAudioTokenizer) -> None:
    # Unlike the original, which reads audio tags in it (`ids_audio_st_only` above) and opens what stands in <audio>.
    for token in SPECIAL:
        assert max(tokenizer.encode(token)) < RANKS
        assert tokenizer.decode(tokenizer.encode(token)) == token


@given(text=st.text())
def test_text_survives_in_normal_form(tokenizer: QwenAudioTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert all(token < RANKS for token in ids)
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)


@given(data=st.data())
def test_pieces_joined_are_the_whole_text(tokenizer: QwenAudioTokenizer, data: Any) -> None:
    ids = data.draw(st.lists(st.one_of(st.integers(0, 255), st.integers(0, 155_946)), max_size=30))
    stream = TextStream(tokenizer)
    assert "".join([stream.put(token) for token in ids] + [stream.end()]) == tokenizer.decode(ids)
    assert stream.put(9707) == "Hello"  # nothing is left behind


def test_a_stream_waits_for_whole_characters(tokenizer: QwenAudioTokenizer) -> None:
    ids = tokenizer.encode("鳴👍🏽")
    stream = TextStream(tokenizer)
    pieces = [stream.put(token) for token in ids]
    assert len(ids) > len([piece for piece in pieces if piece])
    assert "\ufffd" not in "".join(pieces)
    assert stream.end() == ""
    assert stream.put(ids[0]) == ""
    assert stream.end() == "\ufffd"


def test_both_ways_between_ids_and_tokens(tokenizer: QwenAudioTokenizer) -> None:
    assert tokenizer.id_of("<|en|>") == 151_859
    assert tokenizer.id_of("hello") == 14_990
    assert tokenizer.token_bytes(14_990) == b"hello"
    assert tokenizer.token_bytes(151_859) == b"<|en|>"
    with pytest.raises(KeyError):
        tokenizer.id_of("two words")


def test_text_that_is_none(tokenizer: QwenAudioTokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"
    with pytest.raises(ModelError, match="a text of 1000000 characters cannot be tokenised"):
        tokenizer.encode(" " * 1_000_000)


def test_a_missing_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"qwen\.tiktoken: cannot be read .*remedy"):
        QwenAudioTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (slice(0, 1000), "1000 tokens are not the 151643 ranks"),
        (slice(1, None), "151642 tokens are not the 151643 ranks"),
        (slice(0, 0), "0 tokens"),
    ],
)
def test_another_vocabulary(qwen_audio_checkpoint: Path, tmp_path: Path, lines: slice, message: str) -> None:
    whole = (qwen_audio_checkpoint / "qwen.tiktoken").read_bytes().splitlines(keepends=True)
    (tmp_path / "qwen.tiktoken").write_bytes(b"".join(whole[lines]))
    with pytest.raises(ModelError, match=message):
        QwenAudioTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("line", [b"IQ==", b"IQ== zero", b"I!== 0", b"IQ== 0 1", b"\xff\xfe 0"])
def test_a_corrupt_line(qwen_audio_checkpoint: Path, tmp_path: Path, line: bytes) -> None:
    path = Path(shutil.copy(qwen_audio_checkpoint / "qwen.tiktoken", tmp_path))
    lines = path.read_bytes().splitlines()
    lines[41] = line
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(ModelError, match=r"qwen\.tiktoken: line 42 is not a token and its rank"):
        QwenAudioTokenizer.from_pretrained(tmp_path)


def test_the_same_rank_twice(qwen_audio_checkpoint: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(qwen_audio_checkpoint / "qwen.tiktoken", tmp_path))
    lines = path.read_bytes().splitlines()
    lines[-1] = lines[-1].split()[0] + b" 5"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(ModelError, match="another vocabulary"):
        QwenAudioTokenizer.from_pretrained(tmp_path)
