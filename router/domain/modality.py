"""The modalities of DICOM: defined terms of Modality (0008,0060), PS3.3 section C.7.3.1.1.1, and what people write."""

from __future__ import annotations

_IN_USE = """
    AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DG DMS DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL IVOCT IVUS KER
    KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG RTDOSE
    RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA XA
    XAPROTOCOL XC"""
_RETIRED = "AS CD CF CP CS DD DF DM DS EC FA FS LP MA MS OPR ST TF VF"

DEFINED_TERMS = frozenset(_IN_USE.split())
"""Terms in use."""
RETIRED_TERMS = frozenset(_RETIRED.split())
"""Terms that old objects bear."""

_MEANT = {
    "MRI": "MR",
    "MRT": "MR",
    "NMR": "MR",
    "MRA": "MR",
    "CAT": "CT",
    "CTA": "CT",
    "PET": "PT",
    "PETCT": "PT or CT",
    "PET-CT": "PT or CT",
    "PET/CT": "PT or CT",
    "SPECT": "NM",
    "XRAY": "DX or CR",
    "X-RAY": "DX or CR",
    "XR": "DX or CR",
    "DR": "DX",
    "RX": "DX or CR",
    "DSA": "XA",
    "ANGIO": "XA",
    "USS": "US",
    "SONO": "US",
    "ULTRASOUND": "US",
    "ECHO": "US",
    "MAMMO": "MG",
    "MAMMOGRAPHY": "MG",
    "MX": "MG",
    "DEXA": "BMD",
    "DXA": "BMD",
    "EKG": "ECG",
    "OPG": "PX",
    "FLUORO": "RF",
    "WSI": "SM",
}
"""What is said for a modality -> its term."""


def is_modality(text: str) -> bool:
    """Whether DICOM defines the term, now or formerly."""
    return text in DEFINED_TERMS or text in RETIRED_TERMS


def meant_by(text: str) -> str:
    """The term for what somebody calls a modality; empty where that is not known."""
    upper = text.upper()
    return upper if is_modality(upper) else _MEANT.get(upper, "")
