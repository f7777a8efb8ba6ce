"""Fixtures all tests share: real peers on free ports, sample files; and the rule that nothing may skip unnoticed."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.support.peers import Dcmqrscp, Orthanc, Prometheus, Storescp
from tests.support.samples import RealFile, StudyFiles, make_study, real_files

# A slow machine is no reason for a property to fail.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")

# A shell that runs tests in the background has them ignore SIGINT, and so would every program they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# --- Peers -----------------------------------------------------------------------------------------------------------
# Each starts in a tenth of a second, so each test that asks for one has its own. The start_* fixtures take the
# arguments of the class but for the directory, and end what they started with the test.


@pytest.fixture
def start_orthanc(tmp_path: Path) -> Iterator[Callable[..., Orthanc]]:
    """Start Orthancs: `start_orthanc(ae_title="ORTHANC", modalities={"WS1": port}, LimitFindResults=5)`."""
    with contextlib.ExitStack() as stack:
        yield _starter(stack, Orthanc, tmp_path / "orthanc")


@pytest.fixture
def start_dcmqrscp(tmp_path: Path) -> Iterator[Callable[..., Dcmqrscp]]:
    """Start dcmqrscps: `start_dcmqrscp(destinations={"WS1": port})`."""
    with contextlib.ExitStack() as stack:
        yield _starter(stack, Dcmqrscp, tmp_path / "dcmqrscp")


@pytest.fixture
def start_storescp(tmp_path: Path) -> Iterator[Callable[..., Storescp]]:
    """Start storescps: `start_storescp(ae_title="WS1", options=["--fork"])`."""
    with contextlib.ExitStack() as stack:
        yield _starter(stack, Storescp, tmp_path / "storescp")


@pytest.fixture
def start_prometheus(tmp_path: Path) -> Iterator[Callable[..., Prometheus]]:
    """Start a Prometheus: `start_prometheus(targets={"dicom-router": port})`."""
    with contextlib.ExitStack() as stack:
        yield _starter(stack, Prometheus, tmp_path / "prometheus")


@pytest.fixture
def orthanc(start_orthanc: Callable[..., Orthanc]) -> Orthanc:
    """An empty Orthanc that knows nobody yet: `orthanc.register("ROUTER", port)`."""
    return start_orthanc()


@pytest.fixture
def storescp(start_storescp: Callable[..., Storescp]) -> Storescp:
    """A storescp that accepts all transfer syntaxes and several associations at once."""
    return start_storescp()


def _starter(stack: contextlib.ExitStack, peer: Callable[..., Any], directory: Path) -> Callable[..., Any]:
    count = 0

    def start(**arguments: Any) -> Any:
        nonlocal count
        count += 1
        return stack.enter_context(peer(directory / str(count), **arguments))

    return start


# --- Sample files ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def samples() -> tuple[RealFile, ...]:
    """pydicom's test files that are whole storage objects, each instance once, not deflated."""
    return real_files()


@pytest.fixture(scope="session")
def sample_paths(samples: tuple[RealFile, ...]) -> list[Path]:
    """The paths of `samples`."""
    return [sample.path for sample in samples]


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., StudyFiles]:
    """Write studies made to measure: `study(modality="MR", description="Head")`."""

    def write(**attributes: Any) -> StudyFiles:
        return make_study(tmp_path / "studies", **attributes)

    return write


# --- Skips -----------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --forbid-skips: what `make test` uses, so that a missing peer cannot pass for a success."""
    parser.addoption("--forbid-skips", action="store_true", help="fail when a test is skipped or expected to fail")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Turn skipped tests into a failed run where they are forbidden."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not session.config.getoption("--forbid-skips"):
        return
    if any(reporter.stats.get(outcome) for outcome in ("skipped", "xfailed")) and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say why a run without a failed test failed."""
    if config.getoption("--forbid-skips") and any(terminalreporter.stats.get(key) for key in ("skipped", "xfailed")):
        terminalreporter.write_line("Tests were skipped, which --forbid-skips does not allow.", red=True)
