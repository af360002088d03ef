from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.attention import ECHO, TAIL, TURN, Address, Attention, Wake, WakeSettings, letters

S = 16_000
HANGOVER = round(0.6 * S)


def attention(mode: Wake = Wake.WAKE) -> Attention:
    return Attention(mode, WakeSettings())


def test_nothing_is_a_command_without_a_wake_word() -> None:
    assert attention().address(0, 3 * S) is None


def test_the_command_of_the_same_breath_begins_where_the_wake_word_ended() -> None:
    ear = attention()
    assert not ear.woken(2 * S, "okay_nabu")
    assert ear.address(S, 5 * S) == Address(2 * S, Wake.WAKE, "okay_nabu")
    assert ear.address(6 * S, 8 * S) is None  # one wake word, one command


def test_after_the_wake_word_alone_the_next_utterance_is_the_command() -> None:
    ear = attention()
    ear.woken(2 * S, "okay_nabu")
    assert ear.address(S, 2 * S + HANGOVER, silence=HANGOVER) is None
    assert ear.address(4 * S, 6 * S) == Address(4 * S, Wake.WAKE, "okay_nabu")


def test_asking_ahead_of_time_uses_nothing_up() -> None:
    ear = attention()
    ear.woken(2 * S, "okay_nabu")
    assert ear.foresee(S, 3 * S, silence=S // 5) == Address(2 * S, Wake.WAKE, "okay_nabu")
    assert ear.foresee(S, 2 * S + S // 2, silence=S // 2) is None  # nothing was said after it yet
    assert ear.address(S, 5 * S, silence=HANGOVER) == Address(2 * S, Wake.WAKE, "okay_nabu")
    assert ear.foresee(6 * S, 8 * S) is None


def test_a_wake_word_that_is_placed_just_after_its_utterance_is_of_it() -> None:
    ear = attention()
    ear.woken(2 * S + 2000, "alexa")
    assert ear.address(S, 2 * S) is None
    assert ear.address(3 * S, 5 * S) is not None


def test_the_turn_ends() -> None:
    ear = attention()
    ear.woken(S, "alexa")
    assert ear.address(S + TURN + 1, S + TURN + 3 * S) is None
    assert ear.address(S + TURN, S + TURN + 3 * S) is None  # and stays ended


def test_an_utterance_that_goes_on_is_not_cut_into_a_command() -> None:
    ear = attention()
    ear.woken(29 * S, "alexa")
    assert ear.address(0, 30 * S, whole=False) is None
    assert ear.address(29 * S - 2000, 33 * S) == Address(29 * S, Wake.WAKE, "alexa")


def test_a_reply_never_commands_but_whoever_wakes_the_house_meanwhile_does() -> None:
    ear = attention(Wake.NONE)
    ear.reply_began(10 * S, "Turned on the kitchen light")
    assert ear.address(9 * S, 12 * S) is None
    assert ear.woken(11 * S, "alexa")  # it should stop
    ear.reply_ended(11 * S + 100, follow_up=True)
    assert ear.address(10 * S, 14 * S) == Address(11 * S, Wake.WAKE, "alexa")
    assert ear.address(11 * S + 100 + TAIL - 1, 15 * S) is None
    assert ear.address(11 * S + 100 + TAIL, 15 * S) == Address(11 * S + 100 + TAIL, Wake.NONE)


def test_a_wake_word_in_the_words_of_a_reply_is_none() -> None:
    ear = attention()
    ear.reply_began(0, "Say okay Nabu first")
    assert not ear.woken(S, "okay_nabu")
    ear.reply_ended(2 * S, follow_up=True)
    assert ear.address(3 * S, 5 * S) is None


def test_after_a_reply_one_command_needs_no_wake_word() -> None:
    ear = attention(Wake.FOLLOW_UP)
    ear.reply_began(0, "Which light?")
    ear.reply_ended(2 * S, follow_up=True)
    assert ear.address(2 * S + TAIL, 5 * S) == Address(2 * S + TAIL, Wake.FOLLOW_UP)
    assert ear.address(6 * S, 7 * S) is None


@pytest.mark.parametrize("mode", [Wake.WAKE, Wake.FOLLOW_UP])
def test_what_is_said_by_a_rule_opens_nothing(mode: Wake) -> None:
    ear = attention(mode)
    ear.reply_began(0, "The door is open")
    ear.reply_ended(2 * S, follow_up=mode is Wake.WAKE)
    assert ear.address(3 * S, 5 * S) is None


def test_the_follow_up_ends() -> None:
    ear = attention(Wake.FOLLOW_UP)
    ear.reply_began(0, "Done")
    ear.reply_ended(2 * S, follow_up=True)
    assert ear.address(11 * S, 12 * S) is None


@pytest.mark.parametrize(
    ("reply", "heard", "own"),
    [
        ("Turned on the kitchen light", "turned on the kitchen light.", True),
        ("Turned on the kitchen light", "On the kitchen light", True),
        ("Turned on the kitchen light", "turn on the kitchen lights", True),
        ("Turned on the kitchen light", "what time is it", False),
        ("Turned on the kitchen light", "no", False),
        ("台所の電気をつけました", "台所の電気をつけました。", True),
        ("台所の電気をつけました", "寝室のカーテンを閉めて", False),
    ],
)
def test_our_own_words_come_back(reply: str, heard: str, own: bool) -> None:
    ear = attention(Wake.FOLLOW_UP)
    ear.reply_began(0, reply)
    ear.reply_ended(2 * S, follow_up=True)
    assert ear.echoes(heard, Address(3 * S, Wake.FOLLOW_UP)) is own
    assert not ear.echoes(heard, Address(3 * S, Wake.WAKE, "alexa"))
    assert not ear.echoes(heard, Address(2 * S + ECHO + 1, Wake.FOLLOW_UP))


def test_letters_are_what_transcripts_share() -> None:
    assert letters("Okay, Nabu!") == letters("okay_nabu") == "okaynabu"


steps = st.lists(
    st.tuples(st.sampled_from(["wake", "began", "ended", "said"]), st.integers(1, 12 * S), st.integers(1, 6 * S)),
    max_size=20,
)


@given(st.sampled_from(list(Wake)), steps)
def test_a_command_never_lies_in_a_reply_unless_somebody_woke_the_house(
    mode: Wake, steps: list[tuple[str, int, int]]
) -> None:
    ear, now, playing, woken = attention(mode), 0, False, 0
    for what, wait, length in steps:
        now += wait
        if what == "wake":
            ear.woken(now, "alexa")
            woken += 1
        elif what == "began":
            ear.reply_began(now, "words")
            playing = True
        elif what == "ended":
            ear.reply_ended(now, follow_up=True)
            playing = False
        else:
            address = ear.address(now, now + length)
            now += length
            if address is None:
                continue
            assert now - length <= address.start <= now
            if address.by is Wake.WAKE:
                woken -= 1
            else:
                assert not playing
                assert address.by is mode
        assert woken >= 0
