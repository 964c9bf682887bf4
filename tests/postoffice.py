"""A mail server for tests: a real one, and as unhelpful as it is told to be."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import warnings
from collections.abc import Callable
from typing import Any, Self

from aiosmtpd.smtp import SMTP, Envelope, Session


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class PostOffice:
    """A server in a thread of its own, from ``with`` to its end.

    ``answers`` by address, ``sender`` and ``data`` are what it says instead of 250; ``hold``: an
    event that it waits for before it takes a letter. ``secret``: whether each came by STARTTLS.
    """

    def __init__(
        self,
        port: int = 0,
        login: Callable[..., Any] | None = None,
        starttls: ssl.SSLContext | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.port = port
        self.answers: dict[str, str] = {}
        self.sender = self.data = ""
        self.hold: threading.Event | None = None
        self.taken: list[Envelope] = []
        self.tried = 0
        self.secret: list[bool] = []
        self._login = login
        self._starttls = starttls
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        if self.hold is not None:
            self.hold.set()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @property
    def subjects(self) -> list[str]:
        """Return the subjects of the letters that were taken."""
        return [head(one, "Subject") for one in self.taken]

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            self._loop.create_server(self._session, "127.0.0.1", self.port, ssl=self._tls)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(task)
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def _session(self) -> SMTP:
        with warnings.catch_warnings():
            # That it asks for a password without TLS, which is wanted here.
            warnings.simplefilter("ignore")
            return SMTP(
                self,
                hostname="office",
                loop=self._loop,
                authenticator=self._login,
                tls_context=self._starttls,
                auth_require_tls=False,
                auth_required=self._login is not None,
            )

    async def handle_MAIL(  # noqa: N802  # as aiosmtpd has it
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Hear who sends."""
        self.tried += 1
        envelope.mail_from = address
        return self.sender or "250 OK"

    async def handle_RCPT(  # noqa: N802  # as aiosmtpd has it
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Hear who is to get it."""
        answer = self.answers.get(address, "250 OK")
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(  # noqa: N802  # as aiosmtpd has it
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        """Take a letter."""
        if self.hold is not None:
            await self._loop.run_in_executor(None, self.hold.wait)
        self.secret.append(session.ssl is not None)
        if not self.data:
            self.taken.append(envelope)
        return self.data or "250 OK"


def head(envelope: Envelope, name: str) -> str:
    """Return a line of the head of a letter."""
    content = envelope.content
    assert isinstance(content, bytes)
    lines = content.decode().replace("\r\n", "\n").partition("\n\n")[0].split("\n")
    return next(line.partition(": ")[2] for line in lines if line.startswith(f"{name}: "))
