"""A-ASSOCIATE and the small PDUs against pynetdicom's, and against random and damaged bytes."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ, A_RELEASE_RP, A_RELEASE_RQ

from router.dimse import pdu
from router.dimse.pdu import AssociateRequest, ContextReply, PduType, ProposedContext, RoleSelection, agreed_roles
from router.errors import RemoteProtocolError

uids = st.lists(st.integers(1, 99999), min_size=2, max_size=8).map(lambda parts: ".".join(map(str, parts)))
titles = st.text("ABCXYZ019_", min_size=1, max_size=16)
contexts = st.lists(
    st.tuples(st.integers(0, 127), uids, st.lists(uids, min_size=1, max_size=5)), max_size=20, unique_by=lambda c: c[0]
).map(lambda found: tuple(ProposedContext(2 * number + 1, uid, tuple(syntaxes)) for number, uid, syntaxes in found))
roles = st.lists(
    st.builds(RoleSelection, uids, st.booleans(), st.booleans()), max_size=10, unique_by=lambda r: r[0]
).map(tuple)
requests = st.builds(
    lambda called, calling, contexts, length, roles: AssociateRequest(called, calling, contexts, length, roles=roles),
    titles,
    titles,
    contexts,
    st.integers(0, 0xFFFFFFFF),
    roles,
)


def body(encoded: bytes) -> bytes:
    kind, length = pdu.HEADER.unpack_from(encoded)
    assert length == len(encoded) - 6
    assert kind in list(PduType)
    return encoded[6:]


@given(requests)
def test_a_request_comes_back_as_it_was(request):
    decoded = pdu.decode_associate_request(body(pdu.encode_associate_request(request)))
    assert decoded._replace(titles=b"") == request


@given(requests)
def test_pynetdicom_reads_our_request(request):
    theirs = A_ASSOCIATE_RQ()
    theirs.decode(pdu.encode_associate_request(request))
    assert theirs.called_ae_title.strip() == request.called_ae_title
    assert theirs.calling_ae_title.strip() == request.calling_ae_title
    assert [
        (item.context_id, item.abstract_syntax, tuple(item.transfer_syntax)) for item in theirs.presentation_context
    ] == [tuple(context) for context in request.contexts]
    assert theirs.user_information.maximum_length == request.maximum_length
    assert [
        (uid, bool(item.scu_role), bool(item.scp_role))
        for uid, item in (theirs.user_information.role_selection or {}).items()
    ] == [tuple(role) for role in request.roles]
    assert pdu.decode_associate_request(body(theirs.encode()))._replace(titles=b"") == request


@given(requests, st.integers(0, 0xFFFFFFFF), roles, st.data())
def test_our_accept_is_read_by_pynetdicom_and_by_us(request, maximum_length, answered, data):
    replies = tuple(
        ContextReply(context.context_id, data.draw(st.integers(0, 4)), context.transfer_syntaxes[0])
        for context in request.contexts
    )
    received = pdu.decode_associate_request(body(pdu.encode_associate_request(request)))
    encoded = pdu.encode_associate_accept(received, replies, maximum_length, roles=answered)
    assert encoded[10:74] == received.titles
    decoded = pdu.decode_associate_accept(body(encoded))
    assert decoded.contexts == replies
    assert decoded.maximum_length == maximum_length
    assert decoded.roles == answered
    theirs = A_ASSOCIATE_AC()
    theirs.decode(encoded)
    assert set(theirs.user_information.role_selection or {}) == {role.sop_class_uid for role in answered}
    assert [(item.context_id, item.result) for item in theirs.presentation_context] == [
        (reply.context_id, reply.result) for reply in replies
    ]


def test_the_small_pdus_are_the_standards():
    reject = A_ASSOCIATE_RJ()
    reject.decode(pdu.encode_associate_reject(1, 1, 3))
    assert (reject.result, reject.source, reject.reason_diagnostic) == (1, 1, 3)
    abort = A_ABORT_RQ()
    abort.decode(pdu.encode_abort(2, 6))
    assert (abort.source, abort.reason_diagnostic) == (2, 6)
    assert pdu.encode_release_request() == A_RELEASE_RQ().encode()
    assert pdu.encode_release_response() == A_RELEASE_RP().encode()


@pytest.mark.parametrize(
    ("raw", "title"), [(b"  PACS          ", "PACS"), (b"PACS" + bytes(12), "PACS"), (b" " * 16, ""), (bytes(16), "")]
)
def test_padding_of_ae_titles_is_removed(raw, title):
    encoded = bytearray(pdu.encode_associate_request(AssociateRequest("A", "B", (), 0)))
    encoded[26:42] = raw
    assert pdu.decode_associate_request(encoded[6:]).calling_ae_title == title


def test_items_nobody_knows_are_ignored():
    encoded = pdu.encode_associate_request(AssociateRequest("A", "B", (), 16384))
    unknown = b"\x7f\x00\x00\x03abc"
    assert pdu.decode_associate_request(encoded[6:] + unknown).maximum_length == 16384


@given(roles, roles, st.data())
def test_roles_are_given_only_where_both_sides_want_them(proposed, others, data):
    known = data.draw(st.lists(st.sampled_from(proposed), unique=True)) if proposed else []
    allowed = (*others, *(role._replace(scp=data.draw(st.booleans())) for role in known))
    may = {role.sop_class_uid: role for role in allowed}
    agreed = agreed_roles(proposed, allowed)
    assert {role.sop_class_uid for role in agreed} == {role.sop_class_uid for role in proposed} & may.keys()
    wanted = {role.sop_class_uid: role for role in proposed}
    for uid, scu, scp in agreed:
        assert (scu, scp) == (wanted[uid].scu and may[uid].scu, wanted[uid].scp and may[uid].scp)


def test_a_role_is_one_for_each_class_the_first_and_there_are_no_more_of_them_than_contexts():
    others = [RoleSelection(f"1.3.{number}", False, True) for number in range(1000)]
    many = (RoleSelection("1.2", False, True), RoleSelection("1.2", True, False), *others)
    request = pdu.decode_associate_request(
        body(pdu.encode_associate_request(AssociateRequest("A", "B", (), 0, roles=many)))
    )
    assert request.roles[0] == many[0]
    assert len(request.roles) == pdu.MAXIMUM_CONTEXTS


@pytest.mark.parametrize("content", [b"", b"\0\3", b"\0\0\1", b"\0\x031.2\1", b"\0\x021.2\0\1", b"\0\x041.2\0\1"])
def test_a_role_selection_that_is_not_as_long_as_it_says(content):
    user = b"\x54\0" + len(content).to_bytes(2, "big") + content
    encoded = pdu.encode_associate_request(AssociateRequest("A", "B", (), 0))[6:]
    with pytest.raises(RemoteProtocolError, match="role selection"):
        pdu.decode_associate_request(encoded + b"\x50\0" + len(user).to_bytes(2, "big") + user)


def test_more_than_128_contexts_are_refused():
    many = tuple(ProposedContext(1, "1.2", ("1.2.840.10008.1.2",)) for _ in range(129))
    with pytest.raises(RemoteProtocolError, match="128"):
        pdu.decode_associate_request(body(pdu.encode_associate_request(AssociateRequest("A", "B", many, 0))))


def test_context_ids_must_be_odd_and_unique():
    for ids in ((2,), (1, 1)):
        found = tuple(ProposedContext(number, "1.2", ("1.2.840.10008.1.2",)) for number in ids)
        with pytest.raises(RemoteProtocolError):
            pdu.decode_associate_request(body(pdu.encode_associate_request(AssociateRequest("A", "B", found, 0))))


@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_end_in_a_value_or_the_typed_error(raw, accept):
    with contextlib.suppress(RemoteProtocolError):
        (pdu.decode_associate_accept if accept else pdu.decode_associate_request)(raw)


@given(requests, st.data())
def test_damaged_requests_end_in_a_value_or_the_typed_error(request, data):
    raw = bytearray(body(pdu.encode_associate_request(request)))
    for position in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=5)):
        raw[position] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RemoteProtocolError):
        pdu.decode_associate_request(raw[: data.draw(st.integers(0, len(raw)))])


@given(st.binary(max_size=5000), st.integers(pdu.MINIMUM_LENGTH, 600), st.booleans())
def test_fragments_fit_the_receiver_and_give_the_data_back(data, limit, command):
    stream = b"".join(bytes(part) for part in pdu.fragments(3, command, data, limit))
    position, collected, controls = 0, b"", []
    while position < len(stream):
        kind, length, value_length, context_id, control = pdu.PDATA_HEADER.unpack_from(stream, position)
        assert (kind, context_id, value_length) == (PduType.P_DATA, 3, length - 4)
        assert length <= limit
        collected += stream[position + 12 : position + 6 + length]
        controls.append(control)
        position += 6 + length
    assert collected == data
    assert [control & pdu.LAST for control in controls] == [0] * (len(controls) - 1) + [pdu.LAST]
    assert {control & pdu.COMMAND for control in controls} == {int(command)}
