"""Which presentation contexts and roles a C-GET proposes, and which classes an acceptor does not send by them. Pure.

An acceptor answers a context with one transfer syntax only (PS3.8 section 9.3.3.2): the more contexts a SOP class has,
the surer an instance comes across in the encoding it is stored in. An association has room for 128.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from pydicom.uid import UID

from router.dimse.association import Association, Offer
from router.dimse.identifier import TRANSFER_SYNTAXES
from router.dimse.pdu import MAXIMUM_CONTEXTS, ProposedContext, RoleSelection
from router.dimse.services import is_storage
from router.domain.dicom import InformationModel

Grouping = tuple[tuple[str, ...], ...]
"""The transfer syntaxes of a class, a tuple for each of its contexts."""

_LITTLE_ENDIAN: Grouping = (("1.2.840.10008.1.2.1",), ("1.2.840.10008.1.2",))


def _jpeg(*numbers: int) -> tuple[str, ...]:
    return tuple(f"1.2.840.10008.1.2.4.{number}" for number in numbers)


_RLE = ("1.2.840.10008.1.2.5",)
_VIDEO = _jpeg(100, 101, 102, 103, 104, 105, 106, 107, 108)
_HTJ2K = _jpeg(201, 202, 203)
_RARE = (*_jpeg(92, 93, 110, 111, 112), "1.2.840.10008.1.2.1.98", "1.2.840.10008.1.2.2")
"""JPEG 2000 multi-component, JPEG XL, encapsulated uncompressed, big endian."""
_FREQUENT = _jpeg(70, 50, 90, 91, 80, 81, 57, 51)
"""JPEG lossless and baseline, JPEG 2000, JPEG-LS, the other processes of JPEG."""
_COMPRESSED = (*_FREQUENT, *_RLE, *_HTJ2K, *_VIDEO, *_RARE)

GROUPINGS: tuple[Grouping, ...] = (
    (*_LITTLE_ENDIAN, *((uid,) for uid in _COMPRESSED)),
    (*_LITTLE_ENDIAN, *((uid,) for uid in _FREQUENT[:6]), _FREQUENT[6:], _RLE, _HTJ2K, _VIDEO, _RARE),
    (*_LITTLE_ENDIAN, _jpeg(70, 57), _jpeg(50, 51), _jpeg(90, 91), _jpeg(80, 81), (*_RLE, *_HTJ2K, *_VIDEO, *_RARE)),
    (TRANSFER_SYNTAXES, _COMPRESSED),
    ((*TRANSFER_SYNTAXES, *_COMPRESSED),),
)
"""From a context for each transfer syntax to one for all of them: the finest is taken that 128 contexts allow."""
_FAMILIES = GROUPINGS[2]
_USUAL: Grouping = (TRANSFER_SYNTAXES, (*_FREQUENT, *_RLE, *_HTJ2K, *_jpeg(100, 102, 103)))
"""For classes that are there in case: an A-ASSOCIATE-RQ with everything for each of them would be twice as long."""

_BY_FAMILY = 8
"""So many of the most common classes have a context for each family where nothing is known of a study."""
_RESERVE = 32
"""Contexts for other classes than those that are known: some archives know only some of their own."""

COMMON = tuple(
    f"1.2.840.10008.5.1.4.1.1.{suffix}"
    for suffix in (
        *("2", "4", "1", "1.1", "7", "6.1", "3.1", "12.1"),  # CT, MR, CR, DX, SC, US, US multi-frame, XA
        *("1.2", "20", "128", "2.1", "4.1", "12.2"),  # MG, NM, PET, enhanced CT and MR, RF
        *("11.1", "88.59", "88.11", "88.22", "88.33", "88.67", "104.1"),  # presentation state, KO, reports, dose, PDF
        *("7.4", "7.2", "7.3", "1.1.1", "1.2.1", "13.1.3"),  # multi-frame SC, DX and MG for processing, tomosynthesis
        *("481.3", "481.2", "481.5", "481.1", "66.4", "66.1", "66"),  # radiotherapy, segmentation, registration, raw
        *("77.1.1", "77.1.4", "77.1.2", "77.1.1.1", "77.1.5.1", "77.1.5.2", "77.1.5.4", "77.1.6"),  # visible light
        *("12.1.1", "12.2.1", "130", "4.2", "6.2", "1.3"),  # enhanced XA, XRF and PET, spectroscopy, US volume, IO
        *("9.1.1", "9.1.2", "88.34", "88.50", "7.1", "6", "3"),  # ECG, 3D and CAD reports, the retired US classes
    )
)
"""The storage SOP classes archives hold most of, the most frequent first."""


class Proposal(NamedTuple):
    """What the association of a C-GET is opened with, or of another request that needs contexts of its own."""

    contexts: tuple[ProposedContext, ...]
    roles: tuple[RoleSelection, ...] = ()
    left_out: tuple[str, ...] = ()
    """Known SOP classes for which no context was left."""

    @property
    def offers(self) -> frozenset[Offer]:
        """What an association must have been offered to carry it."""
        return frozenset(context[1:] for context in self.contexts)


def propose(known: Collection[str]) -> Proposal:
    """The contexts for instances of these SOP classes (in any order), filled up with the most common ones.

    For each class this side proposes to be the SCP (PS3.7 section D.3.3.4), for instances come to the requestor.
    """
    offers: list[Offer] = [(model.get, TRANSFER_SYNTAXES) for model in InformationModel]
    room = MAXIMUM_CONTEXTS - len(offers)
    wanted = sorted(uid for uid in set(known) if is_storage(uid))
    for grouping in GROUPINGS:
        if len(wanted) * len(grouping) <= room - _RESERVE:
            break
    chosen = [(uid, grouping) for uid in wanted]
    others = [uid for uid in COMMON if uid not in wanted]
    by_family = 0 if wanted else _BY_FAMILY
    chosen += [(uid, _FAMILIES) for uid in others[:by_family]] + [(uid, _USUAL) for uid in others[by_family:]]
    classes: list[str] = []
    for uid, groups in chosen:
        if len(groups) > MAXIMUM_CONTEXTS - len(offers):
            break
        classes.append(uid)
        offers += [(uid, syntaxes) for syntaxes in groups]
    return Proposal(
        tuple(ProposedContext(2 * number + 1, *offer) for number, offer in enumerate(offers)),
        tuple(RoleSelection(uid, scu=False, scp=True) for uid in classes),
        tuple(uid for uid in wanted if uid not in classes),
    )


def sendable(association: Association) -> dict[str, list[str]]:
    """The storage classes the acceptor agreed to send, each with the transfer syntaxes agreed to.

    One that answers no role selection at all may not know of it: whether it sends is seen when it is asked.
    """
    found: dict[str, list[str]] = {}
    for context in association.contexts.values():
        role = association.roles.get(context.abstract_syntax)
        if is_storage(context.abstract_syntax) and (not association.roles or (role is not None and role.scp)):
            found.setdefault(context.abstract_syntax, []).append(context.transfer_syntax)
    return found


_MOST = 5


def shortfall(agreed: dict[str, list[str]], known: Collection[str], left_out: Sequence[str]) -> str:
    """Why sub-operations may have failed, by what was negotiated: a sentence that names SOP classes or encodings."""
    refused = [uid for uid in sorted(known) if is_storage(uid) and uid not in agreed and uid not in left_out]
    parts = []
    if refused:
        parts.append(f"The source did not agree to send by C-GET: {names(refused)}.")
    if left_out:
        parts.append(f"No presentation context was left for {names(left_out)}.")
    if not parts:
        syntaxes = dict.fromkeys(syntax for uid in (known or agreed) for syntax in agreed.get(uid, ()))
        what = "" if known else "of a SOP class or "
        parts.append(f"They may be {what}in an encoding that was not agreed to; agreed were {names(syntaxes)}.")
    return " ".join(parts)


def names(uids: Iterable[str]) -> str:
    """SOP classes or transfer syntaxes in a sentence: the standard's names, some of them."""
    all_names = list(dict.fromkeys(UID(uid).name if UID(uid).name != uid else "one of its own" for uid in uids))
    more = f" and {len(all_names) - _MOST} more" if len(all_names) > _MOST else ""
    return ", ".join(all_names[:_MOST]) + more
