"""How many cores may be used, read from fake trees of control groups."""

import os
from pathlib import Path

import pytest

from agentmem import Config
from agentmem.embedding import embedder
from agentmem.embedding.catalog import find_model
from agentmem.platform.cpu import usable_cores
from agentmem.stats import Timings


@pytest.fixture
def host_of_64_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)), raising=False)


class Tree:
    """A made-up /sys/fs/cgroup with the /proc/self/cgroup that belongs to it."""

    def __init__(self, root: Path, membership: str) -> None:
        self.root = root / "cgroup"
        self.root.mkdir()
        self.membership = root / "membership"
        self.membership.write_text(membership)

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def cores(self) -> int:
        return usable_cores(self.root, self.membership)


pytestmark = pytest.mark.usefixtures("host_of_64_cores")


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("max 100000", 64), ("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("1000 100000", 1),
     ("12800000 100000", 64), ("25000 50000\n", 1), ("", 64), ("nonsense here", 64), ("1", 64)],
)  # fmt: skip
def test_version_2_gives_its_quota_rounded_up(tmp_path, limit, cores):
    tree = Tree(tmp_path, "0::/app.slice/app.service\n")
    tree.write("app.slice/app.service/cpu.max", limit)
    assert tree.cores() == cores


def test_version_2_obeys_the_tightest_group_above(tmp_path):
    tree = Tree(tmp_path, "0::/kube/pod/container\n")
    tree.write("kube/pod/container/cpu.max", "max 100000")
    tree.write("kube/pod/cpu.max", "300000 100000")
    tree.write("kube/cpu.max", "800000 100000")
    assert tree.cores() == 3


def test_version_2_in_a_container_sees_its_own_group_as_the_root(tmp_path):
    tree = Tree(tmp_path, "0::/\n")
    tree.write("cpu.max", "400000 100000")
    assert tree.cores() == 4


@pytest.mark.parametrize(
    ("quota", "period", "cores"), [("-1", "100000", 64), ("200000", "100000", 2), ("0", "100000", 64), ("x", "y", 64)]
)
def test_version_1_gives_its_quota(tmp_path, quota, period, cores):
    tree = Tree(tmp_path, "12:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n")
    tree.write("cpu/docker/abc/cpu.cfs_quota_us", quota)
    tree.write("cpu/docker/abc/cpu.cfs_period_us", period)
    assert tree.cores() == cores


def test_both_versions_at_once_give_the_smaller_quota(tmp_path):
    tree = Tree(tmp_path, "4:cpu,cpuacct:/a\n0::/b\n")
    tree.write("cpu/a/cpu.cfs_quota_us", "500000")
    tree.write("cpu/a/cpu.cfs_period_us", "100000")
    tree.write("b/cpu.max", "300000 100000")
    assert tree.cores() == 3


def test_the_affinity_counts_when_it_is_smaller(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 5, 7})
    tree = Tree(tmp_path, "0::/\n")
    tree.write("cpu.max", "800000 100000")
    assert tree.cores() == 3


def test_without_control_groups_the_affinity_decides(tmp_path):
    assert usable_cores(tmp_path / "nothing", tmp_path / "nowhere") == 64


@pytest.mark.parametrize("membership", ["", "\n", "nonsense\n", "0::\n", "7:cpu\n0::/x\n"])
def test_a_strange_membership_never_stops_the_program(tmp_path, membership):
    assert Tree(tmp_path, membership).cores() == 64


def test_without_affinity_the_number_of_cores_decides(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path / "nothing", tmp_path / "nowhere") == 1


def test_this_machine_has_at_least_one_core():
    assert usable_cores() >= 1


def test_no_more_runs_than_python_can_feed(monkeypatch):
    monkeypatch.setattr(embedder, "usable_cores", lambda: 64)
    source = find_model("all-MiniLM-L6-v2")
    assert embedder.Embedder(source, Config(), lambda _: {}, Timings())._workers() == embedder.MOST_WORKERS
    assert embedder.Embedder(source, Config(workers=40), lambda _: {}, Timings())._workers() == 40
    static = find_model("minilm-static")
    assert embedder.Embedder(static, Config(), lambda _: {}, Timings())._workers() == 1
