"""What a row of the outcome table is: a cause, what helps against it, and what to say to an administrator."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Remedy(StrEnum):
    """What helps against an outcome."""

    NONE = "none"
    """Nothing is wrong; evidence decides."""
    SOON = "soon"
    """Ask again after some seconds."""
    LATER = "later"
    """Ask again, with growing delay."""
    SMALLER = "smaller"
    """Ask again for what is missing, in smaller requests: series, then instances."""
    STOP_ROUTE = "stop route"
    """No study can go this way until a person changes a configuration."""
    PERMANENT = "permanent"
    """This request will never succeed as it is."""


class Cause(msgspec.Struct, frozen=True):
    """A row of the outcome table."""

    remedy: Remedy
    sentence: str
    clean: bool = False
    """Without evidence it counts as moved, though unproven."""
    unsent: bool = False
    """No sub-operation can have begun: there is no evidence to look for."""
    loose: bool = False
    """What was under way may still go on (PS3.4 section C.4.2.3.1)."""
    tries: int | None = None
    """Attempts in all after which it is permanent; None: as many as the rule allows."""
