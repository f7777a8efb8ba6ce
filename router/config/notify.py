"""The key `router.notify` and the key `notify` of rules: who is told of what goes wrong, and on which channels."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from router.config.base import Base
from router.config.diagnostics import Code
from router.config.document import MappingNode, Node
from router.config.schema import node_at
from router.config.secrets import secret_setting
from router.config.values import ADDRESS_HINT, parse_address
from router.dimse.client_tls import client_context
from router.domain.notice_template import MAXIMUM_TEMPLATE, TemplateFault, check
from router.domain.notify import NONE, STARTTLS, TLS, Mail, NotifySettings, RuleNotify, Webhook
from router.domain.secret import Secret
from router.errors import TlsFileError

_E_MAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*\Z")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}\Z")
_PROVES = re.compile(r"auth|token|key|secret|cookie|password|signature", re.IGNORECASE)
"""Headers that show who asks."""
_OURS = frozenset({"content-type", "content-length", "host", "transfer-encoding", "connection"})
_LOOPBACK = re.compile(r"localhost\Z|127(\.[0-9]{1,3}){3}\Z|::1\Z")
_LONGEST_WAIT = 3600.0
_UNTIL = "until then nothing can be told on it"


def rule_notify(values: Mapping[str, Any]) -> RuleNotify:
    """What a rule says of it."""
    given = values.get("notify", {})
    if not isinstance(given, dict):
        return RuleNotify(to=())
    return RuleNotify(**{key: tuple(dict.fromkeys(given[key])) for key in ("to", "on") if key in given})


def notify_settings(base: Base, router: MappingNode, values: Mapping[str, Any]) -> NotifySettings:
    """What the router's tree says of it."""
    given: Mapping[str, Any] = values.get("notify", {})
    tree = node_at(router, ("notify",))
    if not isinstance(tree, MappingNode):
        return NotifySettings()
    changes: dict[str, Any] = {key: given[key] for key in ("at_most", "identifiers") if key in given}
    changes |= {key: tuple(dict.fromkeys(given[key])) for key in ("to", "on") if key in given}
    changes |= base.durations(tree, given, "wait", "again")
    if "link" in given:
        changes["link"] = given["link"]
        if _url(given["link"]) is None:
            hint = "for example https://router.hospital.example/"
            base.report(tree.values["link"], Code.BAD_VALUE, "router.notify.link is no URL", hint)
    channels: dict[str, Mail | Webhook] = {}
    for name, each in given.get("channels", {}).items():
        place = node_at(tree, ("channels", name))
        if isinstance(place, MappingNode):
            channel = _Channel(base, place, f"router.notify.channels.{name}").built(each)
            if channel is not None:
                channels[name] = channel
    settings = NotifySettings(channels=channels, **changes)
    if settings.wait > min(settings.again, _LONGEST_WAIT):
        place = node_at(tree, ("wait" if "wait" in given else "again",))
        than = "router.notify.again" if settings.wait > settings.again else "an hour"
        base.report(place, Code.LIMITS, f"router.notify.wait is longer than {than}", "1m is usual, and again: 4h")
    return settings


def _url(text: str) -> urllib.parse.SplitResult | None:
    """The parts of a URL of HTTP; None where it is none."""
    try:
        parts = urllib.parse.urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if usable and text.isascii() and text.isprintable() and " " not in text else None


class _Channel:
    """Builds one channel. What is wrong is reported; a channel that cannot be built is None."""

    def __init__(self, base: Base, tree: MappingNode, subject: str) -> None:
        self._base = base
        self._tree = tree
        self._subject = subject

    def built(self, values: Mapping[str, Any]) -> Mail | Webhook | None:
        for kind, build in (("mail", self._mail), ("webhook", self._webhook)):
            tree = self._tree.values.get(kind)
            if isinstance(tree, MappingNode):
                self._subject += f".{kind}"
                return build(tree, values[kind])
        return None

    def _report(self, place: Node, code: Code, message: str, hint: str = "") -> None:
        self._base.report(place, code, message, hint)

    def _mail(self, tree: MappingNode, values: Mapping[str, Any]) -> Mail | None:
        server = values.get("server", "")
        address = parse_address(server)
        if address is None:
            if "server" in values:
                message = f"{self._subject}.server: {server!r} is no address"
                self._report(tree.values["server"], Code.ADDRESS, message, ADDRESS_HINT)
            return None
        for path, text in self._addresses(values):
            if _E_MAIL.match(text) is None or len(text) > 254:
                message = f"{self._subject}.{path[0]}: {text!r} is no e-mail address"
                self._report(node_at(tree, path), Code.CHANNEL, message, "name@host, for example pacs@hospital.example")
        user = values.get("user", "")
        if bool(user) != ("password" in values) and not self._base.is_damaged("router"):
            there, lacks = ("user", "password") if user else ("password", "user")
            message = f"{self._subject} has a {there} and no {lacks}"
            self._report(tree.keys[there], Code.CHANNEL, message, "both log in; neither: there is no login")
        elif not (user.isascii() and user.isprintable()):
            self._report(tree.values["user"], Code.CHANNEL, f"{self._subject}.user is not printable ASCII")
        encryption = values.get("encryption", STARTTLS)
        if encryption == NONE and "password" in values and _LOOPBACK.match(address[0]) is None:
            message = f"{self._subject} would send its password to {address[0]} in the open"
            hint = "encryption: starttls (usual at port 587) or tls (at 465), or a server that needs no login"
            self._report(node_at(tree, ("encryption",)), Code.NOT_ENCRYPTED, message, hint)
        return Mail(
            to=tuple(dict.fromkeys(values.get("to", ()))),
            sender=values.get("from", ""),
            host=address[0],
            port=address[1],
            encryption=encryption,
            user=user,
            password=self._secret(tree, values, "password"),
            ca=self._authorities(tree, values),
            template=self._template(tree, values, makes_json=False),
        )

    def _addresses(self, values: Mapping[str, Any]) -> list[tuple[tuple[str | int, ...], str]]:
        found: list[tuple[tuple[str | int, ...], str]] = [
            (("to", index), text) for index, text in enumerate(values.get("to", ()))
        ]
        return [*found, *((("from",), values[key]) for key in ("from",) if key in values)]

    def _webhook(self, tree: MappingNode, values: Mapping[str, Any]) -> Webhook | None:
        encryption = values.get("encryption", TLS)
        given = values.get("url", "")
        url: str | Secret | None = given
        parts = None
        if isinstance(given, dict):
            url = self._secret(tree, values, "url")
        else:
            parts = _url(given)
            if parts is None and "url" in values:
                message = f"{self._subject}.url is no URL"  # which it is stays unsaid: it may be a secret
                self._report(tree.values["url"], Code.CHANNEL, message, "https://host/path, on one line")
            elif parts is not None and parts.username is not None:
                message = f"{self._subject}.url holds a user name or password"
                hint = "keep the whole URL as a secret, {file: path}, or use a header Authorization"
                self._report(tree.values["url"], Code.PLAIN_SECRET, message, hint)
        headers = self._headers(tree, values.get("headers", {}))
        if parts is not None and parts.scheme == "http" and _LOOPBACK.match(parts.hostname or "") is None:
            secrets = [name for name, value in headers.items() if isinstance(value, Secret)]
            if encryption == TLS:
                message = f"{self._subject}.url goes to {parts.hostname} in the open"
                hint = "use https://, or set encryption: none where the network may read along"
                self._report(tree.values["url"], Code.NOT_ENCRYPTED, message, hint)
            elif secrets:
                message = f"{self._subject} would send the header {secrets[0]} to {parts.hostname} in the open"
                self._report(tree.values["url"], Code.NOT_ENCRYPTED, message, "use https://")
        if not url:
            return None
        return Webhook(
            url=url,
            headers=headers,
            encryption=encryption,
            format=values.get("format", "json"),
            ca=self._authorities(tree, values),
            template=self._template(tree, values, makes_json=True),
        )

    def _headers(self, tree: MappingNode, given: Mapping[str, Any]) -> dict[str, str | Secret]:
        headers: dict[str, str | Secret] = {}
        inner = tree.values.get("headers")
        if not isinstance(inner, MappingNode):
            return headers
        for name, value in given.items():
            subject = f"{self._subject}.headers.{name}"
            if _HEADER.match(name) is None or name.casefold() in _OURS:
                message = f"{self._subject}.headers: {name!r} cannot be set"
                self._report(inner.keys[name], Code.CHANNEL, message, "a name of a header, such as X-Site; not our own")
            elif isinstance(value, dict):
                secret = secret_setting(
                    inner, given, name, f"{self._subject}.headers", self._base.report, until=_UNTIL, shared=True
                )
                if secret is not None:
                    headers[name] = secret
            elif _PROVES.search(name):
                hint = "{env: NAME} or {file: path}; what has stood here is to be replaced by another one"
                message = f"{subject} is a secret and cannot stand here"
                self._report(inner.values[name], Code.PLAIN_SECRET, message, hint)
            elif not (value.isascii() and value.isprintable()):
                self._report(inner.values[name], Code.CHANNEL, f"{subject} is not printable ASCII")
            else:
                headers[name] = value
        return headers

    def _secret(self, tree: MappingNode, values: Mapping[str, Any], key: str) -> Secret | None:
        return secret_setting(tree, values, key, self._subject, self._base.report, until=_UNTIL, shared=True)

    def _path(self, tree: MappingNode, values: Mapping[str, Any], key: str) -> str:
        return str(Path(tree.values[key].file).absolute().parent / values[key]) if key in values else ""

    def _authorities(self, tree: MappingNode, values: Mapping[str, Any]) -> str:
        path = self._path(tree, values, "ca")
        if path:
            try:
                client_context(path)
            except TlsFileError as fault:
                self._report(tree.values["ca"], Code.TLS_FILE, f"{self._subject}.ca: {fault}")
        return path

    def _template(self, tree: MappingNode, values: Mapping[str, Any], *, makes_json: bool) -> str:
        path = self._path(tree, values, "template")
        if not path:
            return ""
        place, subject = tree.values["template"], f"{self._subject}.template"
        try:
            with Path(path).open("rb") as stream:
                text = stream.read(4 * MAXIMUM_TEMPLATE).decode("utf-8")
            check(text, makes_json=makes_json)
        except OSError as error:
            self._report(place, Code.TEMPLATE, f"{subject}: {path} cannot be read ({error.strerror or 'I/O error'})")
        except ValueError:
            self._report(place, Code.TEMPLATE, f"{subject}: {path} is not UTF-8")
        except TemplateFault as fault:
            self._report(place, Code.TEMPLATE, f"{subject}: {path} {fault}")
        else:
            return text
        return ""
