"""Whose control group is taken, on a tree of plain files; the real one is in lab/test_cgroups."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pmjq import becoming, cgroups
from pmjq.confines import Tree, group_name
from values import ID

MOUNT = "31 23 0:26 {root} {point} rw,nosuid - cgroup2 cgroup2 rw\n"
SERVICE = "system.slice/pmjq@x.service"


@dataclass
class Fake:
    """A machine with a control group for us."""

    root: Path

    def group(self, name: str, *, procs: str = "", offered: str = "cpu io memory pids") -> Path:
        """Make a group with the files that the kernel makes."""
        path = self.root / "cg" / name
        path.mkdir(parents=True)
        (path / "cgroup.controllers").write_text(offered + "\n")
        (path / "cgroup.procs").write_text(procs)
        (path / "cgroup.type").write_text("domain\n")
        # What is written comes back with a plus: enough for one controller.
        (path / "cgroup.subtree_control").write_text("")
        return path

    def take(self, group: str, *, root: str = "/", mounts: str = "") -> Tree:
        """Take what a process in this group finds."""
        me, kernel = self.root / "self", self.root / "kernel"
        for path in (me, kernel):
            path.mkdir(exist_ok=True)
        (me / "cgroup").write_text(f"4:memory:/other\n0::/{group}\n")
        mount = MOUNT.format(root=root, point=self.root / "cg")
        (me / "mountinfo").write_text(mounts or f"30 23 0:25 / /sys rw - sysfs sysfs rw\n{mount}")
        (kernel / "pid_max").write_text("32768\n")
        return cgroups.take(str(me), str(kernel))


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    """Return a machine without groups."""
    return Fake(tmp_path)


def test_moves_into_a_child(fake: Fake) -> None:
    """Then it turns on what is offered, of what is used here."""
    path = fake.group("mine", procs=str(os.getpid()), offered="hugetlb memory")
    (path / "pids.max").write_text("max\n")
    assert fake.take("mine") == Tree(str(path), frozenset({"memory"}), processes=16384)
    assert (path / "pmjq" / "cgroup.procs").read_text() == "0"
    assert (path / "cgroup.subtree_control").read_text() == "+memory"


def test_started_in_the_child(fake: Fake) -> None:
    """So a service does it that has DelegateSubgroup; its own group is the one to divide."""
    path = fake.group(SERVICE, offered="memory")
    (path / "pmjq").mkdir()
    (path / "pids.max").write_text("100\n")
    assert fake.take(f"{SERVICE}/pmjq") == Tree(str(path), frozenset({"memory"}), processes=50)


def test_container_sees_its_own_group_as_the_root(fake: Fake) -> None:
    """What is mounted there is what is left of the path below it."""
    path = fake.group("", offered="cpu")
    tree = fake.take("docker/x", root="/docker/x")
    assert (tree.path, tree.controllers) == (str(path), frozenset({"cpu"}))


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("a", {"offered": "hugetlb"}, "offers none of cpu memory pids"),
        ("a", {"procs": "1\n"}, "other processes are in it"),
        (SERVICE, {}, "the service has no DelegateSubgroup=pmjq"),
    ],
)
def test_not_ours(fake: Fake, name: str, options: dict[str, str], reason: str) -> None:
    """It is left as it is, and the log says why."""
    path = fake.group(name, **options)
    tree = fake.take(name)
    assert (str(tree), tree.path) == (f"none: {path}: {reason}", "")
    assert not (path / "pmjq").exists()


def test_scope_of_root_that_nobody_delegated(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systemd would turn off again what is turned on there; others could not even write it."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    fake.group("user.slice/a.scope")
    assert fake.take("user.slice/a.scope").reason.endswith("is not delegated")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    fake.group("user.slice/b.scope", offered="memory")
    assert fake.take("user.slice/b.scope").path.endswith("b.scope")


def test_nothing_can_be_turned_on(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it goes back to where it was."""
    path = fake.group("mine", offered="memory")
    (path / "cgroup.subtree_control").unlink()
    (path / "cgroup.subtree_control").mkdir()
    tree = fake.take("mine")
    assert tree.reason.endswith("none of memory can be turned on")
    assert (path / "cgroup.procs").read_text() == "0"


@pytest.mark.parametrize("mounts", ["-", MOUNT.format(root="/", point="/nowhere")])
def test_none_mounted(fake: Fake, mounts: str) -> None:
    """Version 1 alone, or what is mounted is not the part that we are in."""
    assert str(fake.take("x", mounts=mounts)) == "none: no control groups, version 2, are mounted"


def test_groups_of_jobs(tmp_path: Path) -> None:
    """Their processes are found and killed by the id in the name; what is empty is swept."""
    full, empty = tmp_path / group_name(ID, 1), tmp_path / group_name(ID, 2)
    for path in (full, empty, tmp_path / "pmjq"):
        path.mkdir()
    (full / "cgroup.procs").write_text("7\n9\n")
    (full / "cgroup.kill").write_text("")
    tree = Tree(str(tmp_path))
    assert cgroups.members(tree, {ID, "x"}) == {ID: [7, 9]}
    assert cgroups.members(tree, {"x"}) == cgroups.members(Tree(), {ID}) == {}
    cgroups.kill(tree, {"x"})
    assert (full / "cgroup.kill").read_text() == ""
    cgroups.kill(tree, {ID})
    assert (full / "cgroup.kill").read_text() == "1"
    (empty / "cgroup.kill").unlink()
    cgroups.sweep(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [full.name, "pmjq"]


def test_what_is_written_for_a_job(tmp_path: Path) -> None:
    """Its group is made, also for the second try of one start, and tells why it was ended."""
    terms: dict[str, Any] = {"cgroup": str(tmp_path / "job-a.1"), "files": {"memory.max": "5"}}
    becoming.make_room(terms)
    becoming.make_room(terms)
    events = tmp_path / "job-a.1" / "memory.events"
    assert (tmp_path / "job-a.1" / "memory.max").read_text() == "5"
    assert becoming.exceeded(terms) == becoming.exceeded({}) == ""
    events.write_text("low 0\nmax 3\noom 1\noom_kill 0\noom_group_kill 0\n")
    assert becoming.exceeded(terms) == ""
    events.write_text("low 0\nmax 3\noom 1\noom_kill 4\noom_group_kill 1\n")
    assert becoming.exceeded(terms) == "memory"
    assert not becoming.removed(terms["cgroup"])
    for path in (tmp_path / "job-a.1").iterdir():
        path.unlink()
    assert becoming.removed(terms["cgroup"])
    assert becoming.removed(terms["cgroup"])
