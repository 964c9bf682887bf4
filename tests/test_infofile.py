"""The rules of info files: what a directory job asks for, and that no file whatever stops us."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from pmjq import infofile
from pmjq.directives import HEAD, Refusal
from pmjq.infofile import asked, spec
from pmjq.job import Spec
from pmjq.keys import ALL_CPUS, KEYS
from pmjq.ready import INFO_FILES, Inside, Look
from values import FakeStat

TOML, INI, XML, OTHER = INFO_FILES

DEADLINE = 20.0
"""Seconds within which any info file has been read, on however slow a machine."""


def refused(name: str, text: str | bytes) -> str:
    """Return why a directory with this info file is refused; it is one line that names the file."""
    verdict = spec(name, text.encode() if isinstance(text, str) else text)
    assert isinstance(verdict, Refusal), verdict
    assert verdict.reason.startswith(f"{name}: ")
    assert verdict.reason.isprintable()
    assert not verdict.cancels
    return verdict.reason


def understood(name: str, text: str) -> Spec:
    """Return how to run a directory with this info file."""
    verdict = spec(name, text.encode())
    assert isinstance(verdict, Spec), verdict.reason
    return verdict


# --- the script


@pytest.mark.parametrize(
    ("script", "argv"),
    [
        ('"sh run.sh"', ("sh", "run.sh")),
        ('"  sh   run.sh  "', ("sh", "run.sh")),
        ("""'sh -c "echo a b" $HOME *'""", ("sh", "-c", "echo a b", "$HOME", "*")),
        (r"'a\ b'", ("a b",)),
        ('"a # b"', ("a", "#", "b")),
        ('["sh", "-c", "echo a b"]', ("sh", "-c", "echo a b")),
        ('["run.sh", ""]', ("run.sh", "")),
        ('"größe \U0001f600"', ("größe", "\U0001f600")),
        ('["a\\nb"]', ("a\nb",)),
        ('"""\nsh\nrun.sh\n"""', ("sh", "run.sh")),
    ],
)
def test_script_of_toml(script: str, argv: tuple[str, ...]) -> None:
    """A text is split as a shell splits words, and nothing is expanded; a list is as it is."""
    assert understood(TOML, f"script = {script}\n") == Spec(argv=argv)


NO_SCRIPT = "names no script; add for instance: "


@pytest.mark.parametrize("text", ["", "cpus = 4", 'script = ""', "script = '  '", "script = []"])
def test_without_a_script(text: str) -> None:
    """A directory that names no script can be mended by one line."""
    assert refused(TOML, text) == f'{TOML}: {NO_SCRIPT}script = "sh run.sh"'
    assert understood(TOML, 'script = "sh run.sh"').argv == ("sh", "run.sh")


@pytest.mark.parametrize(
    "script",
    [
        *("5", "true", "1.5", "{a = 1}", "2026-01-01", '[""]', "[1]", '["a", 5]', '[["a"]]'),
        *("[{a = 1}]", '["a\\u0000b"]', '"a\\u0000b"', '"a \'b"', "'a\\'"),
    ],
)
def test_script_that_is_none(script: str) -> None:
    """What is neither text nor a list of texts, or cannot be split, is refused."""
    assert refused(TOML, f"script = {script}\n")


# --- job.toml


def test_every_key_of_toml() -> None:
    """The keys are those of directives, with a dash or ``_``, and values have TOML's types."""
    text = """
    script = ["run"]
    name = "my job"
    directory = "/tmp"
    env = ["A=1", "B=x y"]
    cpus = 4
    memory = "4G"
    gpus = 1
    time = "1h30m"
    grace = 5.5
    output-limit = 1000
    priority = -3
    restartable = true
    retries = 2
    backoff = 01:30:00
    after = ["a", "b"]
    after-any = "c,d"
    not-before = 2026-12-24T18:00:00Z
    nice = 10
    mail = ["ann@x", "bob"]
    mail_on = ["end", "fail"]
    tags = "x"
    """
    found = understood(TOML, text)
    assert {
        key.field
        for key in KEYS.values()
        if getattr(found, key.field) == getattr(Spec(), key.field)
    } == set()
    assert (found.argv, found.cpus, found.env) == (("run",), 4, ("A=1", "B=x y"))
    assert (found.backoff, found.after, found.after_any) == (5400, ("a", "b"), ("c", "d"))
    assert (found.mail_on, found.grace, found.restartable) == (("end", "fail"), 5.5, True)
    assert "not-before=2026-12-24T18:00:00+00:00" in found.directives
    assert "restartable=yes" in found.directives
    assert "mail-on=fail" in found.directives


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("cpus = 'all'", ALL_CPUS), ("cpus = '2'", 2), ("nb_proc = 3", 3), ("cpus = 0x10", 16)],
)
def test_cpus_of_toml(text: str, cpus: int) -> None:
    """CPUs may be called as QueueManager calls them."""
    assert understood(TOML, f"script = 'x'\n{text}\n").cpus == cpus


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("cpu = 4", "unknown key cpu; did you mean cpus?"),
        ("xyzzy = 4", "unknown key xyzzy; known are"),
        ("argv = ['x']", "unknown key argv"),
        ("shell = true", "unknown key shell"),
        ("cpus = 0", "cpus=0: must be a whole number from 1 on"),
        ("cpus = 1.0", "cpus=1.0: must be"),
        ("cpus = true", "cpus=yes: must be"),
        ("cpus = 10000000000000000000000000", "cpus=1000"),
        ("retries = 1e2", "retries=100.0: must be"),
        ("memory = inf", "memory=inf: is no size"),
        ("time = nan", "time=nan: is no duration"),
        ("restartable = 1", "restartable=1: must be yes or no"),
        ("not-before = 2026-12-24", "is no time with its zone"),
        ("not-before = 2026-12-24T18:00:00", "is no time with its zone"),
        ("not-before = 0001-01-01T00:00:00+14:00", "is no time with its zone"),
        ("not-before = '9999-12-31T23:59:59-14:00'", "is no time with its zone"),
        ("env = ['A']", "env=A: must be NAME=VALUE"),
        ('env = ["A=\\u0000"]', "must be NAME=VALUE"),
        ('name = "a\\nb"', "must be a name of printable letters"),
        ("[job]\ncpus = 4", "unknown key job"),
        ("[[job]]\ncpus = 4", "unknown key job"),
        ('"a\\nb" = 1', "unknown key"),
        ('"" = 1', "unknown key"),
        ('"\\u001b[31m" = 1', "unknown key"),
    ],
)
def test_wrong_key_of_toml(line: str, told: str) -> None:
    """A key or value that is not understood refuses the job, and is named."""
    assert told in refused(TOML, f"script = 'x'\n{line}\n")


@pytest.mark.parametrize(
    "line",
    [
        "env = {A = 'x=y'}",
        "env = [['A=B']]",
        "env = [{A = '='}]",
        "[env]\nA = 'x=y'",
        "name = {a = 1}",
        "name = ['a', 'b']",
        "name = [['a']]",
        "tags = {a = 1}",
        "tags = [['a']]",
        "after = [['a', 'b']]",
        "after = [{}]",
        "cpus = [1, 2]",
        "cpus = []",
        "directory = ['/a', '/b']",
    ],
)
def test_value_of_a_wrong_type(line: str) -> None:
    """A table is no text, and only what adds may be a list: nothing is made of its notation."""
    refused(TOML, f"script = 'x'\n{line}\n")


# --- QueueManager's


@pytest.mark.parametrize(
    "text",
    [
        "[QMOptions]\nscript = sh run.sh\nNB_PROC = 4\n",
        "[QMOptions]\nscript: sh run.sh\nnb_proc: 4\n",
        "\ufeff[QMOptions]\nscript = sh run.sh\nnb_proc = 4\n",
        "[QMOptions]\r\nscript = sh run.sh\r\nnb_proc = 4\r\n",
        "# c\n; c\n[Other]\nscript = no\n[QMOptions]\nscript = sh run.sh\nnb_proc = 4\n[x]\na=1\n",
        "[QMOptions]\nscript = sh\n   run.sh\nnb_proc = 4\nunknown = thing\nalone\n",
        "[QMOptions]\nscript = no\nnb_proc = 1\n[QMOptions]\nscript = sh run.sh\nnb_proc = 4\n",
        "[DEFAULT]\nnb_proc = 4\n[QMOptions]\nscript = sh run.sh\n",
        "[QMOptions]\nscript = sh run.sh\nnb_proc = 4\nsize = large\nemail = x\n",
    ],
)
def test_ini(text: str) -> None:
    """Of proc_config.cfg only [QMOptions] counts, and of that only the keys that are known."""
    found = understood(INI, text)
    assert (found.argv, found.cpus) == (("sh", "run.sh"), 4)
    assert found.directives == ("cpus=4",)


def test_all_keys_of_ini() -> None:
    """QueueManager's keys are ours under other names; the size is for people."""
    found = understood(
        INI,
        "[QMOptions]\nscript=a\nnb_proc=2\ne_mail=ann@x\ninfo=a  long\n  story\npriority=5\nsize=9",
    )
    assert found == Spec(
        argv=("a",),
        cpus=2,
        mail=("ann@x",),
        name="a long story",
        priority=5,
        directives=found.directives,
    )
    assert understood(INI, "[QMOptions]\nscript=a\nE-Mail=ann\n").mail == ("ann",)


@pytest.mark.parametrize("value", ["", "unknown", "Undefined", "NONE", "  none "])
def test_ini_where_nothing_is_known(value: str) -> None:
    """What QueueManager writes where nothing is known asks for nothing."""
    text = "".join(f"{key} = {value}\n" for key in ("nb_proc", "e_mail", "info", "priority"))
    assert understood(INI, f"[QMOptions]\nscript = a\n{text}") == Spec(argv=("a",))


def test_ini_without_cpus_has_one() -> None:
    """0 CPUs is QueueManager's word for one."""
    assert understood(INI, "[QMOptions]\nscript = a\nnb_proc = 0\n").cpus == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no section [QMOptions]"),
        ("[qmoptions]\nscript = a\n", "has no section [QMOptions]"),
        ("script = a\n", "cannot be understood"),
        ("[QMOptions]\n", f"{NO_SCRIPT}script = sh run.sh"),
        ("[QMOptions]\nscript\n", f"{NO_SCRIPT}script = sh run.sh"),
        ("[QMOptions]\nscript =\n", f"{NO_SCRIPT}script = sh run.sh"),
        ("[QMOptions]\nscript = 'a\n", "cannot be understood"),
        ("[QMOptions\nscript = a\n", "cannot be understood"),
        ("[QMOptions]\n= a\n", "cannot be understood"),
        ("[QMOptions]\nscript = a\0b\n", "cannot be understood"),
        ("[QMOptions]\nscript = a\nnb_proc = many\n", "cpus=many: must be"),
        ("[QMOptions]\nscript = a\ne_mail = a b c\n", "mail=a b c: must be"),
        ("[QMOptions]\nscript = a\npriority = high\n", "priority=high: must be"),
    ],
)
def test_wrong_ini(text: str, told: str) -> None:
    """What is wrong with proc_config.cfg is told in our words."""
    assert told in refused(INI, text)


@pytest.mark.parametrize("name", [XML, OTHER])
@pytest.mark.parametrize(
    "text",
    [
        "<a><script>sh run.sh</script><nb_proc>4</nb_proc></a>",
        '<?xml version="1.0"?>\n<a><script value="sh run.sh"/><nb_proc value="4">7</nb_proc></a>',
        "\ufeff<a><b><script>\n sh run.sh\n</script></b><c><nb_proc>4</nb_proc></c></a>",
        "<a><!-- c --><script>sh <![CDATA[run.sh]]></script><nb_proc>4</nb_proc><?pi x?></a>",
        "<a><script>s&#104; run.sh</script><nb_proc>4</nb_proc><size>&lt;</size></a>",
    ],
)
def test_xml(name: str, text: str) -> None:
    """Of the XML form the elements with QueueManager's keys count, wherever they stand."""
    found = understood(name, text)
    assert (found.argv, found.cpus) == (("sh", "run.sh"), 4)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "cannot be understood"),
        ("<a>", "cannot be understood"),
        ("<a/>", f"{NO_SCRIPT}<script>sh run.sh</script>"),
        ("<a/><b/>", "cannot be understood"),
        ("text", "cannot be understood"),
        ("<a><script/></a>", f"{NO_SCRIPT}<script>sh run.sh</script>"),
        ("<a><script>sh</script><nb_proc>x</nb_proc></a>", "cpus=x"),
        ("<!DOCTYPE a><a><script>sh</script></a>", "document type"),
        (
            '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a><script>&x;</script></a>',
            "document type",
        ),
        ('<!DOCTYPE a SYSTEM "http://127.0.0.1/x.dtd"><a><script>sh</script></a>', "document type"),
        (
            '<!DOCTYPE a [<!ENTITY a "x"><!ENTITY b "&a;&a;">]><a><script>&b;</script></a>',
            "document type",
        ),
        ("<!doctype a><a><script>sh</script></a>", "cannot be understood"),
        ("<a><script>&x;</script></a>", "cannot be understood"),
        ("<a><script>&#0;</script></a>", "cannot be understood"),
        ("<a><script>&#xD800;</script></a>", "cannot be understood"),
        ("<a b='1' b='2'/>", "cannot be understood"),
        ("<x:a/>", "cannot be understood"),
    ],
)
def test_wrong_xml(text: str, told: str) -> None:
    """What is wrong with the XML form is told; a document type is not even looked at."""
    assert told in refused(XML, text)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "no-such", "idna", "utf-7", "x" * 500])
def test_xml_that_says_it_is_in_another_encoding(encoding: str) -> None:
    """An info file is UTF-8, whatever it says: it is read, or refused."""
    text = f'<?xml version="1.0" encoding="{encoding}"?><a><script>sh</script></a>'
    verdict = spec(XML, text.encode())
    assert isinstance(verdict, Refusal) or verdict.argv == ("sh",)


# --- hostile ones

HUGE = HEAD - 100

HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "nul": b"\0",
    "nuls": bytes(HUGE),
    "not utf-8": b"script = 'sh \xff'\n",
    "utf-16": "script = 'sh'\n".encode("utf-16"),
    "utf-32": "script = 'sh'\n".encode("utf-32"),
    "half a letter": "script = 'ö'".encode()[:-2],
    "surrogate": b"script = '\xed\xa0\x80'",
    "a program": b"\x7fELF\x02\x01\x01" + bytes(range(256)),
    "all bytes": bytes(range(256)),
    "controls": bytes(range(1, 32)),
    "lists": b"a=" + b"[" * HUGE,
    "closed lists": b"a=" + b"[" * 9000 + b"]" * 9000,
    "tables": b"a=" + b"{b=" * 8000,
    "closed tables": b"a=" + b"{b=" * 6000 + b"1" + b"}" * 6000,
    "dotted": b"script='x'\n" + b"a." * 2000 + b"a=1",
    "dotted line": b"script='x'\n" + b"a." * 65 + b"a=1",
    "dotted header": b"[" + b"a." * 2000 + b"a]\nb=1",
    "dotted env": b"script='x'\nenv." + b"a." * 2000 + b"a='='",
    "headers": b"[a]\n" * 8000,
    "arrays of tables": b"[[a]]\n" * 5000,
    "many keys": b"".join(b"k%d=1\n" % number for number in range(4000)),
    "long key": b"k" * HUGE + b"=1",
    "long value": b"script='" + b"x " * (HUGE // 2) + b"'",
    "open text": b"script = '" + b"x" * HUGE,
    "open long text": b'script = """' + b"x" * HUGE,
    "huge number": b"script='x'\ncpus=" + b"9" * HUGE,
    "huge hexadecimal": b"script='x'\ncpus=0x" + b"f" * HUGE,
    "huge binary": b"script='x'\nmemory=0b" + b"1" * HUGE,
    "huge float": b"script='x'\ntime=1e" + b"9" * 300,
    "underscores": b"script='x'\ncpus=" + b"1_" * 15_000 + b"1",
    "dates": b"not-before=" + b"2026-12-24T18:00:00" * 1000,
    "no such date": b"script='x'\nnot-before=2026-02-30T00:00:00Z",
    "no such zone": b"script='x'\nnot-before=2026-02-03T00:00:00+99:99",
    "earliest": b"script='x'\nnot-before=0001-01-01T00:00:00+14:00",
    "latest": b"script='x'\nnot-before=9999-12-31T23:59:59-14:00",
    "escape": b'script="\\uD800"',
    "no such escape": b'script="\\U00110000"',
    "quotes": b"script='" + b'\\"' * 15_000 + b"'",
    "open quote": b"script=\"sh '" + b"x" * HUGE + b'"',
    "twice": b"script='a'\nscript='b'",
    "table and key": b"env='A=1'\n[env]\nA=1",
    "comments": b"#" * HUGE,
    "newlines": b"\n" * HUGE,
    "blanks": b" " * HUGE,
    "carriage returns": b"\r" * HUGE,
    # INI
    "ini": b"[QMOptions]\n",
    "value below none": b"[QMOptions]\nscript\n  x\n",
    "value below none elsewhere": b"[x]\na\n  b\n[QMOptions]\nscript = sh\nc\n  d\n",
    "ini sections": b"[QMOptions]\n" * 2000,
    "ini default": b"[DEFAULT]\nscript = %(script)s\n[QMOptions]\n",
    "ini interpolation": b"[QMOptions]\nscript = %(script)s ${script}\nnb_proc = %\n",
    "ini lines": b"[QMOptions]\nscript = a\n" + b" b\n" * 8000,
    "ini no key": b"[QMOptions]\n=\n:\n",
    "ini brackets": b"[" * HUGE,
    "ini open": b"[QMOptions",
    "ini many": b"[QMOptions]\n" + b"".join(b"k%d\n" % number for number in range(4000)),
    "ini blanks": b"[QMOptions]\nscript = sh\nnb_proc =" + b" " * 20_000 + b"4\n",
    "ini quote": b"[QMOptions]\nscript = '" + b"x" * 20_000,
    # XML
    "elements": b"<a>" * 10_000,
    "closed elements": b"<a>" * 4000 + b"<script>sh</script>" + b"</a>" * 4000,
    "attributes": b"<a " + b"".join(b"k%d='1' " % number for number in range(3000)) + b"/>",
    "long name": b"<" + b"a" * HUGE + b"/>",
    "laughs": b'<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><a>&b;</a>',
    "entity": b'<!ENTITY x SYSTEM "file:///etc/passwd"><a>&x;</a>',
    "outside": b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
    "open comment": b"<a><!-- " + b"-" * HUGE,
    "open cdata": b"<a><![CDATA[" + b"x" * HUGE,
    "instruction": b"<?xml " + b"x" * HUGE + b"?><a/>",
    "no such encoding": b'<?xml version="1.0" encoding="no-such"?><a/>',
    "namespaces": b"<a xmlns='x' xmlns:b='y'><b:script>sh</b:script></a>",
    "comment as root": b"<!-- a -->",
    "include": b'<a xmlns:xi="http://www.w3.org/2001/XI"><xi:include href="/etc/passwd"/></a>',
}
"""Contents that have stopped some reader of such files."""

UNDERSTOOD = {
    (TOML, "long value"),
    (TOML, "quotes"),
    (INI, "ini default"),
    (INI, "ini interpolation"),
    (INI, "value below none elsewhere"),
    (INI, "ini lines"),
    (INI, "ini blanks"),
    (XML, "closed elements"),
    (OTHER, "closed elements"),
}
"""Those that are odd and yet plain."""


@pytest.mark.parametrize("name", INFO_FILES)
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_file_is_refused(name: str, case: str) -> None:
    """Whatever an info file holds, the answer is a refusal in one line, never an error."""
    verdict = spec(name, HOSTILE[case])
    if (name, case) in UNDERSTOOD and isinstance(verdict, Spec):
        assert verdict.argv
        return
    assert isinstance(verdict, Refusal), verdict
    assert verdict.reason.startswith(f"{name}: ")
    assert verdict.reason.isprintable()


PARTS = [
    *(bytes([each]) for each in b"\n []='\"<>&\0\xff{}.,#-"),
    *(b"9999", b"\n ", b"+14:00", b"0001-01-01", b"\\u0000"),
]
"""What a good file is spoiled with."""


@pytest.mark.parametrize("name", INFO_FILES)
@pytest.mark.parametrize("seed", range(5))
def test_any_bytes_have_an_answer(name: str, seed: int) -> None:
    """Nothing that an info file may hold stops the daemon: bytes, and good files spoiled."""
    chance = random.Random(seed)
    good = [
        b"script = ['sh', 'run.sh']\ncpus = 4\nnot-before = 2026-12-24T18:00:00Z\n[env]\na.b=1\n",
        b"[QMOptions]\nscript = sh run.sh\nnb_proc\n 4\ne_mail: ann@x\ninfo = a\n b\n",
        b"<?xml version='1.0'?><a x='1'><script value='sh'>t</script><nb_proc>4</nb_proc></a>",
    ]
    for _ in range(1500):
        text = bytearray(chance.choice(good))
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(text) + 1)
            part = chance.choice(PARTS)
            text[at : at + chance.choice([0, 0, 1, 5, 20])] = part
        verdict = spec(name, bytes(text))
        assert isinstance(verdict, Spec | Refusal)
        if isinstance(verdict, Spec):
            assert verdict.argv
            assert all("\0" not in word for word in (*verdict.argv, *verdict.env))
        else:
            assert verdict.reason.startswith(f"{name}: "), bytes(text)


LINES = "".join(f"{number}=1\n" for number in range(2000))


@pytest.mark.parametrize("begins", ["", '"=".', '"#".', '"\u2028#".', "'='."])
def test_names_of_many_parts(begins: str) -> None:
    """They are refused however they are written: they would take seconds."""
    for text in (f"[{begins}{'a.' * 2000}a]\n{LINES}", f"{begins}{'a.' * 3000}a=1\n"):
        assert "too many parts" in refused(TOML, text)


def test_dots_elsewhere() -> None:
    """Comments, texts and lists may have as many as they like, and as they need."""
    addresses = ", ".join(f"'10.0.0.{number % 250}'" for number in range(600))
    dots = "." * 3000
    text = f"#{dots}=\nscript = ['sh',\n{addresses}\n]\nname='{dots[:200]}'\n"
    assert isinstance(spec(TOML, text.encode()), Spec)
    prose = "a. b. c. d.\n" * 2000
    assert isinstance(spec(TOML, f"script=['sh', '''{prose}''']".encode()), Spec)
    assert refused(TOML, "# only\n# comments\n").endswith('sh run.sh"')


@pytest.mark.parametrize(
    "text",
    [
        b"a." * 15_000 + b"a=1",
        b"[" + b"a." * 15_000 + b"a]\nb=1",
        b"a={" + b"a." * 15_000 + b"a=1}",
        b"script='x'\ntime='" + b"1" * 400 + b"x'",
        b"script='" + b"a'\\''" * 6000 + b"'",
        b"[QMOptions]\nscript = a\nnb_proc =" + b" \t" * 15_000 + b"x\n",
        b"[QMOptions]\n" + b"k" + b" " * 30_000 + b"\n",
        b"<a" + b" " * 30_000 + b"/>",
        b"[" + b"a." * 7300 + b"a]\n" + b"".join(b"%d.b=1\n" % number for number in range(1900)),
    ],
    ids=["dotted", "header", "inline", "digits", "quotes", "blanks", "key", "element", "lines"],
)
def test_no_file_takes_long(text: bytes) -> None:
    """A file of the most that is read is read in no time, however it is read."""
    code = (
        "import sys; from pmjq.infofile import spec; from pmjq.ready import INFO_FILES\n"
        "text = sys.stdin.buffer.read()\n"
        "for name in INFO_FILES: spec(name, text)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=text,
        capture_output=True,
        check=False,
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_file_that_is_longer_than_what_is_read() -> None:
    """Of a file that is cut nothing is believed: what it asks for beyond would be ignored."""
    text = (b"script = 'sh'\n" + b"# comment\n" * 4000)[:HEAD].rpartition(b"\n")[0] + b"\n"
    assert isinstance(spec(TOML, text.ljust(HEAD, b"#")), Spec)
    refused(TOML, text.ljust(HEAD + 1, b"#"))


# --- what was looked at


def test_asked() -> None:
    """An executable asks with its first bytes, a directory with its info file."""
    stat, inside = FakeStat(), Inside(1, 1, 1)
    assert asked(Look(stat, False, b"#!/bin/sh\n#PMJQ cpus=2\n")) == Spec(  # noqa: FBT003
        cpus=2, directives=("cpus=2",)
    )
    assert asked(Look(stat, None, None)) == Spec()
    assert asked(Look(stat, None, None, (TOML, b"script = 'a'"), inside)) == Spec(argv=("a",))
    assert isinstance(asked(Look(stat, None, None, (TOML, b""), inside)), Refusal)
    assert isinstance(asked(Look(stat, False, b"#!/bin/sh\r\n")), Refusal)  # noqa: FBT003


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("ENOENT", "script: run.sh is neither in the directory nor on PATH"),
        ("EACCES", "chmod u+x it, or let the script be: sh run.sh"),
        ("ENOEXEC", "begin it with #!/bin/sh, or let the script be: sh run.sh"),
        ("ELOOP", "cannot be executed (ELOOP)"),
    ],
)
def test_failed_execve_is_told_with_what_to_do(code: str, told: str) -> None:
    """A script that cannot be executed is told in words that a person can act on."""
    assert told in infofile.refusal(code, "run.sh")
