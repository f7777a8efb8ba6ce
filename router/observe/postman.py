"""Takes a notification to its channel: a mail server, or a webhook. One attempt, with a deadline on all of it.

What goes wrong leaves as NotDelivered with one sentence. It never holds what the other side said beyond a number, nor
a URL, password or header: those are secrets, or may be.
"""

from __future__ import annotations

import base64
import email.policy
import email.utils
import http.client
import json
import platform
import re
import smtplib
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from email.message import EmailMessage
from types import TracebackType
from typing import Any, Self

from router import __version__
from router.dimse.client_tls import client_context
from router.domain.notice_group import Notification
from router.domain.notice_template import TemplateFault, render_json, render_mail
from router.domain.notice_text import Sender, document_of
from router.domain.notify import STARTTLS, TLS, Mail, Webhook
from router.domain.secret import Secret
from router.errors import ConfigurationError, NotDelivered

TIMEOUT = 10.0
"""Seconds that the other side may be silent."""
DEADLINE = 30.0
"""Seconds that one attempt may take in all."""

_HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}\Z")
_NOT_THIS_MESSAGE = frozenset({400, 413, 415, 422})
"""HTTP statuses that say something of the message, not of the channel."""
_POLICY = email.policy.SMTP.clone(cte_type="7bit", max_line_length=500)
"""Not every server takes eight bits; a subject stays on its line."""
_BOTH = 2
"""Both directions of a socket: for `shutdown`."""


class _Deadline:
    """Ends what is done with a socket when its time is over, so that nobody can make it last by dribbling."""

    def __init__(self, seconds: float, socket: Callable[[], Any]) -> None:
        self._socket = socket
        self._seconds = seconds
        self._left = threading.Event()
        self.over = False

    def end(self) -> None:
        """It is over now."""
        self.over = True
        with suppress(OSError, AttributeError, ValueError):
            self._socket().shutdown(_BOTH)

    def _watch(self) -> None:
        seconds = self._seconds
        while not self._left.wait(seconds):
            self.end()
            seconds = 1.0  # there may be no socket yet: a name server takes its time as well

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, name="deadline", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._left.set()


class Postman:
    """Delivers one notification at a time. `secret` reads a secret and may raise ConfigurationError."""

    def __init__(
        self,
        secret: Callable[[Secret], str],
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        timeout: float = TIMEOUT,
        deadline: float = DEADLINE,
    ) -> None:
        self._secret = secret
        self._now = now
        self._timeout = timeout
        self._seconds = deadline
        self._current: _Deadline | None = None

    def deliver(
        self,
        channel: Mail | Webhook,
        notification: Notification,
        sender: Sender,
        study_instance_uids: Mapping[int, str] | None = None,
    ) -> str:
        """Deliver it. Returns what there is to remark, or nothing; raises NotDelivered."""
        document = document_of(notification, sender, study_instance_uids)
        try:
            if isinstance(channel, Mail):
                return self._mail(channel, notification, document)
            return self._post(channel, document)
        except ConfigurationError as error:
            raise NotDelivered(f"{str(error).rstrip('.')}.") from None

    def end(self) -> None:
        """Break off what is under way."""
        current = self._current
        if current is not None:
            current.end()

    @contextmanager
    def _in_time(self, host: str, port: int, socket: Callable[[], Any]) -> Iterator[None]:
        """Have the work end in time, and its errors be sentences."""
        at = f"{host}:{port}"
        with _Deadline(self._seconds, socket) as deadline:
            self._current = deadline
            try:
                yield
            except (OSError, http.client.HTTPException, smtplib.SMTPException, ValueError) as error:
                if deadline.over:
                    raise NotDelivered(f"{at} took longer than {self._seconds:g} s.") from None
                raise NotDelivered(f"{at} {_what_happened(error)}.", refused=_is_refusal(error)) from None
            finally:
                self._current = None

    # mail -------------------------------------------------------------------------------------------------------------

    def _mail(self, mail: Mail, notification: Notification, document: Mapping[str, Any]) -> str:
        context = client_context(mail.ca) if mail.encryption in (STARTTLS, TLS) else None
        password = self._secret(mail.password) if mail.password is not None else ""
        message, remark = mail_of(mail, notification, document, self._now())
        name = platform.node()
        own_name = name if _HOST_NAME.match(name) else "[127.0.0.1]"  # else it would be asked of a name server
        if mail.encryption == TLS:
            client: smtplib.SMTP = smtplib.SMTP_SSL(timeout=self._timeout, context=context, local_hostname=own_name)
        else:
            client = smtplib.SMTP(timeout=self._timeout, local_hostname=own_name)
        client._host = mail.host  # type: ignore[attr-defined]  # connect() forgets it, and the certificate is for it
        with self._in_time(mail.host, mail.port, lambda: client.sock):
            try:
                client.connect(mail.host, mail.port)
                if mail.encryption == STARTTLS:
                    client.starttls(context=context)
                if mail.user:
                    client.login(mail.user, password)
                # Not send_message(): it puts a > before a line that begins with "From ".
                refused = client.sendmail(mail.sender, list(mail.to), message.as_bytes())
                if refused:
                    remark = f"{len(refused)} of {len(mail.to)} recipients were refused"
                with suppress(OSError, smtplib.SMTPException):
                    client.quit()
            finally:
                client.close()
        return remark

    # webhook ----------------------------------------------------------------------------------------------------------

    def _post(self, webhook: Webhook, document: Mapping[str, Any]) -> str:
        url, port = _parts(self._text(webhook.url))
        if url is None or not url.hostname:
            raise NotDelivered("The webhook's URL is none; it begins with https:// and names a host.")
        if url.scheme == "http" and not is_loopback(url.hostname):
            if url.username is not None:
                raise NotDelivered("The webhook's URL would send its password in the open; use https.")
            if webhook.encryption == TLS:
                raise NotDelivered("The webhook's URL is not encrypted; use https, or set encryption: none.")
        body, remark = body_of(webhook, document)
        headers = {"Content-Type": "application/json", "User-Agent": f"dicom-router/{__version__}"}
        if url.username is not None:
            login = f"{url.username}:{url.password or ''}"
            headers["Authorization"] = f"Basic {base64.b64encode(urllib.parse.unquote_to_bytes(login)).decode()}"
        headers |= {name: self._text(value) for name, value in webhook.headers.items()}
        if url.scheme == "https":
            context = client_context(webhook.ca)
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                url.hostname, port, timeout=self._timeout, context=context
            )
        else:
            connection = http.client.HTTPConnection(url.hostname, port, timeout=self._timeout)
        path = urllib.parse.urlunsplit(("", "", url.path or "/", url.query, ""))
        with self._in_time(url.hostname, port, lambda: connection.sock):
            try:
                connection.request("POST", path, body.encode(), headers)
                with closing(connection.getresponse()) as response:  # what it says is for nobody
                    status, after = response.status, response.getheader("Retry-After")
            finally:
                connection.close()
        if not 200 <= status < 300:
            redirect = ", which leads elsewhere: redirects are not followed" if 300 <= status < 400 else ""
            raise NotDelivered(
                f"{url.hostname}:{port} answered with status {status}{redirect}.",
                refused=status in _NOT_THIS_MESSAGE,
                retry_after=_seconds(after, self._now()),
            )
        return remark

    def _text(self, value: str | Secret) -> str:
        return self._secret(value) if isinstance(value, Secret) else value


# --- What is sent -----------------------------------------------------------------------------------------------------


def mail_of(
    mail: Mail, notification: Notification, document: Mapping[str, Any], now: datetime
) -> tuple[EmailMessage, str]:
    """The message, and what there is to remark of its template."""
    subject, text, remark = f"[dicom-router {document['router']}] {document['title']}", str(document["text"]), ""
    if mail.template:
        try:
            own, text = render_mail(mail.template, document)
            subject = own or subject
        except TemplateFault as fault:
            remark = f"its template {fault}; the usual text was sent"
    domain = mail.sender.rpartition("@")[2]
    first = f"<{notification.thread}.1@{domain}>"
    message = EmailMessage(_POLICY)
    message["Subject"] = _one_line(subject)
    message["From"] = mail.sender
    message["To"] = ", ".join(mail.to)
    message["Date"] = email.utils.format_datetime(now)
    message["Message-ID"] = f"<{notification.thread}.{notification.number}@{domain}>"
    if notification.number > 1:
        message["In-Reply-To"] = message["References"] = first
    message["Auto-Submitted"] = "auto-generated"  # nobody's absence note answers it (RFC 3834)
    message.set_content(text)
    return message, remark


def body_of(webhook: Webhook, document: Mapping[str, Any]) -> tuple[str, str]:
    """The JSON, and what there is to remark of its template."""
    usual = json.dumps({"text": document["text"]} if webhook.format == "text" else document)
    if not webhook.template:
        return usual, ""
    try:
        return render_json(webhook.template, document), ""
    except TemplateFault as fault:
        return usual, f"its template {fault}; the usual JSON was sent"


def _parts(text: str) -> tuple[urllib.parse.SplitResult | None, int]:
    """What a URL of HTTP says, and its port; None where it is none."""
    try:
        url = urllib.parse.urlsplit(text)
        port = url.port or (443 if url.scheme == "https" else 80)
    except ValueError:
        return None, 0
    usable = url.scheme in ("http", "https") and text.isascii() and text.isprintable() and " " not in text
    return (url, port) if usable else (None, 0)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name or address."""
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.[0-9]{1,3}){3}", host) is not None


def _one_line(text: str) -> str:
    """A text that can stand in a header."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())[:250]


# --- What went wrong --------------------------------------------------------------------------------------------------


def _what_happened(error: Exception) -> str:
    """The rest of a sentence that begins with who it was."""
    match error:
        case smtplib.SMTPAuthenticationError():
            return f"refused the user name and password (code {error.smtp_code})"
        case smtplib.SMTPRecipientsRefused():
            codes = sorted({str(code) for code, _ in error.recipients.values()})
            return f"refused all recipients (code {', '.join(codes)})"
        case smtplib.SMTPNotSupportedError():
            return "does not offer what is asked of it: STARTTLS, or a way to log in; see encryption and user"
        case smtplib.SMTPServerDisconnected():
            return "closed the connection, or does not speak SMTP"
        case smtplib.SMTPResponseException():
            return f"refused with code {error.smtp_code}"
        case http.client.HTTPException():
            return "closed the connection, or does not speak HTTP"
        case TimeoutError():
            return "does not answer"
        case OSError():
            distrust = getattr(error, "verify_message", None)
            if distrust:
                return f"shows a certificate that is not trusted ({distrust})"
            if getattr(error, "reason", None):
                return f"does not speak TLS as expected ({error.reason})"  # type: ignore[attr-defined]
            return f"cannot be reached ({error.strerror or 'I/O error'})"
        case _:
            return "answered something that is not understood"


def _is_refusal(error: Exception) -> bool:
    """Whether the other side does not want this very message, and may want others."""
    return isinstance(error, smtplib.SMTPDataError) and 500 <= error.smtp_code < 600


def _seconds(after: str | None, now: datetime) -> float | None:
    """What a header Retry-After says: seconds, or a date (RFC 9110 section 10.2.3)."""
    if not after:
        return None
    if after.strip().isdecimal():
        return float(after.strip()[:9])
    try:
        at = email.utils.parsedate_to_datetime(after)
        return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now.timestamp())
    except (ValueError, OverflowError, TypeError):
        return None
