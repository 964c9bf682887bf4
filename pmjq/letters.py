"""The letters of one life that wait to be sent: ``node/TOKEN/mail/``, one file each.

The name of a letter follows from job, attempt and occasion, so that it is written again rather than
twice. Only this user may read them. A letter is there whole or not at all; what a kill leaves under
construction goes with the life.
"""

from __future__ import annotations

import contextlib

import msgspec

from pmjq import letter
from pmjq.letter import Letter
from pmjq.tree import Tree, hidden_name

PRIVATE_DIRECTORY, PRIVATE = 0o700, 0o600
"""Outputs may hold what is nobody else's business."""


class Letters(Tree):
    """The letters at one spool, as one life of a node has them."""

    def mail_path(self, token: str) -> str:
        """Return the directory of a life's letters, which is made for the first of them."""
        return f"{self.own}/node/{token}/mail"

    def write_letters(self, named: dict[str, Letter]) -> None:
        """Write letters durably, in the place of earlier ones of their names; OSError if not all.

        Those that were written before the error stay.
        """
        base = self.mail_path(self.token)
        if self.disk.stat(base) is None:
            self._mkdir(base)
            self.disk.chmod(base, PRIVATE_DIRECTORY)
        hidden = {name: hidden_name(f"{base}/{name}") for name in named}
        try:
            for path in hidden.values():
                # A kill has left it.
                self.disk.unlink(path)
            made = [
                (hidden[name], msgspec.json.encode(letter) + b"\n", PRIVATE)
                for name, letter in named.items()
            ]
            self.disk.create(made)
            for name, path in hidden.items():
                self.disk.rename(path, f"{base}/{name}")
        except OSError:
            for path in hidden.values():
                with contextlib.suppress(OSError):
                    self.disk.unlink(path)
            raise

    def letters(self) -> list[str]:
        """Return the names of the letters that wait."""
        return self._letters(self.token)

    def read_letter(self, name: str) -> Letter | None:
        """Return a letter, None if it is gone; ValueError if it cannot be understood."""
        text = self.disk.read(f"{self.mail_path(self.token)}/{name}")
        # The errors of msgspec are ValueErrors.
        return None if text is None else msgspec.json.decode(text, type=Letter)

    def remove_letter(self, name: str) -> None:
        """Remove a letter that is sent or given up."""
        self.disk.unlink(f"{self.mail_path(self.token)}/{name}")

    def take_letters(self, other: str) -> bool:
        """Move the letters of a dead life to this one; False if some are still there.

        Those are taken the next time. As a directory where there is none here yet: that wants no
        room on a full disk.
        """
        source, target = self.mail_path(other), self.mail_path(self.token)
        with contextlib.suppress(OSError):
            if other == self.token:
                return not self._letters(other)
            if self.disk.stat(source) is None:
                return True
            if self.disk.stat(target) is None:
                with contextlib.suppress(OSError):
                    self.disk.rename(source, target)
                    for name in self._list(target):
                        if not letter.is_name(name):
                            self.remove(f"{target}/{name}")
            for name in self._letters(other):
                self._moved(f"{source}/{name}", f"{target}/{name}")
            return not self._letters(other)
        return False

    def _letters(self, token: str) -> list[str]:
        return [name for name in self._list(self.mail_path(token)) if letter.is_name(name)]
