"""What the operator and its users may do in served namespaces, made from the registry of kinds.

`operator/generate.py` writes it into the chart.

Grants that are limited to one name (ServiceAccount and RoleBinding of runs, the Lease) stand in the chart's templates:
the name is the chart's.
"""

from __future__ import annotations

from collections.abc import Iterator

from fovea_operator.objects import CLAIM, CONFIG_MAP, EVENT, POD, RUN, WORKLOAD, Kind
from fovea_operator.registry import Registry, Rights

READ = ("get", "list", "watch")
WRITE = ("create", "patch", "delete")
CHANGE = ("create", "update", "patch", "delete", "deletecollection")


def operator_rights(registry: Registry) -> tuple[Rights, ...]:
    """The rules of the operator's ClusterRole. A user's object is read; only its status is written."""
    return tuple(_merged(_operator_rights(registry)))


def view_rights(registry: Registry) -> tuple[Rights, ...]:
    """The rules of those who may see Fovea's kinds."""
    return tuple(_merged(Rights(kind.group, _with_scale(registry, kind), READ) for kind in (*registry.primary, RUN)))


def edit_rights(registry: Registry) -> tuple[Rights, ...]:
    """The rules of those who may write Fovea's kinds: never Runs, which the operator makes."""
    own = (Rights(kind.group, (kind.plural,), (*READ, *CHANGE)) for kind in registry.primary)
    scales = tuple(name for kind in registry.primary for name in _with_scale(registry, kind) if "/" in name)
    scaled = (Rights(RUN.group, scales, ("get", "update", "patch")),) if scales else ()
    return tuple(_merged((*own, *scaled, Rights(RUN.group, (RUN.plural,), READ))))


def _operator_rights(registry: Registry) -> Iterator[Rights]:
    for kind in registry.primary:
        yield Rights(kind.group, (kind.plural,), READ)
    for kind in (*registry.primary, RUN):
        yield Rights(kind.group, (f"{kind.plural}/status",), ("patch",))
    yield Rights(RUN.group, (RUN.plural,), (*READ, *WRITE))
    # A child blocks the deletion of its Run, which OwnerReferencesPermissionEnforcement (OpenShift) lets only these do.
    yield Rights(RUN.group, (f"{RUN.plural}/finalizers",), ("update",))
    parts = {part for workload in registry.workloads for part in workload.parts}
    for kind in registry.children:
        read_only = kind in parts or kind == POD
        yield Rights(kind.group, (kind.plural,), READ if read_only else (*READ, *WRITE))
    yield Rights(WORKLOAD.group, (WORKLOAD.plural,), ("list",))
    yield Rights(CLAIM.group, (CLAIM.plural,), ("get",))
    # The run specs that are too large for an environment variable.
    yield Rights(CONFIG_MAP.group, (CONFIG_MAP.plural,), ("get", "create"))
    yield Rights(EVENT.group, (EVENT.plural,), ("list", "create", "patch"))
    for entry in registry.entries:
        yield from entry.rights


def _with_scale(registry: Registry, kind: Kind) -> tuple[str, ...]:
    entry = registry.entry(kind)
    scales = entry is not None and entry.model.definition.scale
    return (kind.plural, f"{kind.plural}/scale") if scales else (kind.plural,)


def _merged(rights: Iterator[Rights] | tuple[Rights, ...]) -> Iterator[Rights]:
    """One rule for all resources of a group with the same verbs."""
    rules: dict[tuple[str, tuple[str, ...]], dict[str, None]] = {}
    for rule in rights:
        rules.setdefault((rule.group, rule.verbs), {}).update(dict.fromkeys(rule.resources))
    for (group, verbs), resources in rules.items():
        yield Rights(group, tuple(resources), verbs)
