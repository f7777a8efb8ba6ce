"""Values of settings that need more than a schema: AE titles, addresses, sizes, time zones, attribute names."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

from pydicom.datadict import keyword_dict

from router.config.schema import did_you_mean

_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})\Z")
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?) ?([A-Za-z]*)\Z")
_PERCENTAGE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,2})?) ?%\Z")
ADDRESS_HINT = "host:port with a port from 1 to 65535, for example 10.0.0.5:104 or [::1]:104"
"""What an address looks like."""

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def ae_title_problem(title: str) -> str:
    """What is wrong with an AE title (PS3.5 section 6.2, VR AE); empty where it is fine."""
    if not title.strip():
        return "is empty"
    if title != title.strip():
        return "has spaces around it, which some systems take as part of the title"
    if len(title) > 16:
        return f"has {len(title)} characters; 16 is the most DICOM allows"
    if "\\" in title or not title.isascii() or not title.isprintable():
        return "has a character DICOM does not allow there (printable ASCII without backslash)"
    return ""


def parse_address(text: str) -> tuple[str, int] | None:
    """Host and port; an IPv6 address stands in brackets. None where it is none."""
    match = _ADDRESS.match(text)
    if match is None or not 1 <= int(match[3]) <= 65535:
        return None
    return match[1] or match[2], int(match[3])


def parse_size(text: str) -> int | None:
    """Bytes of `1GiB`, `500 MB` or a plain number. None where it is none."""
    match = _SIZE.match(text)
    if match is None or match[2] not in _UNITS:
        return None
    return round(float(match[1]) * _UNITS[match[2]])


def parse_percentage(text: str) -> float | None:
    """The share (above 0, at most 1) of `50%`. None where it is none."""
    match = _PERCENTAGE.match(text)
    share = float(match[1]) / 100 if match is not None else 0.0
    return share if 0 < share <= 1 else None


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def is_zone(name: str) -> bool:
    """Whether the IANA database has this zone."""
    return name in _zones()


def nearest_zone(name: str) -> str:
    """A hint naming the nearest zone."""
    cities = [zone for zone in sorted(_zones()) if zone.rpartition("/")[2].casefold() == name.casefold()]
    return f"did you mean {cities[0]}?" if cities else did_you_mean(name, _zones())


def machine_zone() -> str:
    """The IANA name of the zone this machine runs in; UTC where it cannot be told."""
    names = [os.environ.get("TZ", "").removeprefix(":")]
    for source in (Path("/etc/timezone"), Path("/etc/localtime")):
        try:
            names.append(
                str(source.readlink()).partition("zoneinfo/")[2] if source.is_symlink() else _first_line(source)
            )
        except (OSError, UnicodeDecodeError):
            continue
    name = next((name for name in names if name and is_zone(name)), "UTC")
    return ZoneInfo(name).key


def _first_line(path: Path) -> str:
    return path.read_text("utf-8").partition("\n")[0].strip() if path.stat().st_size < 200 else ""


@lru_cache(maxsize=512)
def nearest_attribute(name: str) -> str:
    """A hint naming the attribute that was meant; keywords are written in exact case."""
    if name.startswith("("):
        return "a tag is written (gggg,eeee), for example (0008,1030)"
    squeezed = re.sub(r"[^a-z0-9]", "", name.casefold())
    same = _folded_keywords().get(squeezed)
    if same:
        return f"did you mean {same}? Keywords are written in exact case"
    return did_you_mean(name, _folded_keywords().values()) or "use a keyword of the DICOM dictionary, or (gggg,eeee)"


@lru_cache(maxsize=1)
def _folded_keywords() -> dict[str, str]:
    return {keyword.casefold(): keyword for keyword in keyword_dict if keyword}


def result_limit(text: str) -> int | None:
    """The number of `find.max_results`: None for `auto`, 0 for `none`."""
    return {"auto": None, "none": 0}[text] if text in ("auto", "none") else int(text)
