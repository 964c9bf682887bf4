"""The daemon from end to end: real processes, real inotify, a real disk."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest

from live import Live, eventually
from pmjq.state import State

ROOT = os.geteuid() == 0


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Return a daemon that the tests of this module share."""
    given = {"TZ": "Europe/Berlin", "LC_TIME": "C", "SECRET": "hidden", "LD_LIBRARY_PATH": "/none"}
    root = tmp_path_factory.mktemp("shared")
    # The soft limit of descriptors is one that neither a login nor the daemon would set, and a
    # script has what it starts with & ignore INT and QUIT.
    odd = 'ulimit -Sn 333; trap "" INT QUIT USR1 ALRM CHLD TSTP; exec "$@"'
    lower = ("sh", "-c", odd, "sh")
    with Live(root, "-j", "4", "--node", "n1", environment=given, before=lower) as daemon:
        yield daemon


def test_job_runs_once_and_leaves_its_record_and_output(live: Live) -> None:
    """A dropped job is executed once; its file, record and output are in the archive."""
    live.drop("first", f"{live.side_effect('first')}echo out; echo err >&2; exit 3\n")
    filed = live.ended("first")
    record = filed.record
    assert (record.state, record.exit_code, record.signal) == (State.FAILED, 3, None)
    assert (record.node, record.attempt, record.reason) == ("n1", 1, "exit code 3")
    assert (record.owner, record.uid) == (pwd.getpwuid(os.geteuid()).pw_name, os.geteuid())
    assert record.started is not None
    assert record.queued <= record.claimed <= record.started <= record.ended
    assert record.max_rss is not None
    assert record.max_rss > 100_000
    assert filed.text == "out\nerr\n"
    assert live.runs("first") == 1
    assert os.access(filed.path, os.X_OK)
    assert not filed.files.exists()
    assert not (live.spool / "first").exists()
    assert filed.path.stat().st_nlink == 1


def test_signal_is_recorded(live: Live) -> None:
    """A job that a signal ends has that signal in its record and no exit code."""
    live.drop("signalled", "kill -SEGV $$\n")
    record = live.ended("signalled").record
    assert (record.state, record.exit_code, record.signal) == (State.FAILED, None, 11)


def test_cpu_time_is_recorded(live: Live) -> None:
    """The record has the CPU time of the job and of the children that it waited for."""
    live.drop("busy", "sh -c 'i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done'\n")
    record = live.ended("busy").record
    assert record.user_cpu is not None
    assert record.started is not None
    assert 0.01 < record.user_cpu <= (record.ended - record.started).total_seconds() + 0.05


def test_environment_is_the_documented_one(live: Live) -> None:
    """A job gets a login's environment, TZ and LC_*, what tells of itself, and nothing else."""
    program = shutil.which("env")
    assert program is not None
    live.drop("env", Path(program).read_bytes())
    filed = live.ended("env")
    found = dict(line.split("=", 1) for line in filed.text.splitlines())
    user = pwd.getpwuid(os.geteuid())
    work = f"{live.spool}/.pmjq/job/{filed.record.id}/work"
    path = "/usr/local/bin:/usr/bin:/bin"
    assert found.pop("LANG")
    locale = {key: value for key, value in os.environ.items() if key.startswith("LC_")}
    assert found == {
        **locale,
        "LC_TIME": "C",
        "TZ": "Europe/Berlin",
        "HOME": user.pw_dir,
        "USER": user.pw_name,
        "LOGNAME": user.pw_name,
        "SHELL": user.pw_shell or "/bin/sh",
        "PATH": f"/usr/local/sbin:{path}:/usr/sbin:/sbin" if ROOT else path,
        "BATCH_SYSTEM": "pmjq",
        "TMPDIR": work,
        "PWD": work,
        "PMJQ_ID": filed.record.id,
        "PMJQ_NAME": "env",
        "PMJQ_NODE": "n1",
        "PMJQ_SPOOL": str(live.spool),
        "PMJQ_ATTEMPT": "1",
        "PMJQ_OWNER": user.pw_name,
    }


def test_job_has_its_own_session(live: Live) -> None:
    """A job leads a session and a process group of its own."""
    live.drop("session", "echo $$ $(cut -d' ' -f5,6 </proc/$$/stat)\n")
    pid, group, session = live.ended("session").text.split()
    assert pid == group == session


def test_descriptors_and_signals_are_clean(live: Live) -> None:
    """A job reads from /dev/null, inherits nothing else, and ignores and blocks no signal."""
    script = "readlink /proc/$$/fd/* | sort -u; grep -E 'Sig(Blk|Ign)' /proc/$$/status | cut -f2\n"
    live.drop("clean", script)
    filed = live.ended("clean")
    links = {line for line in filed.text.splitlines() if line.startswith("/")}
    own = f"{live.spool}/.pmjq/job/{filed.record.id}"
    # The shell has its script open.
    assert links == {"/dev/null", f"{own}/out.1", f"{own}/clean"}
    blocked, ignored = (int(line, 16) for line in filed.text.splitlines()[-2:])
    # glibc's posix_spawn leaves 32 and 33, its own, ignored.
    assert (blocked, ignored & 0x7FFFFFFF) == (0, 0)


def test_limit_of_descriptors_is_what_the_daemon_was_started_with(live: Live) -> None:
    """The daemon raises its own limit, and a job has the one that the daemon was given."""
    live.drop("limit", "ulimit -Sn\n")
    assert live.ended("limit").text == "333\n"


def test_output_is_readable_while_the_job_runs(live: Live) -> None:
    """What a job has written can be read before it ends."""
    gate = live.gate("talks")
    live.drop("talks", f"echo so far\n{gate.wait}echo and on\n")
    jobs = live.spool / ".pmjq" / "job"
    eventually(lambda: any(path.read_text() == "so far\n" for path in jobs.glob("*/out.1")))
    gate.open()
    assert live.ended("talks").text == "so far\nand on\n"


def test_files_in_the_working_directory_are_kept(live: Live) -> None:
    """The working directory is private and fresh; what a job leaves in it is archived as .d."""
    live.drop("leaves", '[ -z "$(ls -A)" ] && [ "$PWD" = "$TMPDIR" ] && echo 1 >a && mkdir b\n')
    filed = live.ended("leaves")
    assert filed.record.exit_code == 0
    assert (filed.files / "a").read_text() == "1\n"
    assert (filed.files / "b").is_dir()


def test_text_without_interpreter_is_run_by_sh(live: Live) -> None:
    """Text without #! is run by /bin/sh, as shells do."""
    live.drop("plain", b"echo $0 $PMJQ_NAME\n")
    filed = live.ended("plain")
    assert filed.record.state is State.DONE
    assert filed.text.endswith("/plain plain\n")


def test_directives_are_recorded(live: Live) -> None:
    """The words of #PMJQ lines stand in the record."""
    live.drop("directed", "#!/bin/sh\n#PMJQ restartable\ntrue\n")
    assert live.ended("directed").record.directives == ("restartable",)


def test_same_name_may_come_again(live: Live) -> None:
    """A name that was used before makes another job with an id and an archived name of its own."""
    live.drop("again", "echo 1\n")
    live.ended("again")
    live.drop("again", "echo 2\n")
    filed = eventually(lambda: (found := live.named("again"))[1:] and found)
    assert sorted(one.text for one in filed) == ["1\n", "2\n"]
    assert len({one.record.id for one in filed}) == 2


def test_what_a_job_leaves_running_is_not_waited_for(live: Live) -> None:
    """A job has ended when its first process has, even if that left another behind."""
    gate = live.gate("daemonizes")
    live.drop("daemonizes", f"({gate.wait}) &\necho gone\n")
    assert live.ended("daemonizes").text == "gone\n"
    gate.open()


def test_oldest_is_run_first(tmp_path: Path) -> None:
    """Jobs are run in the order in which they appeared, whatever their names and mtimes."""
    live = Live(tmp_path, "-j", "1")
    order = tmp_path / "order"
    for name in ("c", "a", "b"):
        path = live.drop(name, f"echo {name} >>'{order}'\n")
        stat = path.stat()
        # An older mtime, as `cp -p` keeps it, does not jump the queue.
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns - 10**15 * len(live.spooled())))
    try:
        assert live.once() == 0
    finally:
        live.close()
    assert order.read_text().split() == ["c", "a", "b"]


def test_slots_are_never_exceeded(tmp_path: Path) -> None:
    """With -j 3 three jobs run at once and never four."""
    trace = tmp_path / "trace"
    # The first ones wait for each other.
    together = f"until [ $(grep -cx 1 '{trace}') -ge 3 ]; do sleep 0.01; done\n"
    with Live(tmp_path, "-j", "3") as live:
        for number in range(15):
            text = f"echo 1 >>'{trace}'\n{together}sleep 0.1\necho -1 >>'{trace}'\n"
            live.drop(f"j{number}", text)
        eventually(lambda: len(live.filed()) == 15)
    running = list(accumulate(int(line) for line in trace.read_text().split()))
    assert max(running) == 3


def test_no_slots_start_nothing(tmp_path: Path) -> None:
    """With -j 0 jobs stay in the queue, and the log says why."""
    with Live(tmp_path, "-j", "0") as live:
        path = live.drop("stays")
        assert "slots" in live.said("gate.closed")["reason"]
        assert path.exists()
        assert live.stop() == 0
        assert live.filed() == []
        assert live.leftovers() == []


def test_once_runs_what_is_there_and_exits(tmp_path: Path) -> None:
    """--once ends by itself when nothing is queued or running, and leaves what is held."""
    live = Live(tmp_path, "-j", "2")
    assert live.once() == 0
    held = live.drop("held", mode=0o644)
    for number in range(7):
        live.drop(f"j{number}", "sleep 0.1\n")
    assert live.once() == 0
    assert sorted(filed.record.name for filed in live.filed()) == [f"j{n}" for n in range(7)]
    assert held.exists()
    assert live.leftovers() == []


def test_failed_jobs_go_to_the_error_directory(tmp_path: Path) -> None:
    """With -e what did not end well goes there, and only that; both directories are made."""
    errors = tmp_path / "made" / "errors"
    live = Live(tmp_path, "-j", "2", "-e", str(errors))
    live.drop("good")
    live.drop("bad", "false\n")
    assert live.once() == 0
    assert live.ended("good").path.parent == live.archive
    assert live.ended("bad").path.parent == errors


def test_without_archive_jobs_stay_in_the_spool_tree(tmp_path: Path) -> None:
    """Without -o ended jobs are kept in SPOOL/.pmjq/done."""
    live = Live(tmp_path)
    live.options = ("-j", "2")
    live.archive = live.spool / ".pmjq" / "done"
    live.drop("kept", "echo kept\n")
    assert live.once() == 0
    assert live.ended("kept").text == "kept\n"


def test_hundreds_of_running_jobs_are_adopted(tmp_path: Path) -> None:
    """After a kill -9 the next daemon has every one of 300 running jobs and their true ends."""
    with Live(
        tmp_path, "-j", "301", before=("sh", "-c", 'ulimit -Sn 256; exec "$@"', "sh")
    ) as live:
        gate = live.gate("all")
        for number in range(300):
            name = f"j{number}"
            live.drop(
                name, f"{live.side_effect(name)}{gate.wait}echo {name}\nexit {number % 200}\n"
            )
        eventually(lambda: len(os.listdir(live.side)) == 300, within=60, what="all run")
        live.kill()
        live.start()
        live.drop("one more")
        live.ended("one more")
        assert len(live.filed()) == 1

        def all_filed() -> bool:
            # One that has said that it runs may not stand before the gate yet.
            gate.try_open()
            return len(live.filed()) == 301

        eventually(all_filed, what="all are filed")
        for number in range(300):
            filed = live.ended(f"j{number}")
            assert (filed.record.exit_code, filed.text) == (number % 200, f"j{number}\n")
            assert filed.record.user_cpu is not None
            assert live.runs(f"j{number}") == 1
        assert live.stop() == 0
        assert live.leftovers() == []


def _refused(live: Live) -> tuple[int, str]:
    done = subprocess.run(
        live.command, check=False, capture_output=True, text=True, env=live.environment, timeout=60
    )
    assert done.stdout == ""
    assert done.stderr.startswith("pmjq: ")
    assert done.stderr.count("\n") == 1
    return done.returncode, done.stderr


def test_second_daemon_is_refused(tmp_path: Path) -> None:
    """A second daemon of the same node and spool exits with 75 and names the first."""
    with Live(tmp_path, "--node", "twin") as live:
        code, text = _refused(live)
        assert code == 75
        assert f"node twin is running here already as process {live.pid}" in text
        live.drop("unharmed")
        live.ended("unharmed")


def test_missing_spool_is_refused(tmp_path: Path) -> None:
    """A SPOOL that is not there may be a share that is not mounted: 66, and it is not made."""
    live = Live(tmp_path)
    live.spool.rmdir()
    assert _refused(live)[0] == 66
    live.spool.touch()
    assert _refused(live)[0] == 66


def test_bad_node_name_is_refused(tmp_path: Path) -> None:
    """A node's name is part of file names: 78 for one that cannot be."""
    assert _refused(Live(tmp_path, "--node", "a/b"))[0] == 78
    assert _refused(Live(tmp_path, "--node", ""))[0] == 78


def test_wrong_option_is_refused(tmp_path: Path) -> None:
    """A command line that cannot be carried out is 64."""
    assert _refused(Live(tmp_path, "--no-such-option"))[0] == 64
    assert _refused(Live(tmp_path, "-j", "-1"))[0] == 64


def test_unwritable_spool_is_refused(tmp_path: Path) -> None:
    """A spool that this user cannot write is 77, at once and not with every job."""
    live = Live(tmp_path)
    live.spool.chmod(0o555)
    if (
        ROOT
        and subprocess.run(
            ["chattr", "+i", live.spool], check=False, capture_output=True
        ).returncode
    ):
        pytest.skip("root can write everything here")
    try:
        assert _refused(live)[0] == 77
    finally:
        live.spool.chmod(0o755) if not ROOT else subprocess.run(
            ["chattr", "-i", live.spool], check=True
        )


def test_archive_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """An archive below a file cannot be made: 73."""
    (tmp_path / "file").touch()
    assert _refused(Live(tmp_path, "-o", str(tmp_path / "file" / "archive")))[0] == 73


def test_unknown_format_is_refused(tmp_path: Path) -> None:
    """A spool of another format is 78, with both numbers named, and is left as it is."""
    live = Live(tmp_path)
    assert live.once() == 0
    identity = live.spool / ".pmjq" / "spool.json"
    text = identity.read_text().replace('"format":1', '"format":7')
    identity.write_text(text)
    code, told = _refused(live)
    assert code == 78
    assert "format 7" in told
    assert "format 1" in told
    assert identity.read_text() == text
