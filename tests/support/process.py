"""Programs started by tests: output kept in a file, readiness with a deadline, an end that is certain."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from tests.support.ports import listening

T = TypeVar("T")

# Generous: they bound a hang, they do not measure speed. A loaded build machine may need most of it.
READY_SECONDS = 90.0
STOP_SECONDS = 60.0


def wait_for(probe: Callable[[], T], what: str, seconds: float = READY_SECONDS, interval: float = 0.02) -> T:
    """Call the probe until it returns something true, and return that.

    Raises AssertionError, saying `what` was waited for and what the probe returned last, when the seconds are over.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {seconds:g} s in vain for {what}; last seen: {value!r}")
        time.sleep(interval)


class Process:
    """One running program. Leaving the context ends it: SIGTERM, and SIGKILL to its process group if need be."""

    def __init__(
        self,
        arguments: Sequence[str | Path],
        directory: Path,
        *,
        name: str | None = None,
        environment: Mapping[str, str] | None = None,
        working_directory: Path | None = None,
    ) -> None:
        """Start the program; its output goes to NAME.log in the directory, `environment` adds to the inherited one."""
        self.arguments = [str(argument) for argument in arguments]
        self.name = name or Path(self.arguments[0]).name
        directory.mkdir(parents=True, exist_ok=True)
        self.log_path = directory / f"{self.name}.log"
        self._group_ended = False
        self.overdue = False
        """Whether it did not end when it was told to, and was killed."""
        with self.log_path.open("ab") as log:
            self._popen = subprocess.Popen(
                self.arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                cwd=working_directory,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    @property
    def log(self) -> str:
        """Everything the program has written so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal, None while it runs."""
        return self._popen.poll()

    def send_signal(self, number: int) -> None:
        """Send a signal to the program itself."""
        self._popen.send_signal(number)

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Wait for the program to end by itself and return its exit status."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {seconds:g} s\n{self._tail()}") from None

    def wait_until(self, probe: Callable[[], object], what: str, seconds: float = READY_SECONDS) -> Self:
        """Wait until the probe returns something true; fail at once, with the log, if the program ends before."""

        def check() -> bool:
            if self.returncode is not None:
                raise AssertionError(f"{self.name} ended with {self.returncode} before {what}\n{self._tail()}")
            return bool(probe())

        try:
            wait_for(check, what, seconds)
        except AssertionError as error:
            self.stop()
            raise AssertionError(f"{error}\n{self._tail()}") from None
        except BaseException:  # the test was interrupted or ran out of time
            self.kill()
            raise
        return self

    def wait_until_listening(self, *ports: int, seconds: float = READY_SECONDS) -> Self:
        """Wait until the program accepts connections on all these ports."""
        for port in ports:
            self.wait_until(functools.partial(listening, port), f"{self.name} listens on port {port}", seconds)
        return self

    def stop(self, seconds: float = STOP_SECONDS, first: signal.Signals = signal.SIGTERM) -> int:
        """End the program and what it started, with SIGKILL after so many seconds; return its exit status."""
        if self._popen.poll() is None:
            self._popen.send_signal(first)
            try:
                self._popen.wait(seconds)
            except subprocess.TimeoutExpired:
                self.overdue = True
                self._popen.kill()
                self._popen.wait(STOP_SECONDS)
        if not self._group_ended:  # once only: later the number may belong to somebody else
            self._group_ended = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)  # children that are left
        return self._popen.returncode

    def kill(self) -> None:
        """End the program and what it started at once, without a chance to tidy up."""
        self.stop(first=signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.splitlines()[-lines:])


def run(
    arguments: Sequence[str | Path], *, seconds: float = 60.0, check: bool = True, directory: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program, in this directory, to its end with its output captured, stderr among stdout.

    Raises AssertionError with the output if it hangs or, with `check`, if it fails.
    """
    words = [str(argument) for argument in arguments]
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
            cwd=directory,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired as expired:
        raise AssertionError(f"{words[0]} did not end within {seconds:g} s\n{expired.output}") from None
    if check and done.returncode != 0:
        raise AssertionError(f"{words[0]} ended with {done.returncode}\n{done.stdout}")
    return done
