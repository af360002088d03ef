"""Rules: what they say, why they did or did not fire, what they would have done; and how they are changed."""

from __future__ import annotations

from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field, StrictBool

from assistant.web.configuration import REFUSALS, Digest, Done, FileState

TEXT_LIMIT = 20_000  # characters of one rule
LONGEST = 92  # days that a rehearsal looks back


class Condition(BaseModel):
    """What a rule waits for; null: it does not matter."""

    sound: list[str] | None = None
    label: list[str] | None = None
    speech: list[str] | None = None
    exactly: list[str] | None = None
    regex: str | None = None
    state: str | None = None
    score: float | None = None
    language: list[str] | None = None
    room: list[str] | None = None
    lasting: float | None = Field(default=None, description="seconds")
    absent: float | None = Field(default=None, description="seconds")
    times: int | None = None
    within: float | None = Field(default=None, description="seconds")
    between: str | None = None
    days: list[str] | None = None


class Deed(BaseModel):
    """One thing that a rule does, or would have done."""

    kind: str = Field(description="publish, log, say, webhook, keep_clip, ask or describe")
    what: str = Field(description="payload or text; a template, or what it gave")
    where: str | None = Field(description="topic, room or host")


class Words(BaseModel):
    """A rule in parts, to be made a sentence of in any language."""

    when: Condition
    do: list[Deed]
    cooldown: float | None = Field(description="seconds")
    unconfirmed: bool


class Evaluated(BaseModel):
    """What came of one event for one rule."""

    time: str = Field(description="ISO 8601")
    outcome: str = Field(
        description="fired, or why not: room, score, label, language, words, hours, doubted, cooldown, counting, "
        "waiting, short, present; and what went wrong later: failed, refused, unanswered"
    )
    room: str | None
    event_type: str | None
    event_id: str | None
    value: float | None = Field(
        description="score: the score; counting: how often so far; short: seconds; cooldown, waiting: Unix seconds"
    )


class RuleState(BaseModel):
    """A rule as it stands in the file, and what became of it."""

    number: int = Field(description="from 1")
    name: str
    named: bool = Field(description="it has a name of its own")
    enabled: bool
    text: str | None = Field(description="its YAML, secrets hidden; null: the file cannot be read")
    line: int | None
    words: Words
    followed: bool = Field(description="the daemon follows it as it stands here")
    fired: int = Field(description="times since the daemon started")
    evaluations: list[Evaluated] = Field(description="of the last events, the latest first")


class RuleBook(BaseModel):
    """All rules."""

    file: FileState
    problem: str | None = Field(description="what is wrong with the file, which keeps it from being changed here")
    rules: list[RuleState]
    rooms: dict[str, str] = Field(description="names by id")
    event_types: list[str]
    taught: dict[str, str] = Field(description="titles of taught sounds by event type")
    transcripts: bool = Field(description="what was said is in the history")


class Mistake(BaseModel):
    """Something wrong."""

    line: int | None = Field(description="of the text, from 1; null: not of one line")
    message: str


class Checked(BaseModel):
    """What a text means, or what is wrong with it."""

    mistakes: list[Mistake]
    warnings: list[Mistake] = Field(description="it could be saved, but cannot work so")
    words: Words | None


class Written(BaseModel):
    """The YAML of one rule."""

    text: Annotated[str, Field(max_length=TEXT_LIMIT)]


class Draft(Written):
    """A rule that is being written."""

    number: Annotated[int, Field(ge=1, le=10_000)] | None = Field(default=None, description="null: a new one")


class Saved(Written):
    """A rule to be saved."""

    digest: Digest


class Switched(BaseModel):
    """Whether a rule acts."""

    on: StrictBool
    digest: Digest


class Rehearsing(BaseModel):
    """What is to be tried."""

    days: Annotated[float, Field(gt=0, le=LONGEST)] = 7.0
    number: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None, description="of one rule; null with a text: a new one; null without: all rules"
    )
    text: Annotated[str, Field(max_length=TEXT_LIMIT)] | None = Field(
        default=None, description="in place of what stands in the file"
    )


class WouldHave(BaseModel):
    """A rule would have fired."""

    rule: str
    time: str
    room: str | None
    event_type: str | None
    event_id: str | None
    deeds: list[Deed]


class Rehearsed(BaseModel):
    """What would have happened. Nothing was done."""

    since: str = Field(description="ISO 8601")
    until: str
    fired: dict[str, int] = Field(description="times, by name of the rule")
    firings: list[WouldHave] = Field(description="the latest hundred, the latest first")
    events: int = Field(description="that were heard in that time")
    wordless: int = Field(description="of them speech whose words were not kept: no rule can be tried on them")
    more: bool = Field(description="there were more events than can be tried; the oldest were left out")
    guesses_absence: bool = Field(description="a rule waits for silence, and when no room was heard is not known")


class RuleService(Protocol):
    """What the daemon knows of its rules, and how they are changed. All raise `AssistantError`."""

    async def book(self) -> RuleBook:
        """All rules."""

    async def check_rule(self, draft: Draft) -> Checked:
        """What a text means."""

    async def save_rule(self, number: int | None, text: str, digest: str) -> Done:
        """Save a rule; None: a new one."""

    async def remove_rule(self, number: int, digest: str) -> Done:
        """Remove a rule."""

    async def switch_rule(self, number: int, *, on: bool, digest: str) -> Done:
        """Let a rule act or rest."""

    async def rehearse(self, wanted: Rehearsing) -> Rehearsed:
        """Try rules on the history."""


Number = Annotated[int, Path(ge=1, le=10_000, description="of a rule in the file, from 1")]
UNKNOWN: dict[int | str, dict[str, Any]] = {
    **REFUSALS,
    404: {"description": "this is not the number of a rule"},
    409: {"description": "there is no such rule, or as above"},
}


def routes(service: RuleService) -> APIRouter:
    """`/api/rules`."""
    router = APIRouter(prefix="/api/rules", tags=["rules"])

    @router.get("", summary="All rules, and why they did or did not fire")
    async def rules() -> RuleBook:
        return await service.book()

    @router.post("/check", summary="What the text of a rule means, or what is wrong with it")
    async def check(draft: Draft) -> Checked:
        return await service.check_rule(draft)

    @router.post("/rehearsal", summary="What rules would have done with what was heard before", responses=REFUSALS)
    async def rehearsal(wanted: Rehearsing) -> Rehearsed:
        return await service.rehearse(wanted)

    @router.post("", summary="Add a rule", status_code=201, responses=REFUSALS)
    async def add(rule: Saved) -> Done:
        return await service.save_rule(None, rule.text, rule.digest)

    @router.put("/{number:int}", summary="Change a rule", responses=UNKNOWN)
    async def change(number: Number, rule: Saved) -> Done:
        return await service.save_rule(number, rule.text, rule.digest)

    @router.delete("/{number:int}", summary="Remove a rule", responses=UNKNOWN)
    async def remove(number: Number, digest: Digest) -> Done:
        return await service.remove_rule(number, digest)

    @router.put("/{number:int}/enabled", summary="Let a rule act or rest", responses=UNKNOWN)
    async def switch(number: Number, switched: Switched) -> Done:
        return await service.switch_rule(number, on=switched.on, digest=switched.digest)

    return router
