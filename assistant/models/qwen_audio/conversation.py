"""Conversations to the tokens of the chat model: ChatML, with as much history as fits in the window.

Format, numbering of clips and window are those of `make_context` and `from_list_format` (QwenLM/Qwen-Audio at b50fb95).
Different on purpose: there, audio tags in what people write become special tokens, and `<audio>` opens a file or an
address; here text stays text, but for the time stamps in the model's own replies. Clips are given beside the text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from assistant.events import Samples
from assistant.models.audio_llm import Message, PromptError
from assistant.models.qwen_audio.mel import audio_tokens, mel_frames
from assistant.models.qwen_audio.tokenizer import STAMPS, QwenAudioTokenizer

SYSTEM = "You are a helpful assistant."
_NUMBERED = re.compile(r"Audio [0-9]+: ?\Z")


@dataclass(slots=True, eq=False)
class Row:
    """Tokens of one prompt, and the clips that its audio spans stand for, in order."""

    ids: list[int] = field(default_factory=list)
    clips: list[Samples] = field(default_factory=list)

    def __add__(self, other: Row) -> Row:
        return Row(self.ids + other.ids, self.clips + other.clips)


def audio_row(clip: Samples, tokenizer: QwenAudioTokenizer) -> Row:
    """A clip as `<audio>`, one pad for each 40 ms, `</audio>`."""
    pads = [tokenizer.audio_pad] * audio_tokens(mel_frames(clip.size))
    return Row([tokenizer.audio_start, *pads, tokenizer.audio_end], [clip])


def numbered(content: Sequence[str | Samples]) -> list[str | Samples]:
    """`content` with `Audio 1:` before its first clip and so on, and a line end behind each, as the model was taught.

    A clip behind a text that already ends in such a number is left as it is. Each message counts from 1.
    """
    parts: list[str | Samples] = []
    count = 0
    for part in content:
        if isinstance(part, str):
            parts.append(part)
            continue
        count += 1
        own = parts and isinstance(parts[-1], str) and _NUMBERED.search(parts[-1])
        parts += [part] if own else [f"Audio {count}:", part, "\n"]
    return parts


def chat_row(
    messages: Sequence[Message],
    tokenizer: QwenAudioTokenizer,
    *,
    max_window_size: int,
    allowed: Collection[str] = (),
    number: bool = True,
    add_generation_prompt: bool = True,
) -> Row:
    """The prompt for the next reply, or with `add_generation_prompt` off the conversation as it is.

    The system prompt (`SYSTEM` without one) and the last question are always kept. Turns before it are taken from the
    newest on, while system prompt and turns stay under `max_window_size` tokens; the first that does not fit ends it.
    Special tokens in texts are read only if `allowed` names them, and the time stamps of replies. Raises `PromptError`
    for messages in an impossible order.
    """

    def said(message: Message) -> Row:
        stamps = STAMPS if message.role == "assistant" else ()
        parts = numbered(message.content) if number and message.role == "user" else message.content
        content = _content_row(parts, tokenizer, {*allowed, *stamps})
        role = [tokenizer.im_start, *tokenizer.encode(message.role), *line.ids]
        return Row(role) + content + Row([tokenizer.im_end])

    line = Row(tokenizer.encode("\n"))
    system, turns = _turns(messages)
    if add_generation_prompt and len(turns[-1]) > 1:
        raise PromptError(
            "the last message is the assistant's; remedy: end with the user's, or add_generation_prompt=False"
        )
    start = said(system)
    kept = Row()
    for user, *reply in reversed(turns[:-1]):
        turn = line + said(user) + line + sum(map(said, reply), Row())
        if len(start.ids) + len(turn.ids) + len(kept.ids) >= max_window_size:
            break
        kept = turn + kept
    row = start + kept
    for message in turns[-1]:
        row = row + line + said(message)
    if add_generation_prompt:
        row = row + line + Row([tokenizer.im_start, *tokenizer.encode("assistant")]) + line
    return row


def _turns(messages: Sequence[Message]) -> tuple[Message, list[list[Message]]]:
    """The system prompt, and the turns: a user's message each, and its reply if there is one."""
    system = Message("system", (SYSTEM,))
    turns: list[list[Message]] = []
    for number, message in enumerate(messages):
        if message.role == "system" and number == 0:
            system = message
        elif message.role == "user":
            turns.append([message])
        elif message.role == "assistant" and turns and len(turns[-1]) == 1:
            if not all(isinstance(part, str) for part in message.content):
                raise PromptError(f"message {number}: a reply of the assistant holds no audio")
            turns[-1].append(message)
        else:
            raise PromptError(
                f"message {number} is the {message.role}'s: a system prompt comes first, a reply after a user's message"
            )
    if not turns:
        raise PromptError("the conversation has no message of the user")
    return system, turns


def _content_row(content: Sequence[str | Samples], tokenizer: QwenAudioTokenizer, allowed: Collection[str]) -> Row:
    row = Row()
    for part in _joined(content):
        row += Row(tokenizer.encode(part, allowed)) if isinstance(part, str) else audio_row(part, tokenizer)
    return row


def _joined(content: Sequence[str | Samples]) -> Iterator[str | Samples]:
    """Neighbouring texts as one: their tokens are not those of the pieces."""
    text = ""
    for part in content:
        if isinstance(part, str):
            text += part
            continue
        if text:
            yield text
        text = ""
        yield part
    if text:
        yield text
