"""Retention: the cleanup that deletes a Dataset's old versions, and what it must leave."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from fovea_api.run import RunResult, run_name

from fovea_operator.cleanups.build import PodSettings, cleanup_spec
from fovea_operator.cleanups.plan import CleanupSituation, advance_cleanup, run_key, store_shared
from fovea_operator.conditions import progressing
from fovea_operator.kinds.dataset.snapshot import DatasetSnapshot
from fovea_operator.objects import RUN, Key
from fovea_operator.runs.build import run_manifest
from fovea_operator.runs.plan import Context
from fovea_operator.runs.snapshot import RunView
from fovea_operator.writes import Create, Delete, Write


def prune_versions(
    context: Context, snapshot: DatasetSnapshot, pods: PodSettings, current: RunView | None, building: bool
) -> tuple[tuple[Write, ...], float | None]:
    """The writes for the Run that deletes a Dataset's old versions, and the seconds until the next look.

    It is created when the current build has left more versions than are retained, and starts a while later: by then
    every run that was being created on an old version is known, and what it reads is kept. Never while a build is at
    work.
    """
    retain = snapshot.dataset.spec.retain_versions
    views = [view for view in snapshot.cleanups if not view.deletes_all]
    result = current.status.result if current is not None else None
    desired = None
    if current is not None and result is not None and result.error is None and len(result.versions) > retain:
        nonce = f"{result.digest}@{retain}"
        desired = cleanup_spec(context.key, current.run.spec.store, pods, retain, nonce)
    name = run_name(desired.identity) if desired is not None else ""
    writes: list[Write] = []
    wait: float | None = None
    for view in views:
        if view.name == name or view.at_work:
            start = view.created + timedelta(seconds=context.settings.cleanup_delay_seconds)
            left = (start - context.now).total_seconds()
            blocker = None
            if building:
                blocker = progressing("Waiting", "acts when the build has ended")
            elif snapshot.shared:
                blocker = store_shared(snapshot.shared)
            elif left > 0:
                blocker = progressing("Waiting", "acts when every run that was being created is known")
            elif snapshot.used is None:
                blocker = progressing("Waiting", "acts when it is known which versions are in use")
            situation = CleanupSituation(
                view, blocker, context.store, context.now, context.settings, _kept(current, snapshot), context
            )
            made, step = advance_cleanup(situation)
            writes += made
            if left > 0:
                wait = left
            elif not building:
                wait = step.requeue_after
        else:
            writes.append(Delete(run_key(view), view.run.metadata.uid))
    if desired is not None and not any(view.name == name or view.at_work for view in views):
        run = Key(RUN, context.key.namespace, name)
        writes.append(Create(run, run_manifest(run, desired), context.key))
    return tuple(writes), wait


def lost_builds(snapshot: DatasetSnapshot) -> tuple[RunView, ...]:
    """Builds whose version a cleanup has deleted since: their Runs must not be found again as if it were there."""
    ended = (view.status.result for view in snapshot.cleanups if not view.deletes_all)
    left = [result for result in ended if result is not None and result.error is None]
    return tuple(view for view in snapshot.runs for made in [view.status.result] if made and _is_lost(made, left))


def _is_lost(made: RunResult, left: Sequence[RunResult]) -> bool:
    return made.digest is not None and any(
        made.completed_at < cleanup.completed_at and made.digest not in cleanup.versions for cleanup in left
    )


def _kept(current: RunView | None, snapshot: DatasetSnapshot) -> tuple[str, ...]:
    """Versions that stay whatever their age: in use, pinned, the current one and the one whose splits it keeps."""
    kept: set[str | None] = set(snapshot.used or ())
    if snapshot.dataset.status is not None:
        kept.add(snapshot.dataset.status.version)
    if current is not None:
        kept.add(current.status.result.digest if current.status.result is not None else None)
        kept.add(current.run.spec.inputs.parent.version if current.run.spec.inputs.parent is not None else None)
    return tuple(sorted(version for version in kept if version is not None))
