"""HL7 messages read and answered: fields, controls, separators, character sets, refusals, and bytes of any kind."""

import logging
import re
import time
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import hl7
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.domain.dicom import Identifier
from router.domain.hl7 import (
    CHARACTER_SETS,
    EVENTS,
    FIELDS,
    WORDS,
    Acknowledgement,
    Hl7Path,
    Hl7Settings,
    Merge,
    OrderMessage,
    OrderRequest,
    Request,
)
from router.triggers.acknowledgement import encode
from router.triggers.framing import MAXIMUM_BETWEEN, Frames, Said
from router.triggers.header import USUAL, header
from router.triggers.message import MAXIMUM_ORDERS, MAXIMUM_PARTS, read
from router.triggers.segments import MAXIMUM_LENGTH, moment
from tests.support.hl7 import SAMPLES, message, order, parse_answer, sample

SETTINGS = Hl7Settings(timezone="Europe/Berlin")
NOW = datetime(2026, 3, 1, 7, 15, tzinfo=UTC)
PID = "PID|1||4711^^^HOSPITAL^MR||Muster^Erika||19640812|F"
ORC, OBR = "ORC|NW|P1|F1", f"OBR|1|P1|F1|CTABD^CT Abdomen^LOCAL{'|' * 14}ACC-1"


def taken(data: bytes, changed: Hl7Settings = SETTINGS) -> OrderMessage:
    content = read(data, changed).content
    assert isinstance(content, OrderMessage), content
    return content


def refused(data: bytes, changed: Hl7Settings = SETTINGS) -> Acknowledgement:
    content = read(data, changed).content
    assert isinstance(content, Acknowledgement), content
    assert content.code != "AA" and content.reason and content.word in WORDS
    return content


def only(data: bytes, changed: Hl7Settings = SETTINGS) -> OrderRequest:
    (request,) = taken(data, changed).requests
    return request


def texts(identifier: Identifier, *names: str) -> tuple[str, ...]:
    return tuple(identifier.text(name) for name in names)


def code(identifier: Identifier, name: str) -> tuple[str, ...]:
    item = identifier.values(name)[0]
    assert isinstance(item, Identifier)
    return texts(item, "CodeValue", "CodingSchemeDesignator", "CodeMeaning")


# --- what the messages say --------------------------------------------------------------------------------------------


def test_an_orm_says_patient_order_code_and_start() -> None:
    read_ = taken(sample("orm_o01"))
    assert (read_.event, read_.sender) == ("ORM^O01", "RIS|HOSPITAL")
    one = read_.requests[0].examination
    assert texts(one, "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex") == (
        "4711",
        "HOSPITAL",
        "19640812",
        "F",
    )
    assert texts(one, "AccessionNumber", "RequestedProcedureID", "ScheduledProcedureStepID", "Modality") == (
        "ACC-1",
        "RP-1",
        "SPS-1",
        "CT",
    )
    assert texts(one, "StudyInstanceUID", "RequestedProcedureDescription", "PatientName") == (
        "1.2.276.0.7230010.3.1.2.1",
        "CT Abdomen & Pelvis",
        "Muster^Erika^Anna^Dr.",
    )
    assert texts(one, "ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime") == ("20260302", "143000")
    assert code(one, "RequestedProcedureCodeSequence") == ("CTABD", "LOCAL", "CT Abdomen & Pelvis")
    assert code(one, "ScheduledProtocolCodeSequence") == ("P-CTABD", "PROTO", "CT abdomen protocol")
    assert read_.requests[0].request is Request.SCHEDULE


def test_an_omi_says_it_in_ipc_and_tq1() -> None:
    request = only(sample("omi_o23"))
    assert texts(request.examination, "AccessionNumber", "StudyInstanceUID", "Modality", "ScheduledStationAETitle") == (
        "ACC-2",
        "1.2.276.0.7230010.3.1.2.2",
        "MR",
        "MR1",
    )
    assert texts(request.examination, "ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime") == (
        "20260302",
        "143000",
    )
    assert code(request.examination, "ScheduledProtocolCodeSequence")[0] == "MRHEADP"


@pytest.mark.parametrize(
    ("name", "request_", "start"),
    [
        ("siu_s12", Request.SCHEDULE, ("20260302", "143000")),
        ("siu_s13", Request.SCHEDULE, ("20260303", "090000")),
        ("siu_s14", Request.SCHEDULE, ("20260303", "090000")),
        ("siu_s15", Request.CANCEL, ("20260303", "090000")),
    ],
)
def test_an_siu_is_one_appointment_known_by_its_filler(name: str, request_: Request, start: tuple[str, str]) -> None:
    request = only(sample(name))
    assert request.request is request_
    assert request.key == "filler-appointment B-1^RIS"
    one = request.examination
    assert texts(one, "ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime") == start
    assert code(one, "RequestedProcedureCodeSequence") == ("USABD", "LOCAL", "US Abdomen")


def test_an_admission_is_known_by_visit_or_else_patient_and_day() -> None:
    assert only(sample("adt_a01")).key == only(sample("adt_a04")).key == "visit V-100"
    without = message(PID, kind="ADT^A01")
    assert only(without).key == "patient 20260301\t4711\tHOSPITAL"


def test_a_merge_leads_from_mrg_to_the_pid_before_it() -> None:
    assert taken(sample("adt_a40")).merges == (
        Merge("4710", "HOSPITAL", "4711", "HOSPITAL"),
        Merge("7999", "HOSPITAL", "8000", "HOSPITAL"),
    )


def test_a_merge_of_several_ids_keeps_to_their_issuers() -> None:
    pid, mrg = "PID|1||N1^^^A^MR~N2^^^B^MR", "MRG|O1^^^A^MR~O2^^^B^MR~N1^^^A^MR"
    assert taken(message(pid, mrg, kind="ADT^A40")).merges == (Merge("O1", "A", "N1", "A"), Merge("O2", "B", "N2", "B"))


@pytest.mark.parametrize("segments", [(PID,), ("MRG|1", PID)])
def test_a_merge_without_its_segments_is_malformed(segments: tuple[str, ...]) -> None:
    assert (refused(message(*segments, kind="ADT^A40")).word) == "malformed"


@pytest.mark.parametrize(
    ("control", "status", "wanted"),
    [
        *((word, "", Request.SCHEDULE) for word in ("NW", "XO", "SC", "SN", "RP", "RO", "nw")),
        *((word, "", Request.CANCEL) for word in ("CA", "OC", "DC", "OD", "CR")),
        ("SC", "CA", Request.CANCEL),
        ("SC", "DC", Request.CANCEL),
        ("SC", "IP", Request.SCHEDULE),
        ("SC", "CM", None),
        ("OK", "", None),
        ("HD", "", None),
    ],
)
def test_order_control_and_status_say_what_is_wanted(control: str, status: str, wanted: Request | None) -> None:
    requests = taken(order(control=control, status=status)).requests
    assert [request.request for request in requests] == ([] if wanted is None else [wanted])


def test_what_is_replaced_in_the_same_message_is_cancelled() -> None:
    data = message(PID, "ORC|RP|P1|F1", "OBR|1|P1|F1|X", "ORC|RO|P2|F2", "OBR|1|P2|F2|Y")
    assert [(one.request, one.key) for one in taken(data).requests] == [
        (Request.CANCEL, "filler F1"),
        (Request.SCHEDULE, "filler F2"),
    ]


def test_each_orc_is_an_order_and_a_study_at_the_end_speaks_for_all() -> None:
    data = message(PID, ORC, OBR, "ORC|CA|P2|F2", f"OBR|2|P2|F2|X{'|' * 14}ACC-2", "ZDS|1.2.3^^Application^DICOM")
    requests = taken(data).requests
    assert [(one.request, one.key) for one in requests] == [
        (Request.SCHEDULE, "accession ACC-1\t"),
        (Request.CANCEL, "accession ACC-2\t"),
    ]
    assert {one.examination.text("StudyInstanceUID") for one in requests} == {"1.2.3"}
    assert {one.examination.text("PatientID") for one in requests} == {"4711"}


def test_each_ipc_is_a_step_of_its_own() -> None:
    data = message(PID, ORC, OBR, "IPC|A1||1.2.3|S1|CT", "IPC|A1||1.2.3|S2|PT", kind="OMI^O23")
    requests = taken(data).requests
    assert [one.key for one in requests] == ["accession A1\tS1", "accession A1\tS2"]
    assert [one.examination.text("Modality") for one in requests] == ["CT", "PT"]


def test_keys_fall_back_from_accession_to_filler_to_placer_to_nothing() -> None:
    keys = [
        only(message(PID, *segments)).key
        for segments in ((ORC, OBR), ("ORC|NW|P1|F1^RIS",), ("ORC|NW|P1",), ("ORC|NW", "OBR|1|P9"), ("ORC|NW",))
    ]
    assert keys == ["accession ACC-1\t", "filler F1^RIS", "placer P1", "placer P9", ""]


def test_the_medical_record_number_is_taken_of_several_ids() -> None:
    pid = "PID|1||123^^^SSA^SS~4711^^^HOSPITAL&1.2&ISO^MR~99^^^OTHER^PI"
    one = only(message(pid, ORC)).examination
    assert texts(one, "PatientID", "IssuerOfPatientID") == ("4711", "HOSPITAL")


def test_an_id_of_another_type_does_not_stand_in_for_an_unusable_record_number() -> None:
    pid = "PID|1||123^^^SSA^SS~47*^^^HOSPITAL^MR"
    assert refused(message(pid, ORC)).word == "unusable-value"


@pytest.mark.parametrize(("sex", "dicom"), [("f", "F"), ("O", "O"), ("U", ""), ("A", ""), ("N", ""), ("", "")])
def test_sex_is_what_dicom_knows_or_empty(sex: str, dicom: str) -> None:
    assert only(message(f"PID|1||1||||19640812|{sex}", ORC)).examination.text("PatientSex") == dicom


def test_a_null_value_and_an_impossible_birth_date_count_as_not_given() -> None:
    one = only(message('PID|1||1^^^""||||19641399|""', ORC, 'OBR|1|||X|||||||||||||||""')).examination
    assert "IssuerOfPatientID" not in one and "PatientBirthDate" not in one and "AccessionNumber" not in one


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20260302143015", ("20260302", "143015")),
        ("202603021430", ("20260302", "143000")),
        ("2026030214", ("20260302", "140000")),
        ("20260302", ("20260302", "")),
        ("20260302143015.1234+0100", ("20260302", "143015")),
        ("20260302003000+0200", ("20260301", "233000")),
        ("20260702143000-0500", ("20260702", "213000")),
        ("20260302-0500", ("20260302", "")),
        ("202603", ("", "")),
        ("20260230", ("", "")),
        ("20260302250000", ("", "")),
        ("99991231235959-1400", ("", "")),
        ("٢٠٢٦٠٣٠٢", ("", "")),
        ("", ("", "")),
    ],
)
def test_timestamps_come_out_on_local_clocks(text: str, expected: tuple[str, str]) -> None:
    assert moment(text, ZoneInfo("Europe/Berlin")) == expected


def test_a_start_that_is_no_date_is_refused_but_not_of_what_is_cancelled() -> None:
    answer = refused(order(start="tomorrow"))
    assert (answer.code, answer.condition, answer.word) == ("AE", 102, "unusable-value")
    assert only(order(start="tomorrow", control="CA")).request is Request.CANCEL


def test_configured_fields_come_before_the_usual_ones() -> None:
    changed = Hl7Settings(
        fields={
            "AccessionNumber": (Hl7Path("ZXX", 1), Hl7Path("OBR", 3, 1)),
            "PatientID": (Hl7Path("PID", 2, 1),),
            "RequestedProcedureCodeSequence": (Hl7Path("OBR", 44, 1),),
            "ScheduledProcedureStepStartDate": (Hl7Path("ZXX", 2, 1),),
        }
    )
    pid = "PID|1|E-1^^^ELSE|4711^^^HOSPITAL^MR"
    one = only(message(pid, ORC, OBR + "|" * 26 + "PC^Procedure^L", "ZXX|Z-1|2026030409"), changed).examination
    assert texts(one, "PatientID", "AccessionNumber", "ScheduledProcedureStepStartTime") == ("E-1", "Z-1", "090000")
    assert code(one, "RequestedProcedureCodeSequence") == ("PC", "L", "Procedure")


def test_the_issuer_may_stand_elsewhere() -> None:
    changed = Hl7Settings(fields={"IssuerOfPatientID": (Hl7Path("MSH", 4, 1),)})
    assert only(order(), changed).examination.text("IssuerOfPatientID") == "HOSPITAL"


# --- how it is written ------------------------------------------------------------------------------------------------


def test_other_separators_are_read_and_answered_with() -> None:
    data = sample("orm_o01").decode().translate(str.maketrans("|^~\\&", "#$%!*")).encode()
    reading = read(data, SETTINGS)
    assert isinstance(reading.content, OrderMessage)
    one = reading.content.requests[0].examination
    assert texts(one, "PatientID", "RequestedProcedureDescription") == ("4711", "CT Abdomen * Pelvis")
    answer = encode(reading.header, Acknowledgement(code="AE", reason="a*b|c", condition=102), "9", NOW)
    assert answer.startswith(b"MSH#$%!*#ROUTER#RADIOLOGY#RIS#HOSPITAL#20260301071500+0000##ACK$O01#9#P#2.3.1\r")
    assert parse_answer(answer)[:4] == ("AE", "ORM-1", "a!T!b|c", 102)


@pytest.mark.parametrize("ends", [b"\r\n", b"\n"])
def test_line_feeds_end_segments_too(ends: bytes) -> None:
    assert only(sample("orm_o01").replace(b"\r", ends)).key == "accession ACC-1\tSPS-1"


def test_escapes_are_decoded_and_unknown_ones_stay() -> None:
    text = r"a\F\b\S\c\R\d\E\e\T\f\H\g\N\h\.br\i\X41C3A4\j\Zyy\k\.sp999999999\l L\S spine"
    data = order(code=f"C^{text}^L").replace(b"P|2.3.1\r", b"P|2.3.1||||||UNICODE UTF-8\r")
    found = only(data).examination.text("RequestedProcedureDescription")
    assert found == r"a|b^c~d\e&fgh iAäj\Zyy\k\.sp999999999\l L\S spine"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("8859/1", "Müller"),
        ("8859/5", "Иванов"),
        ("8859/15", "Œuvre€"),
        ("UNICODE UTF-8", "山田"),
        ("UNICODE", "山田"),
        ("~ISO IR87", "山田|表"),
        ("ASCII~ISO IR87", "山田"),
        ("GB 18030-2000", "张伟"),
        ("BIG-5", "功"),
        ("KS X 1001", "홍길동"),
        ("", "Müller"),
    ],
)
def test_the_character_set_of_the_message_counts(name: str, text: str) -> None:
    codec = CHARACTER_SETS[name.split("~")[-1]] if name else "utf-8"
    escaped = text.replace("|", r"\F\ ".strip())
    data = order(code=f"C^{escaped}^L").decode().replace("P|2.3.1\r", f"P|2.3.1||||||{name}\r").encode(codec)
    assert only(data).examination.text("RequestedProcedureDescription") == text


def test_the_configured_character_set_counts_where_the_message_names_none() -> None:
    data = order(code="C^Müller^L").decode().encode("latin-1")
    assert refused(data).word == "character-set"
    described = only(data, Hl7Settings(character_set="iso8859-1")).examination.text("RequestedProcedureDescription")
    assert described == "Müller"


@pytest.mark.parametrize("name", ["ASCII", "UNICODE UTF-16", "NONSENSE"])
def test_bytes_that_do_not_fit_the_named_character_set_are_refused(name: str) -> None:
    data = order(code="C^Müller^L").replace(b"P|2.3.1\r", f"P|2.3.1||||||{name}\r".encode())
    answer = refused(data)
    assert (answer.code, answer.word) == ("AE", "character-set")


@pytest.mark.parametrize("version", ["2.1", "2.3.1", "2.5.1^DEU", "2.9", ""])
def test_versions_of_hl7_2_are_read(version: str) -> None:
    assert taken(order().replace(b"|2.3.1\r", f"|{version}\r".encode())).requests


# --- what is not taken ------------------------------------------------------------------------------------------------


def changed_order(old: str, new: str) -> bytes:
    data = order()
    assert old.encode() in data
    return data.replace(old.encode(), new.encode(), 1)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", ("AE", 100, "malformed")),
        (b"hello", ("AE", 100, "malformed")),
        (b"MSH", ("AE", 100, "malformed")),
        (b"MSH|", ("AE", 100, "malformed")),
        (b"MSH|^~\\&", ("AE", 100, "malformed")),
        (b"MSH|^~\\&|", ("AE", 101, "missing-field")),
        (b"MSH|||||||", ("AE", 100, "malformed")),
        (b"MSH|^^\\&|A|B", ("AE", 100, "malformed")),
        (b"MSHA^~\\&AxAy", ("AE", 100, "malformed")),
        (b"PID|1||4711\r", ("AE", 100, "malformed")),
        (order() + order(), ("AE", 100, "malformed")),
        (message(PID, "ORC|NW", "PID|2||8000"), ("AE", 100, "malformed")),
        (message(PID), ("AE", 100, "malformed")),
        (message("ORC|NW"), ("AE", 100, "malformed")),
        (message(PID, kind="SIU^S12"), ("AE", 100, "malformed")),
        (message(kind=""), ("AE", 101, "missing-field")),
        (changed_order("4711^^^HOSPITAL^MR", ""), ("AE", 101, "missing-field")),
        (changed_order("4711^^^HOSPITAL^MR", '""'), ("AE", 101, "missing-field")),
        (changed_order("ORC|NW", "ORC|"), ("AE", 101, "missing-field")),
        (changed_order("4711", "47*"), ("AE", 102, "unusable-value")),
        (changed_order("4711", "47?1"), ("AE", 102, "unusable-value")),
        (changed_order("4711", r"47\E\11"), ("AE", 102, "unusable-value")),
        (changed_order("4711", r"\X2A\ ".strip()), ("AE", 102, "unusable-value")),
        (changed_order("4711", "4\x00711"), ("AE", 102, "unusable-value")),
        (changed_order("4711", "4" * 65), ("AE", 102, "unusable-value")),
        (changed_order("HOSPITAL^MR", "HOSP*^MR"), ("AE", 102, "unusable-value")),
        (changed_order("CT Abdomen", "x" * (MAXIMUM_LENGTH + 1)), ("AE", 102, "unusable-value")),
        (changed_order("CT Abdomen", "a\x07b"), ("AE", 102, "unusable-value")),
        (changed_order("CT Abdomen", r"a\X0D\b"), ("AE", 102, "unusable-value")),
        (message(PID, kind="ORU^R01"), ("AR", 200, "unsupported")),
        (message(PID, kind="ADT^A08"), ("AR", 201, "unsupported")),
        (changed_order("|2.3.1", "|3.0"), ("AR", 203, "unsupported")),
        (message(PID, *["ORC|NW"] * (MAXIMUM_ORDERS + 1)), ("AR", 207, "too-large")),
        (message(PID, "ORC|NW" + "|" * MAXIMUM_PARTS), ("AR", 207, "too-large")),
    ],
)
def test_what_cannot_be_taken_is_refused_with_its_reason(data: bytes, expected: tuple[str, int, str]) -> None:
    answer = refused(data)
    assert (answer.code, answer.condition, answer.word) == expected
    assert "47" not in answer.reason and "HOSP" not in answer.reason


def test_a_sender_that_is_not_listed_is_rejected() -> None:
    listed = Hl7Settings(senders=("RIS", "HIS|NORTH"))
    assert taken(order(), listed)
    assert refused(order(application="HIS"), listed).word == "not-allowed"
    assert refused(order(application="STRANGER"), listed).code == "AR"


def test_an_old_orm_without_an_event_is_an_order() -> None:
    assert taken(changed_order("ORM^O01", "ORM")).event == "ORM^O01"


def test_hostile_shapes_are_read_or_refused_quickly() -> None:
    shapes = [
        message(PID, *["PV1|1" + "|" * 17] * 500, *["ORC|NW"] * 400),
        message(PID, "PV1|1" + "|" * 18 + "~" * 15_000, *["ORC|NW"] * 400),
        message(PID, "PV1|1" + "|" * 18 + "\\H\\" * 300_000, *["ORC|NW"] * 400),
        message(PID, *["ORC"] * 250_000),
        message(PID, "ORC|NW", "OBX|1|ED|PDF||" + "A^" * 400_000),
    ]
    started = time.process_time()
    for data in shapes:
        read(data, SETTINGS)
    assert time.process_time() - started < 20


def test_nothing_of_a_message_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for old, new in (("CT Abdomen", r"\Q\\Xzz\\C2842\\\x"), ("4711", r"47\.sp*\11"), ("HOSPITAL^MR", "\\")):
            read(changed_order(old, new), SETTINGS)
    assert not caplog.records


# --- acknowledgements -------------------------------------------------------------------------------------------------


def test_an_acknowledgement_exchanges_sender_and_receiver_and_names_the_message() -> None:
    answer = encode(header(sample("omi_o23")), Acknowledgement(code="AA"), "9", NOW)
    assert answer == (
        b"MSH|^~\\&|ROUTER|RADIOLOGY|RIS|HOSPITAL|20260301071500+0000||ACK^O23|9|P|2.5.1||||||UNICODE UTF-8\r"
        b"MSA|AA|OMI-1\r"
    )


def test_a_refusal_says_why_in_msa_and_err() -> None:
    refusal = Acknowledgement(code="AE", reason="It is missing.", condition=101, word="missing-field")
    answer = encode(header(order()), refusal, "9", NOW).split(b"\r")
    assert answer[1] == b"MSA|AE|1|It is missing."
    assert answer[2] == b"ERR|||101^Required field missing^HL70357|E||||It is missing."


def test_what_is_not_understood_at_all_gets_a_minimal_answer() -> None:
    refusal = Acknowledgement(code="AE", reason="No.", condition=100, word="malformed")
    answer = encode(None, refusal, "9", NOW)
    assert answer.startswith(b"MSH|^~\\&|||||20260301071500+0000||ACK|9|P|2.5\rMSA|AE||No.\r")


def test_what_is_handed_back_is_bounded_and_keeps_its_bytes() -> None:
    data = order(control_id="ü\\T\\" + "x" * 5000, application="A\x07B").decode().encode("latin-1")
    answer = encode(header(data), Acknowledgement(code="AA"), "9", NOW)
    assert b"MSA|AA|\xfc\\T\\xxx" in answer and b"|AB|" in answer
    assert len(answer) < 500


# --- any bytes --------------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        *(path.read_bytes() for path in sorted(SAMPLES.iterdir())),
        *(b"MSH|^~\\&|", b"\r", b"\n", b"|", b"^", b"~", b"&", b"\\", b"\\X41\\", b"\\.sp9\\", b"ORC|NW", b"PID|"),
        *(b"MRG|", b'""', b"\x00", b"\xff", b"\x0b", b"*", b"ORM^O01"),
    ]
)


@st.composite
def mutilated(draw: st.DrawFn) -> bytes:
    data = draw(PIECES | st.binary(max_size=60))
    for _ in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 40)))
        data = data[:start] + draw(PIECES | st.binary(max_size=20)) + data[end:]
    return data


@settings(deadline=None, max_examples=400)
@given(mutilated())
def test_any_bytes_are_read_or_refused_and_answered(data: bytes) -> None:
    reading = read(data, SETTINGS)
    assert reading.event in (*EVENTS, "other")
    content = reading.content
    if isinstance(content, OrderMessage):
        for request in content.requests:
            assert request.examination.text("PatientID")
        content = Acknowledgement(code="AA")
    answer = encode(reading.header, content, "9", NOW)
    assert b"\x1c" not in answer and b"\x0b" not in answer
    assert parse_answer(answer).code == content.code
    if reading.header is None or reading.header.separators == USUAL:
        assert str(hl7.parse(answer.decode("latin-1"))["MSA.F1"]) == content.code


@settings(deadline=None)
@given(
    st.lists(st.binary(max_size=50).map(lambda data: re.sub(rb"[\x0b\x1c]", b"", data)), max_size=6),
    st.lists(st.integers(1, 20), min_size=1),
)
def test_frames_are_the_same_however_the_bytes_come(messages: list[bytes], sizes: list[int]) -> None:
    data = b"".join(b"\x0b" + one + b"\x1c\r" for one in messages)
    frames, found = Frames(30), []
    while data:
        size = sizes[len(data) % len(sizes)]
        frames.feed(data[:size])
        data = data[size:]
        while (said := frames.next()) is not None:
            found.append(said)
    assert not frames.open
    assert [said for said, _ in found] == [Said.MESSAGE if len(one) <= 30 else Said.TOO_LARGE for one in messages]
    for (said, kept), one in zip(found, messages, strict=True):
        assert kept == one if said is Said.MESSAGE else one.startswith(kept) and len(kept) > 30


def test_a_frame_keeps_no_more_than_it_may() -> None:
    frames = Frames(10_000)
    frames.feed(b"\x0bMSH|")
    for _ in range(1000):
        assert frames.next() is None
        frames.feed(b"x" * 10_000)
    assert frames.next() is None and len(frames.overflowing or b"") == 4096
    frames.feed(b"\x1c\x0bnext\x1c")
    assert [frames.next(), frames.next()] == [(Said.TOO_LARGE, b"MSH|" + b"x" * 4092), (Said.MESSAGE, b"next")]


def test_a_message_that_begins_within_another_counts_and_the_other_is_given_up() -> None:
    frames = Frames(1000)
    frames.feed(b"\x0b\x0bMSH|one\x0b and a half\x0bMSH|two\x1c\r")
    assert [frames.next(), frames.next()] == [(Said.GIVEN_UP, b"MSH|one\x0b and a half"), (Said.MESSAGE, b"MSH|two")]


def test_too_much_between_frames_is_noise() -> None:
    frames = Frames(1000)
    frames.feed(b"x" * MAXIMUM_BETWEEN + b"\x0bMSH\x1c")
    assert frames.next() == (Said.MESSAGE, b"MSH")
    frames.feed(b"x" * (MAXIMUM_BETWEEN + 1))
    assert frames.next() == (Said.NOISE, b"")


def test_every_default_field_is_an_attribute_of_the_dictionary() -> None:
    for fields in FIELDS.values():
        Identifier.of(**dict.fromkeys(fields, "1"))
