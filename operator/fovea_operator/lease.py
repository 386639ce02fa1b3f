"""Leader election by a coordination.k8s.io Lease: the kubernetes package's own, made to outlive a bad connection."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import aiohttp
from fovea_api.errors import FoveaError
from kubernetes.aio.client import ApiClient, ApiException, CoordinationV1Api
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

from fovea_operator.settings import Settings

logger = logging.getLogger(__name__)
_TROUBLE = (aiohttp.ClientError, ApiException, TimeoutError, OSError)


class LeaseLost(FoveaError):
    """The Lease could not be renewed in time; another replica may lead."""


class _PatientLock(LeaseLock):
    """A lock for which a broken connection is an answer like any other: not now."""

    def __init__(self, settings: Settings, identity: str, client: ApiClient) -> None:
        super().__init__(settings.lease_name, settings.lease_namespace, identity, client)
        self._timeout = settings.lease_retry_seconds

    async def get(self, name: str, namespace: str) -> Any:
        try:
            async with asyncio.timeout(self._timeout):
                return await super().get(name, namespace)
        except _TROUBLE as error:
            return False, ApiException(status=0, reason=f"{type(error).__name__}: {error}")

    async def create(self, name: str, namespace: str, election_record: Any) -> bool:
        try:
            async with asyncio.timeout(self._timeout):
                return bool(await super().create(name, namespace, election_record))
        except _TROUBLE:
            return False

    async def update(self, name: str, namespace: str, updated_record: Any) -> bool:
        try:
            async with asyncio.timeout(self._timeout):
                return bool(await super().update(name, namespace, updated_record))
        except _TROUBLE:
            return False


class Lease:
    """The right to work, as long as it is kept."""

    def __init__(self, client: ApiClient, identity: str, settings: Settings) -> None:
        self._client = client
        self._identity = identity
        self._settings = settings
        self._election = LeaderElection(
            Config(
                _PatientLock(settings, identity, client),
                settings.lease_seconds,
                settings.lease_renew_deadline_seconds,
                settings.lease_retry_seconds,
                onstarted_leading=_nothing,
                onstopped_leading=_nothing,
            )
        )

    async def acquire(self) -> None:
        """Waits until we lead."""
        await self._election.acquire()

    async def keep(self) -> None:
        """Renews for as long as it works. Raises LeaseLost."""
        await self._election.renew_loop()
        raise LeaseLost("the Lease could not be renewed in time", self._settings.lease_name)

    async def release(self) -> None:
        """Gives the Lease back, if we hold it, so that another replica need not wait for its end."""
        api = CoordinationV1Api(self._client)
        name, namespace = self._settings.lease_name, self._settings.lease_namespace
        try:
            async with asyncio.timeout(self._settings.lease_retry_seconds):
                lease = await api.read_namespaced_lease(name, namespace)
                if lease.spec is not None and lease.spec.holder_identity == self._identity:
                    lease.spec.holder_identity = None
                    lease.spec.lease_duration_seconds = 1
                    await api.replace_namespaced_lease(name, namespace, lease)
        except _TROUBLE as error:
            logger.warning("the Lease could not be given back: %s", error)


async def _nothing() -> None:
    """What the election calls; we wait for it instead."""
