"""A stand-in for the API server that keeps objects by key, for situations that cannot be arranged on a real one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from fovea_operator.client import Conflict
from fovea_operator.objects import JsonObject, Key, Kind, View, key_of


@dataclass
class FakeApi:
    """Keeps objects by key; refuses to create what is there."""

    objects: dict[Key, JsonObject] = field(default_factory=dict)
    asked: list[tuple[str, Key]] = field(default_factory=list)
    fails: dict[Kind, Exception] = field(default_factory=dict)
    version: int = 100
    managers: list[str] = field(default_factory=list)
    """Field managers of the applies."""

    async def get(self, key: Key, metadata_only: bool = False) -> JsonObject | None:
        self.asked.append(("get", key))
        return self.objects.get(key)

    async def list(
        self, kind: Kind, namespace: str = "", selector: str = "", fields: str = ""
    ) -> tuple[list[JsonObject], int]:
        self.asked.append(("list", Key(kind, namespace, "")))
        found = [value for key, value in self.objects.items() if key.kind == kind and key.namespace == namespace]
        return found, self.version

    async def create(self, kind: Kind, manifest: View) -> JsonObject:
        key = key_of(kind, manifest)
        self.asked.append(("create", key))
        if kind in self.fails:
            raise self.fails[kind]
        if key in self.objects:
            raise Conflict("exists")
        return self._keep(key, manifest)

    async def apply(self, key: Key, manifest: View, force: bool = True, manager: str = "fovea") -> JsonObject:
        self.asked.append(("apply by force" if force else "apply", key))
        self.managers.append(manager)
        if key.kind in self.fails:
            error = self.fails[key.kind]
            if isinstance(error, Conflict):  # about this version of the object
                del self.fails[key.kind]
            raise error
        return self._keep(key, manifest)

    async def apply_status(self, key: Key, status: View) -> JsonObject:
        self.asked.append(("status", key))
        if key.kind in self.fails:
            raise self.fails[key.kind]
        return self._keep(
            key, self.objects.get(key, {"metadata": {"name": key.name, "namespace": "ns"}}) | {"status": dict(status)}
        )

    async def delete(self, key: Key, uid: str) -> None:
        self.asked.append((f"delete {uid}", key))

    def _keep(self, key: Key, manifest: View) -> JsonObject:
        self.version += 1
        metadata = cast(JsonObject, manifest["metadata"]) | {"resourceVersion": str(self.version)}
        self.objects[key] = dict(manifest) | {"metadata": {"uid": f"uid-{self.version}"} | metadata}
        return self.objects[key]
