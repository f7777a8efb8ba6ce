"""Who is told of what goes wrong, and how: the settings of `router.notify` and of rules, as values. Pure.

Durations are seconds.
"""

from __future__ import annotations

import msgspec

from router.domain.secret import Secret

WORDS = (
    "failed",
    "partial",
    "contradicted",
    "route-stopped",
    "node-down",
    "sweep-failed",
    "sweep-incomplete",
    "look-failed",
    "priors-late",
    "reload-failed",
    "disk-low",
    "certificate-expiring",
)
"""What can be told."""

STARTTLS, TLS, NONE = "starttls", "tls", "none"
"""How the way to a mail server is encrypted; the way to a webhook is with the last two."""


class Mail(msgspec.Struct, frozen=True, kw_only=True):
    """A channel that writes e-mail."""

    to: tuple[str, ...]
    sender: str
    host: str
    port: int
    encryption: str = STARTTLS
    user: str = ""
    password: Secret | None = None
    ca: str = ""
    """Absolute path of a PEM file with the authorities that are trusted; empty: those of the system."""
    template: str = ""
    """The text of a template; empty: the usual text."""


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """A channel that posts JSON."""

    url: str | Secret
    """Often a secret by itself: who knows it may post."""
    headers: dict[str, str | Secret] = {}
    encryption: str = TLS
    """`none`: `http` will do, also to another machine."""
    format: str = "json"
    """`json`: everything, as documented; `text`: `{"text": ...}`, which most chat programs take."""
    ca: str = ""
    template: str = ""
    """The text of a template that makes the JSON; empty: `format` says it."""


class NotifySettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is told to whom, where a rule does not say otherwise."""

    channels: dict[str, Mail | Webhook] = {}
    to: tuple[str, ...] | None = None
    """Names of channels; None: all of them."""
    on: tuple[str, ...] = WORDS
    wait: float = 60.0
    """What happens to the same group within it goes into one notification."""
    again: float = 14400.0
    """The same group is told again after this at the earliest, while it goes on."""
    at_most: int = 20
    """Notifications in any hour on one channel."""
    identifiers: bool = False
    """Study Instance UIDs stand in the text; else pseudonyms."""
    link: str = ""
    """Where people reach the status page; empty: not told."""

    @property
    def heard_by(self) -> tuple[str, ...]:
        """The channels that hear of what no rule says otherwise."""
        return tuple(self.channels) if self.to is None else self.to


class RuleNotify(msgspec.Struct, frozen=True, kw_only=True):
    """A rule's own wishes; None: as `router.notify` says."""

    to: tuple[str, ...] | None = None
    """Names of channels; empty: nobody is told."""
    on: tuple[str, ...] | None = None
