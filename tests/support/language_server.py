"""yaml-language-server as an editor talks to it: JSON-RPC over standard input and output, a deadline on each wait."""

from __future__ import annotations

import itertools
import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

DIRECTORY = Path(__file__).parents[1] / "editor"
PROGRAM = DIRECTORY / "node_modules" / "yaml-language-server" / "bin" / "yaml-language-server"
SECONDS = 60.0
"""Bounds a hang: a loaded build machine may need most of it."""

SETTINGS = {"yaml": {"validate": True, "hover": True, "completion": True, "schemaStore": {"enable": False}}}
"""What an editor is asked for as its settings. Without the store of schemas nothing is fetched from anywhere."""


class Problem(msgspec.Struct, frozen=True, order=True):
    """A diagnostic, with the line from 1."""

    line: int
    message: str
    severity: int


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A completion."""

    label: str
    text: str
    """What is put into the file, with `${1:place}` where the cursor stops."""
    documentation: str


class LanguageServer:
    """One running server. Leaving the context ends it."""

    def __init__(self) -> None:
        self._popen = subprocess.Popen(
            ["node", PROGRAM, "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._numbers = itertools.count(1)
        self._received: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        capabilities = {
            "workspace": {"configuration": True, "didChangeConfiguration": {"dynamicRegistration": True}},
            "textDocument": {
                "publishDiagnostics": {"relatedInformation": True},
                "hover": {"contentFormat": ["markdown"]},
                "completion": {"completionItem": {"snippetSupport": True, "documentationFormat": ["markdown"]}},
            },
        }
        self._ask("initialize", {"processId": None, "rootUri": None, "capabilities": capabilities})
        self._tell("initialized", {})
        self._until(lambda message: message.get("method") == "workspace/configuration", "the question for settings")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._popen.poll() is None and error is None:
            self._ask("shutdown", None)
            self._tell("exit", None)
        else:
            self._popen.kill()
        try:
            self._popen.wait(SECONDS)
        finally:
            self._popen.kill()
        for stream in (self._popen.stdin, self._popen.stdout):
            assert stream is not None
            stream.close()
        self._reader.join(SECONDS)

    def problems(self, texts: Mapping[Path, str]) -> dict[Path, list[Problem]]:
        """What it says about files of these texts; they need not exist, but the schemas they name are read.

        All are open at the same time: it waits a little before it looks at one.
        """
        open_ = {self._open(path, text): path for path, text in texts.items()}
        found: dict[Path, list[Problem]] = {}
        while len(found) < len(open_):
            said = self._until(
                lambda message: (
                    message.get("method") == "textDocument/publishDiagnostics" and message["params"]["uri"] in open_
                ),
                f"the diagnostics of {len(open_) - len(found)} of {len(open_)} files",
            )
            found[open_[said["params"]["uri"]]] = sorted(
                Problem(one["range"]["start"]["line"] + 1, one["message"], one.get("severity", 1))
                for one in said["params"]["diagnostics"]
            )
        for uri in open_:
            self._close(uri)
        return found

    def offers(self, path: Path, text: str) -> list[Offer]:
        """What it completes at the `|` in the text."""
        found = self._at("textDocument/completion", path, text)
        items = found["items"] if isinstance(found, dict) else found
        return [
            Offer(
                label=item["label"],
                text=item.get("textEdit", {}).get("newText", item.get("insertText", item["label"])),
                documentation=_markdown(item.get("documentation", "")),
            )
            for item in items
        ]

    def hover(self, path: Path, text: str) -> str:
        """What it shows for the key or value before which the `|` stands."""
        found = self._at("textDocument/hover", path, text)
        return _markdown(found["contents"]) if found else ""

    def _at(self, method: str, path: Path, text: str) -> Any:
        before, mark, after = text.partition("|")
        assert mark, "the text has no |"
        uri = self._open(path, before + after)
        lines = before.split("\n")
        position = {"line": len(lines) - 1, "character": len(lines[-1])}
        found = self._ask(method, {"textDocument": {"uri": uri}, "position": position})
        self._close(uri)
        return found

    def _open(self, path: Path, text: str) -> str:
        uri = path.with_name(f"{path.stem}-{next(self._numbers)}{path.suffix}").as_uri()
        document = {"uri": uri, "languageId": "yaml", "version": 1, "text": text}
        self._tell("textDocument/didOpen", {"textDocument": document})
        return uri

    def _close(self, uri: str) -> None:
        self._tell("textDocument/didClose", {"textDocument": {"uri": uri}})

    # --- The protocol ------------------------------------------------------------------------------------------------

    def _tell(self, method: str, params: Any) -> None:
        self._send({"method": method, "params": params})

    def _ask(self, method: str, params: Any) -> Any:
        number = next(self._numbers)
        self._send({"id": number, "method": method, "params": params})
        answer = self._until(lambda message: message.get("id") == number and "method" not in message, method)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self._popen.stdin is not None
        self._popen.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._popen.stdin.flush()

    def _until(self, wanted: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """The next message that is wanted; questions of the server are answered meanwhile."""
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                message = self._received.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"waited {SECONDS:g} s in vain for {what}") from None
            assert message is not None, f"the language server ended instead of {what}"
            if "id" in message and "method" in message:
                self._send({"id": message["id"], "result": _answer(message)})
            if wanted(message):
                return message

    def _read(self) -> None:
        stream = self._popen.stdout
        assert stream is not None
        while line := stream.readline():
            length = 0
            while line.strip():
                name, _, value = line.decode().partition(":")
                length = int(value) if name.lower() == "content-length" else length
                line = stream.readline()
            self._received.put(json.loads(stream.read(length)))
        self._received.put(None)


def _answer(question: dict[str, Any]) -> Any:
    if question["method"] == "workspace/configuration":
        return [SETTINGS.get(item.get("section", "")) for item in question["params"]["items"]]
    return None


def _markdown(contents: Any) -> str:
    return contents if isinstance(contents, str) else str(contents["value"])
