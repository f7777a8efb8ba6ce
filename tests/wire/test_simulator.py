"""The simulated PACS over the network: honest first, then each misbehaviour, seen by pynetdicom's SCU and by DCMTK."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from router.simulator import (
    BUSY_WITHOUT_REASON,
    CALLED_NOT_RECOGNISED,
    CALLING_NOT_RECOGNISED,
    LOCAL_LIMIT_EXCEEDED,
    TEMPORARY_CONGESTION,
    Behaviour,
    Rejection,
    SimulatedPacs,
    make_study,
)
from tests.support.peers import Address, Storescp, echoscu, findscu, movescu
from tests.support.process import wait_for
from tests.wire.simulated import (
    CANCELLED,
    CT,
    CT2,
    CT2_UID,
    CT_STORAGE,
    CT_UID,
    MR,
    MR_UID,
    PATIENT_FIND,
    PATIENT_MOVE,
    PENDING,
    STUDY_FIND,
    STUDY_MOVE,
    SUCCESS,
    WARNING,
    Scu,
    arrived,
    connect,
    keys,
    rejection,
    scu,
    uids,
)

# --- Honest ----------------------------------------------------------------------------------------------------------


class TestQueries:
    def test_study_level(self, pacs: SimulatedPacs) -> None:
        with scu(pacs) as peer:
            found = peer.find(
                StudyInstanceUID="",
                StudyDate="20240109-20240113",
                PatientName="FÜRST*",
                SpecificCharacterSet="ISO_IR 192",
                ModalitiesInStudy="CT",
                SOPClassesInStudy="",
                NumberOfStudyRelatedInstances="",
                NumberOfStudyRelatedSeries="",
                InstanceAvailability="",
            )
        assert (found.status, found.pending) == (SUCCESS, {0xFF00})
        first, second = sorted(found, key=lambda row: str(row.StudyDate))
        assert first.StudyInstanceUID == CT_UID
        assert first.PatientName == "Fürst^Jürgen"
        assert first.SpecificCharacterSet == "ISO_IR 100"
        assert list(first.ModalitiesInStudy) == ["CT", "SR"]
        assert len(first.SOPClassesInStudy) == 2
        assert (first.NumberOfStudyRelatedInstances, first.NumberOfStudyRelatedSeries) == (7, 2)
        assert (first.InstanceAvailability, first.RetrieveAETitle) == ("ONLINE", "SIMPACS")
        assert first.QueryRetrieveLevel == "STUDY"
        assert second.StudyInstanceUID == CT2_UID

    def test_series_and_image_level(self, pacs: SimulatedPacs) -> None:
        with scu(pacs) as peer:
            series = peer.find(
                "SERIES", StudyInstanceUID=CT_UID, Modality="", SeriesInstanceUID="", NumberOfSeriesRelatedInstances=""
            )
            assert {(row.Modality, int(row.NumberOfSeriesRelatedInstances)) for row in series} == {("CT", 6), ("SR", 1)}
            lung = next(row.SeriesInstanceUID for row in series if row.Modality == "CT")
            above = {"StudyInstanceUID": CT_UID, "SeriesInstanceUID": lung}
            images = peer.find("IMAGE", **above, SOPInstanceUID="", SOPClassUID="", InstanceNumber="")
            assert {row.SOPInstanceUID for row in images} == uids(CT[:6])
            assert {row.SOPClassUID for row in images} == {CT_STORAGE}
            wanted = [str(CT[1].SOPInstanceUID), str(CT[3].SOPInstanceUID)]
            listed = peer.find("IMAGE", **above, SOPInstanceUID=wanted, AvailableTransferSyntaxUID="")
            assert {row.SOPInstanceUID for row in listed} == set(wanted)
            assert {row.AvailableTransferSyntaxUID for row in listed} == {ExplicitVRLittleEndian}

    def test_patient_root(self, pacs: SimulatedPacs) -> None:
        with scu(pacs) as peer:
            patients = peer.find(
                "PATIENT",
                PATIENT_FIND,
                PatientID="",
                NumberOfPatientRelatedStudies="",
                NumberOfPatientRelatedSeries="",
                NumberOfPatientRelatedInstances="",
            )
            assert {
                (
                    row.PatientID,
                    row.NumberOfPatientRelatedStudies,
                    row.NumberOfPatientRelatedSeries,
                    row.NumberOfPatientRelatedInstances,
                )
                for row in patients
            } == {("P1", 2, 3, 12), ("P2", 1, 1, 5)}
            studies = peer.find("STUDY", PATIENT_FIND, PatientID="P1", StudyInstanceUID="")
            assert {row.StudyInstanceUID for row in studies} == {CT_UID, CT2_UID}

    def test_a_key_of_another_level_comes_back_empty_with_ff01(self, pacs: SimulatedPacs) -> None:
        with scu(pacs) as peer:
            found = peer.find(StudyInstanceUID=CT_UID, SeriesDescription="Lung")
        assert found.pending == {0xFF01}
        assert [row.SeriesDescription for row in found] == [""]

    @pytest.mark.parametrize(
        ("level", "model", "values"),
        [
            ("SERIES", STUDY_FIND, {"SeriesInstanceUID": ""}),
            ("SERIES", STUDY_FIND, {"StudyInstanceUID": [CT_UID, MR_UID], "SeriesInstanceUID": ""}),
            ("IMAGE", STUDY_FIND, {"StudyInstanceUID": CT_UID, "SeriesInstanceUID": "*", "SOPInstanceUID": ""}),
            ("STUDY", STUDY_FIND, {"StudyInstanceUID": "1.2.*"}),
            ("PATIENT", STUDY_FIND, {"PatientID": ""}),
            ("WHATEVER", STUDY_FIND, {"StudyInstanceUID": ""}),
            ("STUDY", PATIENT_FIND, {"StudyInstanceUID": ""}),
        ],
    )
    def test_an_identifier_that_breaks_the_hierarchy_is_a900(
        self, pacs: SimulatedPacs, level: str, model: str, values: dict[str, object]
    ) -> None:
        with scu(pacs) as peer:
            found = peer.find(level, model, **values)
        assert (list(found), found.status) == ([], 0xA900)
        assert pacs.record.of("find")[0].status == 0xA900

    def test_the_record(self, pacs: SimulatedPacs) -> None:
        with scu(pacs, calling="FIRST") as peer:
            peer.association.send_c_echo(msg_id=5)
            peer.find(StudyDate="20240101-", ModalitiesInStudy=["CT", "MR"])
        with scu(pacs, calling="SECOND") as peer:
            peer.move(StudyInstanceUID=MR_UID, message_id=77)
        echo, find, move = pacs.record
        assert (echo.kind, echo.calling, echo.message_id, echo.association, echo.status) == ("echo", "FIRST", 5, 1, 0)
        assert (find.level, find.keys) == ("STUDY", {"StudyDate": "20240101-", "ModalitiesInStudy": "CT\\MR"})
        assert (move.calling, move.association, move.destination, move.message_id) == ("SECOND", 2, "DEST", 77)
        assert move.keys == {"StudyInstanceUID": MR_UID}
        assert (pacs.associations_total, pacs.associations_peak, pacs.associations_rejected) == (2, 1, 0)


class TestMoves:
    def test_a_study(self, pacs: SimulatedPacs, destination: SimulatedPacs) -> None:
        with scu(pacs) as peer:
            moved = peer.move(StudyInstanceUID=CT_UID, message_id=321)
        assert (moved.status, moved.counts, moved.failed_list) == (SUCCESS, (7, 0, 0), [])
        assert "NumberOfRemainingSuboperations" not in (moved.final or Dataset())
        assert [status.NumberOfRemainingSuboperations for status in moved.pending] == [6, 5, 4, 3, 2, 1, 0]
        assert [status.NumberOfCompletedSuboperations for status in moved.pending] == [1, 2, 3, 4, 5, 6, 7]
        assert arrived(destination) == uids(CT)
        stores = destination.record.of("store")
        assert {(s.calling, s.originator, s.originator_message_id, s.status) for s in stores} == {
            ("SIMPACS", "TESTER", 321, SUCCESS)
        }
        assert len({s.message_id for s in stores}) == 7
        assert destination.associations_total == 1
        # Byte for byte what the archive holds.
        held = {instance.sop_instance: instance.encoded for instance in pacs.instances}
        assert all(instance.encoded == held[instance.sop_instance] for instance in destination.stored)

    def test_the_destination_can_be_queried_for_what_it_received(
        self, pacs: SimulatedPacs, destination: SimulatedPacs
    ) -> None:
        with scu(pacs) as peer:
            peer.move(StudyInstanceUID=MR_UID)
        with scu(destination) as peer:
            (row,) = peer.find(StudyInstanceUID=MR_UID, NumberOfStudyRelatedInstances="")
        assert row.NumberOfStudyRelatedInstances == len(MR)

    @pytest.mark.parametrize(
        ("level", "model", "values", "expected"),
        [
            ("STUDY", STUDY_MOVE, {"StudyInstanceUID": [CT2_UID, MR_UID]}, uids(CT2) | uids(MR)),
            (
                "SERIES",
                STUDY_MOVE,
                {"StudyInstanceUID": CT_UID, "SeriesInstanceUID": [str(CT[0].SeriesInstanceUID)]},
                uids(CT[:6]),
            ),
            (
                "IMAGE",
                STUDY_MOVE,
                {
                    "StudyInstanceUID": CT_UID,
                    "SeriesInstanceUID": str(CT[0].SeriesInstanceUID),
                    "SOPInstanceUID": [str(CT[0].SOPInstanceUID), str(CT[4].SOPInstanceUID)],
                },
                uids([CT[0], CT[4]]),
            ),
            ("PATIENT", PATIENT_MOVE, {"PatientID": "P1"}, uids(CT) | uids(CT2)),
            ("STUDY", PATIENT_MOVE, {"PatientID": "P2", "StudyInstanceUID": MR_UID}, uids(MR)),
            ("STUDY", STUDY_MOVE, {"StudyInstanceUID": "1.2.3"}, set()),
        ],
    )
    def test_levels_and_lists(
        self,
        pacs: SimulatedPacs,
        destination: SimulatedPacs,
        level: str,
        model: str,
        values: dict[str, object],
        expected: set[str],
    ) -> None:
        with scu(pacs) as peer:
            moved = peer.move("DEST", level, model, **values)
        assert (moved.status, moved.counts) == (SUCCESS, (len(expected), 0, 0))
        assert arrived(destination) == expected

    @pytest.mark.parametrize(
        ("level", "model", "values"),
        [
            ("STUDY", STUDY_MOVE, {"StudyInstanceUID": ""}),
            ("STUDY", STUDY_MOVE, {"StudyInstanceUID": "*"}),
            ("STUDY", STUDY_MOVE, {"StudyInstanceUID": CT_UID, "AccessionNumber": "A1"}),
            ("SERIES", STUDY_MOVE, {"SeriesInstanceUID": str(CT[0].SeriesInstanceUID)}),
            ("PATIENT", PATIENT_MOVE, {"PatientID": ["P1", "P2"]}),
        ],
    )
    def test_an_identifier_that_is_not_just_unique_keys_is_a900(
        self,
        pacs: SimulatedPacs,
        destination: SimulatedPacs,
        level: str,
        model: str,
        values: dict[str, object],
    ) -> None:
        with scu(pacs) as peer:
            assert peer.move("DEST", level, model, **values).status == 0xA900
        assert not destination.stored

    def test_unknown_destination(self, pacs: SimulatedPacs) -> None:
        with scu(pacs) as peer:
            assert peer.move("NOBODY", StudyInstanceUID=CT_UID).status == 0xA801
            pacs.forget_destination("DEST")
            assert peer.move("DEST", StudyInstanceUID=CT_UID).status == 0xA801

    def test_a_destination_that_is_down(self, pacs: SimulatedPacs, destination: SimulatedPacs) -> None:
        destination.stop()
        with scu(pacs) as peer:
            moved = peer.move(StudyInstanceUID=CT2_UID)
        assert (moved.status, moved.counts) == (0xA702, (0, 5, 0))
        assert set(moved.failed_list) == uids(CT2)

    def test_a_destination_that_rejects(self, pacs: SimulatedPacs, destination: SimulatedPacs) -> None:
        destination.behaviour = Behaviour(reject=TEMPORARY_CONGESTION)
        with scu(pacs) as peer:
            assert peer.move(StudyInstanceUID=CT2_UID).status == 0xA702

    def test_cancel(self, pacs: SimulatedPacs, destination: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(suboperation_delay_seconds=0.3)
        with scu(pacs) as peer:

            def cancel(pending: int) -> None:
                if pending == 2:
                    peer.association.send_c_cancel(9, query_model=STUDY_MOVE)

            moved = peer.move(StudyInstanceUID=CT_UID, message_id=9, on_pending=cancel)
        assert moved.status == CANCELLED
        assert moved.final is not None
        done = len(destination.stored)
        assert done < len(CT)
        assert moved.counts == (done, 0, 0)
        assert moved.final.NumberOfRemainingSuboperations == len(CT) - done
        (cancelled,) = pacs.record.of("cancel")
        assert (cancelled.message_id, cancelled.calling, cancelled.association) == (9, "TESTER", 1)

    def test_a_mover_that_leaves_ends_the_sub_operations(self, pacs: SimulatedPacs, destination: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(suboperation_delay_seconds=0.3)
        with scu(pacs) as peer:
            peer.move(StudyInstanceUID=CT_UID, on_pending=lambda n: peer.association.abort() if n == 1 else None)
        wait_for(lambda: destination.associations_total == 1 and not open_associations(destination), "the move's end")
        assert len(destination.stored) < len(CT)
        assert pacs.record.of("move")[0].status is None

    def test_growth_and_removal(self, pacs: SimulatedPacs, destination: SimulatedPacs) -> None:
        pacs.add(make_study(seed="mr", modality="MR", patient_id="P2", instances=6))
        pacs.remove(CT_UID)
        with scu(pacs) as peer:
            assert peer.move(StudyInstanceUID=[MR_UID, CT_UID]).counts == (6, 0, 0)

    def test_two_moves_at_once(self, pacs: SimulatedPacs, destination: SimulatedPacs) -> None:
        statuses: list[int | None] = []

        def move(uid: str) -> None:
            with scu(pacs) as peer:
                statuses.append(peer.move(StudyInstanceUID=uid).status)

        threads = [threading.Thread(target=move, args=(uid,)) for uid in (CT_UID, MR_UID)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert statuses == [SUCCESS, SUCCESS]
        assert arrived(destination) == uids(CT) | uids(MR)

    def test_compressed_files_go_as_they_are(self, pacs: SimulatedPacs, destination: SimulatedPacs) -> None:
        names = ("JPEG2000.dcm", "MR_small_bigendian.dcm", "CT_small.dcm")
        paths = [Path(str(get_testdata_file(name))) for name in names]
        before = {instance.sop_instance for instance in pacs.instances}
        pacs.add_files(paths)
        added = {i.sop_instance: i for i in pacs.instances if i.sop_instance not in before}
        with scu(pacs) as peer:
            moved = peer.move(StudyInstanceUID=sorted({i.study for i in added.values()}))
        assert (moved.status, moved.counts) == (SUCCESS, (3, 0, 0))
        for instance in destination.stored:
            sent = added[instance.sop_instance]
            assert (instance.transfer_syntax, instance.encoded) == (sent.transfer_syntax, sent.encoded)
            assert any(path.read_bytes().endswith(instance.encoded) for path in paths)


def open_associations(pacs: SimulatedPacs) -> list[threading.Thread]:
    """The threads of this PACS's server that still serve a peer."""
    return [
        thread
        for thread in threading.enumerate()
        if isinstance(thread, Association) and thread.is_acceptor and thread.acceptor.port == pacs.port
    ]


# --- DCMTK as the peer -----------------------------------------------------------------------------------------------


def test_dcmtk_finds_and_moves(pacs: SimulatedPacs, tmp_path: Path) -> None:
    address = Address(pacs.ae_title, pacs.port)
    echoscu(address)
    rows = findscu(address, "STUDY", {"StudyDate": "20240101-20240112", "StudyInstanceUID": "", "PatientName": ""})
    assert {row.StudyInstanceUID for row in rows.matches} == {CT_UID, CT2_UID}
    assert {str(row.PatientName) for row in rows.matches} == {"Fürst^Jürgen"}
    patients = findscu(address, "PATIENT", {"PatientID": "P*"}, model="-P")
    assert {row.PatientID for row in patients.matches} == {"P1", "P2"}
    with Storescp(tmp_path, ae_title="STORESCP") as storescp:
        pacs.set_destination("STORESCP", "127.0.0.1", storescp.port)
        moved = movescu(address, "STORESCP", "STUDY", {"StudyInstanceUID": CT_UID})
        assert (moved.returncode, moved.status) == (0, SUCCESS)
        assert moved.responses[-1].completed == len(CT)
        assert set(storescp.wait_for_instances(len(CT))) == uids(CT)
        held = {instance.sop_instance: instance.encoded for instance in pacs.instances}
        for uid, path in storescp.instances().items():
            assert path.read_bytes().endswith(held[uid])
    assert movescu(address, "NOBODY", "STUDY", {"StudyInstanceUID": CT_UID}).status == 0xA801


def test_dcmtk_destination_without_compressed_transfer_syntaxes(pacs: SimulatedPacs, tmp_path: Path) -> None:
    """What the destination does not accept fails, one by one; the rest arrives."""
    compressed = Path(str(get_testdata_file("JPEG2000.dcm")))
    pacs.add_files([compressed])
    study = next(i.study for i in pacs.instances if i.transfer_syntax.is_compressed)
    with Storescp(tmp_path, options=()) as storescp, scu(pacs) as peer:
        pacs.set_destination("STORESCP", "127.0.0.1", storescp.port)
        moved = peer.move("STORESCP", StudyInstanceUID=[study, CT2_UID])
        assert (moved.status, moved.counts) == (WARNING, (5, 1, 0))
        assert len(moved.failed_list) == 1


# --- Misbehaviour: associations --------------------------------------------------------------------------------------


class TestAssociations:
    @pytest.mark.parametrize("numbers", [CALLING_NOT_RECOGNISED, TEMPORARY_CONGESTION, BUSY_WITHOUT_REASON])
    def test_reject(self, pacs: SimulatedPacs, numbers: Rejection) -> None:
        pacs.behaviour = Behaviour(reject=numbers)
        assert rejection(pacs) == numbers
        pacs.behaviour = Behaviour()
        assert rejection(pacs) is None
        assert (pacs.associations_rejected, pacs.associations_total) == (1, 1)

    def test_accepted_callers(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(accepted_callers=frozenset({"ROUTER"}))
        assert rejection(pacs, calling="STRANGER") == CALLING_NOT_RECOGNISED
        assert rejection(pacs, calling="ROUTER") is None

    def test_check_called_ae_title(self, pacs: SimulatedPacs) -> None:
        assert rejection(pacs, called="OTHER") is None
        pacs.behaviour = Behaviour(check_called_ae_title=True)
        assert rejection(pacs, called="OTHER") == CALLED_NOT_RECOGNISED
        assert rejection(pacs, called="SIMPACS") is None

    @pytest.mark.parametrize("excess_rejection", [LOCAL_LIMIT_EXCEEDED, BUSY_WITHOUT_REASON])
    def test_max_associations(self, pacs: SimulatedPacs, excess_rejection: Rejection) -> None:
        pacs.behaviour = Behaviour(max_associations=1, excess_rejection=excess_rejection)
        with scu(pacs):
            assert rejection(pacs) == excess_rejection
        # The place is free as soon as the release is answered.
        for _ in range(10):
            with scu(pacs) as peer:
                assert peer.association.send_c_echo().Status == SUCCESS
        assert pacs.associations_peak == 1

    def test_associations_peak_counts_those_open_at_once(self, pacs: SimulatedPacs) -> None:
        with scu(pacs), scu(pacs), scu(pacs):
            pass
        with scu(pacs):
            pass
        assert (pacs.associations_peak, pacs.associations_total) == (3, 4)

    def test_hang_on_associate(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(hang_on_associate=True)
        association = connect(pacs, wait=0.5)
        assert association.is_aborted
        assert pacs.associations_total == 0

    def test_implicit_only(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(implicit_only=True)
        with scu(pacs) as peer:
            accepted = {cx.abstract_syntax: cx.transfer_syntax[0] for cx in peer.association.accepted_contexts}
            assert accepted[STUDY_FIND] == accepted[STUDY_MOVE] == ImplicitVRLittleEndian
            assert accepted[CT_STORAGE] == ExplicitVRLittleEndian
            assert len(peer.find(StudyInstanceUID="")) == 3

    def test_response_delay(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(response_delay_seconds=0.3)
        with scu(pacs) as peer:
            began = time.monotonic()
            assert peer.association.send_c_echo().Status == SUCCESS
            assert time.monotonic() - began >= 0.3

    def test_echo_status(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(echo_status=0x0122)
        with scu(pacs) as peer:
            assert peer.association.send_c_echo().Status == 0x0122


# --- Misbehaviour: C-FIND --------------------------------------------------------------------------------------------


class TestMisbehavingFind:
    def test_hang_on_find(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(hang_on_find=True)
        with scu(pacs, wait=0.5) as peer:
            found = peer.find(StudyInstanceUID="")
        assert (list(found), found.status) == ([], None)
        assert pacs.record.of("find")[0].status is None

    def test_refuse_find_status(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(refuse_find_status=0x0124)
        with scu(pacs) as peer:
            assert peer.find(StudyInstanceUID="").status == 0x0124
            assert peer.association.send_c_echo().Status == SUCCESS

    @pytest.mark.parametrize(("capped_status", "rows"), [(SUCCESS, 2), (CANCELLED, 2), (0xA700, 0)])
    def test_max_results(self, pacs: SimulatedPacs, capped_status: int, rows: int) -> None:
        pacs.behaviour = Behaviour(max_results=2, capped_status=capped_status)
        with scu(pacs) as peer:
            found = peer.find(StudyInstanceUID="")
            assert (len(found), found.status) == (rows, capped_status)
            narrow = peer.find(StudyInstanceUID=CT_UID)
            assert (len(narrow), narrow.status) == (1, SUCCESS)

    def test_abort_find_after(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(abort_find_after=1)
        with scu(pacs) as peer:
            found = peer.find(StudyInstanceUID="")
        assert (len(found), found.status) == (1, None)

    def test_unmatched_keys(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(unmatched_keys=frozenset({"ModalitiesInStudy"}))
        with scu(pacs) as peer:
            found = peer.find(StudyInstanceUID="", ModalitiesInStudy="MR", StudyDate="20240110-20240112")
        assert {row.StudyInstanceUID for row in found} == {CT_UID, CT2_UID}
        assert found.pending == {0xFF00}

    def test_match_value_lists(self, pacs: SimulatedPacs) -> None:
        with scu(pacs) as peer:
            assert len(peer.find(StudyInstanceUID="", ModalitiesInStudy=["CT", "MR"])) == 3
            pacs.behaviour = Behaviour(match_value_lists=False)
            assert len(peer.find(StudyInstanceUID="", ModalitiesInStudy=["CT", "MR"])) == 0
            assert len(peer.find(StudyInstanceUID=[CT_UID, MR_UID])) == 2

    def test_omit_and_empty(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(
            omit=frozenset({"NumberOfStudyRelatedInstances"}),
            empty=frozenset({"ModalitiesInStudy", "StudyInstanceUID"}),
        )
        with scu(pacs) as peer:
            found = peer.find(StudyInstanceUID=CT_UID, NumberOfStudyRelatedInstances="", ModalitiesInStudy="CT")
        (row,) = found
        assert "NumberOfStudyRelatedInstances" not in row
        assert not row.ModalitiesInStudy
        assert row.StudyInstanceUID == ""

    def test_omitted_character_set_leaves_the_bytes(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(omit=frozenset({"SpecificCharacterSet"}))
        with scu(pacs) as peer:
            (row,) = peer.find(StudyInstanceUID=CT_UID, PatientName="")
        assert "SpecificCharacterSet" not in row
        assert row.PatientName.original_string == "Fürst^Jürgen".encode("latin-1")

    @pytest.mark.parametrize("response_character_set", ["ISO_IR 192", "GB18030"])
    def test_response_character_set(self, pacs: SimulatedPacs, response_character_set: str) -> None:
        pacs.behaviour = Behaviour(response_character_set=response_character_set)
        with scu(pacs) as peer:
            (row,) = peer.find(StudyInstanceUID=CT_UID, PatientName="")
        assert (row.SpecificCharacterSet, str(row.PatientName)) == (response_character_set, "Fürst^Jürgen")

    def test_instance_count_offset(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(instance_count_offset=-2)
        with scu(pacs) as peer:
            (row,) = peer.find(StudyInstanceUID=CT_UID, NumberOfStudyRelatedInstances="")
        assert row.NumberOfStudyRelatedInstances == 5

    def test_duplicate_rows(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(duplicate_rows=True)
        with scu(pacs) as peer:
            found = peer.find(StudyInstanceUID="")
        assert sorted(row.StudyInstanceUID for row in found) == sorted([CT_UID, CT2_UID, MR_UID] * 2)

    def test_undecodable_row(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(undecodable_row=1)
        with scu(pacs) as peer:
            found = peer.find(StudyInstanceUID="")
        assert (len(found), found.status) == (2, SUCCESS)
        assert found.undecodable > 0

    def test_unlisted_modalities(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(unlisted_modalities=frozenset({"SR"}))
        with scu(pacs) as peer:
            found = peer.find(
                "IMAGE", StudyInstanceUID=CT_UID, SeriesInstanceUID=str(CT[6].SeriesInstanceUID), SOPInstanceUID=""
            )
        assert (list(found), found.status) == ([], SUCCESS)

    def test_availability(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(availability="NEARLINE")
        with scu(pacs) as peer:
            (row,) = peer.find(StudyInstanceUID=CT_UID, InstanceAvailability="")
        assert row.InstanceAvailability == "NEARLINE"

    @pytest.mark.parametrize("ignore_cancel", [False, True])
    def test_cancel_of_a_find(self, pacs: SimulatedPacs, *, ignore_cancel: bool) -> None:
        # Sent before the request is answered: the delay holds the answer back until the cancel has come.
        pacs.behaviour = Behaviour(response_delay_seconds=1.0, ignore_cancel=ignore_cancel)
        with scu(pacs) as peer:
            association = peer.association
            responses = association.send_c_find(keys("STUDY", {"StudyInstanceUID": ""}), STUDY_FIND, msg_id=4)
            association.send_c_cancel(4, query_model=STUDY_FIND)
            statuses = [status.Status for status, _ in responses]
        assert statuses == ([PENDING] * 3 + [SUCCESS] if ignore_cancel else [CANCELLED])


# --- Misbehaviour: C-MOVE --------------------------------------------------------------------------------------------


class TestMisbehavingMove:
    @pytest.mark.parametrize("hang_move_after", [0, 2, 7])
    def test_hang_move_after(self, pacs: SimulatedPacs, destination: SimulatedPacs, hang_move_after: int) -> None:
        pacs.behaviour = Behaviour(hang_move_after=hang_move_after)
        with scu(pacs, wait=1.5) as peer:
            moved = peer.move(StudyInstanceUID=CT_UID)
        assert (moved.status, len(moved.pending)) == (None, hang_move_after)
        assert len(destination.stored) == hang_move_after

    def test_refuse_move_status(self, pacs: SimulatedPacs, destination: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(refuse_move_status=0xA701)
        with scu(pacs) as peer:
            assert peer.move(StudyInstanceUID=CT_UID).status == 0xA701
        assert not destination.stored

    def test_abort_move_after(self, pacs: SimulatedPacs, destination: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(abort_move_after=3)
        with scu(pacs) as peer:
            moved = peer.move(StudyInstanceUID=CT_UID)
        assert (moved.status, len(moved.pending), len(destination.stored)) == (None, 3, 3)

    @pytest.mark.parametrize("unknown_destination_status", [0xA702, 0xC000])
    def test_unknown_destination_status(self, pacs: SimulatedPacs, unknown_destination_status: int) -> None:
        pacs.behaviour = Behaviour(unknown_destination_status=unknown_destination_status)
        with scu(pacs) as peer:
            assert peer.move("NOBODY", StudyInstanceUID=CT_UID).status == unknown_destination_status

    def test_abort_on_unknown_destination(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(abort_on_unknown_destination=True)
        with scu(pacs) as peer:
            assert peer.move("NOBODY", StudyInstanceUID=CT_UID).status is None
            wait_for(lambda: peer.association.is_aborted, "the abort")

    def test_send_pending(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(send_pending=False)
        with scu(pacs) as peer:
            moved = peer.move(StudyInstanceUID=CT_UID)
        assert (moved.pending, moved.status, moved.counts) == ([], SUCCESS, (7, 0, 0))

    def test_counters_in_pending_and_final(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(counters_in_pending=False, counters_in_final=False)
        with scu(pacs) as peer:
            moved = peer.move(StudyInstanceUID=CT_UID)
        assert (moved.status, moved.counts) == (SUCCESS, (None, None, None))
        assert len(moved.pending) == 7
        assert not any("NumberOfRemainingSuboperations" in status for status in moved.pending)

    def test_omit_failed_counter(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(omit_failed_counter=True, fail_instances=2)
        with scu(pacs) as peer:
            moved = peer.move(StudyInstanceUID=CT_UID)
        assert (moved.status, moved.counts) == (WARNING, (5, None, 0))

    def test_fail_instances(self, pacs: SimulatedPacs, destination: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(fail_instances=2)
        with scu(pacs) as peer:
            moved = peer.move(StudyInstanceUID=CT_UID)
        assert (moved.status, moved.counts) == (WARNING, (5, 2, 0))
        assert len(moved.failed_list) == 2
        assert set(moved.failed_list) | arrived(destination) == uids(CT)

    def test_every_sub_operation_failed(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(fail_instances=100)
        with scu(pacs) as peer:
            moved = peer.move(StudyInstanceUID=CT_UID)
            assert (moved.status, moved.counts) == (0xA702, (0, 7, 0))
            pacs.behaviour = replace(pacs.behaviour, final_move_status=WARNING)
            assert peer.move(StudyInstanceUID=CT_UID).status == WARNING
            pacs.behaviour = replace(pacs.behaviour, final_move_status=SUCCESS)
            moved = peer.move(StudyInstanceUID=CT_UID)
            assert (moved.status, moved.failed_list) == (SUCCESS, [])

    @pytest.mark.parametrize(
        ("failed_list", "length", "distinct"), [("absent", 0, 0), ("repeated", 3, 1), ("first", 1, 1)]
    )
    def test_failed_list(self, pacs: SimulatedPacs, failed_list: str, length: int, distinct: int) -> None:
        pacs.behaviour = Behaviour(fail_instances=3, failed_list=failed_list)  # type: ignore[arg-type]
        with scu(pacs) as peer:
            moved = peer.move(StudyInstanceUID=CT_UID)
        assert moved.status == WARNING
        assert (len(moved.failed_list), len(set(moved.failed_list))) == (length, distinct)

    def test_pending_forever(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(pending_forever=True)
        with scu(pacs) as peer:

            def give_up(pending: int) -> None:
                if pending == 10:
                    peer.association.send_c_cancel(3, query_model=STUDY_MOVE)

            moved = peer.move(StudyInstanceUID=MR_UID, message_id=3, on_pending=give_up)
        assert len(moved.pending) >= 10
        assert moved.status == CANCELLED

    def test_ignore_cancel(self, pacs: SimulatedPacs, destination: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(ignore_cancel=True, suboperation_delay_seconds=0.02)
        with scu(pacs) as peer:
            moved = peer.move(
                StudyInstanceUID=CT_UID,
                message_id=8,
                on_pending=lambda n: peer.association.send_c_cancel(8, query_model=STUDY_MOVE) if n == 1 else None,
            )
        assert (moved.status, len(destination.stored)) == (SUCCESS, len(CT))
        assert len(pacs.record.of("cancel")) == 1

    def test_abort_after_cancel_seconds(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(abort_after_cancel_seconds=0.1, suboperation_delay_seconds=0.3)
        with scu(pacs) as peer:
            moved = peer.move(
                StudyInstanceUID=CT_UID,
                message_id=8,
                on_pending=lambda n: peer.association.send_c_cancel(8, query_model=STUDY_MOVE) if n == 1 else None,
            )
            assert moved.status is None
            wait_for(lambda: peer.association.is_aborted, "the abort")

    @pytest.mark.parametrize(("deliver_fraction", "sent"), [(0.5, 3), (0.0, 0)])
    def test_deliver_fraction(
        self, pacs: SimulatedPacs, destination: SimulatedPacs, deliver_fraction: float, sent: int
    ) -> None:
        pacs.behaviour = Behaviour(deliver_fraction=deliver_fraction)
        with scu(pacs) as peer:
            moved = peer.move(StudyInstanceUID=CT_UID)
        assert (moved.status, moved.counts) == (SUCCESS, (7, 0, 0))
        assert len(destination.stored) == sent

    def test_undecodable_instances(self, pacs: SimulatedPacs, destination: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(undecodable_instances=1)
        with scu(pacs) as peer:
            moved = peer.move(StudyInstanceUID=CT_UID)
        assert (moved.status, moved.counts) == (WARNING, (6, 1, 0))
        assert [operation.status for operation in destination.record.of("store")] == [0xC000] + [SUCCESS] * 6

    def test_delays(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(move_start_delay_seconds=0.2, suboperation_delay_seconds=0.05)
        began = time.monotonic()
        with scu(pacs) as peer:
            assert peer.move(StudyInstanceUID=CT_UID).status == SUCCESS
        assert time.monotonic() - began >= 0.2 + 7 * 0.05

    def test_deliver_later(self, pacs: SimulatedPacs, destination: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(deliver_later_seconds=1.0)
        with scu(pacs) as peer:
            moved = peer.move(StudyInstanceUID=CT_UID)
            assert (moved.status, moved.counts, moved.pending) == (SUCCESS, (0, 0, 0), [])
            assert not destination.stored
        wait_for(lambda: arrived(destination) == uids(CT), "the delivery")

    def test_stores_from(self, pacs: SimulatedPacs, destination: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(stores_from="SIM_OUT")
        with scu(pacs) as peer:
            peer.move(StudyInstanceUID=MR_UID)
        assert {operation.calling for operation in destination.record.of("store")} == {"SIM_OUT"}

    @pytest.mark.parametrize(
        ("move_originator", "expected"), [("absent", ("", None)), ("self", ("SIMPACS", 6)), ("mover", ("TESTER", 6))]
    )
    def test_move_originator(
        self, pacs: SimulatedPacs, destination: SimulatedPacs, move_originator: str, expected: tuple[str, int | None]
    ) -> None:
        pacs.behaviour = Behaviour(move_originator=move_originator)  # type: ignore[arg-type]
        with scu(pacs) as peer:
            peer.move(StudyInstanceUID=MR_UID, message_id=6)
        assert {(o.originator, o.originator_message_id) for o in destination.record.of("store")} == {expected}

    def test_association_per_suboperation(self, pacs: SimulatedPacs, destination: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(association_per_suboperation=True)
        with scu(pacs) as peer:
            assert peer.move(StudyInstanceUID=MR_UID).status == SUCCESS
        assert destination.associations_total == len(MR)

    def test_continue_after_mover_left(self, pacs: SimulatedPacs, destination: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(continue_after_mover_left=True, suboperation_delay_seconds=0.05)
        with scu(pacs) as peer:
            peer.move(StudyInstanceUID=CT_UID, on_pending=lambda n: peer.association.abort() if n == 1 else None)
        wait_for(lambda: arrived(destination) == uids(CT), "the rest of the study")
        assert pacs.record.of("move")[0].status is None


# --- Misbehaviour: C-STORE -------------------------------------------------------------------------------------------


class TestMisbehavingDestination:
    @pytest.mark.parametrize(
        ("store_status", "final", "counts", "kept"),
        [(0xA700, 0xA702, (0, 5, 0), 0), (0xB000, WARNING, (0, 0, 5), 5), (0x0124, 0xA702, (0, 5, 0), 0)],
    )
    def test_store_status(
        self,
        pacs: SimulatedPacs,
        destination: SimulatedPacs,
        store_status: int,
        final: int,
        counts: tuple[int, ...],
        kept: int,
    ) -> None:
        destination.behaviour = Behaviour(store_status=store_status)
        with scu(pacs) as peer:
            moved = peer.move(StudyInstanceUID=CT2_UID)
        assert (moved.status, moved.counts, len(destination.stored)) == (final, counts, kept)

    def test_forget_stored(self, pacs: SimulatedPacs, destination: SimulatedPacs) -> None:
        destination.behaviour = Behaviour(forget_stored=True)
        with scu(pacs) as peer:
            assert peer.move(StudyInstanceUID=CT2_UID).status == SUCCESS
        with scu(destination) as peer:
            assert not peer.find(StudyInstanceUID=CT2_UID)
        assert not destination.stored

    def test_refused_sop_classes(self, pacs: SimulatedPacs, destination: SimulatedPacs) -> None:
        destination.behaviour = Behaviour(refused_sop_classes=frozenset({CT_STORAGE}))
        with scu(pacs) as peer:
            moved = peer.move(StudyInstanceUID=CT_UID)
        assert (moved.status, moved.counts) == (WARNING, (1, 6, 0))

    def test_a_data_set_of_another_instance_is_a900(self, destination: SimulatedPacs) -> None:
        with scu(destination) as peer:
            association = peer.association
            request = C_STORE()
            request.MessageID = 1
            request.Priority = 0
            request.AffectedSOPClassUID = CT_STORAGE
            request.AffectedSOPInstanceUID = "1.2.3"
            with SimulatedPacs("OTHER", studies=CT2) as other:
                encoded = other.instances[0].encoded
            request.DataSet = BytesIO(encoded)
            context = next(cx for cx in association.accepted_contexts if cx.abstract_syntax == CT_STORAGE)
            association.dimse.send_msg(request, context.context_id)
            assert destination.record.wait_for("store", ended=True).status == 0xA900
        assert not destination.stored


# --- Stopping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(),
        Behaviour(hang_on_find=True),
        Behaviour(response_delay_seconds=3600),
        Behaviour(pending_forever=True),
        Behaviour(hang_on_associate=True),
    ],
)
def test_stop_ends_every_thread_whatever_it_does(behaviour: Behaviour) -> None:
    before = set(threading.enumerate())
    destination = SimulatedPacs("DEST").start()
    pacs = SimulatedPacs(
        studies=MR, destinations={"DEST": ("127.0.0.1", destination.port)}, behaviour=behaviour
    ).start()
    silent = socket.create_connection(("127.0.0.1", pacs.port))
    half = socket.create_connection(("127.0.0.1", pacs.port))
    half.sendall(b"\x01\x00\x00")
    associations: list[Association] = []

    def work(request: Callable[[Scu], object]) -> None:
        association = connect(pacs, wait=30)
        associations.append(association)
        if association.is_established:
            request(Scu(association))

    peers = [
        threading.Thread(target=work, args=(lambda peer: peer.find(StudyInstanceUID=""),)),
        threading.Thread(target=work, args=(lambda peer: peer.move(StudyInstanceUID=MR_UID),)),
    ]
    for peer in peers:
        peer.start()
    if not behaviour.hang_on_associate:
        pacs.record.wait_for("find")
        pacs.record.wait_for("move")
    began = time.monotonic()
    pacs.stop()
    destination.stop()
    assert time.monotonic() - began < 60
    for peer in peers:
        peer.join(30)
        assert not peer.is_alive()
    for association in associations:
        association.kill()
    silent.close()
    half.close()
    wait_for(lambda: set(threading.enumerate()) <= before, "every thread to end")


def test_it_can_be_started_again_on_its_port(pacs: SimulatedPacs) -> None:
    port = pacs.port
    pacs.stop()
    pacs.stop()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    pacs.start()
    assert pacs.port == port
    with scu(pacs) as peer:
        assert len(peer.find(StudyInstanceUID="")) == 3


def test_an_interpreter_ends_though_a_peer_stays_connected() -> None:
    """Without `stop`: pynetdicom's threads alone would keep the process alive as long as the peer stays."""
    script = (
        "import sys\n"
        "from router.simulator import SimulatedPacs\n"
        "pacs = SimulatedPacs().start()\n"
        "print(pacs.port, flush=True)\n"
        "pacs.record.wait_for('echo', ended=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        pacs = SimulatedPacs(port=int(process.stdout.readline()))
        association = connect(pacs)
        association.send_c_echo()
        assert process.wait(30) == 0
        association.kill()
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


def test_nothing_of_a_patient_is_logged(
    pacs: SimulatedPacs, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    caplog.set_level("DEBUG")
    with scu(pacs) as peer:
        peer.find(StudyInstanceUID="", PatientName="", PatientID="P1")
        peer.move(StudyInstanceUID=CT_UID)
        peer.move("NOBODY", StudyInstanceUID=CT_UID)
        peer.find("SERIES", SeriesInstanceUID="1.*")
    text = caplog.text + "".join(str(warning.message) for warning in recwarn)
    for secret in ("Jürgen", "P1", CT_UID, *uids(CT)):
        assert secret not in text


def test_every_switch_has_a_test() -> None:
    directory = Path(__file__).parent
    source = "".join(path.read_text(encoding="utf-8") for path in sorted(directory.glob("test_simulator*.py")))
    untested = [field.name for field in dataclasses.fields(Behaviour) if f"{field.name}=" not in source]
    assert not untested
