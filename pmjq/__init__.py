"""pmjq runs the executables that people put in a directory.

``Queue`` is all that a program needs: ``from pmjq import Queue``.
"""

from __future__ import annotations

from pmjq.version import VERSION

# As typing has it, which is half a megabyte that every keeper would have for it.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from pmjq.queue import Queue

__version__ = VERSION

__all__ = ["Queue", "__version__"]


def __getattr__(name: str) -> object:
    """Import ``Queue`` when somebody asks for it: the daemon does without."""
    if name == "Queue":
        from pmjq.queue import Queue  # noqa: PLC0415

        return Queue
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
