"""Which presentation contexts instances need, and how many associations that takes. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from router.dimse.association import Offer
from router.dimse.pdu import MAXIMUM_CONTEXTS, ProposedContext
from router.domain.exchange import StoredObject

BATCH = 4096
"""Instances that are looked at together; what comes after them may need another association."""


class Portion(NamedTuple):
    """Instances that one association can carry, and the contexts to propose for it."""

    contexts: tuple[ProposedContext, ...]
    objects: list[StoredObject]

    @property
    def offers(self) -> frozenset[Offer]:
        """What an association must have been offered to carry it."""
        return frozenset(context[1:] for context in self.contexts)


def offer_of(stored: StoredObject) -> Offer:
    """The context an instance needs: its SOP class and the one transfer syntax it is in, as nothing is re-encoded.

    A context for each transfer syntax, for an acceptor answers a context with one syntax only (PS3.8 section 9.3.3.2).
    """
    return stored.sop_class_uid, (stored.transfer_syntax_uid,)


def batches(objects: Iterable[StoredObject], size: int = BATCH) -> Iterator[list[StoredObject]]:
    """The instances in lists of bounded length."""
    remaining = iter(objects)
    while batch := list(itertools.islice(remaining, size)):
        yield batch


def portions(objects: Sequence[StoredObject]) -> list[Portion]:
    """The instances by association, in their order where one is enough (PS3.8 section 9.3.2.2: 128 contexts)."""
    places: dict[Offer, int] = {}
    carried: list[list[StoredObject]] = []
    for stored in objects:
        number = places.setdefault(offer_of(stored), len(places)) // MAXIMUM_CONTEXTS
        if number == len(carried):
            carried.append([])
        carried[number].append(stored)
    offers = list(places)
    return [
        Portion(
            tuple(
                ProposedContext(2 * place + 1, *offer)
                for place, offer in enumerate(offers[number * MAXIMUM_CONTEXTS : (number + 1) * MAXIMUM_CONTEXTS])
            ),
            some,
        )
        for number, some in enumerate(carried)
    ]
