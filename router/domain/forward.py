"""The action `forward` as the configuration says it: how far, to whom, in which transfer syntax. Frozen values."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from router.domain.triggers import Unit


class Choice(StrEnum):
    """Which nodes of a group get what is forwarded; the words of the configuration."""

    ALL_OF = "all_of"
    """Each of them."""
    ANY_OF = "any_of"
    """The first that can take it now."""
    ROUND_ROBIN = "round_robin"
    """One after the other, of those that can take it now."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes that stand for one destination. A node by itself is a group of one."""

    choice: Choice = Choice.ALL_OF
    nodes: tuple[str, ...]


class Syntax(StrEnum):
    """In which transfer syntax instances are sent on."""

    KEEP = "keep"
    """As they came."""
    EXPLICIT = "explicit"
    """Compressed ones as Explicit VR Little Endian, where the destination does not take them as they came."""
    IMPLICIT = "implicit"
    """Compressed ones as Implicit VR Little Endian, where the destination does not take them as they came."""


class Forward(msgspec.Struct, frozen=True, kw_only=True):
    """The action: a C-STORE of what arrived to each destination."""

    to: tuple[Group, ...]
    level: Unit = Unit.STUDY
    """What the condition takes or leaves as a whole."""
    transfer_syntax: Syntax = Syntax.KEEP

    @property
    def nodes(self) -> tuple[str, ...]:
        """Every node that may get something, each once."""
        return tuple(dict.fromkeys(name for group in self.to for name in group.nodes))
