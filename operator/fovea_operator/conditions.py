"""Conditions in the standard shape: Ready (the declared state holds), and kstatus' Reconciling and Stalled."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from fovea_api.common import Condition


class Progressing(Enum):
    """What a person has to expect."""

    DONE = "the declared state holds"
    WORKING = "the operator or a run is on the way to it, or waits for something that may come by itself"
    PAUSED = "somebody asked for a pause; nothing is wrong"
    STUCK = "nothing more happens until somebody changes something"


_MESSAGE_LIMIT = 32768
_REASON_LIMIT = 128
"""That of an event, which tells the same reason."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where an object stands, in one place, from which all three conditions follow."""

    progressing: Progressing
    reason: str
    message: str


def done(reason: str, message: str) -> Verdict:
    """The declared state holds."""
    return Verdict(Progressing.DONE, reason, message)


def working(reason: str, message: str) -> Verdict:
    """On the way, or waiting for what may come by itself."""
    return Verdict(Progressing.WORKING, reason_word(reason), message)


def paused(reason: str, message: str) -> Verdict:
    """Somebody asked for a pause; neither under way nor broken."""
    return Verdict(Progressing.PAUSED, reason, message)


def stuck(reason: str, message: str) -> Verdict:
    """Nothing more happens until somebody changes something; the message says what."""
    return Verdict(Progressing.STUCK, reason_word(reason), message)


def reason_word(text: str) -> str:
    """A reason that others gave, in their own words, as the one CamelCase word that a condition takes."""
    words = re.findall("[A-Za-z0-9]+", text)
    return "".join(it[0].upper() + it[1:] for it in words).lstrip("0123456789")[:_REASON_LIMIT] or "Unknown"


def waiting_for_leftover(key: object) -> Verdict:
    """An object was deleted and made again: what is left of the one before may still write where a new run would."""
    return working("Stopping", f"waiting for {key} of the object before to go")


def conditions(
    verdict: Verdict, old: Sequence[Condition], generation: int | None, now: datetime
) -> tuple[Condition, ...]:
    """Ready, Reconciling and Stalled. A condition keeps its transition time until its status changes."""
    held = {condition.type: condition for condition in old}

    def condition(type: str, holds: bool) -> Condition:
        status, before = "True" if holds else "False", held.get(type)
        said = holds or type == "Ready"
        return Condition.model_validate(
            {
                "type": type,
                "status": status,
                "reason": verdict.reason if said else f"Not{type}",
                "message": verdict.message[:_MESSAGE_LIMIT] if said else "",
                "lastTransitionTime": before.last_transition_time if before and before.status == status else now,
                "observedGeneration": generation,
            }
        )

    return (
        condition("Ready", verdict.progressing is Progressing.DONE),
        condition("Reconciling", verdict.progressing is Progressing.WORKING),
        condition("Stalled", verdict.progressing is Progressing.STUCK),
    )
