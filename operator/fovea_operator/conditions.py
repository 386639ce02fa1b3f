"""Conditions in the standard shape: Ready (the declared state holds), and kstatus' Reconciling and Stalled."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from fovea_api.common import Condition, Status

_MESSAGE_LIMIT = 32768
_REASON_LIMIT = 128
"""That of an event, which reports the same reason."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Why a condition is True: a CamelCase word for programs, and words for people."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Assessment:
    """Where an object stands: whether its declared state holds, what is on the way, and what cannot go on.

    The three do not exclude one another: a deployment may serve well (ready) while a candidate is tried (reconciling),
    or after the candidate could not be started (stalled). A suspended object is none of the three.
    """

    ready: bool
    reason: str
    message: str
    reconciling: Finding | None = None
    """The operator or a run is on the way, or waits for what may come by itself."""
    stalled: Finding | None = None
    """Nothing more happens until somebody changes something."""
    wakes: bool = False
    """Whether the end of what it waits for wakes the object, so that nobody has to look for it."""


def ready(reason: str, message: str, meanwhile: Assessment | None = None) -> Assessment:
    """The declared state holds. `meanwhile`: what else is going on, whose Reconciling and Stalled are taken over."""
    if meanwhile is None:
        return Assessment(True, reason, message)
    return Assessment(True, reason, message, meanwhile.reconciling, meanwhile.stalled)


def progressing(reason: str, message: str, wakes: bool = False) -> Assessment:
    """On the way, or waiting for what may come by itself. `wakes`: whether that wakes the object."""
    word = reason_word(reason)
    return Assessment(False, word, message, reconciling=Finding(word, message), wakes=wakes)


def suspended(reason: str, message: str) -> Assessment:
    """Somebody asked for a pause; neither under way nor broken."""
    return Assessment(False, reason, message)


def stalled(reason: str, message: str) -> Assessment:
    """Nothing more happens until somebody changes something; the message says what."""
    word = reason_word(reason)
    return Assessment(False, word, message, stalled=Finding(word, message))


def reason_word(text: str) -> str:
    """A reason that others gave, in their own words, as the one CamelCase word that a condition takes."""
    words = re.findall("[A-Za-z0-9]+", text)
    return "".join(word[0].upper() + word[1:] for word in words).lstrip("0123456789")[:_REASON_LIMIT] or "Unknown"


def condition_of(status: Status | None, type: str) -> Condition | None:
    """The condition of a type, if the status has one."""
    known = status.conditions if status is not None else ()
    return next((condition for condition in known if condition.type == type), None)


def waiting_for_leftover(key: object) -> Assessment:
    """An object was deleted and made again: what is left of the one before may still write where a new run would."""
    return progressing("Stopping", f"waiting for {key} of the object before to go")


def condition_at(
    known: Condition | None, type: str, status: str, finding: Finding, generation: int | None, now: datetime
) -> Condition:
    """A condition: True, False or Unknown. It keeps its transition time until its status changes; `known`: so far."""
    return Condition.model_validate(
        {
            "type": type,
            "status": status,
            "reason": finding.reason,
            "message": finding.message[:_MESSAGE_LIMIT],
            "lastTransitionTime": known.last_transition_time if known and known.status == status else now,
            "observedGeneration": generation,
        }
    )


def own_conditions(known: Sequence[Condition]) -> tuple[Condition, ...]:
    """The conditions that not every kind has."""
    return tuple(condition for condition in known if condition.type not in ("Ready", "Reconciling", "Stalled"))


def conditions(
    assessment: Assessment, old: Sequence[Condition], generation: int | None, now: datetime
) -> tuple[Condition, ...]:
    """Ready, Reconciling and Stalled. A condition keeps its transition time until its status changes."""
    before = {condition.type: condition for condition in old}

    def condition(type: str, holds: bool, finding: Finding) -> Condition:
        return condition_at(before.get(type), type, "True" if holds else "False", finding, generation, now)

    def optional(type: str, finding: Finding | None) -> Condition:
        return condition(type, finding is not None, finding or Finding(f"Not{type}", ""))

    return (
        condition("Ready", assessment.ready, Finding(assessment.reason, assessment.message)),
        optional("Reconciling", assessment.reconciling),
        optional("Stalled", assessment.stalled),
    )
