"""How letters leave this machine: through a sendmail program, or a server by SMTP.

What neither takes is a value, by address: for good, or for now. Where nothing at all can be sent,
whatever the letter, that is ``AwayError``. Everything has an end: a server that says nothing for
``SILENCE`` seconds, a program that takes longer than ``PATIENCE``.
"""

from __future__ import annotations

import contextlib
import os
import resource
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pmjq import errand

if TYPE_CHECKING:
    import smtplib
    from collections.abc import Iterable, Mapping

    from pmjq.letter import Letter

PROGRAMS = ("/usr/sbin/sendmail", "/usr/lib/sendmail")
"""Where a sendmail program is as a rule."""

SILENCE = 30.0
PATIENCE = 60.0

PORTS = {"smtp": 25, "smtps": 465}

HERE = frozenset({"localhost", "127.0.0.1", "::1"})
"""Servers to which nobody can listen in between, and whose certificates say nothing."""

NOBODY = frozenset({65, 67, 68})
"""EX_DATAERR, EX_NOUSER, EX_NOHOST of sysexits(3): trying again helps nobody."""

FOR_GOOD = 500

USER, PASSWORD = "PMJQ_MAIL_USER", "PMJQ_MAIL_PASSWORD"


class AwayError(Exception):
    """Nothing can be sent now; the message says why."""


class Refused(NamedTuple):
    """Why an address gets nothing; ``for_good``: it never will."""

    reason: str
    for_good: bool = False


class Via(Protocol):
    """A way for letters."""

    def send(self, letter: Letter) -> Mapping[str, Refused]:
        """Send a letter; return the addresses that do not get it. AwayError if nobody can."""


@dataclass(frozen=True, slots=True)
class Program:
    """A sendmail program, run with this environment."""

    path: str
    environment: Mapping[str, str] = field(default_factory=dict)
    patience: float = PATIENCE
    files: int = field(default_factory=lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    def send(self, letter: Letter) -> Mapping[str, Refused]:
        """Run it once; if it takes the letter for nobody, for each address by itself."""
        return self._sent(letter, letter.to)

    def _sent(self, letter: Letter, to: tuple[str, ...]) -> dict[str, Refused]:
        words = [self.path, "-i", "-f", letter.sender, "--", *to]
        text = letter.text.encode()
        try:
            code, said = errand.run(words, self.environment, self.patience, self.files, text)
        except OSError as error:
            raise AwayError(f"{self.path}: {error.strerror or error}") from error
        if code == 0:
            return {}
        if code in NOBODY and len(to) > 1:
            return {
                each: one for address in to for each, one in self._sent(letter, (address,)).items()
            }
        reason = f"{self.path}: exit code {code}"
        if code is None:
            reason = f"{self.path}: took longer than {self.patience:g} s and was ended"
        reason = f"{reason}: {_one_line(said)}" if said else reason
        return dict.fromkeys(to, Refused(reason, for_good=code in NOBODY))


@dataclass(frozen=True, slots=True)
class Server:
    """A server that speaks SMTP; ``tls``: TLS from the first byte."""

    host: str
    port: int
    tls: bool = False
    user: str = ""
    password: str = field(default="", repr=False)
    silence: float = SILENCE

    def send(self, letter: Letter) -> Mapping[str, Refused]:
        """Hand the letter over; each address is refused or taken by itself."""
        import smtplib

        try:
            server = self._connected()
        except (OSError, ValueError) as error:
            # A name that cannot be one of a machine is a ValueError.
            raise AwayError(f"{self.host}: {_told(error)}") from error
        try:
            refused = server.sendmail(letter.sender, letter.to, letter.text)
            return _judged(refused.items())
        except smtplib.SMTPRecipientsRefused as error:
            return _judged(error.recipients.items())
        except smtplib.SMTPSenderRefused as error:
            # That may be mended here, and then they get it.
            return dict.fromkeys(letter.to, Refused(_told(error)))
        except smtplib.SMTPResponseException as error:
            for_good = error.smtp_code >= FOR_GOOD
            return dict.fromkeys(letter.to, Refused(_told(error), for_good=for_good))
        except OSError as error:
            # All errors of smtplib are.
            return dict.fromkeys(letter.to, Refused(_told(error)))
        finally:
            _leave(server)

    def _connected(self) -> smtplib.SMTP:
        here = self.host in HERE
        import smtplib
        import ssl

        context = ssl.create_default_context()
        if here or not (self.tls or self.user):
            # TLS that is not insisted on, as between mail servers: better than none.
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        server: smtplib.SMTP
        if self.tls:
            server = smtplib.SMTP_SSL(self.host, self.port, timeout=self.silence, context=context)
        else:
            server = smtplib.SMTP(self.host, self.port, timeout=self.silence)
        try:
            server.ehlo_or_helo_if_needed()
            if not self.tls and server.has_extn("starttls"):
                server.starttls(context=context)
                server.ehlo()
                self._log_in(server, safe=True)
            else:
                self._log_in(server, safe=self.tls or here)
        except BaseException:
            server.close()
            raise
        return server

    def _log_in(self, server: smtplib.SMTP, *, safe: bool) -> None:
        import smtplib

        if self.user and not safe:
            raise smtplib.SMTPNotSupportedError(
                "offers no TLS, so it is not told the password; use smtps://"
            )
        if self.user:
            server.login(self.user, self.password)


def via(text: str, environment: Mapping[str, str], login: Mapping[str, str]) -> Via | None:
    """Return the way for letters that a text names, of an empty one the usual; None: there is none.

    ``environment`` may have user and password, ``login`` is what a program gets. ValueError says
    what is wrong.
    """
    if not text:
        found = [path for path in PROGRAMS if os.access(path, os.X_OK)]
        return Program(found[0], _for_program(login)) if found else None
    if "://" not in text:
        path = os.path.abspath(text)
        if not os.path.isfile(path) or not os.access(path, os.X_OK):
            raise ValueError(
                "is no program that this user may execute; name a sendmail program, or a server "
                "as smtp://host:port"
            )
        return Program(path, _for_program(login))
    return _server(text, environment)


def _server(text: str, environment: Mapping[str, str]) -> Server:
    example = "write smtp://host, smtp://host:port or smtps://host"
    from urllib.parse import urlsplit

    url = urlsplit(text)
    if "@" in url.netloc:
        raise ValueError(
            f"has a user or password, which everybody on this machine could read; set ${USER} and "
            f"${PASSWORD} in the daemon's environment"
        )
    try:
        host, port = url.hostname, url.port
    except ValueError as error:
        raise ValueError(f"has no port that is one; {example}") from error
    if url.scheme not in PORTS:
        raise ValueError(f"is of no kind that is known; {example}")
    if not host or not host.isprintable() or " " in host or port == 0:
        raise ValueError(f"names no server; {example}")
    if url.path.strip("/") or url.query or url.fragment:
        raise ValueError(f"has more than a server and a port; {example}")
    return Server(
        host,
        port or PORTS[url.scheme],
        tls=url.scheme == "smtps",
        user=environment.get(USER, ""),
        password=environment.get(PASSWORD, ""),
    )


def _for_program(login: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which a mail program finds its own programs."""
    return {**login, "PATH": f"{login.get('PATH', os.defpath)}:/usr/sbin:/sbin"}


def _judged(refused: Iterable[tuple[str, tuple[int, bytes]]]) -> dict[str, Refused]:
    return {
        address: Refused(f"{code} {_text(said)}", for_good=code >= FOR_GOOD)
        for address, (code, said) in refused
    }


def _told(error: Exception) -> str:
    import smtplib

    if isinstance(error, smtplib.SMTPResponseException):
        return f"{error.smtp_code} {_text(error.smtp_error)}"
    said = error.strerror if isinstance(error, OSError) else ""
    return _one_line(said or str(error)) or type(error).__name__


def _text(said: bytes | str) -> str:
    return _one_line(said.decode("utf-8", "backslashreplace") if isinstance(said, bytes) else said)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _leave(server: smtplib.SMTP) -> None:
    """Take leave, which a server that has hung up or hangs does not answer."""
    with contextlib.suppress(OSError):
        server.quit()
    server.close()
