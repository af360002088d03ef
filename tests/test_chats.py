from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from assistant import chats as limits
from assistant.chats import Chat, Chats, Ended, Kind, Origin, pcm_of
from assistant.errors import AssistantError
from assistant.events import SAMPLE_RATE, Samples

NOW = 1_000_000.0


def audio(seconds: float) -> NDArray[np.int16]:
    return pcm_of(np.zeros(round(seconds * SAMPLE_RATE), np.float32))


@pytest.fixture
def store() -> Chats:
    return Chats()


@pytest.fixture
def chat(store: Chats) -> Chat:
    return store.begin(Kind.CHAT, NOW)


def test_a_chat_keeps_its_recordings_and_its_history(store: Chats, chat: Chat) -> None:
    clip = store.add(chat.id, audio(2.0), "door.wav", Origin.UPLOAD, NOW + 1)
    assert chat.title == "door.wav"
    turn = store.ask(chat.id, "ask", {"text": "What is it?"}, (clip.id,), NOW + 2)
    assert chat.answering is turn
    assert chat.title == "What is it?"
    turn.ended = Ended.END
    assert chat.answering is None
    other = store.begin(Kind.PRACTICE, NOW + 1)
    assert [one.id for one in store.all()] == [chat.id, other.id]
    assert store.seconds == clip.seconds == 2.0
    store.remove(chat.id, clip.id)
    assert store.seconds == 0.0
    assert chat.turns == [turn]
    store.end(chat.id)
    with pytest.raises(KeyError):
        store.get(chat.id)


def test_one_question_at_a_time(store: Chats, chat: Chat) -> None:
    store.ask(chat.id, "ask", {}, (), NOW)
    with pytest.raises(AssistantError, match="remedy: wait, or stop it"):
        store.ask(chat.id, "ask", {}, (), NOW)


def test_what_does_not_fit_is_refused_and_counted(store: Chats, chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CHATS", 2)
    monkeypatch.setattr(limits, "CLIPS", 2)
    monkeypatch.setattr(limits, "TURNS", 2)
    monkeypatch.setattr(limits, "LONGEST", 3.0)
    monkeypatch.setattr(limits, "ALL", 5.0)
    other = store.begin(Kind.PRACTICE, NOW)
    with pytest.raises(AssistantError, match=r"2 chats already.*delete one"):
        store.begin(Kind.CHAT, NOW)
    with pytest.raises(AssistantError, match="longer than"):
        store.add(chat.id, audio(3.1), "", Origin.ROOM, NOW)
    store.add(chat.id, audio(3.0), "", Origin.ROOM, NOW)
    with pytest.raises(AssistantError, match="all chats together"):
        store.add(other.id, audio(2.1), "", Origin.ROOM, NOW)
    store.add(chat.id, audio(1.0), "", Origin.ROOM, NOW)
    with pytest.raises(AssistantError, match="holds 2 recordings"):
        store.add(chat.id, audio(0.1), "", Origin.ROOM, NOW)
    for made in (chat, other):
        for _ in range(2):
            store.ask(made.id, "ask", {}, (), NOW).ended = Ended.END
    with pytest.raises(AssistantError, match="2 questions already"):
        store.ask(chat.id, "ask", {}, (), NOW)
    first = other.turns[0]
    store.ask(other.id, "transcribe", {}, (), NOW)
    assert len(other.turns) == 2
    assert first not in other.turns
    assert store.refused == 5


def test_what_nobody_uses_for_a_day_is_forgotten_but_not_while_it_is_answered(store: Chats, chat: Chat) -> None:
    busy = store.begin(Kind.CHAT, NOW)
    turn = store.ask(busy.id, "ask", {}, (), NOW)
    store.forget_old(NOW + limits.KEPT)
    assert len(store) == 2
    store.forget_old(NOW + limits.KEPT + 1)
    assert [one.id for one in store.all()] == [busy.id]
    turn.ended = Ended.STOPPED
    store.forget_old(NOW + limits.KEPT + 1)
    assert (len(store), store.forgotten) == (0, 2)


@given(arrays.arrays(np.float32, st.integers(1, 200), elements=st.floats(width=32)))
def test_samples_come_back_as_they_were(samples: Samples) -> None:
    store = Chats()
    clip = store.add(store.begin(Kind.CHAT, NOW).id, pcm_of(samples), "", Origin.UPLOAD, NOW)
    wanted = np.clip(np.nan_to_num(samples), -1.0, 1.0)
    assert np.abs(clip.samples() - wanted).max() < 1e-4
    with pytest.raises(ValueError, match="read-only"):
        clip.pcm[0] = 1
