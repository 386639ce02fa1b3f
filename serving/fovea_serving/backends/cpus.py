"""How many CPUs a container may use: its quota, not the cores of its node."""

from __future__ import annotations

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def usable_cpus(cgroups: Path = CGROUPS) -> int:
    """Threads that can run at once: the cores that this process is bound to, and no more than its quota allows.

    A quota of 2.5 CPUs gives 2: a third thread would stop all of them for a part of each period.
    """
    quota = _quota(cgroups)
    bound = len(os.sched_getaffinity(0))
    return bound if quota is None else max(1, min(bound, int(quota)))


def _quota(cgroups: Path) -> float | None:
    """CPUs by the limit of the container's control group, version 2 or 1; None: no limit."""
    try:
        if (cgroups / "cpu.max").exists():
            quota, period = (cgroups / "cpu.max").read_text().split()
        else:
            quota = (cgroups / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroups / "cpu" / "cpu.cfs_period_us").read_text().strip()
        return float(quota) / float(period) if quota not in ("max", "-1") else None
    except (OSError, ValueError):
        return None
