"""The programs of a Dataset's sources: an init container each, and a folder that it writes and the build reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fovea_api.names import GENERATOR_CONTAINER

from fovea_operator.objects import JsonObject, View, items, mapping, text
from fovea_operator.store import strings

GENERATED_ROOT = "/fovea/generated"
OUTPUT = "FOVEA_OUTPUT"
"""Environment variable: the folder that a program writes."""
_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"
_NO_TOKEN = "fovea-no-token"
NO_TOKEN_VOLUME: JsonObject = {"name": _NO_TOKEN, "emptyDir": {"sizeLimit": "1Mi"}}
NO_TOKEN_MOUNT: JsonObject = {"name": _NO_TOKEN, "mountPath": _TOKEN, "readOnly": True}
"""Where something is mounted there already, Kubernetes mounts no token of the ServiceAccount."""


@dataclass(frozen=True, slots=True)
class Program:
    """The program of a source."""

    source: str
    """Name of the source."""
    image: str
    args: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of its container and of its volume."""
        return f"{GENERATOR_CONTAINER}{self.source}"

    @property
    def folder(self) -> str:
        """The folder that it writes."""
        return f"{GENERATED_ROOT}/{self.source}"

    def volume(self, size_limit: str) -> JsonObject:
        """The volume of that folder."""
        return {"name": self.name, "emptyDir": {"sizeLimit": size_limit}}

    def mount(self, *, read_only: bool) -> JsonObject:
        """Where it is mounted, in the program's container and in the build's."""
        return {"name": self.name, "mountPath": self.folder, "readOnly": read_only}


def programs(recipe: View) -> Iterator[Program]:
    """The programs of a Run's recipe, in the order of the sources."""
    for source in items(recipe, "sources"):
        if generator := mapping(source, "generator"):
            args = tuple(arg for _, arg in strings(generator.get("args")))
            yield Program(text(source, "name"), text(generator, "image"), args)


def source_of(container: str) -> str:
    """Name of the source whose program a container or a volume of this name is for; empty: it is for none."""
    return container.removeprefix(GENERATOR_CONTAINER) if container.startswith(GENERATOR_CONTAINER) else ""
