"""What the running house asks its audio language model: rules about the clip of an event, people about a room.

The model is the resident one, questions come after sounds and speech, and nothing here waits longer than it was told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from assistant.errors import AssistantError, ConfigurationError, ModelError
from assistant.events import SAMPLE_RATE, Ask, Event, Samples, State
from assistant.models.audio_llm import LONGEST, Message, Prompt
from assistant.models.tasks import TASKS, Task, TaskOptions, TaskResult, harmless
from assistant.resident import Priority, Resident

if TYPE_CHECKING:
    from assistant.models.audio_llm import AudioLLM
    from assistant.outputs.questions import Question

log = logging.getLogger(__name__)

ANSWER_WITHIN = 60.0  # seconds for a question over MQTT, the wait for others included
BEFORE_SOUND, BEFORE_SPEECH = 3.0, 0.3  # seconds of a clip before its event: a sound that only began needs some context
CAPTION_STYLE = "audiocaps"  # as the caption of an event
OPTIONS = ("text", "language", "to", "style")


def span_of_clip(event: Event, now: int) -> tuple[int, int]:
    """First sample and end of the clip of `event` at position `now` of its stream: at most the last 30 s of it."""
    before = BEFORE_SPEECH if event.kind == "speech" else BEFORE_SOUND
    lasts = event.state is State.STARTED or event.duration is None
    end = now if lasts else min(now, round((event.offset + (event.duration or 0.0)) * SAMPLE_RATE))
    start = max(0, round((event.offset - before) * SAMPLE_RATE), end - round(LONGEST * SAMPLE_RATE))
    return start, end


async def answer_rule(resident: Resident | None, ask: Ask, clip: Samples) -> str | None:
    """The answer to a rule's question about `clip`, as the model gave it; None: there is none in time."""
    if resident is None or not len(clip):
        return None
    try:
        return await resident.call(lambda llm: _asked(llm, ask, clip), priority=Priority.QUESTION, deadline=ask.within)
    except ModelError as error:
        log.debug("rule %r has no answer: %s", ask.rule, error)
        return None


def _asked(llm: AudioLLM, ask: Ask, clip: Samples) -> str:
    if ask.prompt is None:
        return TASKS["caption"].run(llm, [clip], TaskOptions(style=CAPTION_STYLE)).text
    question = ask.prompt
    if ask.choices:  # the model can say nothing else; told so, it chooses better
        question += f"\nAnswer with one of: {', '.join(ask.choices)}."
    if llm.tagged:
        tags = f"<|startofanalysis|><|en|><|question|>{harmless(question)}<|answer|>"
        prompt = Prompt(clips=(clip,), tags=tags)
    else:
        prompt = Prompt(messages=(Message("user", (clip, question)),))
    (answer,) = llm.answer([prompt], max_new_tokens=ask.max_tokens, choices=ask.choices or None)
    return answer.text


async def answer_question(
    resident: Resident | None,
    question: Question,
    rooms: Sequence[str],
    latest: Callable[[str, float], Samples],
) -> dict[str, Any]:
    """The body of the answer to a question over MQTT: `text`, `task`, `room`, `seconds`, `model`, `data`.

    `latest(room, seconds)` is the end of what was heard there. Raises `AssistantError` with what is wrong or missing.
    """
    if resident is None:
        raise ConfigurationError(
            "there is no audio language model here; remedy: profile: hybrid, qwen or remote (kikimimi doctor tells "
            "what works)"
        )
    task, options = _task_of(question)
    room = _room_of(question, rooms)
    if room is None and task.name != "ask":
        raise ConfigurationError(f"seconds: the task {task.name} needs audio")
    clips = [] if room is None else [latest(room, question.seconds)]
    if any(not len(clip) for clip in clips):
        raise AssistantError(f"{room}: nothing has been heard there yet")
    outcome = await resident.call(
        lambda llm: _run(llm, task, clips, options), priority=Priority.QUESTION, deadline=ANSWER_WITHIN
    )
    if isinstance(outcome, ConfigurationError):
        raise outcome
    return {
        "text": outcome.text,
        "task": task.name,
        "room": room,
        "seconds": round(sum(map(len, clips)) / SAMPLE_RATE, 2),
        "model": resident.name,
        "data": outcome.data,
    }


def _run(llm: AudioLLM, task: Task, clips: Sequence[Samples], options: TaskOptions) -> TaskResult | ConfigurationError:
    """The task's result; a mistake of who asks is no failure of the model."""
    try:
        return task.run(llm, clips, options)
    except ConfigurationError as error:
        return error


def _task_of(question: Question) -> tuple[Task, TaskOptions]:
    name = question.task or "ask"
    if name not in TASKS:
        raise ConfigurationError(f"task: there is no task {name}; there are {', '.join(TASKS)}")
    task = TASKS[name]
    for option in OPTIONS:
        given = getattr(question, option) is not None
        if given and option not in (*task.needs, *task.takes):
            raise ConfigurationError(f"{option}: means nothing to the task {name}; leave it out")
        if option in task.needs and not given:
            raise ConfigurationError(f"{option}: the task {name} needs it")
    return task, TaskOptions(question.language, question.to, question.text, question.style)


def _room_of(question: Question, rooms: Sequence[str]) -> str | None:
    """The room whose audio is meant; None: the text alone."""
    if question.room is not None and question.room not in rooms:
        raise ConfigurationError(f"room: there is no room {question.room}; there is {', '.join(rooms)}")
    if question.seconds == 0.0:
        return None
    if question.room is None and len(rooms) > 1:
        raise ConfigurationError(f"room: which one? {', '.join(rooms)}; or seconds: 0 for the text alone")
    return question.room or rooms[0]
