"""Show pmjq at work: real jobs through a real daemon on a temporary spool, in well under a minute.

`make demo` runs this. The daemon's log appears as it is written; between its lines stand the
commands that a person would type. Everything lies below one temporary directory, which is removed
at the end, after an error and after Ctrl-C alike.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

LONGEST = 50
"""Seconds for all jobs together."""

PRIMES = """\
#!/bin/sh
set -e
cat >primes.c <<'END'
#include <stdio.h>

int main(void)
{
    int count = 0;
    for (int n = 2; n < 200000; n++) {
        int d = 2;
        while (d * d <= n && n % d)
            d++;
        count += d * d > n;
    }
    printf("%d primes below 200000\\n", count);
}
END
cc -O2 -o primes primes.c
./primes
"""

FAILING = """\
#!/bin/sh
echo 'about to read what is not there'
cat /no/such/file
"""

FROM_WINDOWS = "#!/bin/sh\r\necho hello\r\n"


def say(text: str = "") -> None:
    """Print a line at once, so that it stands where it belongs among the daemon's."""
    print(text, flush=True)


def jobs() -> Iterator[tuple[str, str]]:
    """Yield the names and texts of the jobs."""
    library = sysconfig.get_path("stdlib")
    for package in ("asyncio", "email", "encodings"):
        yield f"pack-{package}.sh", f"#!/bin/sh\ntar -czvf {package}.tgz -C '{library}' {package}\n"
    yield "checksums.sh", f"#!/bin/sh\ncd '{library}' && sha256sum [a-d]*.py\n"
    if shutil.which("cc"):
        yield "primes.sh", PRIMES
    else:
        say("# there is no C compiler here: the job that compiles and runs a program is left out")
    yield "fails.sh", FAILING
    yield "from-windows.sh", FROM_WINDOWS


@contextmanager
def daemon(root: Path) -> Iterator[None]:
    """Run a daemon; at the end, whatever the reason, it and its jobs are gone."""
    options = ["-j", "2", "--on-stop", "kill", "--grace", "2", "--log-format", "console"]
    say(f"$ pmjq {' '.join(options[:2])} -o archive spool &")
    # In a session of its own: Ctrl-C comes to this program, which then stops the daemon.
    process = subprocess.Popen(
        [sys.executable, "-m", "pmjq", *options, "-o", str(root / "archive"), str(root / "spool")],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: node_records(root) or process.poll() is not None)
        if process.poll() is not None:
            sys.exit(f"demo: the daemon ended with {process.returncode}")
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        say("$ kill %1")
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def drop(root: Path, name: str, text: str) -> None:
    """Write a job beside the spool and rename it into it."""
    say(f"$ mv {name} spool/")
    path = root / name
    path.write_text(text, encoding="utf-8", newline="")
    path.chmod(0o755)
    path.rename(root / "spool" / name)


def records(root: Path) -> list[Path]:
    """Return the records in the archive whose jobs have been filed."""
    found = sorted((root / "archive").glob("[!.]*.json"))
    return [path for path in found if path.with_suffix("").exists()]


def node_records(root: Path) -> list[Path]:
    """Return what the daemon tells of itself once it serves the spool."""
    return list((root / "spool/.pmjq/node").glob("*/node.json"))


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + LONGEST
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"demo: not done within {LONGEST} s")
        time.sleep(0.02)


def show_archive(root: Path) -> None:
    """Print what is in the archive: one line for each job, then one record and one output."""
    say(
        "\n# The archive has for each job its file, its .out, its .json, and .d if it left files:\n"
    )
    say(f"{'JOB':24} {'STATE':9} {'SECONDS':>7}  {'CPU':>5}  FILES, REASON")
    shown = None
    for path in records(root):
        record = json.loads(path.read_bytes())
        stem = path.with_suffix("")
        cpu = (record["user_cpu"] or 0) + (record["system_cpu"] or 0)
        kinds = [kind for kind in (".out", ".json", ".d") if Path(f"{stem}{kind}").exists()]
        words = f"{' '.join(kinds):14} {record['reason']}".rstrip()
        say(f"{record['name']:24} {record['state']:9} {seconds(record):>7}  {cpu:5.2f}  {words}")
        if record["name"] == "checksums.sh":
            shown = stem
    if shown is not None:
        say(f"\n$ python3 -m json.tool archive/{shown.name}.json")
        say(json.dumps(json.loads(Path(f"{shown}.json").read_bytes()), indent=4))
        say(f"\n$ cat archive/{shown.name}.out")
        say(Path(f"{shown}.out").read_text())


def seconds(record: dict[str, str | None]) -> str:
    """Return for how long a job ran, - if it was never started."""
    began, ended = record["started"], record["ended"]
    return f"{_moment(ended) - _moment(began):.2f}" if began and ended else "-"


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def main() -> int:
    """Run the demo."""
    # A kill ends this program as Ctrl-C does, by way of its `finally`.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    root = Path(tempfile.mkdtemp(prefix="pmjq-demo-"))
    try:
        say(f"$ cd {root}\n$ mkdir spool")
        (root / "spool").mkdir()
        with daemon(root):
            count = 0
            for name, text in jobs():
                drop(root, name, text)
                count += 1
            wait_for(lambda: len(records(root)) == count)
        show_archive(root)
        say(f"$ rm -r {root}")
    except KeyboardInterrupt:
        say("\ndemo: stopped; nothing is left behind")
        return 130
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
