"""The rules of completion: what is offered, in what quotes, and that nothing else happens.

zsh and fish, which are not on every machine, are in tests/lab.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

import values
from pmjq import completion, node, shells
from pmjq.cli import BUILT, COMPLETING, VERBS, daemon, main
from pmjq.completion import Found
from pmjq.disk import Disk
from pmjq.job import Event, Record
from pmjq.shells import Typed
from pmjq.spool import Spool
from pmjq.state import State
from terminal import Shell
from values import CLAIMED, ID, QUEUED, attempt

TOKEN = node.token("ann-pc", "0" * 8, "1" * 8)
OLD = "1c5f0bfe-8a3c-4f2e-9f39-0c3a5d7e9a11"

FREE = {
    *("LOAD", "SLOTS", "NAME", "SECONDS", "N", "PATTERN", "TIME", "DURATION", "SIZE"),
    *("N-M[%LIMIT]", "ADDRESS,...", "WORD,...", "WORD", "CMD", "WAY", "ADDRESS"),
    "auto|GPU,...",
}
"""Metavars of what nobody can complete."""

NASTY = [
    "two words",
    "it's",
    'q"uote',
    "dollar$HOME",
    "`touch pwned`",
    "$(touch pwned)",
    "a:b:c",
    "e=f",
    "ba!ng",
    "w\\slash",
    "star*",
    "~root",
    "ünï",
    "sem;i",
    "x&y",
    "{k,l}",
    "#hash",
    "tr ",
    "user@host",
]
"""Names that mean something to a shell."""


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine nothing is left out."""
    monkeypatch.setattr(completion, "PATIENCE", 30.0)


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a spool with a job in each place, which is the current directory."""
    root = tmp_path / "spool"
    root.mkdir()
    life = Spool(Disk(), str(root), TOKEN)
    life.prepare(ID)
    life.begin()
    run = attempt(id=ID, name="job running", node="ann-pc", token=TOKEN)
    put(root, run.name)
    life.prepare_claim(run)
    assert life.claim(run)
    ended = Record(
        id=OLD, name="job ended", state=State.FAILED, stem=f"x-{OLD}-job ended", owner="ann",
        uid=1, node="ann-pc", attempt=1, queued=QUEUED, claimed=CLAIMED, ended=CLAIMED,
    )  # fmt: skip
    life.append([Event("job.ended", CLAIMED, record=ended)])
    put(root, "job queued")
    put(root, "job held", 0o644)
    put(root, ".job hidden")
    (root / "archive").mkdir()
    (root / "job directory").mkdir()
    (root / "job directory/job.toml").touch()
    (root / ".pmjq/drained").mkdir(exist_ok=True)
    (root / ".pmjq/drained/tired").touch()
    monkeypatch.chdir(root)
    monkeypatch.delenv("PMJQ_SPOOL", raising=False)
    return root


def put(root: Path, name: str, mode: int = 0o755) -> None:
    """Put a job into a spool."""
    (root / name).write_text("#!/bin/sh\n")
    (root / name).chmod(mode)


def offered(*words: str) -> list[str]:
    """Return what is offered for the last word, or as what a shell completes it."""
    items = completion.following(words[:-1], words[-1], daemon, BUILT, VERBS)
    kinds = ("plain", "open")
    return sorted(one.value if one.type in kinds else f"<{one.type}>" for one in items)


# --- words in, candidates out


def test_first_word_is_a_verb_or_a_spool(spool: Path) -> None:
    """A verb that is there, or a directory for the daemon; one that is reserved is not offered."""
    assert offered("ca") == ["cancel"]
    assert offered("a") == ["archive/"]
    assert offered("") == sorted([*BUILT, "archive/", "job directory/"])
    assert offered("../sp") == offered("~/") == ["<dir>"]
    assert offered("top", "") == []


def test_daemon() -> None:
    """Whatever is no verb is the daemon's: its options, their values, directories."""
    assert offered("--on-s") == ["--on-stop"]
    assert offered("-C", "4", "--on-stop", "") == ["kill", "leave", "wait"]
    assert offered("--log-format=c") == ["--log-format=console"]
    assert offered("-o", "") == offered("-C", "4", "") == offered("./list", "-e", "x") == ["<dir>"]
    assert offered("./list", "") == []


QUEUED_ONES = ["job directory", "job queued"]
LIVING = [*QUEUED_ONES, "job held", "job running"]


@pytest.mark.parametrize(
    ("verb", "expected"),
    [
        ("list", LIVING),
        ("wait", LIVING),
        ("cancel", LIVING),
        ("show", [*LIVING, "job ended"]),
        ("logs", [*LIVING, "job ended"]),
        ("hold", QUEUED_ONES),
        ("release", ["job held"]),
        ("retry", ["job ended"]),
        ("drain", ["ann-pc"]),
        ("resume", ["tired"]),
        ("submit", ["<file>"]),
        ("history", []),
        ("prune", []),
        ("nodes", []),
        ("doctor", ["<dir>"]),
    ],
)
def test_arguments_of_every_verb(spool: Path, verb: str, expected: list[str]) -> None:
    """Each verb offers what it can do something with, in the spool that is named in any way."""
    assert offered(verb, "") == sorted(expected)
    os.chdir("/")
    if verb not in ("submit", "doctor"):
        assert offered(verb, "") == []
    assert offered(verb, "-s", str(spool), "") == sorted(expected)
    os.environ["PMJQ_SPOOL"] = str(spool)
    try:
        assert offered(verb, "") == sorted(expected)
    finally:
        del os.environ["PMJQ_SPOOL"]


def test_every_verb_is_tested() -> None:
    """A verb more is a case more."""
    (mark,) = test_arguments_of_every_verb.pytestmark  # type: ignore[attr-defined]  # by pytest
    assert sorted(verb for verb, _ in mark.args[1]) == sorted(BUILT)


def test_options_of_every_verb() -> None:
    """Every long option is offered, and help is one."""
    for verb in BUILT:
        command = completion._command(verb, BUILT)
        long = [name for one in command.params for name in one.opts if name.startswith("--")]
        assert offered(verb, "--") == sorted([*long, "--help"])


def test_every_metavar_is_known() -> None:
    """A new kind of value is either completed or said to be free; none is left over."""
    commands = [daemon, *(completion._command(verb, BUILT) for verb in BUILT)]
    params = [one for command in commands for one in command.params]
    found = {one.metavar for one in params if not isinstance(one.type, click.Choice)}
    assert found - {None} == completion.WANTED.keys() | FREE


def test_values_of_options(spool: Path) -> None:
    """States, nodes, variables, directories and files, each where it is wanted."""
    assert offered("list", "--state", "r") == ["running"]
    assert offered("history", "--state=") == [
        f"--state={word}" for word in ("cancelled", "done", "failed", "lost", "rejected")
    ]
    assert offered("history", "--node", "") == ["ann-pc", "tired"]
    assert "root" in offered("history", "--owner", "r")
    assert offered("submit", "--cpus", "") == ["all"]
    assert offered("submit", "--env", "PAT") == ["PATH"]
    assert offered("submit", "--batch", "x") == ["<file>"]
    assert offered("submit", "--directory", "x") == offered("list", "-s", "") == ["<dir>"]


def test_lists_of_values(spool: Path) -> None:
    """Values with commas between them are completed one by one, none twice."""
    assert offered("submit", "--mail-on", "begin,") == ["begin,end", "begin,fail"]
    assert offered("submit", "--after=job q") == ["--after=job queued"]
    put(spool, "a,b")
    assert offered("submit", "--after", "job held,job ") == [
        f"job held,job {word}" for word in ("directory", "queued", "running")
    ]
    assert offered("submit", "--after", "a") == []


def test_command_of_submit(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first word is a program, a file or a directory; all after it is the program's own."""
    put(spool, "uniq.sh")
    monkeypatch.setenv("PATH", f"{spool}:/usr/bin:/nowhere:/bin")
    assert offered("submit", "uniq") == ["uniq", "uniq.sh"]
    assert offered("submit", "--hold", "arch") == ["arch", "archive/"]
    assert offered("submit", "./u") == ["<file>"]
    assert offered("submit", "sort", "-") == offered("submit", "sort", "-s", "") == ["<file>"]


def test_what_is_named_is_not_offered_again(spool: Path) -> None:
    """The second job is another one."""
    assert offered("cancel", "job queued", "job held", "") == ["job directory", "job running"]


def test_ids_and_paths(spool: Path) -> None:
    """A job may be named by its id, once it is begun, and by a path."""
    assert offered("cancel", ID[:4]) == [ID]
    assert offered("show", OLD[:6]) == [OLD]
    assert offered("cancel", ID[:3]) == []
    assert offered("cancel", "./jo") == ["<file>"]


def test_all_only_when_it_is_begun(spool: Path) -> None:
    """Nobody cancels everything by a TAB too many."""
    assert "ALL" not in offered("cancel", "")
    assert offered("cancel", "A") == offered("drain", "AL") == ["ALL"]


def test_a_name_like_an_option(spool: Path) -> None:
    """It is offered only where it is taken for a name."""
    put(spool, "-job")
    assert "-job" not in offered("cancel", "")
    assert offered("cancel", "--", "-") == ["-job"]


def test_a_spool_that_a_shell_would_expand(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands before the cursor is not expanded by the shell yet."""
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", str(spool.parent))
    for given_spool in ("~/spool", "$HOME/spool"):
        assert offered("release", "-s", given_spool, "") == ["job held"]


# --- quiet, quick, harmless


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh", ""])
def test_nothing_is_said(
    spool: Path,
    shell: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Whatever is wrong with the spool or the words, the terminal stays as it is."""
    monkeypatch.setenv(COMPLETING, shell)
    (spool / "torn").mkdir()
    (spool / "torn/.pmjq").write_text("a file")
    for line in (
        "pmjq cancel -s /nowhere ",
        "pmjq cancel -s torn ",
        "pmjq drain -s /dev/null ",
        "pmjq show -s archive ",
        "pmjq wait --timeout never x",
        "pmjq list --wrong --state x",
        "pmjq top ",
    ):
        assert main(handed_over(shell, line)) == 0
    assert main([]) == 0
    assert capfd.readouterr() == ("", "")
    for line in ("pmjq cancel --wrong ", 'pmjq cancel "', "pmjq cancel \\", "pmjq history -n"):
        assert main(handed_over(shell, line)) == 0
    out, err = capfd.readouterr()
    assert (bool(out), err) == (shell in ("bash", "zsh", "fish"), "")


def handed_over(shell: str, line: str) -> list[str]:
    """Return what the script of a shell calls pmjq with."""
    *before, last = line.split(" ")
    return [line, last] if shell == "bash" else [*before[1:], last]


def test_nothing_is_changed(spool: Path) -> None:
    """Not even a time of change."""

    def seen() -> list[tuple[str, int, int]]:
        paths = sorted([spool, *spool.rglob("*")])
        return [(str(p), p.lstat().st_mtime_ns, p.lstat().st_ctime_ns) for p in paths]

    before = seen()
    for verb in BUILT:
        offered(verb, "")
        offered(verb, "--")
    assert seen() == before


def test_a_spool_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found before patience is over is offered; the rest is not waited for."""
    monkeypatch.setattr(completion, "PATIENCE", 0.25)
    answers = threading.Event()

    def slow() -> Iterator[Found]:
        yield Found("first")
        answers.wait()
        yield Found("second")

    assert [one.value for one in completion._items(slow())] == ["first"]
    answers.set()


@given(st.sets(st.text(max_size=5)))
def test_of_too_many_names_those_that_tell_what_they_share(names: set[str]) -> None:
    """A shell inserts what all that is offered begins with, so that must hold for all there is."""
    many = {f"{name}{number}" for name in names for number in range(600)}
    few = shells.few(many)
    assert len(few) == min(len(many), shells.MOST)
    assert set(few) <= many
    shared = os.path.commonprefix  # Of letters, as here: its name is all that it has of paths.
    assert shared(few) == shared([*many])


def test_of_too_many_jobs_likewise(spool: Path) -> None:
    """Also where each has to be looked at for its state."""
    for number in range(shells.MOST + 20):
        put(spool, f"many-{number:04}", 0o755 if number else 0o644)
    put(spool, "many-z", 0o644)
    found = offered("hold", "many")
    assert shells.MOST <= len(found) <= shells.MOST + 1
    assert (found[0], found[-1]) == ("many-0001", f"many-{shells.MOST + 19:04}")
    assert offered("release", "many") == ["many-0000", "many-z"]


def test_nothing_is_loaded_for_nothing() -> None:
    """Who does not press TAB does not wait for it."""
    code = "import sys; from pmjq.cli import main; main(['list', '-h']); print([*sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert "pmjq.looking" in done.stdout
    assert "completion" not in done.stdout


# --- bash's quotes


@given(st.lists(values.NAMES))
def test_a_line_is_taken_apart_as_it_was_put_together(words: list[str]) -> None:
    """What is quoted by the rules of POSIX is understood."""
    quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in ["pmjq", *words])
    assert shells.typed("bash", [f"{quoted} ", ""]).words == words


@pytest.mark.parametrize(
    ("raw", "meant"),
    [
        ("a\\ b", "a b"),
        ("'a b", "a b"),
        ('"a b', "a b"),
        ('"a\\$\\b', "a$\\b"),
        ("a'b'\"c\"", "abc"),
        ("a\\", "a"),
        ("", ""),
        ("$(touch x)", None),
    ],
)
def test_a_word_that_is_not_finished(raw: str, meant: str | None) -> None:
    """An open quote or a backslash at the end is no harm, and nothing is ever run."""
    typed = shells.typed("bash", [f"pmjq cancel {raw}", raw])
    assert meant is None or typed == Typed(["cancel"], meant, raw, raw)


@pytest.mark.parametrize("style", ["", "'", '"'])
def test_bash_reads_the_exact_name(style: str, tmp_path: Path) -> None:
    """In any quotes a name is inserted so that bash has it exactly, or it is not offered."""
    lines = {
        name: shells.line("bash", Typed(["cancel"], "", style, ""), "plain", name)
        for name in [*NASTY, "new\nline", "tab\tbed", "\udcff"]
    }
    inserted = {name: line.split("\t")[1] for name, line in lines.items() if line}
    assert set(inserted) == set(NASTY) - ({"ba!ng"} if style == '"' else set())
    words = " ".join(f"{style}{text}{style}" for text in inserted.values())
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {words}"], capture_output=True, check=True, cwd=tmp_path
    )
    assert done.stdout.decode().split("\0")[:-1] == [*inserted]
    assert os.listdir(tmp_path) == []


def test_what_fish_would_expand_is_not_offered() -> None:
    """It inserts ~ at the beginning of a word without a backslash."""
    for shell, expected in (("fish", ""), ("zsh", "plain\t~root\t\n")):
        assert shells.line(shell, Typed([], ""), "plain", "~root") == expected


# --- the real thing


def test_verbs_and_jobs_in_a_real_bash(spool: Path, tmp_path: Path) -> None:
    """TAB completes the verb and shows the jobs, exactly as they are called."""
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    for name in NASTY:
        put(spool, name)
    with Shell("bash", spool, tmp_path / "shell") as bash:
        assert bash.called("pmjq canc\tjob\\ q\t\r") == ["cancel", "job queued"]
        assert bash.called("pmjq release \t\r") == ["release", "job held"]
        assert bash.called("pmjq list --state=qu\t\r") == ["list", "--state=queued"]
        assert bash.called("pmjq -o arch\t --on-stop l\t\r") == [
            "-o",
            "archive/",
            "--on-stop",
            "leave",
        ]
        for name in NASTY:
            plain = name[:2] if name[:2].isalnum() else f"\\{name[0]}"
            assert bash.called(f"pmjq cancel {plain}\t\r") == ["cancel", name]
            assert bash.called(f"pmjq cancel '{name[:2]}\t\r") == ["cancel", name]
        for begun in ("a:", "a:b:", "e=", "user@", "user@h", '"a:', "'user@", "us\\er"):
            assert bash.called(f"pmjq cancel {begun}\t\r")[1] in NASTY
        bash.type("pmjq wait job\\ \t\t")
        bash.shows("job\\ running")
    assert not (spool / "pwned").exists()
