"""Leader election by a coordination.k8s.io Lease, by the rules of client-go.

A standby waits until the Lease has not changed for its whole duration by the standby's own clock, so clocks need not
agree. A leader stops `lease_renew_deadline_seconds`, which is shorter, after it sent the last renewal that went
through: nobody can have seen that renewal before it was sent, so nobody's wait ends earlier. (The kubernetes package's
own election cannot create its Lease in 37.0.2, and ends at the first broken connection.)
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from fovea_api.errors import FoveaError

from fovea_operator.client import Api, ApiError
from fovea_operator.objects import LEASE, JsonObject, Key, mapping, number, text
from fovea_operator.settings import Settings

logger = logging.getLogger(__name__)


class LeaseLost(FoveaError):
    """The Lease could not be renewed in time; another replica may lead."""


class Lease:
    """The right to work, as long as it is kept."""

    def __init__(self, api: Api, identity: str, settings: Settings) -> None:
        self._api = api
        self._identity = identity
        self._settings = settings
        self._key = Key(LEASE, settings.lease_namespace, settings.lease_name)
        self._seen = ""
        """Resource version of the Lease when it last changed."""
        self._since = 0.0
        """When we saw that, in seconds of the loop's clock."""
        self._renewed = 0.0
        """When we sent the newest renewal that went through, in seconds of the loop's clock."""

    async def acquire(self) -> None:
        """Waits until we lead."""
        while not await self._try(self._settings.lease_retry_seconds):
            await asyncio.sleep(self._settings.lease_retry_seconds)

    async def keep(self) -> None:
        """Renews for as long as it works. Raises LeaseLost."""
        retry = self._settings.lease_retry_seconds
        while (left := self._left()) > 0:
            await asyncio.sleep(min(retry, left))
            if (left := self._left()) > 0:
                await self._try(min(retry, left))
        raise LeaseLost("the Lease could not be renewed in time", str(self._key))

    def _left(self) -> float:
        """Seconds for which the last renewal still gives us the right to work."""
        return self._renewed + self._settings.lease_renew_deadline_seconds - asyncio.get_running_loop().time()

    async def release(self) -> None:
        """Gives the Lease back, if we hold it, so that another replica need not wait for its end."""
        try:
            async with asyncio.timeout(self._settings.lease_retry_seconds):
                lease = await self._api.get(self._key)
                if lease is not None and text(lease, "spec", "holderIdentity") == self._identity:
                    await self._api.replace(self._key, lease | {"spec": self._spec(lease, "")})
        except (ApiError, TimeoutError) as error:
            logger.warning("the Lease could not be given back: %s", error)

    async def _try(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._get_or_renew()
        except (ApiError, TimeoutError) as error:
            logger.debug("the Lease was not had: %s", error)
            return False

    async def _get_or_renew(self) -> bool:
        lease = await self._api.get(self._key)
        if lease is None:
            metadata: JsonObject = {"name": self._key.name, "namespace": self._key.namespace}
            fresh: JsonObject = {"apiVersion": LEASE.api_version, "kind": LEASE.name, "metadata": metadata}
            sent = asyncio.get_running_loop().time()
            await self._api.create(LEASE, fresh | {"spec": self._spec(fresh, self._identity)})
            self._renewed = sent
            return True
        holder, version = text(lease, "spec", "holderIdentity"), text(lease, "metadata", "resourceVersion")
        now = asyncio.get_running_loop().time()
        if version != self._seen:
            self._seen, self._since = version, now
        held = number(lease, "spec", "leaseDurationSeconds")
        if holder not in ("", self._identity) and now - self._since < held:
            return False
        await self._api.replace(self._key, lease | {"spec": self._spec(lease, self._identity)})
        self._renewed = now
        return True

    def _spec(self, lease: JsonObject, holder: str) -> JsonObject:
        old = dict(mapping(lease, "spec"))
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if text(old, "holderIdentity") != holder:
            old |= {"acquireTime": now, "leaseTransitions": number(old, "leaseTransitions") + 1}
        return old | {
            "holderIdentity": holder,
            "renewTime": now,
            "leaseDurationSeconds": self._settings.lease_seconds if holder else 1,
        }
