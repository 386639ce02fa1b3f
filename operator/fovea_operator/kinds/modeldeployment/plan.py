"""The planner of a ModelDeployment: which version is loaded, which one answers, and how all of it stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Literal

from fovea_api.common import Condition
from fovea_api.gateway import GatewayConfig
from fovea_api.modeldeployment import (
    CandidateVersion,
    DeployedVersion,
    DriftStatus,
    GatewaysStatus,
    LoadTest,
    ModelDeploymentStatus,
    ObjectiveResult,
    RetrainingStatus,
    RolloutPhase,
    StableVersion,
    without_effect,
)

from fovea_operator.conditions import (
    Assessment,
    Finding,
    condition_at,
    condition_of,
    conditions,
    progressing,
    ready,
    stalled,
    suspended,
)
from fovea_operator.kinds.modeldeployment import drift, load_test, objectives, retraining
from fovea_operator.kinds.modeldeployment.build import (
    CHILDREN,
    gateway_children,
    gateway_config,
    route,
    runtime_children,
    url,
)
from fovea_operator.kinds.modeldeployment.bundles import is_same, resolve
from fovea_operator.kinds.modeldeployment.canary import (
    COMMAND,
    RETRY,
    Observed,
    Transition,
    Versions,
    advance,
    is_under_way,
)
from fovea_operator.kinds.modeldeployment.counting import counted, may_scale_up, stable_latency
from fovea_operator.kinds.modeldeployment.retraining import Advanced, withdrawn
from fovea_operator.kinds.modeldeployment.retraining_inputs import observed_of
from fovea_operator.kinds.modeldeployment.snapshot import DeploymentSnapshot
from fovea_operator.measurement import Load
from fovea_operator.metrics import MetricDefinition
from fovea_operator.objects import DEPLOYMENT, MODEL_DEPLOYMENT, RAY_SERVICE, JsonObject, Key, text, uid_of
from fovea_operator.prerequisites import missing
from fovea_operator.runs.plan import blocker_of, own_status
from fovea_operator.schedule import InvalidSchedule
from fovea_operator.settings import Settings
from fovea_operator.workloads.deployment import triton_state
from fovea_operator.workloads.rayservice import NAME_LENGTH as RAY_NAME_LENGTH
from fovea_operator.workloads.rayservice import ray_state
from fovea_operator.workloads.serving import (
    DRAIN_SECONDS,
    GATEWAY,
    REPLICA,
    Serving,
    VersionState,
    host_names,
    is_ready,
    of_component,
    trouble,
)
from fovea_operator.writes import Apply, Count, Delete, Emit, Plan, Write

SUPPORTED = "FullySupported"
"""Condition: whether all that the spec asks for acts in this version."""
ROLLOUTS_ENDED = MetricDefinition("fovea_rollouts_ended_total", "Rollouts that ended.", ("outcome", "reason"))
"""Promoted, or RolledBack with the reason."""
LOAD_TESTS_ENDED = MetricDefinition(
    "fovea_load_tests_ended_total", "Load tests of versions before they get requests.", ("outcome",)
)
"""Met, Missed or Unknown."""
BEHIND_SECONDS = 300.0
"""Time that a gateway may follow another configuration until the pods are replaced, and until they are again."""
_SECOND = 1.0
_WARNINGS = frozenset({"RolledBack", "RolloutPaused"})
_RETRY = f"another bundle is tried by itself, this one again by a new value of the annotation {RETRY}"
_REMEDY = f"the annotation {COMMAND} promotes or aborts it, a new value of {RETRY} starts it again"
_KINDS = {kind.name: kind for kind in CHILDREN}


def plan_deployment(snapshot: DeploymentSnapshot, settings: Settings) -> Plan:
    """The next writes for a ModelDeployment."""
    return _Planner(snapshot, settings).plan()


@dataclass(frozen=True)
class _Planner:
    """One plan: what follows from the snapshot, each thing worked out once."""

    snapshot: DeploymentSnapshot
    settings: Settings

    @property
    def key(self) -> Key:
        metadata = self.snapshot.deployment.metadata
        return Key(MODEL_DEPLOYMENT, metadata.namespace, metadata.name)

    @cached_property
    def old(self) -> ModelDeploymentStatus:
        return self.snapshot.deployment.status or ModelDeploymentStatus()

    @cached_property
    def serving(self) -> Serving:
        spec, key = self.snapshot.deployment.spec, self.key
        return Serving(namespace=key.namespace, name=key.name, spec=spec, store=self.snapshot.store)

    @cached_property
    def target(self) -> DeployedVersion | Assessment:
        return resolve(self.snapshot)

    @property
    def at_zero(self) -> bool:
        """Whether the spec has no replicas and no autoscaling."""
        scaling = self.serving.spec.scaling
        return scaling.replicas == 0 and scaling.max_replicas is None

    @cached_property
    def recorded(self) -> Versions:
        """The versions and weights of the recorded status. All children follow from it: whatever dies between a
        decision and its record, neither the traffic nor a runtime has seen anything of it."""
        return Versions.of(self.old)

    @cached_property
    def advanced(self) -> tuple[Versions, Transition | None]:
        target = self.target if isinstance(self.target, DeployedVersion) else None
        rollout = self.serving.spec.rollout
        if self.at_zero and self.recorded.stable is not None and rollout.strategy != "Recreate":
            target = self.recorded.stable  # without requests nothing can be tested
        return advance(self.recorded, target, rollout, self.observed)

    @property
    def rollout(self) -> Versions:
        """The versions as they will be recorded."""
        return self.advanced[0]

    @cached_property
    def observed(self) -> Observed:
        """What the rollout's next state depends on."""
        candidate, measured = self.recorded.candidate, self.snapshot.measured
        annotations = self.snapshot.deployment.metadata.annotations
        state = self.state(candidate) if candidate is not None else VersionState()
        spec, now = self.serving.spec, self.snapshot.now
        scales = candidate is not None and may_scale_up(candidate, spec, state.replicas, now)
        found = counted(self.recorded, spec.rollout, measured, forgive_shed=scales)
        test = self.load_test if candidate is not None and state.ready else None
        return Observed(
            now=self.snapshot.now,
            ready=state.ready,
            refused=(state.message or state.reason) if state.refused else "",
            followed=self.followed,
            drained=self.drained,
            elsewhere=self.elsewhere,
            increase=found[0] if found is not None else None,
            counted_until=found[1] if found is not None else None,
            command=annotations.get(COMMAND, ""),
            retry=annotations.get(RETRY, ""),
            stable_latency=stable_latency(self.recorded, measured),
            load_test=test,
            missed=load_test.missed(test, self.known_misses) if test is not None else "",
        )

    @cached_property
    def load_test(self) -> LoadTest | None:
        """The load test of a candidate that is ready; without replicas nothing can be tested."""
        candidate, measured = self.recorded.candidate, self.snapshot.measured
        if candidate is None or self.at_zero:
            return None
        known = candidate.load_test
        return load_test.advance(
            known,
            self.serving.spec,
            candidate,
            self.state(candidate).replicas,
            [*host_names(self.snapshot.pods)],
            measured.load(load_test.identity(known)) if known is not None else Load(),
            self.snapshot.now,
        )

    @property
    def known_misses(self) -> frozenset[str]:
        """Objectives that the version which serves misses, by its requests or by its own load test."""
        stable = self.recorded.stable
        tested = stable.load_test.results if stable is not None and stable.load_test is not None else ()
        by_requests = {each.metric: each.met for each in self.old.objectives if each.met is not None}
        known = {each.metric: each.met for each in tested} | by_requests
        return frozenset(metric for metric, met in known.items() if met is False)

    @property
    def stable_load_test(self) -> LoadTest | None:
        """The load test of the version that serves, while it speaks of the spec's objectives and resources."""
        stable = self.rollout.stable
        if stable is None or stable.load_test is None:
            return None
        return stable.load_test if stable.load_test.subject == load_test.subject(self.serving.spec, stable) else None

    @cached_property
    def drift(self) -> DriftStatus | None:
        """Whether the requests of the version that serves have changed."""
        spec, stable = self.serving.spec.monitoring.drift, self.recorded.stable
        if spec is None or stable is None:
            return None
        observed = drift.observed_of(self.snapshot.measured, stable.name or "", self.snapshot.now)
        return drift.advance(self.old.drift, spec, observed)

    @cached_property
    def retraining(self) -> Advanced | InvalidSchedule:
        """Where retrainings stand, or why the schedule of theirs means nothing."""
        spec, old = self.serving.spec.retraining, self.old.retraining or RetrainingStatus()
        if spec is None:
            return Advanced(withdrawn(old), (), (), None)
        try:
            return retraining.advance(old, self.old.run_requests, spec, observed_of(self.snapshot))
        except InvalidSchedule as error:
            return error

    @cached_property
    def drained(self) -> bool:
        """Whether no request is with the retiring version any more: every gateway has left it for so long. One that
        cannot be asked has left it after a while; one that says that it follows another configuration has not."""
        retiring = self.recorded.retiring
        if retiring is None or retiring.since is None or is_same(retiring, self.recorded.stable):
            return True
        if self.elsewhere is not None:
            return False
        settle = timedelta(seconds=self.serving.spec.inference.timeout_seconds + DRAIN_SECONDS)
        grace = timedelta(0) if self.followed else timedelta(seconds=self.settings.switch_grace_seconds)
        return self.snapshot.now - retiring.since >= settle + grace

    @cached_property
    def config(self) -> GatewayConfig:
        """What the gateways go by; without the reason why none answers."""
        return self.config_with("")

    def config_with(self, reason: str) -> GatewayConfig:
        versions = Versions() if self.at_zero else self.recorded
        return gateway_config(self.serving, versions, reason, self.settings.gateway_replicas)

    @cached_property
    def elsewhere(self) -> datetime | None:
        """The last time at which a gateway said that it goes by other versions or weights; None: none says so now."""
        return self.snapshot.measured.elsewhere(self.config.revision)

    @cached_property
    def gateways(self) -> GatewaysStatus | None:
        """Gateways that do not follow. They are replaced after a while: no rollout goes on as long as one of them still
        sends requests by former weights, and what keeps it from following is known to itself alone."""
        known, now = self.old.gateways or GatewaysStatus(), self.snapshot.now
        since = (known.behind_since or now) if self.elsewhere is not None else None
        restarted = known.restarted
        if since is not None and now - max(since, restarted or since) >= timedelta(seconds=BEHIND_SECONDS):
            restarted = now
        found = GatewaysStatus(behind_since=since, restarted=restarted)
        return found if found != GatewaysStatus() else None

    @cached_property
    def followed(self) -> bool:
        """Whether every gateway says that it goes by the recorded versions and weights."""
        gateways = sum(map(is_ready, of_component(self.snapshot.pods, GATEWAY)))
        return self.snapshot.measured.follows(self.config.revision, gateways)

    def answers(self, stable: StableVersion) -> bool:
        """Whether requests reach the stable version: its gateways say so, or have had the time to learn of it.

        One that has been Ready had a version before this one, which answered until then.
        """
        known = condition_of(self.old, "Ready")
        if known is not None and known.status == "True":
            return True
        age = self.snapshot.now - stable.since if stable.since is not None else timedelta.max
        followed = self.followed and self.recorded.stable is not None
        return followed or age >= timedelta(seconds=self.settings.switch_grace_seconds)

    def state(self, version: DeployedVersion) -> VersionState:
        """Where a version is in its runtime; one that is to have no replicas is where it should be."""
        if self.at_zero:
            return VersionState(ready=True)
        namespace, pods = self.key.namespace, self.snapshot.pods
        if version.runtime == "Triton":
            key = Key(DEPLOYMENT, namespace, self.serving.child(version.name or ""))
            return triton_state(self.snapshot.children.get(key), pods, version)
        key = Key(RAY_SERVICE, namespace, self.serving.child(limit=RAY_NAME_LENGTH))
        return ray_state(self.snapshot.children.get(key), pods, version)

    # --- The plan ------------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """Children first, then what must go, then the status that speaks of them."""
        assessment = self.assess()
        children = tuple(self.children(assessment))
        planned = {_key(child) for child in children}
        obsolete = [Delete(key, uid_of(value)) for key, value in self.snapshot.children.items() if key not in planned]
        written = own_status(self.key, self.snapshot.deployment.status, self.status(assessment))
        return Plan(
            (
                *(Apply(_key(child), child, self.key) for child in children),
                *obsolete,
                *self.events(assessment),
                *written,
                *self.counts(),
            ),
            self.requeue_after(),
        )

    def requeue_after(self) -> float | None:
        """Draining, an unanswered promise of the measurements and a rollout go on by the clock; all else wakes us."""
        stable, candidate = self.rollout.stable, self.rollout.candidate
        if self.rollout.retiring is not None or (stable is not None and not self.answers(stable)):
            return _SECOND
        looks = candidate is not None and (stable is not None or is_under_way(candidate))
        waits = [self.settings.metrics_seconds] if looks else []
        if self.elsewhere is not None:
            waits.append(self.settings.metrics_seconds)
        if (spec := self.serving.spec.monitoring.drift) is not None:
            waits += filter(None, [drift.look_after(self.drift, spec, self.snapshot.now)])
        return min((*waits, *self.looks_at_retraining()), default=None)

    def looks_at_retraining(self) -> Iterator[float]:
        """Seconds until a schedule or a cooldown, and between looks at the Dataset: its versions wake the job alone."""
        spec = self.serving.spec.retraining
        if spec is None or not isinstance(self.retraining, Advanced):
            return
        if (wait := self.retraining.look_after) is not None:
            yield wait.total_seconds() + _SECOND
        if spec.triggers.new_dataset_version or spec.triggers.drift is not None:
            yield self.settings.reference_poll_seconds

    def children(self, assessment: Assessment) -> Iterator[JsonObject]:
        """Gateway and its configuration first: it answers with the reason until a version does."""
        config = self.config_with(f"{assessment.reason}: {assessment.message}")
        versions = self.recorded.loaded
        restarted = self.old.gateways.restarted if self.old.gateways is not None else None
        yield from gateway_children(self.serving, versions, config, self.settings, restarted)
        if self.at_zero:  # Ray keeps no cluster for nothing; a Deployment costs nothing without pods
            versions = tuple(version for version in versions if version.runtime == "Triton")
        around = route(self.serving)
        for child in (*runtime_children(self.serving, versions, self.settings), *([around] if around else [])):
            if _key(child).kind not in self.snapshot.lacking:
                yield child

    # --- Where it stands -----------------------------------------------------------------------------------------

    def assess(self) -> Assessment:
        """Whether it answers, and what else is going on."""
        stable, transition = self.rollout.stable, self.transition()
        if (missing_kind := self.missing_kind()) is not None:
            return missing_kind
        blocker = blocker_of(self.snapshot.missing, replace(self.snapshot.store, uri="-"))
        if stable is None:
            if isinstance(self.target, Assessment) and transition is None:
                return self.target
            return blocker or transition or progressing("Starting", "the first version is being loaded")
        if (outage := self.outage(stable)) is not None:
            return outage
        if self.at_zero:
            return ready(
                "ScaledToZero", "spec.scaling.replicas is 0; requests are answered with 503", meanwhile=transition
            )
        if not self.answers(stable):
            return progressing("Starting", f"the gateways have not taken up version {stable.name} yet")
        words = f"version {stable.name} answers at {url(self.serving, self.settings)}"
        if isinstance(self.target, Assessment):
            words += f"; {self.target.reason}: {self.target.message}"
        error = self.retraining if isinstance(self.retraining, InvalidSchedule) else None
        wrong = stalled(error.reason, str(error)) if error is not None else None
        return ready("Serving", words, meanwhile=transition or blocker or wrong)

    def missing_kind(self) -> Assessment | None:
        """That the cluster lacks a kind that the spec needs."""
        needed = [RAY_SERVICE] if any(version.runtime == "RayServe" for version in self.rollout.loaded) else []
        around = route(self.serving)
        needed += [_key(around).kind] if around is not None else []
        for kind in needed:
            if kind in self.snapshot.lacking and (error := missing(kind)) is not None:
                return stalled(error.reason, str(error))
        return None

    def transition(self) -> Assessment | None:
        """The state of a version that is being loaded, tested, drained or scaled; None: there is none."""
        candidate, retiring = self.rollout.candidate, self.rollout.retiring
        if candidate is not None:
            return self.trial(candidate)
        if (failed := self.failed()) is not None:
            return failed
        if retiring is not None:
            words = "finishes its requests" if self.elsewhere is None else "stays until all gateways have left it"
            return progressing("Draining", f"version {retiring.name} {words}")
        state = self.state(self.rollout.stable) if self.rollout.stable is not None else VersionState(ready=True)
        if state.answers and state.refused:
            return stalled(state.reason, state.message)
        return progressing(state.reason or "Scaling", state.message) if state.answers and not state.ready else None

    def trial(self, candidate: CandidateVersion) -> Assessment:
        """The state of a candidate. One that is paused by a gate waits for a person; one that is paused by a person,
        for nobody."""
        rollout = self.serving.spec.rollout
        if candidate.phase is RolloutPhase.SHADOW:
            words = f"version {candidate.name} gets copies of requests{_evidence(candidate)}"
            return progressing("Shadow", words)
        if candidate.phase is RolloutPhase.CANARY:
            step = f"step {candidate.step} of {len(rollout.steps)}"
            lagging = "; not all gateways have taken it up" if candidate.step_started is None else ""
            words = f"version {candidate.name} gets {candidate.weight} % of the requests, {step}{lagging}"
            words += _evidence(candidate)
            return progressing("Canary", words)
        if candidate.phase is RolloutPhase.PAUSED:
            words = f"the rollout of version {candidate.name} is paused at {candidate.weight} %"
            if candidate.pause == "Requested":
                return suspended("RolloutPaused", f"{words} by the annotation {COMMAND}")
            return stalled("RolloutPaused", f"{words}{_evidence(candidate)}; {_REMEDY}")
        state = self.state(candidate)
        if state.refused:
            return stalled(state.reason, state.message)
        if (test := candidate.load_test) is not None and is_under_way(candidate):
            words = f"version {candidate.name} is tested under load for {test.seconds:g} s before it gets requests"
            return progressing("LoadTest", words)
        return progressing(state.reason or "Loading", state.message or f"version {candidate.name} is being loaded")

    def failed(self) -> Assessment | None:
        """That the version which the spec asks for was rolled back; None: it was not."""
        failed = self.rollout.rolled_back
        if failed is None or not isinstance(self.target, DeployedVersion) or not is_same(self.target, failed):
            return None
        if is_same(self.target, self.rollout.stable):
            return None
        words = f"version {failed.name} was rolled back ({failed.reason}): {failed.message}; {_RETRY}"
        return stalled("RolledBack", words)

    def outage(self, stable: DeployedVersion) -> Assessment | None:
        """Why the stable version does not answer; None: it does."""
        state = self.state(stable)
        gateways = [*of_component(self.snapshot.pods, GATEWAY)]
        if not any(map(is_ready, gateways)):
            reported = trouble(gateways, "the operator's setting gateway_memory_limit")
            return progressing(*(reported or ("GatewayStarting", "no pod of the gateway is ready")))
        if state.ready or state.answers:
            return None
        if state.refused:
            return stalled(state.reason, state.message)
        return progressing(state.reason or "Starting", state.message or f"version {stable.name} starts")

    def status(self, assessment: Assessment) -> ModelDeploymentStatus:
        """All of the status."""
        deployment, rollout = self.snapshot.deployment, self.rollout
        results = objectives.results(deployment.spec.objectives, self.snapshot.measured)
        states = [self.state(version) for version in rollout.loaded]
        stable = rollout.stable
        if stable is not None:
            stable = stable.model_copy(update={"replicas": self.state(stable).replicas})
        selector = {**self.serving.component(REPLICA)}
        return ModelDeploymentStatus(
            observed_generation=deployment.metadata.generation,
            conditions=(*self.common_conditions(assessment), *self.own_conditions(results)),
            phase=self.phase(assessment),
            replicas=max((state.replicas for state in states), default=0),
            selector=",".join(f"{name}={value}" for name, value in selector.items()),
            url=url(self.serving, self.settings),
            stable=stable,
            candidate=rollout.candidate,
            retiring=rollout.retiring,
            rolled_back=rollout.rolled_back,
            rollout_command=rollout.command,
            gateways=self.gateways,
            objectives=results,
            metrics=objectives.metrics(self.snapshot.measured),
            drift=self.drift,
            **self.retraining_fields(),
        )

    def retraining_fields(self) -> dict[str, Any]:
        """What the status says of retrainings; a schedule that means nothing leaves it as it was."""
        if not isinstance(self.retraining, Advanced):
            return {"retraining": self.old.retraining, "run_requests": self.old.run_requests}
        status = self.retraining.status
        known = self.serving.spec.retraining is not None or bool(status.history)
        return {"retraining": status if known else None, "run_requests": self.retraining.requests}

    def common_conditions(self, assessment: Assessment) -> tuple[Condition, ...]:
        """The conditions that every kind has."""
        generation = self.snapshot.deployment.metadata.generation
        return conditions(assessment, self.old.conditions, generation, self.snapshot.now)

    def own_conditions(self, results: tuple[ObjectiveResult, ...]) -> Iterator[Condition]:
        """The conditions of this kind alone."""
        generation, now = self.snapshot.deployment.metadata.generation, self.snapshot.now
        if results:
            status, finding = objectives.assess(results, self.stable_load_test)
            known = condition_of(self.old, objectives.CONDITION)
            yield condition_at(known, objectives.CONDITION, status, finding, generation, now)
        if self.drift is not None:
            status, finding = drift.assess(self.drift)
            known = condition_of(self.old, drift.CONDITION)
            yield condition_at(known, drift.CONDITION, status, finding, generation, now)
        words = self.ignored_fields()
        finding = Finding("NotSupported" if words else "Supported", words)
        known = condition_of(self.old, SUPPORTED)
        yield condition_at(known, SUPPORTED, "False" if words else "True", finding, generation, now)

    def ignored_fields(self) -> str:
        """What the spec asks for and this version does not do."""
        ignored = without_effect(self.snapshot.deployment.spec)
        return f"without effect in this version: {'; '.join(ignored)}" if ignored else ""

    def phase(self, assessment: Assessment) -> str:
        """The status in a word."""
        if self.rollout.stable is None:
            if assessment.stalled is not None:
                return "Failed"
            return "Progressing" if self.rollout.candidate is not None else "Pending"
        candidate = self.rollout.candidate
        if assessment.ready and candidate is not None and candidate.phase is RolloutPhase.PAUSED:
            return "Paused"
        if not assessment.ready or assessment.stalled is not None:
            return "Degraded"
        return "Progressing" if assessment.reconciling is not None else "Ready"

    @property
    def ended_load_test(self) -> LoadTest | None:
        """The load test that is recorded as finished now."""
        before, test = self.recorded.under_load, self.observed.load_test
        return test if before is not None and test is not None and test.finished is not None else None

    # --- Events --------------------------------------------------------------------------------------------------

    def events(self, assessment: Assessment) -> Iterator[Write]:
        """What has become of the versions, and what a person must know."""
        key, old, now = self.key, self.old, self.rollout
        if (transition := self.advanced[1]) is not None:
            type_: Literal["Normal", "Warning"] = "Warning" if transition.reason in _WARNINGS else "Normal"
            yield Emit(key, type_, transition.reason, transition.message, f"{transition.reason}@{_state(old)}")
        former = old.gateways.restarted if old.gateways is not None else None
        if self.gateways is not None and self.gateways.restarted != former:
            words = (
                f"a gateway has followed other versions or weights than the recorded ones for {BEHIND_SECONDS:.0f} s; "
                "all are replaced, one after the other. The log of the old pod says why it did not follow"
            )
            yield Emit(key, "Warning", "GatewaysRestarted", words, f"{self.gateways.restarted}")
        if (test := self.ended_load_test) is not None:
            outcome = load_test.outcome(test)
            words = f"version {old.candidate.name if old.candidate is not None else ''}: {test.message}"
            yield Emit(key, "Normal" if outcome == "Met" else "Warning", f"LoadTest{outcome}", words, f"{test.started}")
        if old.retiring is not None and now.retiring is None:
            words = f"version {old.retiring.name} has finished its requests and was removed"
            yield Emit(key, "Normal", "VersionRemoved", words, f"{old.retiring.name}@{old.retiring.since}")
        if words := self.ignored_fields():
            yield from self.warning("NotSupported", words, condition_of(old, SUPPORTED))
        if self.drift is not None and self.drift.state == "Detected":
            before = self.old.drift.state if self.old.drift is not None else ""
            if before != "Detected":
                yield Emit(key, "Warning", "DriftDetected", self.drift.message, f"{self.drift.since}")
        if isinstance(self.retraining, Advanced):
            for each in self.retraining.transitions:
                yield Emit(key, each.type, each.reason, each.message, each.once)
        yield from self.stalled_event(assessment)

    def counts(self) -> Iterator[Write]:
        """What ended, for the operator's own metrics: a load test, or a rollout; a first version is none."""
        if (test := self.ended_load_test) is not None:
            yield Count(LOAD_TESTS_ENDED.name, (load_test.outcome(test),))
        transition, failed = self.advanced[1], self.rollout.rolled_back
        if transition is None or self.recorded.stable is None:
            return
        if transition.reason == "Promoted":
            yield Count(ROLLOUTS_ENDED.name, ("Promoted", ""))
        elif transition.reason == "RolledBack" and failed is not None:
            yield Count(ROLLOUTS_ENDED.name, ("RolledBack", failed.reason))

    def stalled_event(self, assessment: Assessment) -> Iterator[Write]:
        """That nothing more happens until somebody changes something."""
        if (finding := assessment.stalled) is not None and finding.reason not in _WARNINGS:  # that was a transition
            yield from self.warning(finding.reason, finding.message, condition_of(self.old, "Stalled"))

    def warning(self, reason: str, message: str, known: Condition | None) -> Iterator[Write]:
        if known is None or (known.reason, known.message) != (reason, message):
            yield Emit(self.key, "Warning", reason, message, message)


def _evidence(candidate: CandidateVersion) -> str:
    """What the gates say, in words."""
    words = "; ".join(f"{result.metric}: {result.outcome}" for result in candidate.analysis)
    return f"; {words}" if words else ""


def _state(status: ModelDeploymentStatus) -> str:
    """What a transition comes from: the same one from the same recorded state is reported once."""
    parts = (status.stable, status.candidate, status.retiring, status.rolled_back)
    since = [part.since.isoformat() if part is not None and part.since is not None else "" for part in parts]
    candidate = status.candidate
    where = (candidate.name, candidate.phase, candidate.step) if candidate is not None else ()
    return "/".join(map(str, (*since, *where)))


def _key(manifest: JsonObject) -> Key:
    kind = _KINDS[text(manifest, "kind")]
    return Key(kind, text(manifest, "metadata", "namespace"), text(manifest, "metadata", "name"))
