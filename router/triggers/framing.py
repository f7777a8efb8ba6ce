"""MLLP frames (HL7 2.x transport specifications, release 1): 0x0B, the message, 0x1C 0x0D. Pure; no buffer grows."""

from __future__ import annotations

from enum import Enum

START, END = b"\x0b", b"\x1c"
MAXIMUM_BETWEEN = 4096
"""Bytes between two frames that are passed over."""
HEAD = 4096
"""Bytes of a message that is too large that are kept, to answer it."""

_AGAIN = START + b"MSH"
"""A message that begins inside another one, which its sender gave up."""


class Said(Enum):
    """What the bytes came to."""

    MESSAGE = "message"
    TOO_LARGE = "too large"
    """A message that ended, of which only the beginning was kept."""
    GIVEN_UP = "given up"
    """A message without an end: another one began."""
    NOISE = "noise"
    """So much between frames that this is no MLLP: nothing more is read."""


class Frames:
    """Takes a connection's bytes apart.

    A message ends with 0x1C: no character set that MLLP can carry has this byte in a text. What follows it, 0x0D as
    it should be, is between the frames.
    """

    def __init__(self, maximum_size: int) -> None:
        """`maximum_size`: bytes of a message."""
        self._maximum = maximum_size
        self._rest = b""
        """Of what was fed, what is not looked at yet."""
        self._message: bytearray | None = None
        self._large = False
        self._between = 0

    @property
    def open(self) -> bool:
        """Whether a message has begun that has not ended."""
        return self._message is not None

    @property
    def overflowing(self) -> bytes | None:
        """The beginning of the message that has begun, where it is too large already; else None."""
        return bytes(self._message) if self._message is not None and self._large else None

    def feed(self, data: bytes) -> None:
        """Hand in bytes; only once `next` has nothing more to say."""
        self._rest += data

    def next(self) -> tuple[Said, bytes] | None:
        """What comes next of what was handed in, with the message or its beginning; None: more bytes are needed."""
        if self._message is None:
            start = self._rest.find(START)
            passed = self._rest[:start] if start >= 0 else self._rest
            self._between += len(passed)
            self._rest = self._rest[start + 1 :] if start >= 0 else b""
            if self._between > MAXIMUM_BETWEEN:
                self._rest = b""
                return Said.NOISE, b""
            if start < 0:
                return None
            self._message, self._large, self._between = bytearray(), False, 0
        end = self._rest.find(END)
        self._keep(self._rest[:end] if end >= 0 else self._rest)
        self._rest = self._rest[end + 1 :] if end >= 0 else b""
        return self._ended() if end >= 0 else None

    def _keep(self, data: bytes) -> None:
        message = self._message
        assert message is not None
        if not self._large:
            message += data
            if len(message) > self._maximum:
                self._large = True
                del message[HEAD:]

    def _ended(self) -> tuple[Said, bytes]:
        message = bytes(self._message or b"").lstrip(START)
        again = message.rfind(_AGAIN)
        if again >= 0 and not self._large:
            # What was given up is said first; then the rest, as if it came in only now.
            self._rest = message[again + 1 :] + END + self._rest
            self._message = bytearray()
            return Said.GIVEN_UP, message[:again]
        self._message = None
        return (Said.TOO_LARGE if self._large else Said.MESSAGE), message
