"""Directories with an info file are jobs: end to end."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from live import Filed, Live, eventually
from pmjq.probe import usable_cpus
from pmjq.queue import Queue
from pmjq.ready import INFO_FILES
from pmjq.state import State

RUN = '#!/bin/sh\necho in; pwd; echo "$PWD"; echo made >made; cat input; echo cpus $NB_PROC\n'

INFO = {
    "job.toml": 'script = "sh run.sh"\ncpus = 2\n',
    "proc_config.cfg": "[QMOptions]\nscript = sh run.sh\nNB_PROC = 2\n[Other]\nx = 1\n",
    "proc_config.xml": "<a><script>sh run.sh</script><nb_proc value='2'/></a>",
    "infos.xml": "<a><b><script value='sh run.sh'/></b><nb_proc>2</nb_proc></a>",
}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Return a daemon that the tests of this module share."""
    root = tmp_path_factory.mktemp("shared")
    with Live(root, "-j", "4", "-e", str(root / "errors")) as daemon:
        yield daemon


def directory(live: Live, name: str, files: dict[str, str | bytes], *, mode: int = 0o755) -> Path:
    """Put a directory into the spool with one rename."""
    source = live.root / "drop" / f"dir.{len(os.listdir(live.root / 'drop'))}.{name[:20]}"
    source.mkdir()
    for file, content in files.items():
        path = source / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(0o755 if file.endswith("run.sh") else 0o644)
    source.chmod(mode)
    target = live.spool / name
    source.rename(target)
    return target


def toml(script: str = "sh run.sh", **keys: Any) -> str:  # noqa: ANN401  # as TOML has them
    """Return an info file."""
    return "".join(
        f"{key} = {json.dumps(value)}\n" for key, value in ({"script": script} | keys).items()
    )


def rejected(live: Live, name: str) -> Filed:
    """Wait until a directory is rejected and check what all such have in common."""
    filed = live.ended(name, within=30)
    assert filed.record.state is State.REJECTED
    assert (filed.record.started, filed.record.exit_code) == (None, None)
    assert filed.text == f"pmjq: {name}: {filed.record.reason}\n"
    assert filed.path.parent == live.errors
    assert filed.path.is_dir()
    assert name not in live.spooled()
    return filed


def test_each_kind_of_info_file(live: Live) -> None:
    """The script runs inside the directory, which is archived as a whole with what it made."""
    for info in INFO_FILES:
        files = {"run.sh": RUN, "input": "input\n", "sub/deep/file": "x"}
        directory(live, f"kind-{info}", {info: INFO[info], **files})
    for info in INFO_FILES:
        filed = live.ended(f"kind-{info}", within=60)
        assert (filed.record.state, filed.record.exit_code) == (State.DONE, 0)
        where = filed.text.splitlines()[1]
        assert filed.text == f"in\n{where}\n{where}\ninput\ncpus 2\n"
        assert filed.path.is_dir()
        assert sorted(os.listdir(filed.path)) == sorted([info, "run.sh", "input", "sub", "made"])
        assert (filed.path / "sub/deep/file").read_text() == "x"
        assert not (live.spool / f"kind-{info}").exists()
        assert not filed.files.exists()
        assert "cpus=2" in filed.record.directives


def test_first_info_file_counts(live: Live) -> None:
    """Of several the order is job.toml, proc_config.cfg, then the XML forms."""
    directory(
        live,
        "several",
        {"job.toml": toml("echo toml"), "proc_config.cfg": "[QMOptions]\nscript = echo ini\n"},
    )
    assert live.ended("several", within=30).text == "toml\n"


@pytest.mark.parametrize(
    ("cpus", "expected"), [(None, 1), (usable_cpus(), usable_cpus()), ("all", usable_cpus())]
)
def test_nb_proc(cpus: object, expected: int, live: Live) -> None:
    """NB_PROC is the number of CPUs that were asked for, one if none were."""
    name = f"nbproc-{cpus}"
    keys = {} if cpus is None else {"cpus": cpus}
    directory(live, name, {"job.toml": toml("sh -c 'echo $NB_PROC'", **keys)})
    assert live.ended(name, within=30).text == f"{expected}\n"


SCRIPTS = {
    "own": ("run.sh a 'b c'", "mine a b c\n"),
    "dot": ("./run.sh x", "mine x\n"),
    "sub": ("sub/run.sh x", "sub x\n"),
    "path": ("printf '%s|' 'a b' '$HOME' '*' ''", "a b|$HOME|*||"),
    "dash": ("echo -- -n", "-- -n\n"),
    "absolute": ("/bin/echo x", "x\n"),
}


def test_script(live: Live) -> None:
    """A program of the directory comes before one of PATH; its words are exact."""
    for name, (script, _) in SCRIPTS.items():
        files = {
            "run.sh": '#!/bin/sh\necho mine "$@"\n',
            "sub/run.sh": '#!/bin/sh\necho sub "$@"\n',
        }
        directory(live, f"script-{name}", {"job.toml": toml(script), **files})
    texts = {name: live.ended(f"script-{name}", within=60).text for name in SCRIPTS}
    assert texts == {name: expected for name, (_, expected) in SCRIPTS.items()}


def test_environment(live: Live) -> None:
    """It has the variables of any job, those that it asks for, and a private TMPDIR."""
    directory(
        live,
        "environment",
        {
            "job.toml": toml(
                "sh -c 'echo $PMJQ_NAME $PMJQ_ATTEMPT $A; test -d $TMPDIR && test $TMPDIR != $PWD'",
                env=["A=it's"],
            )
        },
    )
    filed = live.ended("environment", within=30)
    assert (filed.text, filed.record.exit_code) == ("environment 1 it's\n", 0)


def test_another_directory(live: Live, tmp_path: Path) -> None:
    """It may ask to run elsewhere, and is archived all the same."""
    directory(live, "elsewhere", {"job.toml": toml("sh -c pwd", directory=str(tmp_path))})
    filed = live.ended("elsewhere", within=30)
    assert filed.text == f"{tmp_path}\n"
    assert (filed.path / "job.toml").exists()


def test_failed_one_goes_to_the_error_directory(live: Live) -> None:
    """As a whole, with what it made."""
    directory(live, "fails", {"job.toml": toml("sh -c 'echo x >made; exit 3'")})
    filed = live.ended("fails", within=30)
    assert (filed.record.state, filed.record.exit_code) == (State.FAILED, 3)
    assert filed.path.parent == live.errors
    assert (filed.path / "made").read_text() == "x\n"


NAMES = ["-rf", "a b", "it's", 'quote"', "new\nline", "größe", "$x", "back\\slash", "*"]


def test_any_name(live: Live) -> None:
    """A directory of any name is run and archived under that name."""
    for name in NAMES:
        directory(live, name, {"job.toml": toml("sh -c 'echo x >made; printf %s \"$PMJQ_NAME\"'")})
    for name in NAMES:
        filed = live.ended(name, within=60)
        assert (filed.record.state, filed.text) == (State.DONE, name)
        assert (filed.path / "made").exists()


# --- not yet, or not at all


def test_plain_directory_is_left_alone(live: Live) -> None:
    """A directory without an info file is somebody's own, and listed with that reason."""
    target = directory(live, "plain", {"run.sh": RUN})
    assert "a directory without an info file" in live.aside("plain")
    seen = [one for one in Queue(live.spool).list() if one.name == "plain"]
    assert [(one.is_job, "without an info file" in one.reason) for one in seen] == [(False, True)]
    assert target.exists()
    # With one it is a job at once.
    (target / "job.toml").write_text(toml("echo now"))
    assert live.ended("plain", within=60).text == "now\n"


def test_directory_is_left_alone_while_it_changes(live: Live) -> None:
    """While its copy goes on nothing is run: it has all its files when it is."""
    target = live.spool / "copied"
    target.mkdir()
    (target / "sub").mkdir()
    (target / "job.toml").write_text(toml("sh -c 'ls sub | wc -l'"))
    count = 0

    def noticed() -> bool:
        nonlocal count
        count += 1
        (target / "sub" / str(count)).write_text("x")
        return "must stay unchanged" in live.node().get("aside", {}).get("copied", "")

    eventually(noticed, within=60)
    assert target.exists()
    assert live.ended("copied", within=60).text == f"{count}\n"


def test_held_directory(live: Live) -> None:
    """Mode a-x holds it, as any job; release lets it go."""
    directory(live, "held", {"job.toml": toml("echo ran")}, mode=0o644)
    assert "not executable" in live.aside("held")
    (answer,) = Queue(live.spool).release(["held"])
    assert (answer.done, answer.text) == (True, "released")
    assert live.ended("held", within=30).text == "ran\n"


def test_hold_verb(live: Live) -> None:
    """Hold and release work on directories that wait, and cancel withdraws them."""
    keys = {"after": ["nobody-of-this-name"]}
    directory(live, "hold-verb", {"job.toml": toml("echo ran", **keys)})
    queue = Queue(live.spool)
    eventually(lambda: "nobody-of-this-name" in live.node().get("aside", {}).get("hold-verb", ""))
    assert queue.hold(["hold-verb"])[0].done
    assert not (live.spool / "hold-verb").stat().st_mode & 0o111
    assert queue.release(["hold-verb"])[0].done
    assert queue.cancel(["hold-verb"])[0].done
    filed = live.ended("hold-verb", within=30)
    assert filed.record.state is State.CANCELLED
    assert (filed.path / "job.toml").exists()


BROKEN: dict[str, tuple[str, str | bytes, str]] = {
    "toml": ("job.toml", "script = \n", "job.toml: cannot be understood"),
    "empty": ("job.toml", "", "job.toml: names no script"),
    "unknown": ("job.toml", "script = 'x'\ncpu = 4\n", "did you mean cpus?"),
    "utf8": ("job.toml", b"\xff\xfe\0", "job.toml: cannot be understood"),
    "deep": ("job.toml", "a=" + "[" * 20_000, "job.toml: "),
    "number": ("job.toml", "script='x'\ncpus=" + "9" * 20_000, "job.toml: "),
    "nul": ("job.toml", 'script = ["a\\u0000"]', "job.toml: "),
    "section": ("proc_config.cfg", "[x]\n", "has no section [QMOptions]"),
    "dtd": (
        "infos.xml",
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a><script>&x;</script></a>',
        "has a document type",
    ),
    "xml": ("proc_config.xml", "<a><script>", "proc_config.xml: cannot be understood"),
    "missing": ("job.toml", toml("no-such-program x"), "neither in the directory nor on PATH"),
    "mode": ("job.toml", toml("./data"), "is not executable"),
    "program": ("job.toml", toml("./zero/run.sh"), "is no program"),
}


HARD = {
    "envnul": ("job.toml", 'script = "env"\nenv = ["A=\\u0000"]'),
    "zone": ("job.toml", "script='x'\nnot-before=0001-01-01T00:00:00+14:00"),
    "none": ("proc_config.cfg", "[QMOptions]\nscript\n  x\n"),
}
"""Those that have stopped a daemon."""


def test_broken_one_is_rejected(live: Live) -> None:
    """It goes to the error directory as a whole, with a reason that a person can act on."""
    for case, (info, content, _) in BROKEN.items():
        directory(live, f"broken-{case}", {info: content, "data": "d", "zero/run.sh": b"\0\1\2"})
    for case, (info, _, told) in BROKEN.items():
        filed = rejected(live, f"broken-{case}")
        assert told in filed.record.reason
        assert sorted(os.listdir(filed.path)) == sorted([info, "data", "zero"])
    assert live.alive()
    assert live.events("turn.failed") == []


@pytest.mark.parametrize("case", HARD)
def test_broken_one_stops_nobody(case: str, tmp_path: Path) -> None:
    """Whatever an info file says, the daemon lives and goes on with others."""
    info, content = HARD[case]
    with Live(tmp_path, "-e", str(tmp_path / "errors")) as live:
        directory(live, "hard", {info: content})
        rejected(live, "hard")
        live.drop("next")
        live.ended("next")
        assert live.events("turn.failed") == []


def test_info_file_that_is_no_file(live: Live) -> None:
    """A link, a FIFO or a directory of that name is no info file, and is not followed."""
    makes: dict[str, Callable[[Path], object]] = {
        "link": lambda path: path.symlink_to("/etc/passwd"),
        "fifo": os.mkfifo,
        "dir": lambda path: path.mkdir(),
    }
    for kind, make in makes.items():
        target = live.root / f"odd-{kind}"
        target.mkdir()
        make(target / "job.toml")
        target.rename(live.spool / f"odd-{kind}")
        assert "job.toml is no regular file" in live.aside(f"odd-{kind}")


# --- where it goes


def test_archive_on_another_file_system(tmp_path: Path) -> None:
    """The whole directory is copied there, with its modes and links."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system that this user can write")
    far = Path(tempfile.mkdtemp(dir=memory, prefix="pmjq-test-"))
    try:
        with Live(tmp_path, "-o", str(far / "archive"), "-e", str(far / "errors")) as live:
            script = (
                "sh -c 'mkdir out; echo 1 >out/a; ln -s a out/b; chmod 600 out/a; mkfifo out/c'"
            )
            directory(live, "far", {"job.toml": toml(script), "data": "x"}, mode=0o750)
            directory(live, "bad", {"job.toml": "x", "data": "y"})
            done, bad = live.ended("far", within=30), live.ended("bad", within=30)
            assert done.path.stat().st_mode & 0o777 == 0o750
            assert sorted(os.listdir(done.path / "out")) == ["a", "b", "c"]
            assert (done.path / "out/a").stat().st_mode & 0o777 == 0o600
            assert (done.path / "out/b").readlink() == Path("a")
            assert (done.path / "data").read_text() == "x"
            assert bad.record.state is State.REJECTED
            assert sorted(os.listdir(bad.path)) == ["data", "job.toml"]
            assert live.stop() == 0
            assert live.leftovers() == []
    finally:
        shutil.rmtree(far)


# --- adoption, retry


def _made(live: Live, name: str) -> bool:
    """Tell whether a job has made a file; directories are moved while they are looked at."""
    return any(name in files for _, _, files in os.walk(live.spool / ".pmjq"))


WAITS = '#!/bin/sh\necho started\necho $$ >pid\n{gate}echo after >"$PWD/after"\npwd\nexit {code}\n'


@pytest.mark.parametrize("code", [0, 5])
def test_directory_of_a_killed_daemon_is_adopted(code: int, tmp_path: Path) -> None:
    """Kill -9: the job goes on, its $PWD leads to its files, and it is recorded once, truly."""
    with Live(tmp_path, "-e", str(tmp_path / "errors")) as live:
        gate = live.gate("adopted")
        text = WAITS.format(gate=gate.wait, code=code) + live.side_effect("never")
        directory(live, "adopted", {"job.toml": toml("run.sh"), "run.sh": text, "data": "x"})
        eventually(lambda: _made(live, "pid"))
        live.kill()
        live.start()
        live.drop("canary")
        live.ended("canary")
        assert live.named("adopted") == []

        gate.open()
        filed = live.ended("adopted", within=30)
        assert filed.record.exit_code == code
        assert filed.record.state is (State.FAILED if code else State.DONE)
        assert filed.text.startswith("started\n")
        assert filed.text.count("\n") == 2
        assert sorted(os.listdir(filed.path)) == ["after", "data", "job.toml", "pid", "run.sh"]
        assert live.runs("never") == 0
        assert live.stop() == 0
        assert live.leftovers() == []


def test_retries_of_a_directory(tmp_path: Path) -> None:
    """It is tried again in the same directory, with what the attempts before left there."""
    with Live(tmp_path) as live:
        script = "sh -c 'echo $PMJQ_ATTEMPT >>log; cat log; test $PMJQ_ATTEMPT = 3'"
        directory(live, "again", {"job.toml": toml(script, retries=5, backoff="0")})
        filed = live.ended("again", within=60)
        assert (filed.record.state, filed.record.attempt) == (State.DONE, 3)
        assert (filed.path / "log").read_text() == "1\n2\n3\n"
        assert [one.state for one in filed.record.earlier] == ["failed", "failed"]


def test_directory_that_changes_between_two_attempts(tmp_path: Path) -> None:
    """Somebody mends it while it waits: its next attempt is the second, and the last it asked for.

    A file would be another job by then.
    """
    with Live(tmp_path) as live:
        text = live.side_effect("mended") + "exit 1\n"
        info = toml("sh run.sh", retries=1, backoff="10s")
        path = directory(live, "mended", {"job.toml": info, "run.sh": text})
        eventually(lambda: (live.spool / ".pmjq/again/mended").exists() and path.exists())
        (path / "mended").touch()
        os.utime(path, (0, 0))
        filed = live.ended("mended", within=60)
        assert (filed.record.attempt, live.runs("mended")) == (2, 2)
        assert [one.attempt for one in filed.record.earlier] == [1]


def test_retry_verb(tmp_path: Path) -> None:
    """`pmjq retry` puts a copy of the archived directory into the queue; that stays as it is."""
    with Live(tmp_path) as live:
        directory(live, "once", {"job.toml": toml("sh -c 'echo x >>log; exit 4'"), "data": "d"})
        first = live.ended("once", within=30)
        (answer,) = Queue(live.spool).retry(["once"])
        assert answer.done
        eventually(lambda: len(live.named("once")) == 2, within=60)
        second = max(live.named("once"), key=lambda one: one.record.ended)
        assert second.record.attempt == 2
        assert [one.id for one in second.record.earlier] == [first.record.id]
        assert (first.path / "log").read_text() == "x\n"
        assert (second.path / "log").read_text() == "x\nx\n"


def test_cancelled_while_it_runs(tmp_path: Path) -> None:
    """It ends as any other, and its directory is kept."""
    with Live(tmp_path, "--grace", "5") as live:
        gate = live.gate("cancelled")
        text = f"#!/bin/sh\necho x >made\n{gate.wait}"
        directory(live, "cancelled", {"job.toml": toml("run.sh", retries=3), "run.sh": text})
        eventually(lambda: _made(live, "made"))
        assert Queue(live.spool).cancel(["cancelled"])[0].done
        filed = live.ended("cancelled", within=30)
        assert filed.record.state is State.CANCELLED
        assert (filed.path / "made").exists()
