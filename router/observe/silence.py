"""Silence for what libraries say: their logs and warnings quote values. For every process; imports none of them."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable

_LIBRARIES = ("pynetdicom", "pydicom", "apscheduler", "sqlalchemy", "asyncio", "uvicorn", "uvicorn.error")


def silence(last_words: Callable[[str, BaseException], None] = lambda where, error: None) -> None:
    """Silence libraries. What ends a thread goes to `last_words`, with the thread's name, instead of to stderr."""
    logging.getLogger().handlers = [logging.NullHandler()]
    for name in _LIBRARIES:
        library = logging.getLogger(name)
        library.handlers = [logging.NullHandler()]
        library.propagate = False
    warnings.simplefilter("ignore")

    def ended(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is not None and not isinstance(arguments.exc_value, SystemExit):
            last_words(f"thread {arguments.thread.name if arguments.thread else '?'}", arguments.exc_value)

    if threading.excepthook is threading.__excepthook__:  # a test runner's own is left alone
        threading.excepthook = ended
