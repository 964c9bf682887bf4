"""``Queue``: the jobs of one spool, as people and programs address them.

The verbs of the command line are thin over it, so that whatever they do a program does too, with
the same words. It works on the files alone: no daemon need run, on this machine or any other. What
only reads changes nothing.

Nothing is printed here. What is wrong is an exception of ``pmjq.errors``; what came of a request
about each job is an ``Answer``. What only some verbs need is imported by these: a submission is to
be quick.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from pmjq import keys, naming, script, submission
from pmjq.disk import Onlooker
from pmjq.errors import NotFoundError, NotPermittedError, UsageError
from pmjq.submission import Draft, Submission

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from pmjq.disk import Disk
    from pmjq.job import Record
    from pmjq.jobs import Look
    from pmjq.nodes import Seen as Node
    from pmjq.pruning import Pruning
    from pmjq.seen import Seen
    from pmjq.spool import Spool
    from pmjq.steering import Answer, Steering

    Jobs = list[Seen]
    Answers = list[Answer]
    Nodes = list[Node]
    # Inside of ``Queue`` the word list is a verb.

P = ParamSpec("P")
T = TypeVar("T")

ALL = "ALL"
"""All jobs of mine."""

TIMED_OUT = 124
"""The exit code of a wait whose time is over, as of timeout(1)."""

SIGNALLED = 128


def _telling(method: Callable[P, T]) -> Callable[P, T]:
    """Have a method raise an error of ``pmjq.errors`` where the file system refuses something."""

    @wraps(method)
    def told(*args: P.args, **kwargs: P.kwargs) -> T:
        with _refusals():
            return method(*args, **kwargs)

    return told


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        from pmjq import render

        raise render.refused(error) from error


class Queue:
    """The queue of one spool.

    ``spool``: its directory; else ``$PMJQ_SPOOL``, else the current directory.
    """

    def __init__(self, spool: str | os.PathLike[str] | None = None) -> None:
        """Touch nothing yet."""
        given = os.fspath(spool) if spool is not None else os.environ.get("PMJQ_SPOOL") or "."
        if not given:
            raise UsageError("SPOOL is empty; name the directory that jobs are put in")
        self.path = os.path.abspath(given)
        self._disk: Disk = Onlooker()

    # -- submit

    @_telling
    def submit(
        self,
        command: Sequence[str | bytes] | bytes,
        *,
        name: str | None = None,
        directory: str | None = None,
        variables: Mapping[str, str] | None = None,
        held: bool = False,
        sign: str = "",
        **asked: object,
    ) -> str:
        """Put one job into the spool; return its name.

        ``command``: words, which run in ``directory`` (the current one) exact to the byte; or the
        text of a script. ``sign``: the key to sign it with, as for ``put``. ``asked``: keys of
        directives, with ``_`` for ``-``: ``cpus=4``. Raises UsageError for a key or value that
        there is not, and as ``Submission.put``.
        """
        if isinstance(command, str):
            raise UsageError("a command is a list of words; write ['sh', '-c', command] for a line")
        words = asked_words(self.named(asked))
        if name is not None and not legal(name):
            raise UsageError(f"name {name!r}: must be printable letters, without a slash")
        where = os.fsencode(os.path.abspath(directory or os.getcwd()))
        exported = {os.fsencode(k): os.fsencode(v) for k, v in (variables or {}).items()}
        if b"\0" in where or any(b"\0" in k + v or b"=" in k or not k for k, v in exported.items()):
            raise UsageError("no directory and no variable may have a NUL, nor a name =")
        if isinstance(command, bytes):
            base, text = name or "script", self._script(command, directory, where, exported, words)
        else:
            argv = [os.fsencode(word) for word in command]
            if not argv or not argv[0] or any(b"\0" in word for word in argv):
                raise UsageError("a command wants at least one word, and none with a NUL in it")
            text = script.command(argv, where, exported, words)
            base = name or os.path.basename(os.fsdecode(argv[0])) or "job"
        names: list[str] = []
        draft = Draft(submission.unique(base), submission.checked(text), held)
        self.put([draft], names.append, sign=sign)
        return names[0]

    @staticmethod
    def _script(
        text: bytes,
        directory: str | None,
        where: bytes,
        exported: dict[bytes, bytes],
        words: Sequence[str],
    ) -> bytes:
        if not text.strip():
            raise UsageError("the script is empty; there is nothing to run")
        try:
            if directory is None:
                asked = script.with_variables(exported, words)
                return script.with_words(text, asked)
            return script.in_place(text, where, exported, words)
        except ValueError as error:
            raise UsageError(str(error)) from error

    def named(self, asked: Mapping[str, object]) -> dict[str, object]:
        """Return keys and values, the jobs to wait for by names and whole ids.

        UsageError for a pattern, and for the start of several ids.
        """
        found = dict(asked)
        for key in ("after", "after_any"):
            value = found.get(key) or ()
            texts = value if isinstance(value, list | tuple) else [value]
            found[key] = [",".join(map(self._named, str(text).split(","))) for text in texts]
        return found

    def _named(self, other: str) -> str:
        """Return the name or whole id of a job that another is to wait for."""
        if naming.is_id(other) or self._disk.stat(os.path.join(self.path, other)) is not None:
            return other
        if set(other) & set("*?["):
            raise UsageError(f"after {naming.shown(other)}: a pattern; name each job, or its id")
        if not naming.begins_id(other):
            return other
        try:
            ids = [one.id for one in self.look(aside=False).found(other) if one.name != other]
        except NotFoundError:
            # No daemon has been here yet.
            return other
        return ids[0] if ids and ids[0] else other

    @_telling
    def put(self, drafts: Iterable[Draft], put: Callable[[str], None], *, sign: str = "") -> None:
        """Put jobs into the spool; ``put`` hears the name of each when it is there.

        ``sign``: the file of a key to sign them with, private or, of one that the agent has,
        public. UsageError if ssh-keygen does not sign with it.
        """
        if sign:
            drafts = self._signed(drafts, sign)
        umask = os.umask(0)
        os.umask(umask)
        Submission(self._disk, self.path, umask).put(drafts, put)

    def _signed(self, drafts: Iterable[Draft], key: str) -> Iterator[Draft]:
        """Return jobs with their signatures, which are for this spool alone."""
        from pmjq import signers, signing

        uuid = self.opened().uuid
        for draft in drafts:
            text = signing.text(uuid, draft.name, signing.digest(draft.text))
            try:
                yield replace(draft, signature=signers.sign(key, text))
            except OSError as error:
                raise UsageError(f"--sign {key}: {error.strerror or error}") from error

    # -- look

    @_telling
    def nodes(self, watch: float = 0.0) -> Nodes:
        """Return the nodes; ``watch``: look twice, so many seconds apart."""
        from pmjq import nodes, probe

        return nodes.look(self.opened(), probe.machine(), time.time, watch, time.sleep)

    @_telling
    def list(
        self,
        names: Sequence[str] = (),
        *,
        tags: Collection[str] = (),
        most: int | None = None,
    ) -> Jobs:
        """Return the jobs that have not ended, those that run first.

        ``names``: only these; ``tags``: only those with one of them; ``most``: of the queue only
        the first so many.
        """
        look = self.look()
        if tags:
            # Each has to be opened for its tags.
            look = replace(look, opened=sys.maxsize)
        if names:
            found = [one for one in self._meant(look, names) if one.living]
        else:
            found = look.living(most)
        if tags:
            found = [one for one in found if not keys.tags(one.directives).isdisjoint(tags)]
        return found

    @_telling
    def show(self, names: str | Sequence[str]) -> Jobs:
        """Return all that is known of the jobs that are meant, with their earlier attempts."""
        return self._meant(self.look(), names)

    @_telling
    def reasons(self, seen: Seen) -> Sequence[str]:
        """Return what each living node says of why a queued job does not run there."""
        return self.look().reasons(seen) if seen.living and not seen.token else []

    def history(
        self,
        *,
        most: int | None = None,
        states: Collection[str] = (),
        tags: Collection[str] = (),
        owner: str | None = None,
        node: str | None = None,
        name: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Iterator[Seen]:
        """Return the jobs that have ended, newest first, ``most`` of them; ``name``: a pattern.

        ``since`` and ``until`` have a zone; UsageError without.
        """
        from fnmatch import fnmatchcase

        if any(when is not None and when.tzinfo is None for when in (since, until)):
            raise UsageError("a time wants its zone: datetime.astimezone() adds it")

        def wanted(one: Seen | Record) -> bool:
            exact = naming.real_name(one.name, one.name_hex)
            return (
                (not states or one.state in states)
                and (not tags or not keys.tags(one.directives).isdisjoint(tags))
                and owner in (None, one.owner)
                and node in (None, one.node)
                and (name is None or fnmatchcase(exact, name))
                and (until is None or one.ended is None or one.ended <= until)
            )

        return self._history(wanted, most, since)

    def _history(
        self, wanted: Callable[[Any], bool], most: int | None, since: datetime | None
    ) -> Iterator[Seen]:
        with _refusals():
            yield from self._ended(wanted, most, since)

    def _ended(
        self, wanted: Callable[[Any], bool], most: int | None, since: datetime | None
    ) -> Iterator[Seen]:
        look = self.look(aside=False)
        untold = [one for one in look.unfiled_untold() if wanted(one)]
        untold.sort(key=lambda one: str(one.ended), reverse=True)
        told = {one.id for one in untold}
        everything = chain(untold, (one for one in look.ended(wanted) if one.id not in told))
        for one in islice(everything, most):
            if since is None or one.ended is None or one.ended >= since:
                yield one
            elif one.node:
                return

    def logs(self, name: str, *, follow: bool = False) -> Iterator[bytes]:
        """Return the output of a job in pieces; ``follow``: until it has ended.

        NotFoundError if there is no such job; UsageError if several have the name and live.
        """
        found = self._meant(self.look(), [name])
        if not found:
            raise NotFoundError(f"{name}: no job of yours is in {naming.shown(self.path)}")
        if len(found) > 1:
            ids = ", ".join(one.id or one.name for one in found)
            raise UsageError(f"{name}: {len(found)} jobs are meant; name one of them: {ids}")
        from pmjq.waiting import output

        return output(self._look, found[0], follow=follow)

    # -- wait

    @_telling
    def wait(
        self,
        names: Sequence[str],
        timeout: float | None = None,
        heard: Callable[[int, int], None] = lambda _, __: None,
    ) -> Jobs:
        """Wait until jobs have ended; return them, in the order in which they were named.

        What has not ended when ``timeout`` seconds are over is returned as it is then. ``heard`` is
        told now and then how many have ended, and of how many. NotFoundError if there is no such
        job, or it was withdrawn.
        """
        from pmjq.waiting import Waiting

        return Waiting(self._look, self._meant(self.look(), names), heard).run(timeout)

    # -- steer

    @_telling
    def cancel(self, names: Sequence[str]) -> Answers:
        """End jobs: queued ones at once, running ones by asking their nodes."""
        return self._steered(names, "cancel")

    @_telling
    def hold(self, names: Sequence[str]) -> Answers:
        """Keep queued jobs from being started."""
        return self._steered(names, "hold", lambda one: not one.token and one.state != "held")

    @_telling
    def release(self, names: Sequence[str]) -> Answers:
        """Let held jobs go."""
        return self._steered(names, "release", lambda one: one.state == "held")

    @_telling
    def retry(self, names: Sequence[str]) -> Answers:
        """Put jobs that have ended into the queue again."""
        if ALL in _several(names):
            raise UsageError("ALL would be everything that ever ended; name the jobs to be retried")
        return self._steered(names, "retry")

    @_telling
    def drain(self, names: Sequence[str]) -> Answers:
        """Have nodes take no more jobs; what they run goes on."""
        steering = self._steering(self.look())
        known = {one.name for one in self.nodes()}
        return [steering.drain(name) for name in self._node_names(names, known)]

    @_telling
    def resume(self, names: Sequence[str]) -> Answers:
        """Have drained nodes take jobs again."""
        steering = self._steering(self.look())
        return [steering.resume(name) for name in self._node_names(names, set())]

    def prune(
        self, before: datetime, *, states: Collection[str] = (), dry: bool = False
    ) -> Pruning:
        """Return the removal of what ended before a time; its ``run`` carries it out."""
        from pmjq.pruning import Pruning

        spool = self.opened()
        if os.geteuid() == 0:
            # The tree says what is to be removed where: whoever can write it could name anything.
            _telling(spool.identify)()
        return Pruning(spool, before, states, dry)

    # -- below

    @_telling
    def opened(self) -> Spool:
        """Return the spool; NotFoundError if it is none."""
        from pmjq import nodes

        return nodes.opened(self._disk, self.path)

    @_telling
    def look(self, *, aside: bool = True) -> Look:
        """Return a look at the jobs; ``aside``: with the reasons that nodes give."""
        from pmjq import account, nodes, probe
        from pmjq.jobs import Look

        spool = self.opened()
        seen = nodes.look(spool, probe.machine(), time.time)
        reasons = nodes.aside(spool, seen) if aside else {}
        return Look(spool, seen, account.owner_name, time.time(), reasons)

    def _look(self) -> Look:
        return self.look(aside=False)

    def _steering(self, look: Look) -> Steering:
        from pmjq import account
        from pmjq.steering import Steering

        return Steering(look, account.owner_name(os.geteuid()), _chance, time.time)

    def _steered(
        self,
        names: Sequence[str],
        verb: Literal["cancel", "hold", "release", "retry"],
        among: Callable[[Seen], bool] = lambda _: True,
    ) -> Answers:
        look = self.look()
        steer = getattr(self._steering(look), verb)
        return [steer(one) for one in self._meant(look, names, among)]

    def _meant(
        self, look: Look, names: Sequence[str], among: Callable[[Seen], bool] = lambda _: True
    ) -> Jobs:
        """Return the jobs that are named: by name, path, id, pattern, or ALL of mine, each once."""
        names = _several(names)
        found: dict[tuple[str, str], Seen] = {}
        living: Jobs | None = None
        for name in names:
            here = look.found(name) if name != ALL else []
            if not here and (name == ALL or set(name) & set("*?[")):
                if not look.spool.disk.readable(look.spool.root):
                    raise NotPermittedError(
                        f"{naming.shown(self.path)}: only its owner lists it; name each job"
                    )
                living = look.living() if living is None else living
                jobs = [one for one in living if one.is_job and among(one)]
                mine = [one for one in jobs if one.uid == os.geteuid()]
                here = mine if name == ALL else look.matching(name, jobs)
                if name == ALL:
                    found |= {(one.id, one.file_name): one for one in here}
                    continue
            if not here:
                hint = "; a pattern means what has not ended" if set(name) & set("*?[") else ""
                where = naming.shown(self.path)
                raise NotFoundError(f"{naming.shown(name)}: no such job in {where}{hint}")
            found |= {(one.id, one.file_name): one for one in here}
        return list(found.values())

    def _node_names(self, names: Sequence[str], all_of_them: set[str]) -> Sequence[str]:
        """Return the nodes that are named; ``all_of_them``: beside those that are drained."""
        from pmjq import node

        names = _several(names)
        if ALL in names and len(names) > 1:
            raise UsageError("ALL means all nodes, and stands alone")
        drained = set(self.opened().drained())
        wanted = sorted(all_of_them | drained) if ALL in names else list(dict.fromkeys(names))
        known = drained | {one.name for one in self.nodes()}
        known |= {node.name_of(token) for token in self.opened().tellers()}
        for name in wanted:
            if name not in known:
                raise NotFoundError(
                    f"{naming.shown(name)}: no such node here; pmjq nodes lists them"
                )
        return wanted


def _several(names: str | Sequence[str]) -> Sequence[str]:
    """Return names as a list; a text is one name, not its letters."""
    return [names] if isinstance(names, str) else names


def legal(name: str) -> bool:
    """Tell whether a job can be called so."""
    return name.isprintable() and "/" not in name and bool(name.strip(". "))


def exit_code(seen: Seen) -> int:
    """Return the exit code of a wait for a job: its own, 128+N for signal N, 1 for another end."""
    if seen.living:
        return TIMED_OUT
    if seen.signal is not None:
        return SIGNALLED + seen.signal
    if seen.exit_code is not None and not (seen.exit_code == 0 and seen.state != "done"):
        return seen.exit_code
    return 1


def asked_words(asked: Mapping[str, object]) -> list[str]:
    """Return keys and values as directives have them; UsageError if one is not known."""
    words = []
    for name, value in asked.items():
        key = name.replace("_", "-")
        if value is None or value is False or value == ():
            continue
        values = value if isinstance(value, list | tuple) else [value]
        for one in values:
            text = "yes" if one is True else _text(one)
            words.append(f"{key}={text}")
    wrong = keys.fields(words)
    if isinstance(wrong, keys.Wrong):
        raise UsageError(wrong.reason)
    if odd := [word for word in words if not word.isprintable()]:
        raise UsageError(f"{odd[0]!r}: must be printable; name jobs with odd names by their ids")
    return words


def _text(value: Any) -> str:  # noqa: ANN401  # a date, a number, a name
    return str(value.isoformat() if hasattr(value, "isoformat") else value)


def _chance() -> str:
    from uuid import uuid4

    return str(uuid4())
