"""Which events make the house do something: rules from the configuration, and the memory they need.

Pure: time is passed in as Unix seconds, nothing is read or sent. `Rules.feed` takes an event, `Rules.tick` lets time
pass, both return the actions that are due; `Rules.next_deadline` says when the next `tick` is worth making.

`settings` are the words of the file, `matching` compares them with events, `watching` is the memory of one rule,
`evaluations` why it did or did not fire, `acting` all rules and what they do.
"""

from assistant.rules.acting import Rules, absence, visible
from assistant.rules.evaluations import Evaluation, Outcome
from assistant.rules.matching import Hours
from assistant.rules.settings import (
    ALL,
    ANY,
    DAYS,
    PRIVATE_FIELDS,
    TOPIC_FIELDS,
    Do,
    PublishAction,
    Rule,
    RuleList,
    SecretFile,
    Span,
    WebhookAction,
    When,
    duration,
    names_of,
    templates_of,
)
from assistant.rules.wording import ANSWER_LIMIT, clean, fold, says, topic_problem

__all__ = [
    "ALL",
    "ANSWER_LIMIT",
    "ANY",
    "DAYS",
    "PRIVATE_FIELDS",
    "TOPIC_FIELDS",
    "Do",
    "Evaluation",
    "Hours",
    "Outcome",
    "PublishAction",
    "Rule",
    "RuleList",
    "Rules",
    "SecretFile",
    "Span",
    "WebhookAction",
    "When",
    "absence",
    "clean",
    "duration",
    "fold",
    "names_of",
    "says",
    "templates_of",
    "topic_problem",
    "visible",
]
