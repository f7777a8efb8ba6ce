"""Command sets against pynetdicom's, and against random and damaged bytes."""

import contextlib
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.filereader import read_dataset
from pynetdicom.dimse_messages import C_MOVE_RSP, C_STORE_RQ
from pynetdicom.dimse_primitives import C_MOVE, C_STORE
from pynetdicom.dsutils import encode as pydicom_encode

from router.dimse import command as commands
from router.dimse.operation import MessageIds, scrub
from router.errors import LocalProtocolError, RemoteProtocolError

numbers = st.integers(0, 0xFFFF)
texts = st.from_regex(r"[A-Z0-9.]{0,20}", fullmatch=True)
elements = st.fixed_dictionaries(
    {
        commands.COMMAND_FIELD: st.sampled_from([commands.C_STORE_RQ, commands.C_MOVE_RSP, commands.C_FIND_RQ]),
        commands.MESSAGE_ID: numbers,
        commands.MESSAGE_ID_BEING_RESPONDED_TO: numbers,
        commands.COMMAND_DATA_SET_TYPE: numbers,
        commands.STATUS: numbers,
    },
    optional={
        commands.AFFECTED_SOP_CLASS_UID: texts,
        commands.AFFECTED_SOP_INSTANCE_UID: texts,
        commands.MOVE_DESTINATION: texts,
        commands.ERROR_COMMENT: texts,
        commands.REMAINING: numbers,
        commands.COMPLETED: numbers,
    },
)


@given(elements)
def test_a_command_set_comes_back_as_it_was(command):
    assert commands.decode(commands.encode(command)) == command


@given(elements)
def test_pydicom_reads_the_same(command):
    dataset = read_dataset(BytesIO(commands.encode(command)), is_implicit_VR=True, is_little_endian=True)
    assert len(commands.encode(command)) == 12 + dataset[0x00000000].value
    for element, value in command.items():
        assert dataset[element].value in (value, value or None)


def test_pynetdicoms_messages_are_read():
    primitive = C_MOVE()
    primitive.MessageIDBeingRespondedTo = 7
    primitive.AffectedSOPClassUID = "1.2.840.10008.5.1.4.1.2.2.2"
    primitive.Status = 0xFF00
    primitive.NumberOfRemainingSuboperations = 5
    primitive.NumberOfCompletedSuboperations = 300
    message = C_MOVE_RSP()
    message.primitive_to_message(primitive)
    command = commands.decode(pydicom_encode(message.command_set, True, True))
    assert (command.field, command.status, command.has_data) == (commands.C_MOVE_RSP, 0xFF00, False)
    assert (command.number(commands.REMAINING), command.number(commands.COMPLETED)) == (5, 300)
    assert command.number(commands.FAILED) is None

    store = C_STORE()
    store.MessageID = 9
    store.AffectedSOPClassUID = "1.2.3"
    store.AffectedSOPInstanceUID = "1.2.3.4"
    store.Priority = 2
    store.MoveOriginatorApplicationEntityTitle = "ROUTER"
    store.MoveOriginatorMessageID = 77
    store.DataSet = BytesIO(b"\0" * 8)
    request = C_STORE_RQ()
    request.primitive_to_message(store)
    command = commands.decode(pydicom_encode(request.command_set, True, True))
    assert command.has_data
    assert command.text(commands.AFFECTED_SOP_INSTANCE_UID) == "1.2.3.4"
    assert command.text(commands.MOVE_ORIGINATOR_AE_TITLE) == "ROUTER"
    assert command.number(commands.MOVE_ORIGINATOR_MESSAGE_ID) == 77


@pytest.mark.parametrize("missing", [commands.COMMAND_FIELD, commands.MESSAGE_ID, commands.COMMAND_DATA_SET_TYPE])
def test_a_request_that_could_not_be_answered_is_refused(missing):
    command = {
        commands.COMMAND_FIELD: commands.C_ECHO_RQ,
        commands.MESSAGE_ID: 1,
        commands.COMMAND_DATA_SET_TYPE: commands.NO_DATA_SET,
    }
    del command[missing]
    with pytest.raises(RemoteProtocolError, match=f"0000,{missing:04X}"):
        commands.decode(commands.encode(command))


def test_a_response_needs_a_status():
    with pytest.raises(RemoteProtocolError, match="0000,0900"):
        commands.decode(
            commands.encode(
                {
                    commands.COMMAND_FIELD: commands.C_FIND_RSP,
                    commands.MESSAGE_ID_BEING_RESPONDED_TO: 1,
                    commands.COMMAND_DATA_SET_TYPE: commands.NO_DATA_SET,
                }
            )
        )


def test_what_a_command_set_cannot_hold_is_our_fault():
    with pytest.raises(LocalProtocolError):
        commands.encode({commands.MESSAGE_ID: 70000})
    with pytest.raises(LocalProtocolError):
        commands.encode({commands.MESSAGE_ID: "seven"})
    with pytest.raises(LocalProtocolError):
        commands.encode({commands.MOVE_DESTINATION: 7})


@given(st.binary(max_size=200))
def test_random_bytes_end_in_a_value_or_the_typed_error(raw):
    with contextlib.suppress(RemoteProtocolError):
        commands.decode(raw)


@given(elements, st.data())
def test_damaged_command_sets_end_in_a_value_or_the_typed_error(command, data):
    raw = bytearray(commands.encode(command))
    for position in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)):
        raw[position] = data.draw(st.integers(0, 255))
    try:
        decoded = commands.decode(raw[: data.draw(st.integers(0, len(raw)))])
    except RemoteProtocolError:
        return
    assert isinstance(decoded.status, int)
    assert isinstance(decoded.text(commands.ERROR_COMMENT), str)


def test_message_ids_are_never_zero_and_never_shared():
    ids = MessageIds()
    ids._last = 0xFFFD
    with ids.one() as first, ids.one() as second, ids.one() as third:
        assert [first, second, third] == [0xFFFE, 0xFFFF, 1]
        ids._last = 0xFFFD
        with ids.one() as fourth:
            assert fourth == 2
    with ids.one() as again:
        assert again == 3


@pytest.mark.parametrize(
    ("comment", "clean"),
    [
        ("Unknown destination WS1", "Unknown destination WS1"),
        ("No study 1.2.840.113619.2 of patient Doe^Jane", "No study … of patient …"),
        ("ID 0012345\x1b[31m\r\nStatus 0xA801", "ID … [31m Status 0xA801"),
        ("x" * 200, "x" * 64),
        ("", ""),
    ],
)
def test_comments_of_peers_are_bounded_and_scrubbed(comment, clean):
    assert scrub(comment) == clean
