"""The state machine of a rollout: Pending, Loading, Shadow, Canary, then promoted or rolled back; or paused.

It is a function of what status records, the spec and what is observed. Nothing else is remembered, so an operator that
is replaced continues where the last status stands. The weights follow from the *recorded* status and never from a step
that is not recorded yet: whatever dies in between, the traffic never jumps.

Every state has an exit. Pending ends with the drain of the version before; Loading, Shadow and Canary by the deadline
at the latest; Paused by a command, a retry or another version. The annotation `fovea.dev/rollout` holds one command:
`pause/<version>`, `promote/<version>` or `abort/<version>`. It names the version, so it cannot act on a later one;
abort and promote act once, and pause for as long as it stands there. `fovea.dev/retry` starts the rollout of a failed
or paused version again, at each new value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from fovea_api import names
from fovea_api.common import parse_duration
from fovea_api.modeldeployment import (
    CandidateVersion,
    DeployedVersion,
    GateMetric,
    GateResult,
    LoadTest,
    ModelDeploymentStatus,
    RolledBackVersion,
    Rollout,
    RolloutPhase,
    StableVersion,
)

from fovea_operator.evidence.gates import Counts, Decision, Evidence, Rates, Requests, StepResult, evaluate
from fovea_operator.kinds.modeldeployment.bundles import is_same

COMMAND, RETRY = names.ANNOTATION_ROLLOUT, names.ANNOTATION_RETRY
OBJECTIVES_MISSED = "ObjectivesMissed"
"""Reason of a rollback because of the load test."""
_MESSAGE, _TOKEN = 1024, 256
"""Characters of a message and of an annotation's value that status holds."""
WARM_UP_SHARE = 0.05
"""Part of a step's interval, from its start, whose requests are not counted: 30 s of 10 min."""
_FRESH: Mapping[str, object] = {
    "step_started": None,
    "counted_until": None,
    "stable_latency_milliseconds": None,
    "counts": {},
    "analysis": (),
}
"""What a step begins with."""


@dataclass(frozen=True, slots=True)
class Versions:
    """What status records of a rollout."""

    stable: StableVersion | None = None
    """The version that serves."""
    candidate: CandidateVersion | None = None
    """The version that is loaded or tested."""
    retiring: DeployedVersion | None = None
    """The version that drains: one that was replaced, or one that was rolled back."""
    rolled_back: RolledBackVersion | None = None
    """The version whose rollout failed last."""
    command: str = ""
    """The command that was acted on last and still stands in the annotation."""

    @classmethod
    def of(cls, status: ModelDeploymentStatus) -> Versions:
        """What a status records."""
        return cls(status.stable, status.candidate, status.retiring, status.rolled_back, status.rollout_command)

    @property
    def shares(self) -> tuple[tuple[DeployedVersion, int], ...]:
        """The versions that answer, the stable one first, with their per cent; none while there is no stable one."""
        if self.stable is None:
            return ()
        if self.candidate is None or not self.candidate.weight:
            return ((self.stable, 100),)
        return (self.stable, 100 - self.candidate.weight), (self.candidate, self.candidate.weight)

    @property
    def shadow(self) -> CandidateVersion | None:
        """The candidate, while it gets copies of requests."""
        found = self.candidate
        return found if found is not None and found.phase is RolloutPhase.SHADOW else None

    @property
    def under_load(self) -> CandidateVersion | None:
        """The candidate, while it is tested under load."""
        found = self.candidate
        return found if found is not None and found.phase is RolloutPhase.LOADING and is_under_way(found) else None

    @property
    def loaded(self) -> tuple[DeployedVersion, ...]:
        """The versions that the runtime has to hold, each once, in an order that no switch changes: a switch changes
        nothing there. A candidate that waits for another version to drain is not among them."""
        candidate = self.candidate
        if candidate is not None and candidate.phase is RolloutPhase.PENDING and self.retiring is not None:
            candidate = None
        known: dict[tuple[str, str], DeployedVersion] = {}
        for version in (self.stable, candidate, self.retiring):
            if version is not None:
                known.setdefault((version.name or "", version.runtime), version)
        return tuple(known[key] for key in sorted(known))


@dataclass(frozen=True, slots=True)
class Observed:
    """What is observed at one time."""

    now: datetime
    """The time."""
    ready: bool = False
    """Whether the candidate answers in its runtime."""
    refused: str = ""
    """Why the runtime cannot run the candidate, or no longer can; empty: nothing speaks against it."""
    followed: bool = False
    """Whether all gateways have the recorded weights."""
    drained: bool = False
    """Whether the retiring version has no more requests."""
    elsewhere: datetime | None = None
    """The last time at which a gateway is known to have had other weights; None: none says so."""
    increase: Counts | None = None
    """What was counted since `counted_until` of the candidate; None: nothing could be read."""
    counted_until: datetime | None = None
    """Time of the last look that `increase` covers."""
    stable_latency: float | None = None
    """95th percentile of stable's latency, in milliseconds; None: too few requests."""
    command: str = ""
    """Value of the annotation `fovea.dev/rollout`."""
    retry: str = ""
    """Value of the annotation `fovea.dev/retry`."""
    load_test: LoadTest | None = None
    """The candidate's load test as it is to be recorded, while the candidate is ready; None: none is due."""
    missed: str = ""
    """Which objectives it missed that stable meets, once it is finished; empty: none."""


@dataclass(frozen=True, slots=True)
class Transition:
    """What became of a rollout, and why: the event that is reported."""

    reason: str
    message: str


Advanced = tuple[Versions, Transition | None]


def advance(old: Versions, target: DeployedVersion | None, rollout: Rollout, observed: Observed) -> Advanced:
    """The next state, and what is to be reported about it.

    Args:
        old: What status records.
        target: The version that the spec asks for; None: unknown, so what is there stays.
        rollout: `spec.rollout`.
        observed: What is observed.
    """
    observed = replace(observed, retry=observed.retry[:_TOKEN])
    if old.retiring is not None:
        old = replace(old, retiring=None if observed.drained else _left_at(old.retiring, observed.elsewhere))
    if old.command != observed.command:
        old = replace(old, command="")
    if target is not None and not is_same(target, old.candidate):
        return _retarget(old, target, observed)
    if old.candidate is None:
        return old, None
    return _Rollout(old, old.candidate, rollout, observed).next()


def _retarget(old: Versions, target: DeployedVersion, observed: Observed) -> Advanced:
    """Another version than the candidate is asked for."""
    cleared = _withdrawn(old, observed.now)
    if is_same(target, old.stable):
        if old.candidate is None:
            return old, None
        return cleared, Transition("RolloutWithdrawn", f"the spec asks for version {target.name}, which serves")
    failed = old.rolled_back if is_same(target, old.rolled_back) else None
    if failed is not None and observed.retry in ("", failed.retry):
        return cleared, None
    given = _as_deployed(target) | {"load_test": _known_load_test(old, target)}
    fresh = {"since": observed.now, "phase": RolloutPhase.PENDING, "retry": observed.retry}
    candidate = CandidateVersion(**given | fresh)
    begun = Transition("RolloutStarted", f"the rollout of version {target.name} starts")
    return replace(cleared, candidate=candidate, rolled_back=None if failed is not None else old.rolled_back), begun


def _known_load_test(old: Versions, target: DeployedVersion) -> LoadTest | None:
    """The finished test of a version that was there a moment ago: it is not repeated, unless it was what failed."""
    if old.rolled_back is not None and old.rolled_back.reason != OBJECTIVES_MISSED and is_same(target, old.rolled_back):
        return old.rolled_back.load_test
    return old.retiring.load_test if old.retiring is not None and is_same(target, old.retiring) else None


def _withdrawn(old: Versions, now: datetime) -> Versions:
    """Without the candidate; one that has had requests finishes them."""
    candidate = old.candidate
    if candidate is None:
        return old
    return replace(old, candidate=None, retiring=_retiring(candidate, now) if candidate.step else old.retiring)


def _retiring(version: DeployedVersion, now: datetime) -> DeployedVersion:
    return DeployedVersion(**_as_deployed(version) | {"since": now})


def _left_at(retiring: DeployedVersion, elsewhere: datetime | None) -> DeployedVersion:
    """The version drains from when the last gateway left it."""
    if elsewhere is None or (retiring.since is not None and elsewhere <= retiring.since):
        return retiring
    return retiring.model_copy(update={"since": elsewhere})


def _as_deployed(version: DeployedVersion) -> dict[str, Any]:
    """What is common to all versions; a load test that was broken off says nothing."""
    common = {name: value for name, value in dict(version).items() if name in DeployedVersion.model_fields}
    return common | ({"load_test": None} if is_under_way(version) else {})


@dataclass(frozen=True, slots=True)
class _Rollout:
    """One step of the rollout of a candidate."""

    old: Versions
    candidate: CandidateVersion
    rollout: Rollout
    observed: Observed

    def next(self) -> Advanced:
        command = self.command()
        acting = replace(self, old=replace(self.old, command=self.observed.command))
        if command == "abort":
            return acting.roll_back("Aborted", f"aborted by the annotation {COMMAND}")
        if command == "promote" and self.observed.ready and self.old.retiring is None:
            return acting.promote(f"promoted by the annotation {COMMAND}")
        if self.observed.refused and self.old.stable is not None and self.candidate.phase is not RolloutPhase.PENDING:
            return self.roll_back("CandidateFailed", self.observed.refused)
        match self.candidate.phase:
            case RolloutPhase.LOADING:
                return self.loading(command)
            case RolloutPhase.SHADOW | RolloutPhase.CANARY:
                return self.tested(command)
            case RolloutPhase.PAUSED:
                return self.paused(command)
            case _:
                return self.pending()

    def command(self) -> str:
        """The command that is meant for this candidate and has not been carried out."""
        verb, _, version = self.observed.command.partition("/")
        acted = self.observed.command == self.old.command
        return verb if version == self.candidate.name and not acted else ""

    # --- States ------------------------------------------------------------------------------------------------------

    def pending(self) -> Advanced:
        if self.old.retiring is not None:
            return self.keep()
        return self.keep(phase=RolloutPhase.LOADING, started=self.observed.now)

    def loading(self, command: str) -> Advanced:
        if command == "pause":
            return self.pause("Requested", f"paused by the annotation {COMMAND}")
        if not self.observed.ready:
            return self.late() or self.keep()
        tested = self.candidate.model_copy(update={"load_test": self.observed.load_test})
        return replace(self, candidate=tested).loaded()

    def loaded(self) -> Advanced:
        """A candidate that is ready is tested under load first, and then by requests."""
        if is_under_way(self.candidate):
            return self.late() or self.keep()  # each change of the spec begins it anew
        if self.old.stable is None:
            return self.promote("the first version serves without a rollout")
        if self.observed.missed and self.rollout.strategy != "Recreate":
            return self.fail(self.observed.missed, OBJECTIVES_MISSED)
        return self.enter(0)

    def tested(self, command: str) -> Advanced:
        """Shadow and canary: counts are added up, and the gates decide."""
        if self.rollout.strategy == "Recreate" and self.observed.ready:
            return self.promote("the strategy is Recreate")
        noted = self.as_specified().counted()
        result = noted.result()
        if result.decision is Decision.FAIL:
            return noted.with_results(result).fail(result.message)
        noted = noted.with_results(result)
        if command == "pause":
            return noted.pause("Requested", f"paused by the annotation {COMMAND}")
        if noted.is_long_enough():
            if result.decision is Decision.PASS:
                return noted.enter(noted.candidate.step, result.message)
            if self.rollout.on_inconclusive != "Extend":
                return noted.inconclusive(f"the step is inconclusive: {result.message}")
        return noted.late() or noted.keep()

    def paused(self, command: str) -> Advanced:
        if self.observed.retry not in ("", self.candidate.retry):
            changes = {"phase": RolloutPhase.PENDING, "weight": 0, "step": 0, "started": None, "paused": None}
            changes |= {"pause": None, "retry": self.observed.retry, "load_test": None}
            return self.reported("RolloutRestarted", "starts again from its first step", **_FRESH, **changes)
        if self.candidate.pause == "Failed":
            return self.keep()
        noted = self.counted()  # one that waits for a person still answers requests, and must not harm them meanwhile
        result = noted.result()
        if result.decision is Decision.FAIL:
            return noted.with_results(result).fail(result.message)
        if command == "pause" or self.candidate.pause == "Inconclusive":
            return noted.keep()
        now, begun = self.observed.now, self.candidate.paused or self.observed.now
        phase = RolloutPhase.CANARY if self.candidate.step else RolloutPhase.LOADING
        started = (self.candidate.started or now) + max(now - begun, timedelta(0))
        return noted.reported("RolloutResumed", "continues", phase=phase, started=started, paused=None, pause=None)

    # --- Evidence ----------------------------------------------------------------------------------------------------

    def as_specified(self) -> _Rollout:
        """The step begins anew where `spec.rollout` is another: gates that are changed in the light of what was
        counted would decide more often than they may."""
        if self.candidate.gates == (digest := _digest(self.rollout)):
            return self
        return replace(self, candidate=self.candidate.model_copy(update={**_FRESH, "gates": digest}))

    def counted(self) -> _Rollout:
        """With what was counted since the last look, once the gateways follow and the warm-up is over."""
        started, increase, changes = self.candidate.step_started, self.observed.increase, dict[str, object]()
        if started is None:
            changes = self.begun()
        elif increase is not None and increase.readable and self.is_warm(started):
            until = self.observed.counted_until
            changes = {"counts": self.counts().plus(increase).flat(), "counted_until": until}
        return replace(self, candidate=self.candidate.model_copy(update=changes))

    def is_warm(self, started: datetime) -> bool:
        """Whether the warm-up of the step is over."""
        return self.observed.now - started >= WARM_UP_SHARE * parse_duration(self.rollout.interval)

    def begun(self) -> dict[str, object]:
        """What notes that the step has begun: first how fast stable is, where a gate asks, then all gateways follow."""
        if is_compared_in_latency(self.rollout) and self.candidate.stable_latency_milliseconds is None:
            return {"stable_latency_milliseconds": self.observed.stable_latency}
        return {"step_started": self.observed.now} if self.observed.followed else {}

    def counts(self) -> Counts:
        """The counts of this step. A shadow that gets a copy of each request is one of two that answer it."""
        weight = self.candidate.weight / 100 if self.candidate.step else 0.5
        return Counts.read(weight, self.candidate.counts)

    def result(self) -> StepResult:
        error = 1 - self.rollout.confidence
        steps = len(self.rollout.steps) + ("Shadow" in self.rollout.strategy)
        return evaluate(self.rollout.gates, self.counts(), Rates(error, error), max(steps, 1))

    def with_results(self, result: StepResult) -> _Rollout:
        stable = self.counts().stable
        analysis = tuple(_result(evidence, stable) for evidence in result.gates)
        return replace(self, candidate=self.candidate.model_copy(update={"analysis": analysis}))

    def is_long_enough(self) -> bool:
        """Whether the step has lasted its interval and has its requests."""
        started = self.candidate.step_started
        elapsed = started is not None and self.observed.now - started >= parse_duration(self.rollout.interval)
        return elapsed and self.counts().candidate.total >= self.rollout.min_requests

    # --- Transitions -------------------------------------------------------------------------------------------------

    def enter(self, step: int, evidence: str = "") -> Advanced:
        """What follows the step; 0: the rollout has loaded its candidate."""
        words = f": {evidence}" if evidence else ""
        strategy = self.rollout.strategy
        if strategy == "Recreate":
            return self.promote("the strategy is Recreate")
        fresh = {**_FRESH, "gates": _digest(self.rollout)}
        if "Shadow" in strategy and self.candidate.phase is RolloutPhase.LOADING:
            return self.reported("ShadowStarted", "gets copies of requests", **fresh, phase=RolloutPhase.SHADOW)
        further = [weight for weight in self.rollout.steps if weight > self.candidate.weight]
        if "Canary" not in strategy or not further:
            return self.promote(f"all gates passed{words}")
        where = {"phase": RolloutPhase.CANARY, "step": step + 1, "weight": further[0]}
        return self.reported("StepStarted", f"gets {further[0]} % of the traffic{words}", **fresh, **where)

    def promote(self, why: str) -> Advanced:
        now, before = self.observed.now, self.old.stable
        retiring = _retiring(before, now) if before is not None else self.old.retiring
        stable = StableVersion(**_as_deployed(self.candidate) | {"since": now})
        words = f"version {stable.name} serves: {why}"
        return replace(self.old, stable=stable, candidate=None, retiring=retiring), Transition("Promoted", words)

    def roll_back(self, reason: str, message: str) -> Advanced:
        candidate = self.candidate
        failed = RolledBackVersion(
            **_as_deployed(candidate)
            | {
                "since": self.observed.now,
                "reason": reason,
                "message": message[:_MESSAGE],
                "step": candidate.step,
                "retry": self.observed.retry,
                "analysis": candidate.analysis,
            }
        )
        words = f"version {candidate.name} is rolled back: {message}"
        return replace(_withdrawn(self.old, self.observed.now), rolled_back=failed), Transition("RolledBack", words)

    def pause(self, cause: Literal["Requested", "Failed", "Inconclusive"], message: str) -> Advanced:
        """A failed candidate gets no more requests; any other keeps its share."""
        changes = {"phase": RolloutPhase.PAUSED, "paused": self.observed.now, "pause": cause}
        if cause == "Failed":
            changes |= {"weight": 0}
        if is_under_way(self.candidate):
            changes |= {"load_test": None}
        return self.reported("RolloutPaused", message, **changes)

    def fail(self, message: str, reason: str = "GateFailed") -> Advanced:
        if self.rollout.on_failure == "Pause":
            return self.pause("Failed", message)
        return self.roll_back(reason, message)

    def inconclusive(self, message: str) -> Advanced:
        wanted = self.rollout.on_inconclusive
        end = self.rollout.on_failure if wanted == "Extend" else wanted
        if end == "Pause":
            return self.pause("Inconclusive", message)
        return self.roll_back("Inconclusive", message)

    def late(self) -> Advanced | None:
        """The end by the deadline; without a stable version there is nothing to go back to."""
        started = self.candidate.started
        if self.old.stable is None or started is None:
            return None
        if self.observed.now - started < parse_duration(self.rollout.deadline):
            return None
        words = "; ".join(result.message for result in self.candidate.analysis if result.outcome == "Inconclusive")
        return self.inconclusive(
            f"the deadline of {self.rollout.deadline} has passed; {words or 'nothing was measured'}"
        )

    def reported(self, reason: str, message: str, **changes: object) -> Advanced:
        versions, _ = self.keep(**changes)
        return versions, Transition(reason, f"version {self.candidate.name} {message}")

    def keep(self, **changes: object) -> Advanced:
        return replace(self.old, candidate=self.candidate.model_copy(update=changes)), None


def is_under_way(version: DeployedVersion) -> bool:
    """Whether a version's load test is under way."""
    return version.load_test is not None and version.load_test.finished is None


def is_compared_in_latency(rollout: Rollout) -> bool:
    """Whether a gate compares the latency with that of stable."""
    return any(gate.metric is GateMetric.LATENCY_P95 and gate.max_ratio_to_stable is not None for gate in rollout.gates)


def _digest(rollout: Rollout) -> str:
    return hashlib.sha256(json.dumps(rollout.to_dict(), sort_keys=True).encode()).hexdigest()[:12]


def _result(evidence: Evidence, stable: Requests) -> GateResult:
    return GateResult(
        metric=evidence.metric,
        candidate=evidence.estimate,
        stable=_of_stable(evidence.metric, stable),
        lower=evidence.lower,
        upper=evidence.upper,
        needed=evidence.needed,
        requests=evidence.samples,
        outcome=evidence.decision.value,
        message=evidence.message[:_MESSAGE],
    )


def _of_stable(metric: GateMetric, stable: Requests) -> float | None:
    """The share of stable's that failed or were right, where that was counted."""
    if metric is GateMetric.ERROR_RATE and stable.total:
        return stable.failed / stable.total
    if metric is GateMetric.ACCURACY and stable.labelled:
        return stable.right / stable.labelled
    return None
