"""Which version of the model answers a request."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from fovea_api.bundle import BundleManifest
from fovea_api.profile import ReferenceProfile

from fovea_serving.gateway.health import Health
from fovea_serving.upstreams import Upstream, UpstreamUnavailable

Role = Literal["Stable", "Candidate", "Shadow"]


@dataclass(frozen=True, slots=True)
class Served:
    """A model with what runs it.

    Args:
        manifest: That of its bundle.
        digest: Of its bundle.
        upstream: What runs it.
        health: Whether it sees.
        profile: What its images were like; None: its bundle does not say.
    """

    manifest: BundleManifest
    digest: str
    upstream: Upstream
    health: Health
    profile: ReferenceProfile | None = None

    @classmethod
    def of(
        cls,
        manifest: BundleManifest,
        digest: str,
        upstream: Upstream,
        golden: Sequence[float] | None = None,
        profile: ReferenceProfile | None = None,
    ) -> Self:
        """A model that was just opened; `golden`: the answer to the golden image that the bundle states."""
        return cls(manifest, digest, upstream, Health(upstream, golden), profile)


@dataclass(frozen=True, slots=True)
class Version:
    """A model in its role.

    Args:
        name: The run that made it, or the start of its bundle's digest.
        role: Stable and Candidate answer; a Shadow gets copies, and its answers reach nobody.
        weight: Its share of the requests, relative to the others'.
        model: The model.
        limits: Milliseconds; while a candidate is tested, requests that take longer than each are counted.
    """

    name: str
    role: Role
    weight: float
    model: Served
    limits: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Routing:
    """All versions at one moment.

    Args:
        versions: In the order of the configuration.
        reason: Why there is none, for those who ask meanwhile.
        mirrored: Share of the candidate's requests that the stable version is asked too, from 0 to 1.
        revision: Name of the configuration that it comes from.
    """

    versions: Sequence[Version] = ()
    reason: str = "no version of the model is loaded yet"
    mirrored: float = 0.0
    revision: str = ""

    def choose(self, request_id: str) -> Version:
        """The version that answers: always the same one for the same id, and each by its weight.

        The stable one comes first, so an id that fell to the candidate does so at each larger weight too.

        Raises UpstreamUnavailable when there is none.
        """
        answering = self.answering
        if not answering:
            raise UpstreamUnavailable(self.reason)
        point = _share(request_id) * sum(version.weight for version in answering)
        for version in answering:
            point -= version.weight
            if point < 0:
                return version
        return answering[-1]

    @property
    def answering(self) -> list[Version]:
        """Versions that answer requests."""
        return [version for version in self.versions if version.role != "Shadow" and version.weight > 0]

    @property
    def main(self) -> Version:
        """The version that answers most requests. Raises UpstreamUnavailable when there is none."""
        if not self.answering:
            raise UpstreamUnavailable(self.reason)
        return max(self.answering, key=lambda version: version.weight)

    @property
    def stable(self) -> Version | None:
        """The version that a candidate is compared with."""
        return next((version for version in self.versions if version.role == "Stable"), None)

    @property
    def candidate(self) -> Version | None:
        """The version that answers a part of the requests."""
        return next((version for version in self.versions if version.role == "Candidate"), None)

    @property
    def shadow(self) -> Version | None:
        """The version that gets copies."""
        return next((version for version in self.versions if version.role == "Shadow"), None)

    @property
    def on_trial(self) -> Version | None:
        """The version that is tested, if there is one."""
        return self.candidate or self.shadow

    def mirrors(self, request_id: str) -> bool:
        """Whether the stable version is asked too what the candidate was asked; the same for the same id."""
        return _share(f"mirror/{request_id}") < self.mirrored


def _share(request_id: str) -> float:
    """A number from 0 to 1 that is spread evenly over ids, and equal in every process for the same one."""
    return int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=8).digest(), "big") / 2**64
