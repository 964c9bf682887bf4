"""The rules of ``pmjq nodes``: who lives, told without a daemon, and nothing is changed."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
import pytest

from live import Live
from pmjq import cli, probe, verbs
from pmjq.disk import Disk
from pmjq.errors import ConfigurationError, NotFoundError
from pmjq.job import moment
from pmjq.node import Life
from pmjq.nodes import Pulse, Seen, look, opened, row
from pmjq.render import JOIN
from values import QUEUED

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = Path(__file__).parent.parent / "man/pmjq-nodes.1"
NOW = 1_700_000_000.0
ME = probe.machine()
LIFE = Life(
    name="a",
    token="a.boot0001.00000001",
    machine="other",
    boot="b",
    space="pid:[1]",
    pid=7,
    start=8,
    version="0.1.0",
    began=QUEUED,
    at=QUEUED,
    load=1.5,
    slots=4,
)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Return a spool that no daemon serves."""
    own = tmp_path / ".pmjq"
    (own / "node").mkdir(parents=True)
    (own / "spool.json").write_text('{"format": 1, "uuid": "u"}')
    return tmp_path


def lives(
    spool: Path,
    token: str = "a.boot0001.00000001",
    age: float | None = 1.0,
    **said: Any,  # noqa: ANN401  # fields of a life
) -> Path:
    """Let a life have published itself and beaten ``age`` seconds before NOW; return its place."""
    place = spool / ".pmjq" / "node" / token
    place.mkdir(exist_ok=True)
    name = said.pop("name", token.partition(".")[0])
    life = msgspec.structs.replace(LIFE, name=name, token=token, **said)
    (place / "node.json").write_bytes(msgspec.json.encode(life))
    if age is not None:
        (place / "beat").write_text(f"{7:020}\n")
        os.utime(place / "beat", (NOW - age, NOW - age))
    return place


def see(
    spool: Path,
    watch: float = 0.0,
    meanwhile: Callable[[float], None] = lambda _: None,
    now: float = NOW,
) -> list[Seen]:
    """Look at the nodes at NOW, with no process alive but our own."""
    return look(
        opened(Disk(), str(spool)), ME, lambda: now, watch, meanwhile, lambda pid, _: pid == ME.pid
    )


def state(spool: Path, watch: float = 0.0) -> tuple[str, float | None, str]:
    """Return the state of the only life, its silence, and by what it is judged."""
    (seen,) = see(spool, watch)
    return str(seen.state), seen.silent, seen.judged


@pytest.mark.parametrize(
    ("age", "lease", "expected"),
    [
        (1.0, 120.0, "alive"),
        (120.0, 120.0, "alive"),
        (121.0, 120.0, "silent"),
        (5.0, 4.0, "silent"),
    ],
)
def test_a_beat_is_judged_by_its_age_and_its_own_lease(
    spool: Path, age: float, lease: float, expected: str
) -> None:
    """At one look a life of another machine is silent when its beat is older than its lease."""
    lives(spool, age=age, lease=lease)
    assert state(spool) == (expected, age, "beat")


def test_a_life_of_this_machine_is_judged_by_its_process(spool: Path) -> None:
    """Machine, boot and pid namespace are ours: the kernel knows better than any beat."""
    here = {"machine": ME.machine, "boot": ME.boot, "space": ME.space}
    lives(spool, age=900.0, pid=ME.pid, start=ME.start, **here)
    assert state(spool) == ("alive", 900.0, "process")
    assert row(see(spool)[0], NOW).cells[1] == f"alive, silent for 15{JOIN}min"
    lives(spool, age=1.0, pid=ME.pid + 1, **here)
    assert state(spool) == ("dead", 1.0, "process")


@pytest.mark.parametrize("other", [{"boot": "x"}, {"space": "x"}, {"machine": "x"}])
def test_a_pid_of_elsewhere_means_nothing_here(spool: Path, other: dict[str, Any]) -> None:
    """From another boot, namespace or machine the same number is another process."""
    here = {"machine": ME.machine, "boot": ME.boot, "space": ME.space, "pid": ME.pid}
    lives(spool, age=900.0, **{**here, **other})
    assert state(spool) == ("silent", 900.0, "beat")


def test_a_life_without_beat_is_buried(spool: Path) -> None:
    """The beat goes first when a life is buried."""
    lives(spool, age=None)
    assert state(spool) == ("buried", None, "beat")


def test_the_newest_beat_is_the_least_that_the_server_says_it_is(spool: Path) -> None:
    """Our clock may be behind the file server's: ages are never taken from a time before a beat."""
    lives(spool, "a.boot0001.00000001", age=-1000.0)
    lives(spool, "b.boot0001.00000002", age=-1.0)
    assert [(seen.name, str(seen.state), seen.silent) for seen in see(spool)] == [
        ("a", "alive", 0.0),
        ("b", "silent", 999.0),
    ]


def test_two_looks_judge_by_content(spool: Path) -> None:
    """What changed lives however old its mtime is, and what stood still is silent."""
    place = lives(spool, "a.boot0001.00000001", age=9999.0)
    lives(spool, "b.boot0001.00000002", age=1.0)

    def beats(seconds: float) -> None:
        assert seconds == 40.0
        (place / "beat").write_text(f"{8:020}\n")
        os.utime(place / "beat", (NOW - 9999, NOW - 9999))

    assert [(str(seen.state), seen.silent, seen.judged) for seen in see(spool, 40.0, beats)] == [
        ("alive", 0.0, "looks"),
        ("silent", 40.0, "looks"),
    ]


def test_two_looks_too_close_judge_by_age(spool: Path) -> None:
    """Within two beats and a half nothing has to change."""
    lives(spool, age=30.0, lease=120.0)
    assert state(spool, watch=37.0) == ("alive", 30.0, "beat")
    assert state(spool, watch=38.0) == ("silent", 38.0, "looks")


def test_a_format_that_is_not_known_is_named_with_both_numbers(spool: Path) -> None:
    """It is no error: the others are listed, and its beat is judged."""
    place = lives(spool, "new.boot0001.00000003")
    (place / "node.json").write_text('{"format": 7, "version": "9.0", "name": {"odd": 1}}')
    lives(spool, "a.boot0001.00000001")
    first, second = see(spool)
    assert (first.name, second.name, second.state, second.version) == (
        "a",
        "new",
        Pulse.ALIVE,
        "9.0",
    )
    assert "format 7" in second.note
    assert "format 1" in second.note
    assert row(second, NOW).notes == [second.note]


def test_unknown_fields_are_ignored(spool: Path) -> None:
    """A later pmjq may say more."""
    place = lives(spool)
    said = json.loads((place / "node.json").read_text())
    (place / "node.json").write_text(json.dumps(said | {"later": [1]}))
    (seen,) = see(spool)
    assert (seen.load, seen.note) == (1.5, "")


@pytest.mark.parametrize("text", ["", '{"format": 1, "na', "[]", "\0\0", '{"format": 1}', "\xff"])
def test_a_torn_record_is_named(spool: Path, text: str) -> None:
    """What can be known without it is told."""
    place = lives(spool)
    (place / "node.json").write_text(text, encoding="latin-1")
    (seen,) = see(spool)
    assert (seen.name, str(seen.state), seen.note) == ("a", "alive", "node.json is torn or strange")
    assert row(seen, NOW).cells[2:] == ("-", "-", "-", "-", "-", "-", "-")


def test_odd_things_among_the_lives(spool: Path) -> None:
    """What has no name of a life is none; a directory that has, and nothing in it, may be one."""
    (spool / ".pmjq/node/.DS_Store").touch()
    (spool / ".pmjq/node/notes.2026.txt").touch()
    (spool / ".pmjq/node" / os.fsdecode(b"odd\xff\n")).mkdir()
    (spool / ".pmjq/node/odd.00000000.00000001").mkdir()
    (seen,) = see(spool)
    assert (seen.name, seen.state) == ("odd", Pulse.BURIED)
    assert "no node.json" in seen.note


def test_notes_tell_what_people_ask_next(spool: Path) -> None:
    """Why the gate is closed, an outage, how it stops, lost claims, what is not archived."""
    lives(
        spool,
        gate="closed",
        reason="load average 4.2",
        outage="hangs",
        stopping="wait",
        won=200,
        contended=10,
        unfiled=3,
    )
    assert row(see(spool)[0], NOW).notes == [
        "gate closed: load average 4.2",
        "outage: hangs",
        "stopping: wait",
        "10 claims lost to other nodes, 0.05 per one won",
        "3 ended jobs are not archived",
    ]


def test_a_row_has_what_is_known(spool: Path) -> None:
    """Name, state, load, slots, running, queued, gate, age and version."""
    lives(spool, running=3, queued=12, began=moment(NOW - 7300), age=240.0)
    cells = [cell.replace(JOIN, " ") for cell in row(see(spool)[0], NOW).cells]
    assert cells == ["a", "silent for 4 min", "1.50", "4", "3", "12", "open", "2 h ago", "0.1.0"]


def test_what_is_no_spool_is_refused(tmp_path: Path) -> None:
    """Not there, not a spool yet, of another format: three different things."""
    with pytest.raises(NotFoundError, match="no such directory"):
        opened(Disk(), str(tmp_path / "none"))
    with pytest.raises(NotFoundError, match="is not a spool yet"):
        opened(Disk(), str(tmp_path))
    (tmp_path / ".pmjq").mkdir()
    (tmp_path / ".pmjq/spool.json").write_text('{"format": 9, "uuid": "u"}')
    with pytest.raises(ConfigurationError, match=r"format 9.*format 1"):
        opened(Disk(), str(tmp_path))


# --- the command


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the real command, not on a terminal."""
    plain = {
        key: value for key, value in os.environ.items() if key not in ("COLUMNS", "PMJQ_SPOOL")
    }
    return subprocess.run(
        [sys.executable, "-m", "pmjq", "nodes", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env=plain | environment,
    )


def everything(top: Path) -> dict[str, tuple[int, int, str]]:
    """Return mtime, mode and hash of everything below a directory, itself included."""
    found = {}
    for path in [top, *sorted(top.rglob("*"))]:
        stat = path.lstat()
        text = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = (stat.st_mtime_ns, stat.st_mode, text)
    return found


def test_listing_changes_nothing(spool: Path) -> None:
    """Not a byte, not a mtime, in any way of looking."""
    lives(spool)
    (spool / "job").touch()
    before = everything(spool)
    for words in ([], ["--json"], ["--watch", "0.01"]):
        result = run("-s", str(spool), *words)
        assert (result.returncode, result.stderr) == (0, "")
        assert "a" in result.stdout
    assert everything(spool) == before


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_table_fits(spool: Path, width: int) -> None:
    """Into the width asked for, without colours, and with everything in it."""
    reason = "load average 4.21 is above the limit of 4, and 3 jobs were started just now"
    lives(
        spool, "a-node-with-a-long.name.boot0001.00000001", name="a-node-with-a-long.name", age=1e6
    )
    lives(spool, "b.boot0001.00000002", gate="closed", reason=reason)
    result = run("-s", str(spool), COLUMNS=str(width), NO_COLOR="1")
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= width
    assert "\x1b" not in result.stdout
    words = " ".join(result.stdout.split())
    assert reason in words
    assert "a-node-with-a-long.name" in words


def test_a_pipe_gets_whole_lines(spool: Path) -> None:
    """Without a terminal nothing is folded: a line is a node, for grep and awk."""
    lives(spool, "n" * 60 + ".boot0001.00000001", name="n" * 60, age=1e6)
    first, second = run("-s", str(spool)).stdout.splitlines()
    assert first.split()[:3] == ["NODE", "STATE", "LOAD"]
    assert second.split()[:2] == ["n" * 60, "silent"]


def test_json_has_the_documented_fields(spool: Path) -> None:
    """One object to a line, with the fields of the page, each once."""
    lives(spool, "a.boot0001.00000001")
    lives(spool, "b.boot0001.00000002", age=None)
    lines = run("-s", str(spool), "--json").stdout.splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["a", "b"]
    items = re.findall(r"^\.It Va (.*)$", PAGE.read_text(), re.MULTILINE)
    documented = [name for item in items for name in item.split(" , ")]
    for line in lines:
        assert sorted(json.loads(line)) == sorted(documented)
    assert all(f".It Cm {state}\n" in PAGE.read_text() for state in Pulse)


def test_the_page_has_the_options() -> None:
    """All that the command takes, and no other."""
    command = verbs.nodes
    names = {
        name
        for option in command.get_params(click.Context(command, **command.context_settings))
        for name in option.opts
    }
    names |= {"-h", "--help"}
    lines = re.findall(r"^\.(?:Op |It )?(Fl .*)$", PAGE.read_text(), re.MULTILINE)
    found = {f"-{name}" for line in lines for name in re.findall(r"\bFl ([\w-]+)", line)}
    assert found == names


def test_the_spool_is_named_by_option_environment_or_where_one_is(
    spool: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this order."""
    empty = str(tmp_path_factory.mktemp("empty"))
    monkeypatch.chdir(spool)
    assert run().returncode == 0
    assert run(PMJQ_SPOOL="").returncode == 0
    assert run(PMJQ_SPOOL=empty).returncode == 66
    assert run("-s", str(spool), PMJQ_SPOOL=empty).returncode == 0
    assert run("-s", "").returncode == 64


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "x", ""])
def test_wrong_seconds(spool: Path, seconds: str) -> None:
    """Nobody can wait so long: that is told in one line."""
    lives(spool)
    done = run("-s", str(spool), "--watch", seconds)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (64, "", 1)
    assert done.stderr.startswith("pmjq: ")
    assert "--watch" in done.stderr


def test_a_spool_without_nodes(spool: Path) -> None:
    """Nobody is there: nothing is printed, and that is no error."""
    assert (run("-s", str(spool)).returncode, run("-s", str(spool)).stdout) == (0, "")


@pytest.mark.parametrize("redirect", ["| true", "| head -c 1 >/dev/null"])
def test_who_closes_the_pipe_has_read_enough(spool: Path, redirect: str) -> None:
    """No traceback, no complaint."""
    lives(spool)
    command = f"{sys.executable} -m pmjq nodes -s '{spool}' --watch 0.2 {redirect}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_output_that_cannot_be_written(spool: Path) -> None:
    """The exit code says so, in one line."""
    lives(spool)
    command = f"{sys.executable} -m pmjq nodes -s '{spool}' >/dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        73,
        "pmjq: standard output: No space left on device\n",
    )


def test_a_real_daemon_is_seen_alive_and_then_dead(tmp_path: Path) -> None:
    """Its process is ours to ask: alive while it runs, dead after a kill."""
    with Live(tmp_path, "--node", "here", "-j", "3") as live:
        assert live.process is not None
        (told,) = run("-s", str(live.spool), "--json").stdout.splitlines()
        seen = json.loads(told)
        expected = ("here", "alive", "process", live.process.pid, 3, "open")
        names = ("name", "state", "judged", "pid", "slots", "gate")
        assert tuple(seen[name] for name in names) == expected
        live.process.kill()
        live.process.wait()
        (told,) = run("-s", str(live.spool), "--json").stdout.splitlines()
        assert json.loads(told)["state"] == "dead"


def test_verbs_that_are_built_are_verbs() -> None:
    """The door knows the commands that there are."""
    found = {
        verb: module
        for module in set(cli.BUILT.values())
        for verb in importlib.import_module(module).COMMANDS
    }
    assert found == cli.BUILT
    assert set(cli.BUILT) <= cli.VERBS
