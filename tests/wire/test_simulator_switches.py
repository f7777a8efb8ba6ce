"""The rarer misbehaviours of the simulated PACS over the network, seen by pynetdicom's SCU, DCMTK and bare sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

import pytest

from router.simulator import (
    BUSY_WITHOUT_REASON,
    NO_REASON_GIVEN,
    Behaviour,
    Rejection,
    SimulatedPacs,
    make_study,
)
from tests.support.process import wait_for
from tests.wire.simulated import (
    CT,
    CT2,
    CT2_UID,
    CT_UID,
    MR_UID,
    PENDING,
    STUDY_FIND,
    STUDY_MOVE,
    SUCCESS,
    VERIFICATION,
    arrived,
    keys,
    rejection,
    scu,
    uids,
)

IMAGE_KEYS = {"StudyInstanceUID": CT_UID, "SeriesInstanceUID": str(CT[0].SeriesInstanceUID), "SOPInstanceUID": ""}


# --- Associations ----------------------------------------------------------------------------------------------------


class TestAssociations:
    def test_reject_every(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(reject_every=2, excess_rejection=BUSY_WITHOUT_REASON)
        assert [rejection(pacs) for _ in range(4)] == [None, BUSY_WITHOUT_REASON] * 2

    @pytest.mark.parametrize(
        "numbers", [(1, 1, 1), (1, 1, 2), (1, 1, 3), (1, 1, 7), (1, 2, 1), (1, 2, 2), (2, 3, 1), (2, 1, 1), (1, 3, 2)]
    )
    def test_reject_with_any_numbers(self, pacs: SimulatedPacs, numbers: tuple[int, int, int]) -> None:
        pacs.behaviour = Behaviour(reject=Rejection(*numbers))
        assert rejection(pacs) == numbers

    @pytest.mark.parametrize("max_pdu_length", [0, 512, 0xFFFFFFFF])
    def test_max_pdu_length(self, pacs: SimulatedPacs, destination: SimulatedPacs, max_pdu_length: int) -> None:
        """We say so as acceptor and as requestor; what is sent to us and by us goes on all the same."""
        pacs.behaviour = Behaviour(max_pdu_length=max_pdu_length)
        with scu(pacs) as peer:
            assert peer.association.acceptor.maximum_length == max_pdu_length
            assert len(peer.find(StudyInstanceUID="", PatientName="")) == 3
            assert peer.move(StudyInstanceUID=CT2_UID).status == SUCCESS
        assert arrived(destination) == uids(CT2)

    @pytest.mark.parametrize(("length", "expected"), [(0, NO_REASON_GIVEN), (131073, NO_REASON_GIVEN), (16384, None)])
    def test_largest_max_pdu_as_acceptor(self, pacs: SimulatedPacs, length: int, expected: Rejection | None) -> None:
        pacs.behaviour = Behaviour(largest_max_pdu=131072)
        assert rejection(pacs, max_pdu=length) == expected

    def test_largest_max_pdu_as_requestor(self, pacs: SimulatedPacs, destination: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(largest_max_pdu=32768)
        with scu(pacs) as peer:
            assert peer.move(StudyInstanceUID=CT2_UID).status == 0xA702
            destination.behaviour = Behaviour(max_pdu_length=16384)
            assert peer.move(StudyInstanceUID=CT2_UID).status == SUCCESS

    @pytest.mark.parametrize("keep_tcp_open", [False, True])
    def test_keep_tcp_open_as_acceptor(self, pacs: SimulatedPacs, *, keep_tcp_open: bool) -> None:
        """After its own A-ABORT the connection stands, though we have read all there is."""
        pacs.behaviour = Behaviour(keep_tcp_open=keep_tcp_open, abort_find_after=0)
        with socket.create_connection(("127.0.0.1", pacs.port), timeout=20) as connection:
            connection.sendall(b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00")
            connection.settimeout(0.5)
            closed = True
            try:
                while connection.recv(1024):
                    pass
            except TimeoutError:
                closed = False
        assert closed is not keep_tcp_open

    @pytest.mark.parametrize("keep_tcp_open", [False, True])
    def test_keep_tcp_open_as_requestor(
        self, pacs: SimulatedPacs, destination: SimulatedPacs, *, keep_tcp_open: bool
    ) -> None:
        """After the release of the association of its sub-operations."""
        pacs.behaviour = Behaviour(keep_tcp_open=keep_tcp_open)
        with Relay(destination.port) as relay, scu(pacs) as peer:
            pacs.set_destination("DEST", "127.0.0.1", relay.port)
            assert peer.move(StudyInstanceUID=MR_UID).status == SUCCESS
            assert relay.requestor_closed.wait(0.5 if keep_tcp_open else 20) is not keep_tcp_open
            pacs.stop()
            assert relay.requestor_closed.wait(20)

    def test_connections_left_open_end_with_the_pacs(self) -> None:
        with SimulatedPacs(behaviour=Behaviour(keep_tcp_open=True)) as pacs:
            connection = socket.create_connection(("127.0.0.1", pacs.port), timeout=20)
            connection.sendall(b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00")
        with connection, contextlib.suppress(ConnectionResetError):
            assert connection.recv(1024) == b""

    @pytest.mark.parametrize("refused", [STUDY_FIND, STUDY_MOVE])
    def test_refused_sop_classes_of_query_and_retrieve(self, pacs: SimulatedPacs, refused: str) -> None:
        pacs.behaviour = Behaviour(refused_sop_classes=frozenset({refused}))
        with scu(pacs) as peer:
            accepted = {context.abstract_syntax for context in peer.association.accepted_contexts}
            assert peer.association.send_c_echo().Status == SUCCESS
        assert {STUDY_FIND, STUDY_MOVE, VERIFICATION} - accepted == {refused}

    @pytest.mark.parametrize(
        ("titles", "called", "calling"),
        [
            ("spaces", b"DEST".ljust(16), b"SIMPACS".ljust(16)),
            ("nuls", b"DEST".ljust(16, b"\0"), b"SIMPACS".ljust(16, b"\0")),
            ("tab", b"DEST\t".ljust(16), b"SIMPACS\t".ljust(16)),
            ("blank", b"DEST".ljust(16), b" " * 16),
        ],
    )
    def test_titles(self, pacs: SimulatedPacs, titles: Any, called: bytes, calling: bytes) -> None:
        pacs.behaviour = Behaviour(titles=titles)
        received: list[bytes] = []

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                received.append(connection.recv(42, socket.MSG_WAITALL))

        with socket.create_server(("127.0.0.1", 0)) as listener:
            acceptor = threading.Thread(target=accept)
            acceptor.start()
            pacs.set_destination("DEST", *listener.getsockname())
            with scu(pacs) as peer:
                assert peer.move(StudyInstanceUID=MR_UID).status == 0xA702
            acceptor.join(20)
        assert (received[0][10:26], received[0][26:42]) == (called, calling)


class Relay:
    """Passes the bytes of one connection on and says when the requestor closes."""

    def __init__(self, port: int) -> None:
        self.requestor_closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._acceptor = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._requestor: socket.socket | None = None
        self._threads = [threading.Thread(target=self._there), threading.Thread(target=self._back)]

    def __enter__(self) -> Relay:
        self._threads[0].start()
        return self

    def _there(self) -> None:
        try:
            self._requestor, _ = self._listener.accept()
        except OSError:
            return
        self._threads[1].start()
        with contextlib.suppress(OSError):
            while chunk := self._requestor.recv(65536):
                self._acceptor.sendall(chunk)
        self.requestor_closed.set()

    def _back(self) -> None:
        assert self._requestor is not None
        with contextlib.suppress(OSError):
            while chunk := self._acceptor.recv(65536):
                self._requestor.sendall(chunk)

    def __exit__(self, *_: object) -> None:
        for connection in (self._listener, self._acceptor, self._requestor):
            if connection is not None:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(20)


# --- C-FIND ----------------------------------------------------------------------------------------------------------


class TestMisbehavingFind:
    def test_required_keys(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(required_keys=frozenset({"PatientID", "PatientName"}))
        with scu(pacs) as peer:
            assert peer.find(StudyInstanceUID="", PatientID="").status == 0xA900
            assert len(peer.find(StudyInstanceUID="", PatientID="", PatientName="")) == 3
            assert len(peer.find("SERIES", StudyInstanceUID=CT_UID, SeriesInstanceUID="")) == 2

    def test_misplaced_keys(self, pacs: SimulatedPacs) -> None:
        with scu(pacs) as peer:
            assert len(peer.find(StudyInstanceUID="", Modality="")) == 3
            pacs.behaviour = Behaviour(misplaced_keys="no_rows")
            found = peer.find(StudyInstanceUID="", Modality="")
            assert (list(found), found.status) == ([], SUCCESS)
            assert len(peer.find(StudyInstanceUID="", ModalitiesInStudy="")) == 3

    def test_modalities_need_modality(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(modalities_need_modality=True)
        with scu(pacs) as peer:
            assert len(peer.find(StudyInstanceUID="", ModalitiesInStudy="CT")) == 1
            assert len(peer.find(StudyInstanceUID="", ModalitiesInStudy="CT", Modality="")) == 2
            assert len(peer.find(StudyInstanceUID="", ModalitiesInStudy="")) == 3

    @pytest.mark.parametrize("dates", ["20240101-", "-20240131"])
    def test_refuse_open_ranges(self, pacs: SimulatedPacs, dates: str) -> None:
        pacs.behaviour = Behaviour(refuse_open_ranges=True)
        with scu(pacs) as peer:
            assert peer.find(StudyInstanceUID="", StudyDate=dates).status == 0xA900
            assert len(peer.find(StudyInstanceUID="", StudyDate="20240101-20240131")) == 3

    def test_refuse_study_time(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(refuse_study_time=True)
        with scu(pacs) as peer:
            assert peer.find(StudyInstanceUID="", StudyDate="20240110", StudyTime="0800-0900").status == 0xA900
            assert len(peer.find(StudyInstanceUID="", StudyDate="20240110", StudyTime="")) == 1

    def test_match_uid_wildcards(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(match_uid_wildcards=True)
        with scu(pacs) as peer:
            assert len(peer.find(StudyInstanceUID="9.9.*")) == 3

    def test_names_case_sensitive(self, pacs: SimulatedPacs) -> None:
        pacs.add(make_study(seed="lower", patient_name="smith^john"))
        with scu(pacs) as peer:
            assert len(peer.find(StudyInstanceUID="", PatientName="SMITH*")) == 1
            pacs.behaviour = Behaviour(names_case_sensitive=True)
            assert len(peer.find(StudyInstanceUID="", PatientName="SMITH*")) == 0
            assert len(peer.find(StudyInstanceUID="", PatientName="smith*")) == 1

    def test_stray_rows(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(stray_rows=1)
        with scu(pacs) as peer:
            found = peer.find(StudyInstanceUID="", ModalitiesInStudy="MR")
        assert [str(row.StudyInstanceUID) for row in found] == [MR_UID, CT_UID]

    def test_blank(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(blank=frozenset({"ModalitiesInStudy", "StudyDate"}))
        with scu(pacs) as peer:
            row = peer.find(StudyInstanceUID=CT_UID, ModalitiesInStudy="CT", StudyDate="")[0]
        assert row.get_item("ModalitiesInStudy").value == row.get_item("StudyDate").value == b"  "

    @pytest.mark.parametrize(("uid_padding", "expected"), [(" ", b" "), ("\0\0", b"\0\0"), (" \0", b" \0")])
    def test_uid_padding(self, pacs: SimulatedPacs, uid_padding: str, expected: bytes) -> None:
        pacs.behaviour = Behaviour(uid_padding=uid_padding)
        with scu(pacs) as peer:
            row = peer.find("IMAGE", **IMAGE_KEYS)[0]
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            value = row.get_item(keyword).value
            assert len(value) % 2 == 0
            assert value.rstrip(b"\0 ").decode() in {CT_UID, str(CT[0].SeriesInstanceUID), *uids(CT)}
            assert expected in value

    def test_odd_lengths(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(odd_lengths=frozenset({"StudyDescription", "PatientName"}))
        with scu(pacs) as peer:
            row = peer.find(StudyInstanceUID=CT_UID, StudyDescription="", PatientName="", AccessionNumber="")[0]
        assert {len(row.get_item(keyword).value) % 2 for keyword in ("StudyDescription", "PatientName")} == {1}
        assert (str(row.StudyDescription).strip(), str(row.PatientName).strip()) == ("CT Chest", "Fürst^Jürgen")
        assert row.AccessionNumber == "A1"

    def test_bad_vrs(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(bad_vrs=frozenset({"StudyDescription"}))
        with scu(pacs) as peer:
            row = peer.find(StudyInstanceUID=CT_UID, StudyDescription="", AccessionNumber="")[0]
        assert (row.get_item("StudyDescription").VR, row.get_item("StudyDescription").value) == ("ZZ", b"CT Chest")
        assert row.AccessionNumber == "A1"

    @pytest.mark.parametrize("row_level", ["IMAGE", ""])
    def test_row_level(self, pacs: SimulatedPacs, row_level: str) -> None:
        pacs.behaviour = Behaviour(row_level=row_level)
        with scu(pacs) as peer:
            assert {row.QueryRetrieveLevel for row in peer.find(StudyInstanceUID="")} == {row_level}

    def test_rows_without_uid(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(rows_without_uid=1)
        with scu(pacs) as peer:
            found = peer.find(StudyInstanceUID="")
        assert [bool(row.StudyInstanceUID) for row in found] == [False, True, True]

    def test_claimed_character_set(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(claimed_character_set="ISO_IR 192")
        with scu(pacs) as peer:
            (row,) = peer.find(StudyInstanceUID=CT_UID, PatientName="")
        assert row.SpecificCharacterSet == "ISO_IR 192"
        assert row.get_item("PatientName").value == "Fürst^Jürgen".encode("latin-1")

    @pytest.mark.parametrize("implicit", [False, True])
    def test_a_row_with_every_oddity_still_parses(self, pacs: SimulatedPacs, *, implicit: bool) -> None:
        pacs.behaviour = Behaviour(
            implicit_only=implicit,
            uid_padding=" ",
            odd_lengths=frozenset({"PatientID", "StudyID"}),
            blank=frozenset({"StudyTime"}),
            claimed_character_set="ISO_IR 192",
            omit=frozenset({"QueryRetrieveLevel"}),
        )
        with scu(pacs) as peer:
            found = peer.find(StudyInstanceUID="", PatientID="", StudyID="", StudyTime="", PatientName="")
        assert {str(row.StudyInstanceUID).strip(" \0") for row in found} == {CT_UID, CT2_UID, MR_UID}
        assert all("QueryRetrieveLevel" not in row for row in found)


# --- C-MOVE ----------------------------------------------------------------------------------------------------------


class TestMisbehavingMove:
    def test_faulty_moves(self, pacs: SimulatedPacs) -> None:
        with scu(pacs) as peer:
            for _ in range(2):
                pacs.behaviour = Behaviour(refuse_move_status=0xA701, faulty_moves=2)
                statuses = [peer.move(StudyInstanceUID=MR_UID).status for _ in range(3)]
                assert statuses == [0xA701, 0xA701, SUCCESS]

    def test_move_nothing(self, pacs: SimulatedPacs, destination: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(move_nothing=True)
        with scu(pacs) as peer:
            moved = peer.move(StudyInstanceUID=CT_UID)
        assert (moved.status, moved.counts, moved.pending) == (SUCCESS, (0, 0, 0), [])
        assert not destination.record.of("store")

    def test_hang_after_failure(self, pacs: SimulatedPacs, destination: SimulatedPacs) -> None:
        destination.behaviour = Behaviour(store_status=0xA700)
        pacs.behaviour = Behaviour(hang_after_failure=True)
        with scu(pacs, wait=1.0) as peer:
            moved = peer.move(StudyInstanceUID=CT_UID)
        assert (moved.status, moved.pending) == (None, [])
        assert len(destination.record.of("store")) == 1

    @pytest.mark.parametrize(
        ("completed_counter", "pending", "final"),
        [
            ("honest", [1, 2, 3, 4, 5], 5),
            ("restarting", [1, 2, 0, 1, 2], 2),
            ("falling", [1, 2, 2, 1, 0], 0),
            ("double", [2, 4, 6, 8, 10], 10),
            ("zero", [0, 0, 0, 0, 0], 0),
        ],
    )
    def test_completed_counter(
        self, pacs: SimulatedPacs, completed_counter: Any, pending: list[int], final: int
    ) -> None:
        pacs.behaviour = Behaviour(completed_counter=completed_counter)
        with scu(pacs) as peer:
            moved = peer.move(StudyInstanceUID=MR_UID)
        assert [status.NumberOfCompletedSuboperations for status in moved.pending] == pending
        assert (moved.status, moved.counts) == (SUCCESS, (final, 0, 0))

    @pytest.mark.parametrize(("lose_early_cancel", "final"), [(False, [0xFE00]), (True, [PENDING] * 5 + [SUCCESS])])
    def test_lose_early_cancel(self, pacs: SimulatedPacs, *, lose_early_cancel: bool, final: list[int]) -> None:
        pacs.behaviour = Behaviour(move_start_delay_seconds=1.0, lose_early_cancel=lose_early_cancel)
        with scu(pacs) as peer:
            association = peer.association
            responses = association.send_c_move(
                keys("STUDY", {"StudyInstanceUID": MR_UID}), "DEST", STUDY_MOVE, msg_id=4
            )
            association.send_c_cancel(4, query_model=STUDY_MOVE)
            assert [status.Status for status, _ in responses] == final

    def test_a_later_cancel_is_not_lost(self, pacs: SimulatedPacs) -> None:
        pacs.behaviour = Behaviour(lose_early_cancel=True, suboperation_delay_seconds=0.3)
        with scu(pacs) as peer:

            def cancel(pending: int) -> None:
                if pending == 1:
                    peer.association.send_c_cancel(9, query_model=STUDY_MOVE)

            assert peer.move(StudyInstanceUID=CT_UID, message_id=9, on_pending=cancel).status == 0xFE00

    def test_abort_and_go_on(self, pacs: SimulatedPacs, destination: SimulatedPacs) -> None:
        """The mover hears an A-ABORT, and the study comes in all the same."""
        pacs.behaviour = Behaviour(abort_move_after=2, continue_after_mover_left=True)
        with scu(pacs) as peer:
            assert peer.move(StudyInstanceUID=CT_UID).status is None
        wait_for(lambda: arrived(destination) == uids(CT), "the rest of the study")
