"""Specific Character Set (0008,0005), PS3.3 section C.12.1.1.2: its defined terms, and which go together. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from router.domain.problem import ExpressionError, Kind

SINGLE_BYTE = tuple(f"ISO_IR {n}" for n in (6, 13, 100, 101, 109, 110, 126, 127, 138, 144, 148, 166, 203))
"""Without code extensions, table C.12-2; `ISO_IR 6` is the default repertoire, which old objects name like this."""

MULTI_BYTE = ("ISO_IR 192", "GB18030", "GBK")
"""Without code extensions, table C.12-5."""

EXTENSIONS = tuple(f"ISO 2022 IR {n}" for n in (6, 13, 100, 101, 109, 110, 126, 127, 138, 144, 148, 166))
"""Single-byte sets with code extensions, table C.12-3."""

MULTI_BYTE_EXTENSIONS = tuple(f"ISO 2022 IR {n}" for n in (58, 87, 149, 159))
"""Multi-byte sets with code extensions, table C.12-4; never the first value."""

DEFINED_TERMS = (*SINGLE_BYTE, *MULTI_BYTE, *EXTENSIONS, *MULTI_BYTE_EXTENSIONS)

_LISTS = "with several values each is one of ISO 2022 IR ..., the first may be empty: \\ISO 2022 IR 87"


def character_set(values: Sequence[str]) -> str:
    """One Specific Character Set from its values, separated by backslashes. Raises ExpressionError.

    The path of the error is the number of the value, its name the value where it is no defined term.
    """
    terms = [value.strip() for value in values]
    for index, term in enumerate(terms):
        if term not in DEFINED_TERMS and (term or index or len(terms) == 1):
            message = f"{term!r} is no defined term of Specific Character Set" if term else "an empty character set"
            raise ExpressionError(Kind.VALUE, message, "for example ISO_IR 100", path=(index,), name=term)
        if len(terms) > 1 and term in (*SINGLE_BYTE, *MULTI_BYTE):
            raise ExpressionError(
                Kind.VALUE, f"{term!r} stands alone: it has no code extensions", _LISTS, path=(index,)
            )
        if index == 0 and term in MULTI_BYTE_EXTENSIONS:
            raise ExpressionError(Kind.VALUE, f"{term!r} cannot be the first value", f"write \\{term}", path=(index,))
        if term in terms[:index]:
            raise ExpressionError(Kind.VALUE, f"{term!r} stands twice", path=(index,))
    return "\\".join(terms)
