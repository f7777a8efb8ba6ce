"""C-FIND matches from bytes to values: the decoders alone, and whole queries against a responder of canned matches."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, build_context
from pynetdicom.dsutils import decode as pynetdicom_decode

from bench.harness import Bench, BenchmarkError, Contender, environment, program, rate, seconds
from bench.matches import SYNTAXES, attributes, garbage_collected_as_in_the_service, identifiers
from bench.result import Row, at_least
from router.dimse.identifier import Decoder
from router.dimse.peers import Peers
from router.domain.dicom import Identifier, InformationModel, QueryRetrieveLevel
from router.domain.levels import RETURN_KEYS
from router.domain.rule import Node

_UNIT = "matches/s"
_NOBODY = threading.Event()
_OURS, _PYNETDICOM, _FINDSCU = "router", "pynetdicom", "findscu -q, less its start"
_KEYS = sorted(set(attributes(0)) - {"SpecificCharacterSet", "QueryRetrieveLevel", "RetrieveAETitle"})
_SECONDS = 120.0


def run(bench: Bench) -> Iterator[Row]:
    """The rows of the table."""
    bench.stack.enter_context(garbage_collected_as_in_the_service())
    for implicit in (False, True):
        yield _decoders(bench, implicit=implicit)
    yield from _queries(bench)


# --- The decoders alone ----------------------------------------------------------------------------------------------


def _decoders(bench: Bench, *, implicit: bool) -> Row:
    ours = list(identifiers(bench.scale(20_000, 500), implicit=implicit))
    theirs = ours[: bench.scale(4_000, 100)]
    contenders = [
        Contender(_OURS, lambda: rate(len(ours), lambda: _decode(ours, implicit)), len(ours)),
        Contender(_PYNETDICOM, lambda: rate(len(theirs), lambda: _decode_theirs(theirs, implicit)), len(theirs)),
    ]
    router, pynetdicom = bench.compete(contenders, bench.scale(5, 2))
    encoding = "implicit" if implicit else "explicit"
    work = f"Decode C-FIND matches, every value read, {encoding} VR"
    return Row(work, _UNIT, router, pynetdicom, at_least(15))


def _decode(data: list[bytes], implicit: bool) -> list[Identifier]:
    decoder = Decoder(SYNTAXES[implicit])  # one for all matches of a C-FIND, as there
    return [decoder.decode(one) for one in data]


def _decode_theirs(data: list[bytes], implicit: bool) -> list[Dataset]:
    return [_read(pynetdicom_decode(BytesIO(one), implicit, True)) for one in data]


def _read(dataset: Dataset) -> Dataset:
    """pydicom leaves the values as bytes until they are asked for; ours are there at once."""
    for element in dataset:
        _ = element.value
    return dataset


# --- Whole queries ---------------------------------------------------------------------------------------------------


def _queries(bench: Bench) -> Iterator[Row]:
    count, fewer = bench.scale(20_000, 5_000), bench.scale(3_000, 100)
    many, few, none = (bench.module("responder", number) for number in (count, fewer, 0))
    peers = Peers("BENCH", lambda event: None)
    bench.stack.callback(peers.close)
    node = Node(name="archive", ae_title="ARCHIVE", host="127.0.0.1", port=many)
    start = min(_findscu(none) for _ in range(5))
    contenders = [
        Contender(_OURS, lambda: rate(count, lambda: _ask(peers, node, count)), count),
        Contender(_PYNETDICOM, lambda: rate(fewer, lambda: _ask_with_pynetdicom(few, fewer)), fewer),
        Contender(_FINDSCU, lambda: count / (_findscu(many) - start), count),
    ]
    router, pynetdicom, findscu = bench.compete(contenders, bench.scale(5, 2))
    work = "C-FIND with its matches decoded, one association, canned responder"
    yield Row(work, _UNIT, router, pynetdicom, at_least(15))
    yield Row(work, _UNIT, router, findscu, at_least(1))


def _ask(peers: Peers, node: Node, expected: int) -> None:
    keys = Identifier(dict.fromkeys(RETURN_KEYS[QueryRetrieveLevel.STUDY], ()))
    result = peers.find(node, QueryRetrieveLevel.STUDY, keys, maximum=expected + 1, cancelled=_NOBODY)
    _expect(len(result.identifiers), expected, "the router")


def _ask_with_pynetdicom(port: int, expected: int) -> None:
    keys = Dataset()
    keys.QueryRetrieveLevel = "STUDY"
    for keyword in _KEYS:
        setattr(keys, keyword, "")
    ae = AE("BENCH")
    model = UID(InformationModel.STUDY_ROOT.find)
    association = ae.associate("127.0.0.1", port, contexts=[build_context(model)], ae_title="ARCHIVE")
    responses = association.send_c_find(keys, model)
    matches = [_read(found) for status, found in responses if found is not None]
    association.release()
    _expect(len(matches), expected, "pynetdicom")


def _findscu(port: int) -> float:
    keys = [word for keyword in ("QueryRetrieveLevel=STUDY", *_KEYS) for word in ("-k", keyword)]
    command = [program("findscu"), "-q", "-S", "-aec", "ARCHIVE", *keys, "127.0.0.1", str(port)]
    call = partial(
        subprocess.run,
        command,
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=_SECONDS,
        env=environment(nodelay=False),
    )
    return seconds(call)


def _expect(found: int, wanted: int, who: str) -> None:
    if found != wanted:
        raise BenchmarkError(f"{found} of {wanted} matches reached {who}.")
