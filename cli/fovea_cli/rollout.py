"""`fovea rollout`: how far the rollout of a ModelDeployment's candidate is, and what a person may decide about it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import click
from fovea_api import names
from fovea_api.errors import InvalidInput, Retryable
from fovea_api.modeldeployment import CandidateVersion, GateResult, ModelDeployment, ModelDeploymentStatus, RolloutPhase

from fovea_cli.kubectl import DEPLOYMENTS, LIST_DEPLOYMENTS, annotate, get_deployment
from fovea_cli.output import output_option, print_json

WATCH_SECONDS = 2.0
"""Between two looks of a watch."""
FORGET_SECONDS = 30.0
"""Time for the operator to note that a command is gone which it carried out; the same one can be given again then."""
REFUSED = 3
"""Exit code where the candidate was rolled back or is paused by its gates, as of a model that misses its criteria."""
_CLEAR = "\x1b[H\x1b[J"


@click.group("rollout")
def command() -> None:
    """The rollout of a ModelDeployment's new version: its state, and pause, resume, promote, abort, retry."""


namespace_option: Callable[[click.decorators.FC], click.decorators.FC] = click.option(
    "--namespace", "-n", help="Namespace of the ModelDeployment; absent: kubectl's own."
)


@command.command("status")
@click.argument("name")
@namespace_option
@click.option("--watch", "-w", is_flag=True, help="Follow it until it is promoted, rolled back or paused by its gates.")
@output_option
def status(name: str, namespace: str | None, watch: bool, output: str) -> None:
    """Shows how far the rollout of NAME's new version is, with the evidence of each gate.

    Ends with 3 where the newest version was rolled back, or is paused by its gates.
    """
    last, live = "", watch and output == "text" and sys.stdout.isatty()
    while True:
        deployment = get_deployment(name, namespace)
        found = deployment.status or ModelDeploymentStatus()
        if output == "json":
            shown = found.to_dict()
            parts = ("phase", "stable", "candidate", "retiring", "rolledBack")
            text = {part: shown[part] for part in parts if part in shown}
            if (key := str(text)) != last:
                print_json(text)
        else:
            lines = list(_lines(deployment, found))
            key = "\n".join(lines)
            if key != last:
                click.echo((_CLEAR if live else "") + (key if live or not last else _line(found)))
        last = key
        if not watch or _is_over(found):
            break
        time.sleep(WATCH_SECONDS)
    if _is_refused(found):
        raise click.exceptions.Exit(REFUSED)


@command.command("pause")
@click.argument("name")
@namespace_option
def pause(name: str, namespace: str | None) -> None:
    """Holds the candidate at its share of the requests; if it fails, it is rolled back all the same."""
    candidate = _candidate(name, namespace)
    if candidate.phase is RolloutPhase.PAUSED:
        raise InvalidInput(f"the rollout of {candidate.name} is paused already", None, f"fovea rollout status {name}")
    _command(name, namespace, f"pause/{candidate.name}")
    click.echo(f"rollout of {candidate.name} paused at {candidate.weight} %")


@command.command("resume")
@click.argument("name")
@namespace_option
def resume(name: str, namespace: str | None) -> None:
    """Lets a rollout that was paused by a person go on."""
    deployment = get_deployment(name, namespace)
    candidate = _candidate_of(deployment)
    held = deployment.metadata.annotations.get(names.ANNOTATION_ROLLOUT, "") == f"pause/{candidate.name}"
    if candidate.pause in ("Failed", "Inconclusive"):
        words = f"the rollout of {candidate.name} was paused by its gates"
        raise InvalidInput(words, None, f"fovea rollout promote, abort or retry {name}")
    if not held:
        raise InvalidInput(f"the rollout of {candidate.name} is not paused", None, f"fovea rollout status {name}")
    _annotate(name, namespace, names.ANNOTATION_ROLLOUT, None)
    click.echo(f"rollout of {candidate.name} resumed at {candidate.weight} %")


@command.command("promote")
@click.argument("name")
@namespace_option
def promote(name: str, namespace: str | None) -> None:
    """Gives all requests to the candidate as soon as it is loaded, without its gates."""
    candidate = _candidate(name, namespace)
    _command(name, namespace, f"promote/{candidate.name}")
    click.echo(f"version {candidate.name} is promoted")


@command.command("abort")
@click.argument("name")
@namespace_option
def abort(name: str, namespace: str | None) -> None:
    """Takes the candidate out; the stable version has all requests again."""
    candidate = _candidate(name, namespace)
    _command(name, namespace, f"abort/{candidate.name}")
    click.echo(f"rollout of {candidate.name} aborted")


@command.command("retry")
@click.argument("name")
@namespace_option
def retry(name: str, namespace: str | None) -> None:
    """Starts the rollout of a version that was rolled back, or paused, from its first step."""
    found = get_deployment(name, namespace).status or ModelDeploymentStatus()
    candidate, failed = found.candidate, found.rolled_back
    version = candidate if candidate is not None and candidate.phase is RolloutPhase.PAUSED else failed
    if version is None or (candidate is not None and version is not candidate):
        words = f"no version of ModelDeployment {name} was rolled back or is paused"
        raise InvalidInput(words, None, f"fovea rollout status {name}")
    _annotate(name, namespace, names.ANNOTATION_RETRY, datetime.now(UTC).isoformat(timespec="milliseconds"))
    click.echo(f"rollout of {version.name} starts again")


# --- Reading and writing ---------------------------------------------------------------------------------------------


def _candidate(name: str, namespace: str | None) -> CandidateVersion:
    """The version that is rolled out. Raises InvalidInput where there is none."""
    return _candidate_of(get_deployment(name, namespace))


def _candidate_of(deployment: ModelDeployment) -> CandidateVersion:
    found, name = deployment.status, deployment.metadata.name
    if found is None or found.candidate is None:
        words = f"no version of ModelDeployment {name} is being rolled out"
        raise InvalidInput(words, None, f"fovea rollout status {name} says what serves")
    return found.candidate


def _command(name: str, namespace: str | None, value: str) -> None:
    """Gives the operator a command. One that it has carried out before is removed first, for it acts once."""
    if (get_deployment(name, namespace).status or ModelDeploymentStatus()).rollout_command == value:
        _annotate(name, namespace, names.ANNOTATION_ROLLOUT, None)
        end = time.monotonic() + FORGET_SECONDS
        while (get_deployment(name, namespace).status or ModelDeploymentStatus()).rollout_command == value:
            if time.monotonic() > end:
                raise Retryable("the operator does not answer", None, "look whether it runs, and try again")
            time.sleep(WATCH_SECONDS / 4)
    _annotate(name, namespace, names.ANNOTATION_ROLLOUT, value)


def _annotate(name: str, namespace: str | None, annotation: str, value: str | None) -> None:
    annotate(DEPLOYMENTS, name, namespace, annotation, value, LIST_DEPLOYMENTS)


# --- Showing ---------------------------------------------------------------------------------------------------------


def _is_over(found: ModelDeploymentStatus) -> bool:
    """Whether nothing more happens by itself."""
    return (found.candidate is None and found.retiring is None) or _is_refused(found)


def _is_refused(found: ModelDeploymentStatus) -> bool:
    """Whether the newest version did not pass."""
    candidate = found.candidate
    if candidate is not None:
        return candidate.pause in ("Failed", "Inconclusive")
    return any(
        each.type == "Stalled" and each.status == "True" and each.reason == "RolledBack" for each in found.conditions
    )


def _line(found: ModelDeploymentStatus) -> str:
    """The state on one line."""
    candidate, failed = found.candidate, found.rolled_back
    if candidate is not None:
        gates = ", ".join(f"{each.metric} {each.outcome.lower()}" for each in candidate.analysis)
        requests = f"{candidate.counts.get('candidate/total', 0):,.0f} requests"
        return f"{candidate.name}: {candidate.phase}, {candidate.weight} %, {requests}{f'; {gates}' if gates else ''}"
    if _is_refused(found) and failed is not None:
        return f"{failed.name}: rolled back, {failed.reason}: {failed.message}"
    return f"{found.stable.name}: serves" if found.stable is not None else "no version serves"


def _lines(deployment: ModelDeployment, found: ModelDeploymentStatus) -> Iterator[str]:
    """The state for people."""
    rollout, candidate, failed = deployment.spec.rollout, found.candidate, found.rolled_back
    yield f"Name:       {deployment.metadata.name}"
    yield f"State:      {found.phase or 'Unknown'}"
    yield f"Strategy:   {rollout.strategy}" + (f", steps {_steps(rollout.steps, candidate)}" if rollout.steps else "")
    if found.stable is not None:
        weight = 100 - (candidate.weight if candidate is not None else 0)
        yield f"Stable:     {found.stable.name}   {_bar(weight)} {weight} %"
    if candidate is not None:
        yield f"Candidate:  {candidate.name}   {_bar(candidate.weight)} {candidate.weight} %   {candidate.phase}"
        if (test := candidate.load_test) is not None:
            yield f"Load test:  {test.message or 'under way'}"
        yield f"Requests:   {candidate.counts.get('candidate/total', 0):,.0f} of at least {rollout.min_requests:,}"
        yield from _gates(candidate.analysis)
    if found.retiring is not None:
        yield f"Draining:   {found.retiring.name}"
    if failed is not None:
        yield f"Rolled back: {failed.name}, {failed.reason}: {failed.message}"


def _gates(results: tuple[GateResult, ...]) -> Iterator[str]:
    marks = {"Pass": "+", "Fail": "x", "Inconclusive": "?", "Skipped": "-"}
    for result in results:
        yield f"  {marks[result.outcome]} {result.message}"


def _steps(steps: tuple[int, ...], candidate: CandidateVersion | None) -> str:
    """The steps, the current one in brackets."""
    current = candidate.step if candidate is not None else 0
    return " ".join(f"[{step}]" if number == current else str(step) for number, step in enumerate(steps, 1))


def _bar(percent: int, width: int = 20) -> str:
    filled = round(percent * width / 100)
    return "#" * filled + "." * (width - filled)
