"""How a new version comes to serve: loaded beside the old one, then all traffic at once, then the old one drains.

Its state stands in the status, which is written after what it speaks of: wherever the operator dies, the next one takes
the same step again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from fovea_api.modeldeployment import CandidateVersion, DeployedVersion, ModelDeploymentStatus, StableVersion

from fovea_operator.kinds.modeldeployment.bundles import is_same


@dataclass(frozen=True, slots=True)
class Rollout:
    """The versions that are in the runtime, by their part."""

    stable: StableVersion | None = None
    """The one that answers."""
    candidate: CandidateVersion | None = None
    """The one that is being loaded."""
    retiring: DeployedVersion | None = None
    """The one before, which finishes its requests."""

    @property
    def versions(self) -> tuple[DeployedVersion, ...]:
        """All of them, each once; an order that no switch changes, so that a switch changes nothing in the runtime."""
        known: dict[tuple[str | None, str], DeployedVersion] = {}
        for version in (self.stable, self.candidate, self.retiring):
            if version is not None:
                known.setdefault((version.name, version.runtime), version)
        return tuple(known[key] for key in sorted(known, key=lambda key: (key[0] or "", key[1])))


def advance(
    old: ModelDeploymentStatus,
    target: DeployedVersion | None,
    is_ready: Callable[[DeployedVersion], bool],
    drained: bool,
    now: datetime,
) -> Rollout:
    """The next step.

    Args:
        old: The status so far.
        target: The version that the spec asks for; None: what is there stays.
        is_ready: Whether a version would answer.
        drained: Whether the retiring version has no more requests.
        now: The time.
    """
    stable, candidate = old.stable, old.candidate
    retiring = None if drained or is_same(old.retiring, stable) else old.retiring
    if target is not None:
        if is_same(target, stable):
            candidate = None
        elif not is_same(target, candidate):
            candidate = CandidateVersion(**dict(target) | {"since": now})
    noted = candidate is not None and is_same(candidate, old.candidate)  # a step at a time, so that none is passed over
    if candidate is not None and noted and retiring is None and is_ready(candidate):
        begins = {name: value for name, value in dict(candidate).items() if name in DeployedVersion.model_fields}
        if stable is not None:
            ends = {name: value for name, value in dict(stable).items() if name in DeployedVersion.model_fields}
            retiring = DeployedVersion(**ends | {"since": now})
        stable, candidate = StableVersion(**begins | {"since": now}), None
    return Rollout(stable, candidate, retiring)
