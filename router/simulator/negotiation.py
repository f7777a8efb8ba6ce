"""What the simulated PACS says and accepts in A-ASSOCIATE: contexts, lengths, AE titles. Decides; opens nothing."""

from __future__ import annotations

from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationSocket

from .behaviour import Behaviour
from .encoding import UNCOMPRESSED
from .models import FIND_MODELS, GET_MODELS, MODALITY_WORKLIST, MOVE_MODELS

VERIFICATION = UID("1.2.840.10008.1.1")
_OUR_SERVICES = frozenset({VERIFICATION, MODALITY_WORKLIST, *FIND_MODELS, *MOVE_MODELS, *GET_MODELS})

_ASSOCIATE_RQ = 0x01
_CALLED, _CALLING = slice(10, 26), slice(26, 42)
"""Where the AE titles are in an A-ASSOCIATE-RQ (PS3.8 table 9-11)."""


def takes_too_much(maximum_length: int | None, behaviour: Behaviour) -> bool:
    """Whether a peer that takes P-DATA-TF of this length (0: of any) is one we have nothing to do with."""
    limit = behaviour.largest_max_pdu
    return limit is not None and not 0 < (maximum_length or 0) <= limit


def write_titles(wrapper: AssociationSocket, behaviour: Behaviour) -> None:
    """Have the AE titles of the A-ASSOCIATE-RQ written in a way that pynetdicom would not (PS3.8 table 9-11)."""
    send = wrapper.send

    def written(title: bytes) -> bytes:
        match behaviour.titles:
            case "nuls":
                return title.rstrip().ljust(16, b"\0")
            case "tab":
                return (title.rstrip() + b"\t").ljust(16)[:16]
            case "blank":
                return b" " * 16
        return title

    def send_written(bytestream: bytes) -> None:
        encoded = bytestream
        if encoded[0] == _ASSOCIATE_RQ:
            called = encoded[_CALLED] if behaviour.titles == "blank" else written(encoded[_CALLED])
            encoded = encoded[: _CALLED.start] + called + written(encoded[_CALLING]) + encoded[_CALLING.stop :]
        send(encoded)

    wrapper.send = send_written  # type: ignore[method-assign]


def supported(request: A_ASSOCIATE, behaviour: Behaviour) -> list[PresentationContext]:
    """The contexts we accept of a request: our own services, and every storage class as the requestor prefers it."""
    offers: dict[UID, list[UID]] = {}
    for context in request.presentation_context_definition_list:
        syntaxes = offers.setdefault(UID(str(context.abstract_syntax)), [])
        syntaxes.extend(UID(syntax) for syntax in context.transfer_syntax if syntax not in syntaxes)
    supported = []
    for abstract_syntax, syntaxes in offers.items():
        if abstract_syntax in behaviour.refused_sop_classes:
            continue
        if abstract_syntax in _OUR_SERVICES:
            usable = [s for s in syntaxes if s in UNCOMPRESSED]
            if behaviour.implicit_only and abstract_syntax != VERIFICATION:
                usable = [s for s in usable if s == ImplicitVRLittleEndian]
        elif not _is_storage(abstract_syntax):
            continue
        else:
            usable = [s for s in syntaxes if not s.is_private and s != DeflatedExplicitVRLittleEndian]
        if usable:
            context = PresentationContext()
            context.abstract_syntax = abstract_syntax
            context.transfer_syntax = [*usable]
            if abstract_syntax not in _OUR_SERVICES:  # whichever role the requestor proposes (PS3.7 section D.3.3.4)
                context.scu_role = context.scp_role = True
            supported.append(context)
    return supported


def _is_storage(abstract_syntax: UID) -> bool:
    """Whether an abstract syntax is a storage class: private ones, and the standard's 1.2.840.10008.5.1.4.1.1.*."""
    return abstract_syntax.is_private or abstract_syntax.startswith("1.2.840.10008.5.1.4.1.1.")
