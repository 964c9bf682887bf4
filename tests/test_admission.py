"""Whose files a daemon takes, and what root's daemon insists on before it begins."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

import pytest

from pmjq import admission
from pmjq.admission import Admission, Asked
from pmjq.errors import ConfigurationError, UsageError


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> int:
    """Be an ordinary user."""
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    return 4711


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be root."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def accepted(*accept: str) -> Admission:
    """Return what a daemon takes with these ``--accept-owner``."""
    return admission.admission("/", Asked(accept=accept), ())


def test_user_runs_his_own_files(user: int) -> None:
    """Without ``--accept-owner`` a daemon runs its own user's files."""
    taken = accepted()
    assert (taken.uids, taken.gids) == (frozenset({user}), frozenset())
    assert "--accept-owner" in taken.refusal
    assert taken.judge is None


def test_accepted_owners_are_users_numbers_or_groups(user: int) -> None:
    """A name is a user's if there is one, else a group's; a number is a user's."""
    name = pwd.getpwuid(0).pw_name
    users = {each.pw_name for each in pwd.getpwall()}
    group = next((each for each in grp.getgrall() if each.gr_name not in users), None)
    assert accepted(name, "1234").uids == frozenset({user, 0, 1234})
    assert group is None or accepted(group.gr_name).gids == {group.gr_gid}


def test_anybody_is_accepted(user: int) -> None:
    """ANY, in capitals, is everybody."""
    assert (accepted("ANY").uids, accepted("1234", "ANY").uids) == (None, None)


@pytest.mark.parametrize("name", ["no-such-user", "any", "", "²"])
def test_unknown_owner_is_refused(name: str, user: int) -> None:
    """A name that this machine does not know is a wrong set-up, not an owner without files."""
    with pytest.raises(ConfigurationError, match=f"--accept-owner {name}: no such user or group"):
        accepted(name)


@pytest.mark.parametrize(
    "asked",
    [Asked(users=("root",)), Asked(groups=("root",)), Asked(denied=("root",)), Asked(root=True)],
)
def test_policy_is_for_root_s_daemon(asked: Asked, user: int) -> None:
    """Any other cannot run anybody's jobs as him, and says so instead of ignoring it."""
    with pytest.raises(UsageError, match="root's daemon"):
        admission.admission("/", asked, ())


def test_root_accepts_nobody(root: None) -> None:
    """Root's daemon never runs other people's files as root."""
    for name in ("ANY", "root"):
        with pytest.raises(ConfigurationError, match="as root"):
            accepted(name)


@pytest.mark.parametrize(
    "asked",
    [
        Asked(users=("no-such-user",)),
        Asked(groups=("no-such-group",)),
        Asked(denied=("no-such-user",)),
    ],
)
def test_policy_names_whom_the_machine_knows(asked: Asked, root: None) -> None:
    """Who is denied under a mistyped name is not denied."""
    with pytest.raises(ConfigurationError, match=r"no such (user|group) on this machine"):
        admission.admission("/", asked, ())


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can make a root's spool")


@needs_root
@pytest.mark.parametrize(
    ("gid", "mode", "shared"),
    [
        (0, 0o755, False),
        (0, 0o770, False),
        (0, 0o1777, True),
        (0, 0o1733, True),
        (1000, 0o750, False),
        (1000, 0o1770, True),
    ],
)
def test_root_s_own_spool_and_a_shared_one(
    tmp_path: Path, gid: int, mode: int, *, shared: bool
) -> None:
    """Root's own files are run where nobody else can put any, elsewhere if that is asked for."""
    _closed_above(tmp_path)
    os.chown(tmp_path, 0, gid)
    tmp_path.chmod(mode)
    path = tmp_path / "file"
    path.touch(0o755)
    os.chown(path, 0, 0)
    for asked in (Asked(), Asked(root=True)):
        taken = admission.admission(str(tmp_path), asked, ())
        assert taken.shared == shared
        assert taken.judge is not None
        reason = taken.judge.refusal(path.stat())
        assert ("--allow-root" in reason) == (shared and not asked.root)


@needs_root
@pytest.mark.parametrize(
    ("uid", "mode", "told"),
    [
        (0, 0o757, "chmod \\+t"),
        (0, 0o777, "chmod \\+t"),
        (1000, 0o755, "chown root"),
        (1000, 0o1777, "chown root"),
    ],
)
def test_spool_in_which_jobs_could_be_replaced(
    tmp_path: Path, uid: int, mode: int, told: str
) -> None:
    """Whoever could put another's file in the place of a job's is not served."""
    _closed_above(tmp_path)
    os.chown(tmp_path, uid, 0)
    tmp_path.chmod(mode)
    with pytest.raises(ConfigurationError, match=told):
        admission.admission(str(tmp_path), Asked(), ())


@needs_root
def test_directory_above_that_others_can_write(tmp_path: Path) -> None:
    """Whoever can write a directory above could put another one in the spool's place."""
    _closed_above(tmp_path)
    above = tmp_path / "above"
    spool = above / "spool"
    spool.mkdir(parents=True)
    spool.chmod(0o1777)
    above.chmod(0o777)
    with pytest.raises(ConfigurationError, match="above, and put another"):
        admission.admission(str(spool), Asked(), ())
    above.chmod(0o1777)
    assert admission.admission(str(spool), Asked(), ()).shared


@needs_root
def test_directory_above_that_others_cannot_enter(tmp_path: Path) -> None:
    """Jobs of others could not be executed there: better said at once than with each of them."""
    _closed_above(tmp_path)
    spool = tmp_path / "above" / "spool"
    spool.mkdir(parents=True)
    spool.chmod(0o1777)
    spool.parent.chmod(0o700)
    with pytest.raises(ConfigurationError, match=r"chmod o\+x .*above, or"):
        admission.admission(str(spool), Asked(), ())


@needs_root
def test_archive_that_others_can_write(tmp_path: Path) -> None:
    """Root would write through what they put there."""
    _closed_above(tmp_path)
    spool, archive = tmp_path / "spool", tmp_path / "archive"
    spool.mkdir()
    archive.mkdir()
    spool.chmod(0o1777)
    archive.chmod(0o1777)
    with pytest.raises(ConfigurationError, match="archive: others than root can write it"):
        admission.admission(str(spool), Asked(), [str(archive)])
    archive.chmod(0o755)
    assert admission.admission(str(spool), Asked(), [str(archive)]).shared


@needs_root
def test_hard_links_must_be_protected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else anybody could give a file of somebody else a name in the spool."""
    _closed_above(tmp_path)
    setting = tmp_path / "setting"
    monkeypatch.setattr(admission, "HARD_LINKS", str(setting))
    spool = tmp_path / "spool"
    spool.mkdir()
    spool.chmod(0o1777)
    setting.write_text("0\n")
    with pytest.raises(ConfigurationError, match=r"sysctl fs\.protected_hardlinks=1"):
        admission.admission(str(spool), Asked(), ())
    setting.write_text("1\n")
    assert admission.admission(str(spool), Asked(), ()).shared


def _closed_above(path: Path) -> None:
    """Have nobody but root write the directories that pytest makes."""
    for one in (path, *path.parents):
        if one.stat().st_uid == 0 and not one.stat().st_mode & 0o1000:
            one.chmod(one.stat().st_mode & 0o7755 | 0o001)


def test_denied_by_another_name(root: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user is who his number leads to: whatever name of his is denied, he is."""
    monkeypatch.setattr(pwd, "getpwnam", lambda name: pwd.getpwuid(0))
    taken = admission.admission("/", Asked(denied=("toor",)), ())
    assert taken.judge is not None
    assert taken.judge.policy.denied == {pwd.getpwuid(0).pw_name}
