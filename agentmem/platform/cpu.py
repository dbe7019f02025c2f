"""The number of cores that this process may use."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = CGROUP, membership: Path = Path("/proc/self/cgroup")) -> int:
    """Returns the smaller of the CPU affinity and the cgroup's CPU quota, rounded up: at least 1.

    `os.cpu_count()` returns the host's cores. In a container with a quota of two cores on a host of 64, that would
    start 64 runs, and the kernel would stop most of them for most of every period.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup, membership)
    return max(1, affinity if quota is None else min(affinity, math.ceil(quota)))


def _quota(cgroup: Path, membership: Path) -> float | None:
    """Returns the tightest quota, in cores, of this process's cgroup and its ancestors; None without a quota."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        fields = line.split(":", 2)
        if len(fields) != 3:
            continue
        _, controllers, group = fields
        if not controllers:
            quotas += [_quota_v2(folder) for folder in _upwards(cgroup, group)]
        elif "cpu" in controllers.split(","):
            quotas += [_quota_v1(folder) for folder in _upwards(cgroup / "cpu", group)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _upwards(root: Path, group: str) -> list[Path]:
    folder = root / group.lstrip("/")
    return [folder, *(parent for parent in folder.parents if parent == root or root in parent.parents)]


def _quota_v2(folder: Path) -> float | None:
    """Returns the cores that `cpu.max` allows: its quota divided by its period, None where the quota is "max"."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else None
    except (OSError, ValueError):
        return None
