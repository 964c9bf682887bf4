"""Letters about jobs are written: what they say, and who gets one on which occasion.

A letter is written when a job begins or has ended, and sent later, maybe more than once: all that
is needed for that is in it. Names and outputs may hold any bytes. What works on a terminal or would
break a line is escaped before it comes near a header, and addresses are those that ``pmjq.keys``
lets through.

Pure: record and output in, text out.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from pmjq import keys, naming, render
from pmjq.ending import signal_name
from pmjq.letter import BEGIN, END, Letter, name
from pmjq.seen import of_record
from pmjq.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from pmjq.job import Attempt, Record

FAIL = "fail"

USUAL = (END,)
"""When there is a letter about a job that names addresses and no occasion."""

LINES = 20
"""Lines of a job's output that a letter has: the last ones."""

MOST_READ = 1 << 13
"""Bytes of a job's output that are looked at for them."""

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
"""What colours a terminal and moves its cursor."""


class Asked(NamedTuple):
    """Who gets letters about a job, and on which occasions."""

    to: tuple[str, ...] = ()
    on: tuple[str, ...] = USUAL

    def begins(self) -> bool:
        """Tell whether there is a letter when the job is started."""
        return bool(self.to) and BEGIN in self.on

    def ends(self, state: State) -> bool:
        """Tell whether there is a letter when the job has ended so."""
        return bool(self.to) and (END in self.on or (FAIL in self.on and state is not State.DONE))


def asked(directives: Sequence[str]) -> Asked:
    """Return what a job's directives, as they were written, ask for."""
    words = [word for word in directives if word.startswith("mail")]
    found = keys.fields(words) if words else {}
    if isinstance(found, keys.Wrong):
        return Asked()
    return Asked(tuple(dict.fromkeys(found.get("mail", ()))), found.get("mail_on", USUAL))


def of_begin(attempt: Attempt, node: str, sender: str, to: Sequence[str], at: datetime) -> Letter:
    """Return the letter about a job that has been started; ``at``: when."""
    facts = [
        *_who(attempt, node),
        ("queued", _time(attempt.queued)),
        ("started", _time(at)),
    ]
    subject = f"started: {attempt.name} on {node}"
    text = f"{_clean(attempt.name)} has been started on {node}.\n\n{_listed(facts)}"
    key = name(attempt.id, attempt.attempt, BEGIN)
    return _letter(key, subject, text, sender, to, at)


def of_end(
    record: Record, root: str, output: bytes, sender: str, to: Sequence[str], at: datetime
) -> Letter:
    """Return the letter about a job that has ended; ``root``: the spool, ``at``: now.

    ``output``: the last ``MOST_READ`` bytes of what it wrote.
    """
    seen, how = of_record(record, root), _how(record)
    facts = [("outcome", how), *_who(record, record.node), ("queued", _time(record.queued))]
    if record.started is not None:
        took = max(0.0, (record.ended - record.started).total_seconds())
        facts += [("started", _time(record.started))]
        facts += [("ended", _time(record.ended)), ("duration", render.duration(took))]
    else:
        facts += [("ended", _time(record.ended))]
    if record.user_cpu is not None and record.system_cpu is not None:
        facts += [("CPU time", render.duration(record.user_cpu + record.system_cpu))]
    if record.max_rss is not None:
        facts += [("memory", render.size(record.max_rss))]
    if seen.archived:
        facts += [("archived", seen.archived)]
    if seen.output:
        facts += [("output", seen.output)]
    lines = last_lines(output)
    text = f"{_clean(record.name)}: {record.state}\n\n{_listed(facts)}"
    if lines:
        text += "\nThe last lines of its output:\n\n" + "".join(f"  {line}\n" for line in lines)
    where = f" on {record.node}" if record.node else ""
    key = name(record.id, record.attempt, END)
    return _letter(key, f"{record.state}: {record.name}{where}", text, sender, to, at)


def last_lines(output: bytes) -> list[str]:
    """Return the last lines of an output, printable; of one longer than is read the rest is cut.

    Of a line that was written over and over, as a progress bar is, what was seen last.
    """
    text = output[-MOST_READ:].decode("utf-8", "backslashreplace")
    lines = text.rstrip("\r\n").split("\n")
    if len(output) >= MOST_READ and len(lines) > 1:
        # The first is the end of a line, or of a letter.
        del lines[0]
    lines = [_ESCAPE.sub("", line.rstrip("\r").rpartition("\r")[2]) for line in lines[-LINES:]]
    return [_clean(line.expandtabs()) for line in lines] if text.strip() else []


def _letter(
    key: str, subject: str, text: str, sender: str, to: Sequence[str], at: datetime
) -> Letter:
    import email.policy
    from email.message import EmailMessage
    from email.utils import format_datetime

    message = EmailMessage(policy=email.policy.SMTP.clone(linesep="\n"))
    # EmailMessage decodes what looks encoded, and would write the newline that comes of it.
    message["Subject"] = _clean(subject).replace("=?", r"=\x3f")
    message["From"] = sender
    message["To"] = ", ".join(to)
    message["Date"] = format_datetime(at)
    # The same each time, so that a letter that comes twice is known for the same one.
    message["Message-ID"] = f"<{key}@pmjq>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text, cte="quoted-printable")
    return Letter(sender, tuple(to), at, message.as_bytes().decode("ascii"))


def _how(record: Record) -> str:
    parts = [str(record.state)]
    if record.exit_code is not None:
        parts.append(f"exit code {record.exit_code}")
    if record.signal is not None:
        parts.append(f"signal {record.signal} ({signal_name(record.signal)})")
    if record.reason and record.reason not in (*parts, f"ended by {parts[-1]}"):
        parts.append(record.reason)
    return ", ".join(parts)


def _who(about: Attempt | Record, node: str) -> list[tuple[str, str]]:
    return [
        ("name", about.name),
        ("id", about.id),
        ("attempt", str(about.attempt)),
        ("owner", about.owner),
        ("node", node or "-"),
    ]


def _listed(facts: Sequence[tuple[str, str]]) -> str:
    width = max(len(what) for what, _ in facts)
    return "".join(f"{what:<{width}}  {_clean(value)}\n" for what, value in facts)


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}Z"


def _clean(text: str) -> str:
    """Return a text in which nothing works on a terminal, breaks a line or is no letter."""
    text = naming.shown(text)
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
