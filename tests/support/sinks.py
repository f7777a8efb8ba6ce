"""Where notifications go in tests: a mail server, a web server for webhooks, a server that misbehaves on purpose."""

from __future__ import annotations

import contextlib
import email
import email.policy
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.support.certificates import Certificate
from tests.support.ports import free_port
from tests.support.process import wait_for


def server_context(own: Certificate) -> ssl.SSLContext:
    """TLS with this certificate, for anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.certificate, own.key)
    return context


class MailSink:
    """A mail server that keeps what it is sent.

    `tls`: its certificate, for TLS from the first byte; `starttls`: for STARTTLS, which it then insists on. `login`:
    user and password it wants. `answer`: what it says to a message, such as `554 no`; `refuses`: addresses it does not
    know.
    """

    def __init__(
        self,
        *,
        tls: Certificate | None = None,
        starttls: Certificate | None = None,
        login: tuple[str, str] | None = None,
        port: int | None = None,
    ) -> None:
        self.port = port or free_port()
        self.answer = "250 taken"
        self.refuses: set[str] = set()
        self.envelopes: list[Envelope] = []
        self.logins: list[tuple[str, str]] = []
        self._login = login
        self._controller = Controller(
            self,
            hostname="127.0.0.1",
            port=self.port,
            ssl_context=server_context(tls) if tls else None,
            tls_context=server_context(starttls) if starttls else None,
            require_starttls=starttls is not None,
            authenticator=self._authenticate if login else None,
            auth_required=login is not None,
            auth_require_tls=login is not None and tls is None,
        )

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def mails(self) -> list[EmailMessage]:
        """What came, in order."""
        found = []
        for envelope in list(self.envelopes):
            assert isinstance(envelope.content, bytes)
            message = email.message_from_bytes(envelope.content, policy=email.policy.default)
            assert isinstance(message, EmailMessage)
            found.append(message)
        return found

    @property
    def subjects(self) -> list[str]:
        return [str(mail["Subject"]) for mail in self.mails]

    @property
    def texts(self) -> list[str]:
        return [str(mail.get_content()) for mail in self.mails]

    def wait(self, count: int) -> list[EmailMessage]:
        """So many mails, once they are there."""
        wait_for(lambda: len(self.envelopes) >= count, f"{count} mails")
        return self.mails

    async def handle_RCPT(  # noqa: N802  the library's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refuses:
            return "550 nobody of that name"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.answer.startswith("250"):
            self.envelopes.append(envelope)
        return self.answer

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=self.logins[-1] == self._login, handled=False)


class Post(NamedTuple):
    """A request that came in."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Answer(NamedTuple):
    """What a webhook answers."""

    status: int = 200
    headers: Mapping[str, str] = MappingProxyType({})


class WebhookSink:
    """A web server that keeps what is posted, and answers with `answers` one by one, then with 200."""

    def __init__(self, *, tls: Certificate | None = None) -> None:
        self.posts: list[Post] = []
        self.answers: list[Answer] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = sink.answers.pop(0) if sink.answers else Answer()
                sink.posts.append(Post(self.path, dict(self.headers.items()), body))
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """Who goes away, or does not trust the certificate, is no error of the sink."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._scheme = "https" if tls else "http"
        if tls:
            self._server.socket = server_context(tls).wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}/hook?room=1"

    def wait(self, count: int) -> list[Post]:
        """So many requests, once they are there."""
        wait_for(lambda: len(self.posts) >= count, f"{count} posts")
        return list(self.posts)


@contextlib.contextmanager
def rude_server(treat: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server that treats each connection so, then closes it. Gives its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection, contextlib.suppress(OSError):
                connection.settimeout(20)
                treat(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        ended.set()
        thread.join(30)
        listener.close()
