"""Part 10 files to be sent, new instances of a new study each time, without being written anew each time."""

from __future__ import annotations

import random
import re
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import UID

from tests.support.samples import make_study

_TOKEN = 8
"""Digits of the Study Instance UID that change with each use."""
_FIRST = 10**5
"""Instance numbers have one length."""


class Instances:
    """`number` files in a directory. `rows` is the edge of the image: 64 gives 8 KB of pixels, 512 gives 512 KB."""

    def __init__(self, directory: Path, rows: int, number: int) -> None:
        root = f"2.25.{10**38 + random.SystemRandom().randrange(10**38)}"
        study = make_study(directory / "template", rows=rows, instances=1, uid_root=root)
        dataset = dcmread(study.files[0])
        uid = f"{root}.1.{_FIRST}"
        dataset.SOPInstanceUID = uid
        dataset.file_meta.MediaStorageSOPInstanceUID = UID(uid)
        path = directory / "template.dcm"
        dataset.save_as(path, enforce_file_format=True)
        content = path.read_bytes()
        self._token = root[-_TOKEN:].encode("ascii")
        self._places = [found.end() - _TOKEN for found in re.finditer(re.escape(root.encode("ascii")), content)]
        ends = [found.end() for found in re.finditer(re.escape(uid.encode("ascii")), content)]
        self._uses = 0
        self.size = len(content)
        self.files = [directory / f"{index:05}.dcm" for index in range(number)]
        for index, file in enumerate(self.files):
            digits = str(_FIRST + index).encode("ascii")
            changed = bytearray(content)
            for end in ends:
                changed[end - len(digits) : end] = digits
            file.write_bytes(changed)

    def renewed(self, count: int) -> list[Path]:
        """So many of the files, as instances that nobody has seen before."""
        self._uses += 1
        token = f"{(int(self._token) + self._uses) % 10**_TOKEN:0{_TOKEN}}".encode("ascii")
        for file in self.files[:count]:
            with file.open("r+b") as stream:
                for place in self._places:
                    stream.seek(place)
                    stream.write(token)
        return self.files[:count]
