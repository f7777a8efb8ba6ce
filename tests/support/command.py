"""A command run in this process: there are many, and starting Python each time takes longer than they do."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from router.cli import main as command_line


class Done(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def words(self) -> str:
        """What it printed, whatever the width of the terminal."""
        return " ".join(self.out.split())


def in_process(configuration: Path, *arguments: str) -> Done:
    """Run a command that neither logs nor moves."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        command_line.main(["--config", str(configuration), *arguments])
    code = ended.value.code
    assert isinstance(code, int)
    assert "Traceback" not in err.getvalue()
    return Done(code, out.getvalue(), err.getvalue())
