"""Whether a value from outside may go into a query: none may widen it (PS3.4 section C.2.2.2). Pure."""

from __future__ import annotations

import unicodedata

from router.domain.dicom import Identifier

MAXIMUM_LENGTH = 64
"""Characters of an LO value (PS3.5 section 6.2)."""

REFUSALS = ("empty", "too-long", "backslash", "wildcard", "control")
"""Why a value is refused."""


def refusal(value: str, most: int = MAXIMUM_LENGTH) -> str:
    """Why a value must not be asked for, a word of REFUSALS; empty where it may.

    An empty one matches everything, a backslash makes two of it, `*` and `?` match more than themselves.
    """
    if not value.strip():
        return "empty"
    if len(value) > most:
        return "too-long"
    if "\\" in value:
        return "backslash"
    if "*" in value or "?" in value:
        return "wildcard"
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for character in value):
        return "control"
    return ""


def patient_refusal(identifier: Identifier) -> str:
    """Why the Patient ID of a data set must not be asked for, a word of REFUSALS; empty where it may.

    Several values are one with a backslash (PS3.5 section 6.2): nobody knows which of them is the patient.
    """
    if len(identifier.values("PatientID")) > 1:
        return "backslash"
    return refusal(identifier.text("PatientID"))
