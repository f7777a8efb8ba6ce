"""Values of the domain as bytes of a column, and back. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from router.domain.dicom import Identifier
from router.domain.relevance import Prior

_decode_prior = msgspec.msgpack.Decoder(Prior).decode


def pack_identifier(identifier: Identifier) -> bytes:
    """A data set, its sequences too; the order of attributes does not matter."""
    return msgspec.msgpack.encode(_plain(identifier))


def unpack_identifier(packed: bytes) -> Identifier:
    """What `pack_identifier` was given."""
    return _identifier(msgspec.msgpack.decode(packed))


def pack_prior(prior: Prior) -> bytes:
    """A decision about a candidate."""
    return msgspec.msgpack.encode(prior)


def unpack_prior(packed: bytes) -> Prior:
    """What `pack_prior` was given."""
    return _decode_prior(packed)


def _plain(identifier: Identifier) -> list[Any]:
    """Pairs of tag and values; an item of a sequence is a list again."""
    return [
        [tag, [value if isinstance(value, str) else _plain(value) for value in values]]
        for tag, values in sorted(identifier.elements.items())
    ]


def _identifier(plain: list[Any]) -> Identifier:
    return Identifier(
        {
            tag: tuple(value if isinstance(value, str) else _identifier(value) for value in values)
            for tag, values in plain
        }
    )
