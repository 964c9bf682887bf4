"""The verb submit: what it makes of words, what it refuses, and that what it made runs."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import again_as_nobody
from doubles import Clock, Faults, Faulty, How, MemDisk
from live import PROJECT, Live, eventually
from pmjq import directives, queue, submit
from pmjq.cli import main
from pmjq.errors import UsageError
from pmjq.job import Spec
from pmjq.keys import KEYS
from pmjq.queue import Queue
from pmjq.state import State

ROOT = os.geteuid() == 0
USAGE, NO_INPUT, CANNOT_CREATE, NOT_PERMITTED = 64, 66, 73, 77

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory that jobs are submitted from; the spool is beside it."""
    (tmp_path / "spool").mkdir()
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("PWD", str(place))
    monkeypatch.setenv("PMJQ_SPOOL", str(tmp_path / "spool"))
    return place


def spooled(here: Path) -> dict[str, bytes]:
    """Return what is in the spool."""
    return {path.name: path.read_bytes() for path in (here.parent / "spool").iterdir()}


def one(here: Path) -> tuple[str, str]:
    """Return name and text of the only job in the spool."""
    ((name, text),) = spooled(here).items()
    return name, text.decode()


def asked(here: Path) -> Spec:
    """Return what the only job in the spool asks for."""
    spec = directives.spec(one(here)[1].encode()[: directives.HEAD])
    assert isinstance(spec, Spec), spec
    return spec


def refusal(here: Path, capsys: Captured, code: int, *words: str) -> str:
    """Submit what is refused; return the one line that a person reads. Nothing is submitted."""
    before = spooled(here)
    assert main(["submit", *words]) == code
    out, err = capsys.readouterr()
    assert (out, err[:6], err.count("\n")) == ("", "pmjq: ", 1)
    assert spooled(here) == before
    return err


def script(path: Path, text: str = "#!/bin/sh\necho ran\n", mode: int = 0o755) -> Path:
    """Write a script."""
    path.write_text(text)
    path.chmod(mode)
    return path


def standard_input(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    """Have standard input hold a text."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))


def by_hand(here: Path) -> subprocess.CompletedProcess[bytes]:
    """Run the only job in the spool by hand, from somewhere else."""
    name, _ = one(here)
    return subprocess.run([here.parent / "spool" / name], cwd="/", capture_output=True, check=False)


# --- CMD


def test_command(here: Path, capsys: Captured) -> None:
    """CMD becomes a job that runs here, and that a person can read and run by hand."""
    assert main(["submit", "printf", "%s|", "a b", "$HOME", "-n", "--", "*", ""]) == 0
    name, text = one(here)
    assert capsys.readouterr() == (f"{name}\n", "")
    assert re.fullmatch(r"printf\.[a-z0-9]{8}", name)
    assert text == f"#!/bin/sh\ncd {here} || exit\nexec printf '%s|' 'a b' '$HOME' -n -- '*' ''\n"
    done = by_hand(here)
    assert (done.returncode, done.stdout) == (0, b"a b|$HOME|-n|--|*||")


def test_options_end_with_the_command(here: Path) -> None:
    """Options behind CMD are CMD's; ``--`` ends ours before it."""
    assert main(["submit", "--cpus", "2", "--", "echo", "--cpus", "9", "-s", "x"]) == 0
    assert asked(here).cpus == 2
    assert by_hand(here).stdout == b"--cpus 9 -s x\n"


def test_command_that_is_not_utf8(here: Path) -> None:
    """Arguments are bytes."""
    main(["submit", "printf", "%s", os.fsdecode(b"\xff\xfe"), "x\ny"])
    ((_, text),) = spooled(here).items()
    assert b"'\xff\xfe'" in text
    assert by_hand_bytes(here) == b"\xff\xfex\ny"


def by_hand_bytes(here: Path) -> bytes:
    """Run the only job by hand and return what it wrote."""
    (name,) = spooled(here)
    path = here.parent / "spool" / name
    return subprocess.run([path], cwd="/", capture_output=True, check=True).stdout


def test_directory_as_its_user_calls_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path through a link is kept; a PWD that is a lie is not believed."""
    (here.parent / "link").symlink_to(here)
    monkeypatch.setenv("PWD", str(here.parent / "link"))
    assert main(["submit", "sh", "-c", "pwd"]) == 0
    assert f"cd {here.parent / 'link'} ||" in one(here)[1]
    assert by_hand(here).stdout.decode() == f"{here.parent / 'link'}\n"
    for path in (here.parent / "spool").iterdir():
        path.unlink()
    monkeypatch.setenv("PWD", "/")
    assert main(["submit", "pwd"]) == 0
    assert f"cd {here} ||" in one(here)[1]


def test_program_here(here: Path) -> None:
    """A program named by a path runs from where it was submitted."""
    script(here / "prog", "#!/bin/sh\necho prog $1\n")
    assert main(["submit", "./prog", "x"]) == 0
    assert by_hand(here).stdout == b"prog x\n"
    assert one(here)[0].startswith("prog.")


def test_program_on_a_path_of_ones_own(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a job's own PATH does not have is submitted with its whole path."""
    (here / "bin").mkdir()
    script(here / "bin" / "mine", "#!/bin/sh\necho mine\n")
    for path in (f"{here}/bin:{os.environ['PATH']}", f"bin:{os.environ['PATH']}"):
        monkeypatch.setenv("PATH", path)
        assert main(["submit", "mine", "x"]) == 0
        assert f"exec {here}/bin/mine x\n" in one(here)[1]
        for job in (here.parent / "spool").iterdir():
            job.unlink()


def test_program_in_another_directory(here: Path, capsys: Captured) -> None:
    """With --directory a relative program is one that is found there, or is refused now."""
    (here / "sub").mkdir()
    script(here / "prog", "#!/bin/sh\necho here\n")
    code = main(["submit", "--directory", str(here / "sub"), "./prog", "x"])
    if code == 0:
        assert by_hand(here).stdout == b"here\n"
    else:
        assert (code, spooled(here)) == (NO_INPUT, {})


def test_another_directory(here: Path) -> None:
    """--directory says where; a relative one is from here."""
    (here / "sub dir").mkdir()
    assert main(["submit", "--directory", "sub dir", "pwd"]) == 0
    assert by_hand(here).stdout.decode() == f"{here}/sub dir\n"


@pytest.mark.parametrize("name", ["a b", "it's", "new\nline", os.fsdecode(b"\xff"), "$x", "-d"])
def test_odd_directory(name: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever one is, a command runs there."""
    (here / name).mkdir()
    monkeypatch.chdir(here / name)
    monkeypatch.delenv("PWD")
    assert main(["submit", "sh", "-c", "touch made; pwd"]) == 0
    assert by_hand_bytes(here) == os.fsencode(here / name) + b"\n"
    assert (here / name / "made").exists()


# --- SCRIPT and -


def test_script_is_copied_as_it_is_now(here: Path) -> None:
    """One word that names a script here is that script, whatever becomes of it later."""
    path = script(here / "job.sh", "#!/bin/sh\n#PMJQ nice=1\necho first\npwd\n")
    assert main(["submit", "--cpus", "2", "job.sh"]) == 0
    path.write_text("#!/bin/sh\necho second\n")
    name, text = one(here)
    assert name.startswith("job.sh.")
    assert text.startswith(f"#!/bin/sh\n#PMJQ nice=1\n#PMJQ directory={here} cpus=2\n")
    assert (asked(here).cpus, asked(here).nice, asked(here).directory) == (2, 1, str(here))
    assert by_hand(here).stdout == b"first\n/\n"


def test_script_with_arguments_is_a_command(here: Path) -> None:
    """With arguments it is run where it lies."""
    script(here / "job.sh", "#!/bin/sh\necho $1\n")
    assert main(["submit", "./job.sh", "x"]) == 0
    assert "exec ./job.sh x\n" in one(here)[1]


def test_program_that_is_no_script_is_a_command(here: Path) -> None:
    """A binary is not copied."""
    assert main(["submit", "/bin/true"]) == 0
    assert one(here)[1].endswith("exec /bin/true\n")


def test_option_outranks_the_line_of_the_script(here: Path) -> None:
    """Who asks on the command line has the last word, as with other queues."""
    script(here / "job.sh", "#!/bin/sh\n#PMJQ cpus=2 tags=a env=A=1\n")
    assert main(["submit", "--cpus", "8", "--tags", "b", "--env", "A=2", "./job.sh"]) == 0
    spec = asked(here)
    assert spec.cpus == 8
    assert set(spec.tags) == {"a", "b"}
    assert dict(word.split("=") for word in spec.env) == {"A": "2"}


def test_standard_input(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """- reads a script; without a name it is called stdin."""
    standard_input(monkeypatch, b"#!/bin/sh\necho in\n")
    assert main(["submit", "-"]) == 0
    name, text = one(here)
    assert name.startswith("stdin.")
    assert text.endswith("\necho in\n")
    assert by_hand(here).stdout == b"in\n"


def test_standard_input_without_an_interpreter(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text without #! is a shell script."""
    standard_input(monkeypatch, b"echo plain\n")
    assert main(["submit", "-n", "plain", "-"]) == 0
    assert one(here)[0].startswith("plain.")
    assert asked(here).shell


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "standard input: is empty"),
        (b" \n\t\n", "standard input: is empty"),
        (b"#!/bin/sh\r\necho\r\n", "CR LF"),
        (b"\xef\xbb\xbf#!/bin/sh\n", "byte order mark"),
        (b"#!/bin/sh\n#PMJQ cpu=4\n", "line 2: #PMJQ cpu=4: unknown key cpu; did you mean cpus?"),
        (b"#!\n", "names no interpreter"),
        (b"\x7fELF\x02\x01\x01" + bytes(1000), "standard input"),
    ],
)
def test_text_that_no_daemon_would_run(
    text: bytes, told: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """It is refused while a person listens."""
    standard_input(monkeypatch, text)
    assert told in refusal(here, capsys, USAGE, "-")


def test_script_in_a_place_that_no_directive_can_name(
    here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what to do instead."""
    script(here / "job.sh")
    assert "submit a command" in refusal(here, capsys, USAGE, "--env", "A=a\nb", "./job.sh")
    (here / "new\nline").mkdir()
    monkeypatch.chdir(here / "new\nline")
    monkeypatch.delenv("PWD")
    assert "submit a command" in refusal(here, capsys, USAGE, "../job.sh")


# --- --batch


def test_batch(here: Path, capsys: Captured) -> None:
    """Each line but comments is a job; their names are told in their order."""
    (here / "list").write_text(
        "# what to do\n\necho one; pwd\n  X=2 /bin/echo 'two  2'  \n\nprintf %s three # not %d\n"
    )
    assert main(["submit", "--batch", "list", "--cpus", "3"]) == 0
    names = capsys.readouterr().out.split()
    assert [name.rpartition(".")[0] for name in names] == ["echo", "X_2", "printf"]
    assert sorted(names) == sorted(spooled(here))
    outputs = [
        subprocess.run([here.parent / "spool" / name], capture_output=True, check=True).stdout
        for name in names
    ]
    assert outputs == [f"one\n{here}\n".encode(), b"two  2\n", b"three"]
    assert all(b"#PMJQ cpus=3\n" in text for text in spooled(here).values())


def test_batch_from_standard_input(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """- is standard input here too, and -n calls all of them."""
    standard_input(monkeypatch, b"true\nfalse")
    assert main(["submit", "-n", "all", "--batch", "-"]) == 0
    names = capsys.readouterr().out.split()
    assert [name.rpartition(".")[0] for name in names] == ["all", "all"]


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n   \n"])
def test_empty_batch(text: str, here: Path, capsys: Captured) -> None:
    """A batch without a command is a mistake, not no jobs."""
    (here / "list").write_text(text)
    assert "has no command in it" in refusal(here, capsys, USAGE, "--batch", "list")


def test_empty_batch_from_standard_input(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """So is an empty standard input."""
    standard_input(monkeypatch, b"")
    assert "has no command in it" in refusal(here, capsys, USAGE, "--batch", "-")


def test_batch_that_cannot_be_read(here: Path, capsys: Captured) -> None:
    """No such file, no file, and more than one source."""
    assert "no such file" in refusal(here, capsys, NO_INPUT, "--batch", "none")
    refusal(here, capsys, USAGE, "--batch", ".")
    (here / "list").write_text("true\n")
    assert "give no other" in refusal(here, capsys, USAGE, "--batch", "list", "true")


@pytest.mark.parametrize(
    "line", ["/a/b/../c x", "$(x) y", ". ./env", "'a b' c", "-x", "é", "x" * 999]
)
def test_name_of_a_line(line: str, here: Path) -> None:
    """Whatever a line begins with, its job has a name that can be typed."""
    (here / "list").write_text(f"{line}\n")
    assert main(["submit", "--batch", "list"]) == 0
    ((name, text),) = spooled(here).items()
    assert text.decode().endswith(f"\n{line}\n")
    assert not set(name) & set("/ $()'\n")
    assert not name.startswith(".")


# --- --array


def test_array(here: Path, capsys: Captured) -> None:
    """One job for each index, which it knows; all know that they belong together."""
    command = ["sh", "-c", "echo $PMJQ_ARRAY_INDEX $PMJQ_ARRAY_ID"]
    assert main(["submit", "-n", "part", "--array", "1,4-8:2", *command]) == 0
    names = capsys.readouterr().out.split()
    assert [name.rpartition(".")[0] for name in names] == [f"part.{n}" for n in (1, 4, 6, 8)]
    outputs = [
        subprocess.run([here.parent / "spool" / name], capture_output=True, check=True).stdout
        for name in names
    ]
    assert [out.split()[0] for out in outputs] == [b"1", b"4", b"6", b"8"]
    assert len({out.split()[1] for out in outputs}) == 1


def test_array_with_a_limit(here: Path, capsys: Captured) -> None:
    """Each waits for the one so many places before it."""
    assert main(["submit", "--array", "0-4%2", "true"]) == 0
    names = capsys.readouterr().out.split()
    text = {name: spooled(here)[name].decode() for name in names}
    for number, name in enumerate(names):
        spec = directives.spec(text[name].encode())
        assert isinstance(spec, Spec)
        assert spec.after_any == ((names[number - 2],) if number >= 2 else ())


@pytest.mark.parametrize(
    "name",
    ["a,b.sh", " a.sh", "a b.sh", "new\nline.sh", "tab\t.sh", "it's.sh", os.fsdecode(b"\xff.sh")],
)
def test_array_of_a_script_with_an_odd_name(name: str, here: Path, capfdbinary: Any) -> None:  # noqa: ANN401  # as pytest has it
    """Each waits for the one that is meant, whatever they are called, or it is refused."""
    script(here / name)
    code = main(["submit", "--array", "0-1%1", f"./{name}"])
    if code == USAGE:
        assert spooled(here) == {}
        return
    assert code == 0
    texts = spooled(here)
    (second,) = [text for name, text in texts.items() if ".1." in name]
    (first,) = [name for name in texts if ".0." in name]
    spec = directives.spec(second)
    assert isinstance(spec, Spec)
    assert spec.after_any == (first,)
    assert second.endswith(b"\necho ran\n")
    assert second.count(b"\n") == 3


@pytest.mark.parametrize("text", ["", "x", "3-1", "0-9%0", "0-9:0", "1-"])
def test_wrong_array(text: str, here: Path, capsys: Captured) -> None:
    """It is refused with an example of each."""
    told = refusal(here, capsys, USAGE, "--array", text, "true")
    assert f"--array {text}: must be numbers and ranges" in told


def test_array_of_too_many(here: Path, capsys: Captured) -> None:
    """It is refused as a whole, and it is said how many may be."""
    told = refusal(here, capsys, USAGE, "--array", "0-100000", "true")
    assert "--array 0-100000: " in told
    assert "more than 100000 jobs" in told


def test_array_of_a_batch(here: Path) -> None:
    """Each line for each index."""
    (here / "list").write_text("echo a\necho b\n")
    assert main(["submit", "--batch", "list", "--array", "0-2"]) == 0
    assert len(spooled(here)) == 6


def test_limit_of_an_array_is_kept(tmp_path: Path, here: Path) -> None:
    """Never more than LIMIT of an array run at once, however many slots there are."""
    work = tmp_path / "work"
    work.mkdir()
    # A directory for each that runs; each counts those that are there with it.
    command = f'mkdir "$$" && ls "{work}" | wc -l && sleep 0.1 && rmdir "$$"'
    with Live(tmp_path, "-j", "8") as live:
        code = main(
            [
                "submit",
                "--directory",
                str(work),
                "-n",
                "a",
                "--array",
                "0-11%3",
                "sh",
                "-c",
                command,
            ]
        )
        assert code == 0
        eventually(lambda: len(live.filed()) == 12, within=60)
        assert {filed.record.state for filed in live.filed()} == {State.DONE}
        counts = [int(filed.text) for filed in live.filed()]
        assert max(counts) <= 3


# --- options


OPTIONS = {
    "directory": ("/tmp", None),
    "cpus": ("all", "cpus=all"),
    "memory": ("4G", "memory=4G"),
    "gpus": ("0", "gpus=0"),
    "time": ("1h", "time=1h"),
    "grace": ("5s", "grace=5s"),
    "output-limit": ("1M", "output-limit=1M"),
    "priority": ("-3", "priority=-3"),
    "restartable": (None, "restartable=yes"),
    "retries": ("2", "retries=2"),
    "backoff": ("0", "backoff=0"),
    "after": ("a b,c", "after=a b,c"),
    "after-any": ("x", "after-any=x"),
    "not-before": ("2026-01-01T00:00:00Z", "not-before=2026-01-01T00:00:00Z"),
    "nice": ("5", "nice=5"),
    "mail": ("ann@x,bob", "mail=ann@x,bob"),
    "mail-on": ("end,fail", "mail-on=end,fail"),
    "tags": ("it's,b", "tags=it's,b"),
}


def test_every_key_is_an_option() -> None:
    """The options are those of the table of keys."""
    assert {*OPTIONS, "name", "env"} == {*KEYS}
    names = {name for option in submit.submit.params for name in option.opts}
    assert {f"--{name}" for name in KEYS} <= names


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("source", ["command", "script"])
def test_option_becomes_a_directive(name: str, source: str, here: Path) -> None:
    """Each ends as a word of a #PMJQ line that the daemon understands."""
    value, word = OPTIONS[name]
    given = [f"--{name}"] if value is None else [f"--{name}", value]
    script(here / "job.sh")
    words = ["true"] if source == "command" else ["./job.sh"]
    assert main(["submit", *given, *words]) == 0
    if word is not None:
        assert word in asked(here).directives
    elif source == "script":
        assert asked(here).directory == value
    else:
        assert f"cd {value} ||" in one(here)[1]


@pytest.mark.parametrize("name", ["after", "after-any", "mail", "mail-on", "tags"])
def test_option_that_adds(name: str, here: Path) -> None:
    """Given twice it adds."""
    value = "end" if name == "mail-on" else "one"
    other = "fail" if name == "mail-on" else "two"
    assert main(["submit", f"--{name}", value, f"--{name}", other, "true"]) == 0
    assert getattr(asked(here), KEYS[name].field) == (value, other)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--cpus", "many"], "cpus=many: must be a whole number from 1 on, or all"),
        (["--memory", "lots"], "memory=lots: is no size"),
        (["--time", "-1"], "time=-1: is no duration"),
        (["--not-before", "tomorrow"], "is no time with its zone"),
        (["--not-before", "0001-01-01T00:00:00+14:00"], "is no time with its zone"),
        (["--nice", "99"], "nice=99: must be"),
        (["--mail-on", "never"], "mail-on=never: must be"),
        (["--after", "a,,b"], "must be names with commas between them"),
        (["--tags", "a\nb"], "must be printable"),
        (["--after", os.fsdecode(b"\xff")], "name jobs with odd names by their ids"),
        (["--name", "a/b"], "--name 'a/b': must be printable letters, without a slash"),
        (["--name", ""], "must be printable letters"),
        (["--name", ".."], "must be printable letters"),
        (["--name", "a\nb"], "must be printable letters"),
        (["-n", os.fsdecode(b"\xff")], "must be printable letters"),
        (["--env", "=x"], "wants a name before ="),
        (["--env", "SURELY_NOT_SET"], "is not set here; write SURELY_NOT_SET=VALUE"),
        (["--cpu", "4"], "--cpu"),
        (["--directory", ""], "directory"),
    ],
)
def test_wrong_option(words: list[str], told: str, here: Path, capsys: Captured) -> None:
    """A wrong value is refused in the words of its key, and nothing is submitted."""
    before = spooled(here)
    assert main(["submit", *words, "true"]) in (USAGE, NO_INPUT)
    assert told in capsys.readouterr().err
    assert spooled(here) == before


def test_name(here: Path) -> None:
    """-n calls the job; letters of any language and blanks are fine."""
    assert main(["submit", "-n", "größe 中 it's", "true"]) == 0
    assert one(here)[0].startswith("größe 中 it's.")


def test_long_name(here: Path) -> None:
    """A name that no file can have is shortened; its mark stays."""
    assert main(["submit", "-n", "中" * 300, "true"]) == 0
    name, _ = one(here)
    assert len(os.fsencode(name)) <= 255
    assert re.search(r"\.[a-z0-9]{8}$", name)


def test_names_are_unique(here: Path, capsys: Captured) -> None:
    """The same again is another job."""
    for _ in range(20):
        assert main(["submit", "true"]) == 0
    names = capsys.readouterr().out.split()
    assert sorted(names) == sorted(spooled(here))
    assert len(names) == 20


@pytest.mark.parametrize("source", ["command", "script"])
def test_env(source: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable is set to a value, or as it is here; others are not taken along."""
    monkeypatch.setenv("HERE", "it's $x")
    monkeypatch.setenv("OTHER", "1")
    script(here / "job.sh")
    words = ["true"] if source == "command" else ["./job.sh"]
    assert main(["submit", "--env", "A=b=c d", "--env", "HERE", "--env", "E=", *words]) == 0
    text = one(here)[1]
    assert "OTHER" not in text
    if source == "script":
        assert asked(here).env == ("A=b=c d", "HERE=it's $x", "E=")
    else:
        assert "export A='b=c d'\nexport HERE='it'\\''s $x'\nexport E=''\n" in text


def test_env_all(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--env-all takes all along, and --env still has the last word."""
    monkeypatch.setenv("ONE", "1\n'2'")
    monkeypatch.setenv("odd.name", "x")
    assert main(["submit", "--env-all", "--env", "ONE=3", "--env", "TWO=2", "env", "-0"]) == 0
    (name,) = spooled(here)
    done = subprocess.run(
        [here.parent / "spool" / name],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    found = dict(each.split(b"=", 1) for each in done.stdout.split(b"\0")[:-1])
    assert (found[b"ONE"], found[b"TWO"], found[b"odd.name"]) == (b"3", b"2", b"x")
    assert found[b"HOME"] == os.environb[b"HOME"]


def test_env_of_a_batch(here: Path) -> None:
    """A variable with a name that no shell can export is not lost, or it is refused."""
    (here / "list").write_text("env\n")
    if main(["submit", "--env", "odd.name=x", "--batch", "list"]) == 0:
        assert b"odd.name=x\n" in by_hand(here).stdout


def test_large_environment_of_a_script(here: Path, capsys: Captured) -> None:
    """What is more than a daemon reads is refused while a person listens."""
    script(here / "job.sh")
    value = "x" * (2 * directives.HEAD)
    if main(["submit", "--env", f"A={value}", "--cpus", "3", "./job.sh"]) == 0:
        assert asked(here).env == (f"A={value}",)
        assert asked(here).cpus == 3
    else:
        assert spooled(here) == {}


def test_hold(here: Path) -> None:
    """--hold submits without the permission to execute."""
    assert main(["submit", "--hold", "true"]) == 0
    (path,) = (here.parent / "spool").iterdir()
    assert not os.access(path, os.X_OK) or not path.stat().st_mode & 0o111
    assert path.stat().st_mode & 0o600 == 0o600


def test_json(here: Path, capsys: Captured) -> None:
    """One object per line, with the exact name where JSON cannot have it."""
    script(here / os.fsdecode(b"caf\xe9"))
    assert main(["submit", "--json", "--array", "0-1", "true"]) == 0
    assert main(["submit", "--json", os.fsdecode(b"./caf\xe9")]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 3
    assert [row["name_hex"] for row in rows[:2]] == ["", ""]
    assert {row["name"] for row in rows[:2]} < set(spooled(here))
    assert rows[2]["name"].startswith("caf\\xe9.")
    assert os.fsdecode(bytes.fromhex(rows[2]["name_hex"])) in spooled(here)


# --- refusals


def test_nothing_to_submit(here: Path, capsys: Captured) -> None:
    """It says what can be."""
    assert "name a command or a script, or - for" in refusal(here, capsys, USAGE)
    refusal(here, capsys, USAGE, "--cpus", "2")
    refusal(here, capsys, USAGE, "--")


@pytest.mark.parametrize("words", [["no-such-command"], ["./none"], ["/no/such", "x"], [""]])
def test_unknown_command(words: list[str], here: Path, capsys: Captured) -> None:
    """A command that is not there is not submitted."""
    assert "no such command" in refusal(here, capsys, NO_INPUT, *words)


def test_not_executable(here: Path, capsys: Captured) -> None:
    """A script that is not executable is told how it could be."""
    script(here / "job.sh", mode=0o644)
    assert "chmod u+x" in refusal(here, capsys, NOT_PERMITTED, "job.sh")
    assert "chmod u+x" in refusal(here, capsys, NOT_PERMITTED, "./job.sh")
    assert "chmod u+x" in refusal(here, capsys, NOT_PERMITTED, "./job.sh", "x")
    (here / "dir").mkdir()
    assert "not executable" in refusal(here, capsys, NOT_PERMITTED, "./dir")


def test_missing_spool(here: Path, capsys: Captured) -> None:
    """A spool is never made."""
    told = refusal(here, capsys, NO_INPUT, "-s", str(here / "none"), "true")
    assert "no such directory" in told
    assert not (here / "none").exists()
    assert "SPOOL is empty" in refusal(here, capsys, USAGE, "-s", "", "true")


def test_spool_that_is_a_file(here: Path, capsys: Captured) -> None:
    """A file is no spool; it stays as it is."""
    path = script(here / "file")
    assert main(["submit", "-s", str(path), "true"]) in (NO_INPUT, CANNOT_CREATE)
    assert capsys.readouterr().err.startswith("pmjq: ")
    assert path.read_text() == "#!/bin/sh\necho ran\n"


@pytest.mark.skipif(ROOT, reason="root may write everywhere; nobody runs it too")
def test_unwritable_spool(here: Path, capsys: Captured) -> None:
    """A person is told whom to ask."""
    (here.parent / "spool").chmod(0o555)
    assert "ask its owner" in refusal(here, capsys, NOT_PERMITTED, "true")
    (here.parent / "spool").chmod(0o755)


@pytest.mark.skipif(ROOT, reason="root may write everywhere; nobody runs it too")
def test_tree_that_may_not_be_written(here: Path) -> None:
    """In another's tree nothing can be made: the spool itself has to do."""
    (here.parent / "spool" / ".pmjq" / "tmp").mkdir(parents=True)
    (here.parent / "spool" / ".pmjq" / "tmp").chmod(0o555)
    assert main(["submit", "true"]) == 0
    names = os.listdir(here.parent / "spool")
    assert len(names) == 2
    assert not [name for name in names if name.startswith(".pmjq-")]


@pytest.mark.skipif(ROOT, reason="root may read everything; nobody runs it too")
def test_unreadable_script(here: Path, capsys: Captured) -> None:
    """A script that may be executed and not read is told so, in one line."""
    script(here / "job.sh", mode=0o111)
    refusal(here, capsys, NOT_PERMITTED, "./job.sh")


def test_all_this_as_nobody() -> None:
    """The same without the rights that root has."""
    again_as_nobody("tests/test_submit.py", "-k", "writ or unreadable")


def test_full_disk(here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room it says so, with the exit code for that."""
    disk = MemDisk(Clock())
    disk.tree(str(here.parent / "spool"))
    faulty = Faulty(disk, Faults(1, How.FAIL, errno.ENOSPC, lasting=True,
                                 matching=lambda name, _: name == "create"))  # fmt: skip
    monkeypatch.setattr(queue, "Onlooker", lambda: faulty)
    assert main(["submit", "true"]) == CANNOT_CREATE
    out, err = capsys.readouterr()
    assert (out, os.strerror(errno.ENOSPC) in err, err.count("\n")) == ("", True, 1)
    assert disk.paths(str(here.parent / "spool")) == []


def test_names_that_cannot_be_printed(here: Path) -> None:
    """Who closed the pipe has read enough: all are submitted, without a traceback."""
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m pmjq submit --array 0-99 true | head -1"],
        env={**os.environ, "PYTHONPATH": PROJECT},
        capture_output=True,
        check=False,
    )
    assert done.stderr == b""
    assert len(spooled(here)) == 100


def test_submission_needs_little(here: Path) -> None:
    """A submission is to be quick: it loads nothing that only a daemon needs."""
    code = (
        "import sys; from pmjq.cli import main\n"
        "code = main(['submit', 'true'])\n"
        "heavy = 'anyio asyncio psutil structlog watchfiles pmjq.daemon pmjq.turn'.split()\n"
        "print(code, sorted({*heavy} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": PROJECT},
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "0 []"


# --- Queue.submit


def test_queue_submit(here: Path) -> None:
    """A program submits with the same words."""
    spool = Queue(here.parent / "spool")
    name = spool.submit(
        ["printf", b"\xff"],
        name="x",
        cpus=2,
        after=["a", "b"],
        restartable=True,
        variables={"A": "1"},
    )
    spec = asked_bytes(here, name)
    assert (spec.cpus, spec.after, spec.restartable) == (2, ("a", "b"), True)
    assert b"export A=1\n" in spooled(here)[name]
    assert name.startswith("x.")
    held = spool.submit(b"#!/bin/sh\n", held=True, output_limit="1M")
    assert not (here.parent / "spool" / held).stat().st_mode & 0o111
    assert asked_bytes(here, held).output_limit == 1 << 20


def asked_bytes(here: Path, name: str) -> Spec:
    """Return what a job in the spool asks for."""
    spec = directives.spec(spooled(here)[name][: directives.HEAD])
    assert isinstance(spec, Spec)
    return spec


@pytest.mark.parametrize(
    ("command", "given"),
    [
        ([], {}),
        (["a\0b"], {}),
        (["true"], {"cpu": 4}),
        (["true"], {"cpus": 0}),
        (["true"], {"name": "a/b"}),
        (["true"], {"name": "../b"}),
        (["true"], {"name": "a\0b"}),
        (["true"], {"variables": {"A": "a\0b"}}),
        (["true"], {"variables": {"A=B": "c"}}),
        (["true"], {"variables": {"": "c"}}),
        (["true"], {"directory": "/a\0b"}),
        (b"", {}),
    ],
)
def test_queue_refuses(command: Any, given: dict[str, Any], here: Path) -> None:  # noqa: ANN401  # wrong ones
    """What cannot be submitted is a UsageError, and nothing leaves the spool's directory."""
    before = sorted(os.listdir(here.parent))
    with pytest.raises(UsageError):
        Queue(here.parent / "spool").submit(command, **given)
    assert spooled(here) == {}
    assert sorted(os.listdir(here.parent)) == before


def test_queue_submits_a_script_with_all_that_is_given(here: Path) -> None:
    """A text runs in a directory with variables as a command does, if both are given."""
    name = Queue(here.parent / "spool").submit(
        b"#!/bin/sh\n", directory="/tmp", variables={"A": "1"}
    )
    spec = asked_bytes(here, name)
    assert (spec.directory, spec.env) == ("/tmp", ("A=1",))


# --- with a daemon


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Return a daemon that the tests below share."""
    with Live(tmp_path_factory.mktemp("live"), "-j", "4") as daemon:
        yield daemon


def run(live: Live, *words: str, **more: Any) -> subprocess.CompletedProcess[bytes]:  # noqa: ANN401  # subprocess's
    """Run the real command on that daemon's spool."""
    command = [sys.executable, "-m", "pmjq", "submit", "-s", str(live.spool), *words]
    environment = {**os.environ, "PYTHONPATH": PROJECT}
    return subprocess.run(
        command, env=environment, capture_output=True, check=False, timeout=60, **more
    )


@pytest.mark.parametrize(
    ("script_text", "code"),
    [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 137), ("kill -TERM $$", 143)],
)
@pytest.mark.parametrize("option", ["--wait", "--follow"])
def test_exit_code_is_the_jobs(option: str, script_text: str, code: int, live: Live) -> None:
    """--wait and --follow exit as the job did, 128+N for signal N."""
    done = run(live, option, "sh", "-c", f"echo said; {script_text}")
    assert done.returncode == code
    if option == "--follow":
        assert done.stdout == b"said\n"
    else:
        name = done.stdout.decode().strip()
        assert live.ended(name).text == "said\n"


def test_rejected_job_ends_a_wait(live: Live, tmp_path: Path) -> None:
    """A job that cannot be run ends with 1."""
    script(tmp_path / "job.sh", "#!/no/such/interpreter\n")
    assert run(live, "--wait", str(tmp_path / "job.sh")).returncode == 1


def test_follow_prints_as_it_comes(live: Live) -> None:
    """All of the output, also of a job that is running, and nothing else."""
    gate = live.gate("follow")
    command = [sys.executable, "-m", "pmjq", "submit", "-s", str(live.spool), "--follow"]
    with subprocess.Popen(
        [*command, "sh", "-c", f"echo first; {gate.wait} printf 'last\\377'"],
        env={**os.environ, "PYTHONPATH": PROJECT},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        gate.open()
        assert process.stdout.read() == b"last\xff"
        assert process.wait(30) == 0


def test_interrupted_follow_leaves_the_job(live: Live) -> None:
    """Control-C ends the looking, not the job."""
    gate = live.gate("interrupt")
    command = [sys.executable, "-m", "pmjq", "submit", "-s", str(live.spool), "-n", "left"]
    with subprocess.Popen(
        [*command, "--follow", "sh", "-c", f"echo first; {gate.wait} echo last"],
        env={**os.environ, "PYTHONPATH": PROJECT},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err.strip()) == (130, b"")
    gate.open()
    (filed,) = eventually(
        lambda: [one for one in live.filed() if one.record.name.startswith("left.")]
    )
    assert (filed.text, filed.record.state) == ("first\nlast\n", State.DONE)


def test_wait_and_follow_want_one_job(live: Live, tmp_path: Path) -> None:
    """Of a batch of several there is no one output, and no one exit code."""
    assert run(live, "--follow", "--array", "0-1", "true").returncode == USAGE
    (tmp_path / "list").write_text("true\ntrue\n")
    assert run(live, "--wait", "--batch", str(tmp_path / "list")).returncode == USAGE


def test_wait_for_an_array_tells_of_any_failure(live: Live) -> None:
    """If one of them failed, the whole did not end well."""
    done = run(live, "--wait", "--array", "0-2", "sh", "-c", "exit $PMJQ_ARRAY_INDEX")
    assert done.returncode != 0


def test_directives_are_in_the_record(live: Live) -> None:
    """What was asked for stands in the record as it was written."""
    options = {name: one for name, one in OPTIONS.items() if one[1] and "after" not in name}
    given = [
        word
        for name, (value, _) in options.items()
        for word in ((f"--{name}",) if value is None else (f"--{name}", value))
    ]
    done = run(live, *given, "true")
    record = live.ended(done.stdout.decode().strip()).record
    assert sorted(record.directives) == sorted(str(word) for _, word in options.values())


@pytest.mark.parametrize("argument", [b"", b"a b", b"'\"$x`", b"\xff", b"\n", b"-n", b"*"])
def test_argument_arrives(argument: bytes, live: Live, tmp_path: Path) -> None:
    """From the command line through the spool to the program, exact to the byte."""
    done = run(live, "--follow", "printf", "%s|", os.fsdecode(argument), cwd=tmp_path)
    assert done.stdout == argument + b"|"


def test_command_runs_where_it_was_submitted(live: Live, tmp_path: Path) -> None:
    """A script and a command alike, in a directory of any printable name."""
    place = tmp_path / "it's a $place"
    place.mkdir()
    script(place / "job.sh", '#!/bin/sh\npwd; echo "$PWD"; echo "$A"\n')
    for words in (["./job.sh"], ["sh", "./job.sh"], ["-n", "x", "job.sh"]):
        done = run(live, "--env", "A=a 'b'", "--follow", *words, cwd=place)
        assert done.stdout.decode() == f"{place}\n{place}\na 'b'\n"


def test_hold_and_release(live: Live) -> None:
    """A held job does not start before it is released."""
    name = run(live, "--hold", "echo", "released").stdout.decode().strip()
    live.drop("canary-hold")
    live.ended("canary-hold")
    assert name in live.spooled()
    assert Queue(live.spool).release([name])[0].done
    assert live.ended(name).text == "released\n"


def test_many_submitters(live: Live) -> None:
    """Several at a time: each job runs once, under the name that was told."""
    names: list[str] = []

    def submit_some() -> None:
        text = run(live, "--array", "0-9", "sh", "-c", "echo $PMJQ_ARRAY_INDEX").stdout.decode()
        names.extend(text.split())

    threads = [threading.Thread(target=submit_some) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 30
    for name in names:
        assert live.ended(name).text == f"{name.split('.')[1]}\n"


@pytest.mark.parametrize("source", ["<(echo true; echo false)", "/dev/stdin", "pipe"])
def test_batch_from_what_is_no_file(here: Path, source: str) -> None:
    """Process substitution, a device and a FIFO are read like a file."""
    os.mkfifo(here / "pipe")
    line = f"{sys.executable} -m pmjq submit --batch {source}"
    feeder = "(echo true; echo false) >pipe &" if source == "pipe" else ""
    done = subprocess.run(
        ["bash", "-c", f"{feeder} printf 'true\\nfalse\\n' | {line}"],
        env={**os.environ, "PYTHONPATH": PROJECT},
        cwd=here,
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stderr, done.stdout.count(b"\n")) == (0, b"", 2)


def test_too_much_to_be_read(here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused as a whole, and no part of it submitted."""
    monkeypatch.setattr(submit, "MOST_READ", 1 << 20)
    (here / "batch").write_text("true\n" * (1 << 18))
    refusal(here, capsys, USAGE, "--batch", "batch")
