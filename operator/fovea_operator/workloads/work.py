"""One attempt at a run, as the builders of its child are given it."""

from __future__ import annotations

from dataclasses import dataclass

from fovea_api import names
from fovea_api.run import RunSpec

from fovea_operator.store import StoreConfig
from fovea_operator.workloads.workload import LABEL_ATTEMPT


@dataclass(frozen=True, slots=True)
class Work:
    """One attempt at a run: everything that its child is built from."""

    namespace: str
    run: str
    attempt: int
    spec: RunSpec
    image: str
    store: StoreConfig

    @property
    def name(self) -> str:
        """Name of the child, at most 47 characters."""
        return f"{self.run}-{self.attempt}"

    @property
    def labels(self) -> dict[str, str]:
        """Labels of the child and of its pods."""
        return {
            names.LABEL_KIND: self.spec.owner.kind,
            names.LABEL_NAME: self.spec.owner.name,
            names.LABEL_RUN: self.run,
            LABEL_ATTEMPT: str(self.attempt),
            names.LABEL_MANAGED_BY: names.MANAGED_BY,
        }
