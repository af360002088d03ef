"""What the page asks of the daemon: one field for each of its parts, each a Protocol beside the routes that use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from assistant.web.ask import AskService
from assistant.web.configuration import ConfigurationService
from assistant.web.events import EventService
from assistant.web.health import HealthService
from assistant.web.rooms import RoomService
from assistant.web.rules import RuleService
from assistant.web.setup import SetUpService
from assistant.web.teach import TeachService


@dataclass(frozen=True, slots=True)
class WebServices:
    """Filled in by `app`. An `AssistantError` is told to whoever asked; any other exception is a bug."""

    rooms: RoomService
    health: HealthService
    watch: Callable[[frozenset[str]], None]  # told what open pages watch: rooms by id, `health.WATCHED`
    events: EventService
    ask: AskService
    teach: TeachService
    rules: RuleService
    configuration: ConfigurationService
    setup: SetUpService
    metrics: Callable[[], bytes]  # for Prometheus
