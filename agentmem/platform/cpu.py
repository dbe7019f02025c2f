"""How many cores this process may really use."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = CGROUP, membership: Path = Path("/proc/self/cgroup")) -> int:
    """The smaller of the CPU affinity and the cgroup's CPU quota (rounded up), at least 1.

    `os.cpu_count()` would say what the host has: in a container with a quota of two cores on a host of 64, that starts
    64 runs which the kernel then stops for most of every period.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup, membership)
    return max(1, affinity if quota is None else min(affinity, math.ceil(quota)))


def _quota(cgroup: Path, membership: Path) -> float | None:
    """The tightest quota, in cores, of this process's cgroup and those above it; None without one."""
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
    """`cpu.max` holds quota and period in microseconds, or "max"."""
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
