"""What a metric is, and which label sets of it exist from the start. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from router.observe.labels import OTHER, Labels, Names

PREFIX = "dicom_router_"

Scope = Callable[[Names], Iterable[Labels]]


def once(names: Names) -> Iterable[Labels]:
    """The one without labels."""
    return [()]


def routes(names: Names) -> Iterable[Labels]:
    """Each rule with its source and one of its destinations."""
    return names.routes


def pairs(names: Names) -> Iterable[Labels]:
    """Each source with a destination."""
    return names.pairs


def sweeps(names: Names) -> Iterable[Labels]:
    """Each rule with whom it asks."""
    return names.sweeps


def nodes(names: Names) -> Iterable[Labels]:
    """Each node."""
    return names.nodes


def callers(names: Names) -> Iterable[Labels]:
    """Each node, and all others together."""
    return [*names.nodes, (OTHER,)]


def groups(names: Names) -> Iterable[Labels]:
    """Each rule with a group of its priors."""
    return names.groups


def appointments(names: Names) -> Iterable[Labels]:
    """Each rule that has priors, with its trigger."""
    return names.appointments


def looks(names: Names) -> Iterable[Labels]:
    """Each rule that has priors, with their source."""
    return names.looks


def prefetches(names: Names) -> Iterable[Labels]:
    """Each rule that has priors."""
    return names.prefetches


def prior_sources(names: Names) -> Iterable[Labels]:
    """Each source of priors."""
    return names.prior_sources


def certificates(names: Names) -> Iterable[Labels]:
    """Each certificate file that the configuration names."""
    return names.certificates


def channels(names: Names) -> Iterable[Labels]:
    """Each channel that people are notified on."""
    return names.channels


def paced(names: Names) -> Iterable[Labels]:
    """Each node whose moves an hour are limited."""
    return names.paced


class Definition(NamedTuple):
    """One metric."""

    name: str
    """Without the prefix."""
    kind: str
    """`counter`, `gauge` or `histogram`."""
    text: str
    labels: Labels = ()
    """Names: first those of the scope, then one for each vocabulary."""
    scope: Scope | None = once
    """Gives the label sets that exist from the start, at 0; None where none does."""
    vocabularies: tuple[tuple[str, ...], ...] = ()
    """Each word of them goes with each set of the scope."""
    buckets: tuple[float, ...] = ()


PAIR = ("source", "destination")
ROUTE = ("rule", *PAIR)
SWEEP = ("rule", "source")
TRANSFER_BUCKETS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
SWEEP_BUCKETS = (0.1, 0.5, 1, 5, 15, 60, 300, 1800)
RESPONSE_BUCKETS = (0.05, 0.25, 1, 5, 30)
LEAD_BUCKETS = (0, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 72 * 3600)
