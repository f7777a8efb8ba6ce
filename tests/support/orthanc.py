"""A real Orthanc, started by a test, and the parts of its REST interface that tests need."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.support.dcmtk import Address
from tests.support.ports import free_port
from tests.support.process import Process, run

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def orthanc_program() -> str:
    """Return Orthanc's path: Debian installs it where ordinary users do not look."""
    return "/usr/sbin/Orthanc" if Path("/usr/sbin/Orthanc").exists() else "Orthanc"


class OrthancError(Exception):
    """Orthanc answered a REST request with an error; the message is its status and body."""


class Orthanc(Process):
    """Orthanc as delivered, on free ports of this machine, with an empty database below the directory.

    What differs from the stock configuration: names, ports and paths, no plugins, no HTTP from elsewhere, and fsync
    off (SyncStorageArea), which costs the shared disk of a build machine dearly. `settings` adds to it, for example
    LimitFindResults=5.
    """

    def __init__(
        self,
        directory: Path,
        *,
        ae_title: str = "ORTHANC",
        modalities: Mapping[str, int] | None = None,
        verbose: bool = False,
        **settings: Any,
    ) -> None:
        """Start it and wait until it answers. `modalities` maps the AE titles it knows to their ports on loopback."""
        directory.mkdir(parents=True, exist_ok=True)
        self.ae_title = ae_title
        self.dicom_port = free_port()
        self.http_port = free_port()
        self.url = f"http://127.0.0.1:{self.http_port}"
        configuration = {
            "Name": ae_title,
            "StorageDirectory": str(directory / "storage"),
            "IndexDirectory": str(directory / "storage"),
            "Plugins": [],
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAet": ae_title,
            "DicomPort": self.dicom_port,
            "DicomModalities": {title: [title, "127.0.0.1", port] for title, port in (modalities or {}).items()},
            "SyncStorageArea": False,
            **settings,
        }
        path = directory / "orthanc.json"
        path.write_text(json.dumps(configuration, indent=2), encoding="utf-8")
        level = ["--verbose"] if verbose else []
        super().__init__([orthanc_program(), *level, path], directory, name="orthanc")
        self.wait_until(self._answers, "Orthanc answers")
        self.wait_until_listening(self.dicom_port)

    @property
    def address(self) -> Address:
        """Its AE title and DICOM port."""
        return Address(self.ae_title, self.dicom_port)

    # --- Configuration -----------------------------------------------------------------------------------------------

    def register(self, ae_title: str, port: int, host: str = "127.0.0.1") -> None:
        """Make an AE known: as a Move Destination, and as one that may query and retrieve."""
        self.put(f"/modalities/{ae_title}", {"AET": ae_title, "Host": host, "Port": port})

    def unregister(self, ae_title: str) -> None:
        """Forget an AE."""
        self.delete(f"/modalities/{ae_title}")

    def reset(self) -> None:
        """Delete all patients and forget all modalities."""
        for identifier in self.get("/patients"):
            self.delete(f"/patients/{identifier}")
        for name in self.get("/modalities"):
            self.delete(f"/modalities/{name}")

    # --- Content -----------------------------------------------------------------------------------------------------

    def upload(self, *files: Path) -> list[str]:
        """Store Part 10 files over HTTP and return Orthanc's identifiers of the instances."""
        return [str(self.request("POST", "/instances", file.read_bytes(), "application/dicom")["ID"]) for file in files]

    def statistics(self) -> dict[str, int]:
        """Count what is stored: keys patients, studies, series, instances."""
        numbers = self.get("/statistics")
        return {
            name: int(numbers[f"Count{name.capitalize()}"]) for name in ("patients", "studies", "series", "instances")
        }

    def studies(self) -> dict[str, str]:
        """Return {Study Instance UID: Orthanc's identifier}."""
        return self._uids("studies", "StudyInstanceUID")

    def series(self) -> dict[str, str]:
        """Return {Series Instance UID: Orthanc's identifier}."""
        return self._uids("series", "SeriesInstanceUID")

    def instances(self) -> dict[str, str]:
        """Return {SOP Instance UID: Orthanc's identifier}."""
        return self._uids("instances", "SOPInstanceUID")

    def study_instances(self, study_instance_uid: str) -> set[str]:
        """Return the SOP Instance UIDs stored of a study; an unknown study has none."""
        identifier = self.studies().get(study_instance_uid)
        if identifier is None:
            return set()
        return {str(item["MainDicomTags"]["SOPInstanceUID"]) for item in self.get(f"/studies/{identifier}/instances")}

    def file(self, sop_instance_uid: str) -> bytes:
        """Return the stored Part 10 file of an instance."""
        return self.request_bytes("GET", f"/instances/{self.instances()[sop_instance_uid]}/file")

    def delete_study(self, study_instance_uid: str) -> None:
        """Delete a study."""
        self.delete(f"/studies/{self.studies()[study_instance_uid]}")

    def delete_instance(self, sop_instance_uid: str) -> None:
        """Delete one instance."""
        self.delete(f"/instances/{self.instances()[sop_instance_uid]}")

    # --- REST --------------------------------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        """GET a JSON resource."""
        return self.request("GET", path)

    def put(self, path: str, content: object) -> None:
        """PUT a JSON resource."""
        self.request_bytes("PUT", path, json.dumps(content).encode(), "application/json")

    def delete(self, path: str) -> None:
        """DELETE a resource."""
        self.request_bytes("DELETE", path)

    def request(self, method: str, path: str, body: bytes | None = None, content_type: str = "application/json") -> Any:
        """Make a REST request and decode the JSON that comes back. Raises OrthancError."""
        return json.loads(self.request_bytes(method, path, body, content_type))

    def request_bytes(
        self, method: str, path: str, body: bytes | None = None, content_type: str = "application/json"
    ) -> bytes:
        """Make a REST request and return the body that comes back. Raises OrthancError."""
        request = urllib.request.Request(
            self.url + urllib.parse.quote(path, safe="/?=&"), body, {"Content-Type": content_type}, method=method
        )
        try:
            with _OPENER.open(request, timeout=30) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            raise OrthancError(f"{method}: {error.code} {error.read().decode(errors='replace')}") from None

    def __exit__(self, *exception: object) -> None:
        # Asked kindly, Orthanc takes three seconds to wind up what the test throws away anyway.
        self.kill()

    def _answers(self) -> bool:
        try:
            return bool(self.get("/system"))
        except (OSError, OrthancError):
            return False

    def _uids(self, kind: str, keyword: str) -> dict[str, str]:
        items: Iterable[Mapping[str, Any]] = self.get(f"/{kind}?expand")
        return {str(item["MainDicomTags"][keyword]): str(item["ID"]) for item in items}


def orthanc_version() -> str:
    """Return the version of the installed Orthanc."""
    return run([orthanc_program(), "--version"]).stdout.split()[1]
