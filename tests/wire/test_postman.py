"""Notifications on the wire: mail servers and webhooks that work, with and without TLS, and such that do not."""

from __future__ import annotations

import itertools
import json
import shutil
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from router.domain.notice_group import Example, Notification
from router.domain.notice_template import test_notification as a_test
from router.domain.notice_text import Sender
from router.domain.notify import Mail, Webhook
from router.domain.secret import Secret
from router.errors import ConfigurationError, NotDelivered
from router.observe.postman import Postman
from tests.support.certificates import Authority
from tests.support.ports import free_port
from tests.support.sinks import Answer, MailSink, WebhookSink, rude_server

AT = datetime(2026, 11, 28, 2, 10, tzinfo=UTC)
SENDER = Sender("ROUTER", "https://router.hospital.example/")
SECRETS = {"PASSWORD": "correct horse battery", "TOKEN": "Bearer 4711", "URL": ""}
FAILURES = Notification(
    channel="on-call",
    kind="transfers",
    names=("archive", "ws1"),
    severity="error",
    counts={"failed": 3, "partial": 1},
    rules={"ct": 4},
    examples=(Example(transfer=7, study="0c5ae3c9b1f4", rule="ct", word="failed", reason="Refusé: 0xA700."),),
    first_at=AT,
    last_at=AT,
    thread="0123456789abcdef",
)


def read(secret: Secret) -> str:
    if not SECRETS.get(secret.env):
        raise ConfigurationError(f"the environment variable {secret.env} is not set")
    return SECRETS[secret.env]


@pytest.fixture
def postman() -> Postman:
    return Postman(read, now=lambda: AT, timeout=5, deadline=20)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "hospital")


def mail(port: int, **settings: Any) -> Mail:
    usual: dict[str, Any] = {"to": ("a@x.example",), "sender": "router@x.example", "encryption": "none"}
    return Mail(host="127.0.0.1", port=port, **(usual | settings))


# --- Mail -------------------------------------------------------------------------------------------------------------


def test_a_mail_says_what_happened_to_all_it_is_for(postman: Postman) -> None:
    with MailSink() as sink:
        assert postman.deliver(mail(sink.port, to=("a@x.example", "b@x.example")), FAILURES, SENDER) == ""
    (envelope,), (message,) = sink.envelopes, sink.mails
    assert envelope.mail_from == "router@x.example"
    assert envelope.rcpt_tos == ["a@x.example", "b@x.example"]
    assert message["Subject"] == "[dicom-router ROUTER] archive -> ws1: 3 transfers failed, 1 transfer partial"
    assert (message["From"], message["To"]) == ("router@x.example", "a@x.example, b@x.example")
    assert message["Date"].datetime == AT
    assert message["Message-ID"] == "<0123456789abcdef.1@x.example>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["References"] is None
    assert message.get_content_type() == "text/plain"
    assert "transfer 7, study 0c5ae3c9b1f4: failed: Refusé: 0xA700." in message.get_content()
    assert "https://router.hospital.example/" in message.get_content()


def test_mails_of_one_group_are_one_thread(postman: Postman) -> None:
    with MailSink() as sink:
        for number in (1, 2, 3):
            told = msgspec.structs.replace(FAILURES, number=number)
            postman.deliver(mail(sink.port), told, SENDER)
    assert [message["Message-ID"] for message in sink.mails] == [
        f"<0123456789abcdef.{number}@x.example>" for number in (1, 2, 3)
    ]
    assert [message["References"] for message in sink.mails[1:]] == ["<0123456789abcdef.1@x.example>"] * 2
    assert [message["In-Reply-To"] for message in sink.mails[1:]] == ["<0123456789abcdef.1@x.example>"] * 2


@pytest.mark.filterwarnings("ignore:Requiring AUTH")  # the sink knows of STARTTLS only
@pytest.mark.parametrize("encryption", ["starttls", "tls"])
def test_an_encrypted_login_with_an_authority_of_ones_own(
    postman: Postman, authority: Authority, encryption: str
) -> None:
    own = authority.issue(encryption)
    with MailSink(login=("router", SECRETS["PASSWORD"]), **{encryption: own}) as sink:
        channel = mail(
            sink.port,
            encryption=encryption,
            user="router",
            password=Secret(env="PASSWORD"),
            ca=str(authority.certificate),
        )
        postman.deliver(channel, FAILURES, SENDER)
        assert sink.logins == [("router", SECRETS["PASSWORD"])]
        assert len(sink.mails) == 1
        wrong = msgspec.structs.replace(channel, password=Secret(env="TOKEN"))
        with pytest.raises(NotDelivered, match=r"refused the user name and password \(code 535\)") as caught:
            postman.deliver(wrong, FAILURES, SENDER)
        assert SECRETS["TOKEN"] not in str(caught.value)
        stranger = msgspec.structs.replace(channel, ca="")
        with pytest.raises(NotDelivered, match="certificate that is not trusted"):
            postman.deliver(stranger, FAILURES, SENDER)
    assert len(sink.mails) == 1


def test_a_renewed_file_of_authorities_serves_from_the_next_delivery_on(
    postman: Postman, authority: Authority, tmp_path: Path
) -> None:
    other, ca = Authority(tmp_path / "other"), tmp_path / "ca.pem"
    shutil.copy(other.certificate, ca)
    own = authority.issue("renewed")
    with MailSink(starttls=own) as sink, WebhookSink(tls=own) as web:
        channels = (mail(sink.port, encryption="starttls", ca=str(ca)), Webhook(url=web.url, ca=str(ca)))
        for channel in channels:
            with pytest.raises(NotDelivered, match="certificate that is not trusted"):
                postman.deliver(channel, FAILURES, SENDER)
        shutil.copy(authority.certificate, ca)
        for channel in channels:
            postman.deliver(channel, FAILURES, SENDER)
    assert len(sink.mails) == 1


def test_a_certificate_for_another_host_is_not_trusted(postman: Postman, authority: Authority) -> None:
    own = authority.issue("other", names="DNS:other.example")
    with MailSink(starttls=own) as sink, WebhookSink(tls=own) as web:
        ca = str(authority.certificate)
        for channel in (mail(sink.port, encryption="starttls", ca=ca), Webhook(url=web.url, ca=ca)):
            with pytest.raises(NotDelivered, match="certificate that is not trusted"):
                postman.deliver(channel, FAILURES, SENDER)
    assert (sink.mails, web.posts) == ([], [])


def test_nothing_is_said_to_a_server_that_offers_no_encryption(postman: Postman) -> None:
    with MailSink() as sink:
        channel = mail(sink.port, encryption="starttls", user="router", password=Secret(env="PASSWORD"))
        with pytest.raises(NotDelivered, match="does not offer what is asked of it: STARTTLS"):
            postman.deliver(channel, FAILURES, SENDER)
    assert sink.mails == []


def test_recipients_that_are_refused_do_not_cost_the_others_their_mail(postman: Postman) -> None:
    with MailSink() as sink:
        sink.refuses = {"b@x.example"}
        remark = postman.deliver(mail(sink.port, to=("a@x.example", "b@x.example")), FAILURES, SENDER)
        assert remark == "1 of 2 recipients were refused"
        with pytest.raises(NotDelivered, match=r"refused all recipients \(code 550\)"):
            postman.deliver(mail(sink.port, to=("b@x.example",)), FAILURES, SENDER)
    assert len(sink.mails) == 1


@pytest.mark.parametrize(("answer", "refused"), [("451 later", False), ("554 spam", True)])
def test_a_message_that_is_not_taken_says_whether_it_is_the_message(
    postman: Postman, answer: str, refused: bool
) -> None:
    with MailSink() as sink:
        sink.answer = answer
        with pytest.raises(NotDelivered, match=f"refused with code {answer[:3]}") as caught:
            postman.deliver(mail(sink.port), FAILURES, SENDER)
    assert caught.value.refused is refused
    assert answer[4:] not in str(caught.value)


def test_nothing_of_a_name_gets_into_the_headers(postman: Postman) -> None:
    told = msgspec.structs.replace(FAILURES, names=("archive\r\nBcc: evil@x.example", "ws1"), detail="\r\n.\r\nQUIT")
    with MailSink() as sink:
        postman.deliver(mail(sink.port), told, Sender("R\r\nX-Evil: yes"))
    (message,) = sink.mails
    assert message["Bcc"] is None
    assert message["X-Evil"] is None
    assert "\n" not in message["Subject"]
    assert sink.envelopes[0].rcpt_tos == ["a@x.example"]


def test_a_template_makes_subject_and_text_of_a_mail(postman: Postman) -> None:
    template = "Subject: {{ severity }}: {{ title }}\n\n{{ counts['failed'] }} failed.\n"
    with MailSink() as sink:
        assert postman.deliver(mail(sink.port, template=template), FAILURES, SENDER) == ""
        assert "the usual text was sent" in postman.deliver(mail(sink.port, template="{{ no }}"), FAILURES, SENDER)
    assert sink.subjects[0] == "error: archive -> ws1: 3 transfers failed, 1 transfer partial"
    assert sink.texts[0].replace("\r", "") == "3 failed.\n"
    assert "For example:" in sink.texts[1]


def test_a_line_that_begins_with_from_arrives_as_it_is(postman: Postman) -> None:
    with MailSink() as sink:
        assert postman.deliver(mail(sink.port, template="From one\nFrom two\n"), FAILURES, SENDER) == ""
    assert sink.texts[0].replace("\r", "") == "From one\nFrom two\n"


# --- Webhooks ---------------------------------------------------------------------------------------------------------


def test_a_webhook_gets_the_documented_json(postman: Postman) -> None:
    headers = {"Authorization": Secret(env="TOKEN"), "X-Site": "radiology"}
    with WebhookSink() as sink:
        assert postman.deliver(Webhook(url=sink.url, headers=headers), FAILURES, SENDER) == ""
    (post,) = sink.posts
    assert post.path == "/hook?room=1"
    assert post.headers["Content-Type"] == "application/json"
    assert (post.headers["Authorization"], post.headers["X-Site"]) == ("Bearer 4711", "radiology")
    document = post.json
    text = document.pop("text")
    assert text.startswith("archive -> ws1: 3 transfers failed, 1 transfer partial.\n")
    assert document == {
        "version": 1,
        "router": "ROUTER",
        "channel": "on-call",
        "kind": "transfers",
        "status": "firing",
        "severity": "error",
        "title": "archive -> ws1: 3 transfers failed, 1 transfer partial",
        "source": "archive",
        "destination": "ws1",
        "node": "",
        "rule": "",
        "certificate": "",
        "rules": {"ct": 4},
        "counts": {"failed": 3, "partial": 1},
        "detail": "",
        "first_at": "2026-11-28T02:10:00+00:00",
        "last_at": "2026-11-28T02:10:00+00:00",
        "transfers": [
            {"id": 7, "verdict": "failed", "study": "0c5ae3c9b1f4", "rule": "ct", "reason": "Refusé: 0xA700."}
        ],
        "groups": [],
        "groups_unnamed": 0,
        "thread": "0123456789abcdef",
        "number": 1,
        "url": "https://router.hospital.example/",
    }


def test_chat_programs_get_a_text_and_templates_make_what_they_want(postman: Postman) -> None:
    pager = '{"event_action": "{{ "resolve" if status == "resolved" else "trigger" }}", "key": {{ thread | tojson }}}'
    with WebhookSink() as sink:
        postman.deliver(Webhook(url=sink.url, format="text"), FAILURES, SENDER)
        postman.deliver(Webhook(url=sink.url, template=pager), FAILURES, SENDER)
        over = msgspec.structs.replace(FAILURES, over=True)
        postman.deliver(Webhook(url=sink.url, template=pager), over, SENDER)
        remark = postman.deliver(Webhook(url=sink.url, template="no JSON"), FAILURES, SENDER)
    chat, trigger, resolve, usual = (post.json for post in sink.posts)
    assert list(chat) == ["text"]
    assert (trigger["event_action"], resolve["event_action"]) == ("trigger", "resolve")
    assert trigger["key"] == FAILURES.thread
    assert usual["version"] == 1
    assert "the usual JSON was sent" in remark


def test_a_webhook_over_https_and_with_a_secret_url(
    postman: Postman, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WebhookSink(tls=authority.issue("web")) as sink:
        monkeypatch.setitem(SECRETS, "URL", sink.url)
        postman.deliver(Webhook(url=Secret(env="URL"), ca=str(authority.certificate)), FAILURES, SENDER)
        with pytest.raises(NotDelivered, match="certificate that is not trusted"):
            postman.deliver(Webhook(url=Secret(env="URL")), FAILURES, SENDER)
    assert len(sink.posts) == 1


@pytest.mark.parametrize(
    ("answer", "says", "after", "refused"),
    [
        (Answer(500), "status 500", None, False),
        (Answer(503, {"Retry-After": "120"}), "status 503", 120.0, False),
        (Answer(429, {"Retry-After": "Sat, 28 Nov 2026 02:11:30 GMT"}), "status 429", 90.0, False),
        (Answer(429, {"Retry-After": "soon"}), "status 429", None, False),
        (Answer(400), "status 400", None, True),
        (Answer(302, {"Location": "http://elsewhere.example/"}), "redirects are not followed", None, False),
    ],
)
def test_an_answer_without_success_says_when_to_come_again(
    postman: Postman, answer: Answer, says: str, after: float | None, refused: bool
) -> None:
    with WebhookSink() as sink:
        sink.answers.append(answer)
        with pytest.raises(NotDelivered, match=says) as caught:
            postman.deliver(Webhook(url=sink.url), FAILURES, SENDER)
    assert (caught.value.retry_after, caught.value.refused) == (after, refused)
    assert "elsewhere" not in str(caught.value).replace("leads elsewhere", "")
    assert len(sink.posts) == 1


def test_a_url_in_the_open_is_not_used(postman: Postman, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SECRETS, "URL", "http://chat.hospital.example/secret-path")
    for url in (Secret(env="URL"), Secret(env="UNKNOWN"), "nonsense"):
        with pytest.raises(NotDelivered) as caught:
            postman.deliver(Webhook(url=url), FAILURES, SENDER)
        assert "secret-path" not in str(caught.value)


# --- Others that misbehave --------------------------------------------------------------------------------------------


def hang(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def dribble(connection: socket.socket) -> None:
    for _ in itertools.count():
        connection.sendall(b"2")
        time.sleep(0.05)


RUDE: dict[str, Callable[[socket.socket], None]] = {
    "hangs": hang,
    "dribbles": dribble,
    "closes": lambda connection: None,
    "garbage": lambda connection: connection.sendall(b"\x00\xff\x15\x03\x01" * 1000),
    "endless line": lambda connection: connection.sendall(b"2" * 1_000_000),
}


@pytest.mark.parametrize("rudeness", RUDE)
@pytest.mark.parametrize("kind", ["mail", "mail-tls", "web", "web-tls"])
def test_whatever_the_other_side_does_it_ends_in_time_and_in_a_sentence(kind: str, rudeness: str) -> None:
    postman = Postman(read, timeout=1, deadline=2)
    with rude_server(RUDE[rudeness]) as port:
        channels: dict[str, Mail | Webhook] = {
            "mail": mail(port),
            "mail-tls": mail(port, encryption="tls"),
            "web": Webhook(url=f"http://127.0.0.1:{port}/"),
            "web-tls": Webhook(url=f"https://127.0.0.1:{port}/"),
        }
        with pytest.raises(NotDelivered, match=rf"127.0.0.1:{port} ") as caught:
            postman.deliver(channels[kind], FAILURES, SENDER)
    assert str(caught.value).endswith(".")


URLS = (
    "https://[bad/secret",
    "https://h:99999/secret",
    "https://h/sécret",
    "https://h/a b",
    "https://h/a\r\nX: y",
    "h",
)


@pytest.mark.parametrize("url", URLS)
def test_a_secret_that_is_no_url_is_a_sentence_without_it(
    postman: Postman, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SECRETS, "URL", url)
    with pytest.raises(NotDelivered) as caught:
        postman.deliver(Webhook(url=Secret(env="URL")), FAILURES, SENDER)
    assert str(caught.value) == "The webhook's URL is none; it begins with https:// and names a host."


def test_a_user_and_password_in_a_secret_url_log_in(postman: Postman, monkeypatch: pytest.MonkeyPatch) -> None:
    with WebhookSink() as sink:
        monkeypatch.setitem(SECRETS, "URL", sink.url.replace("http://", "http://user:p%40ss@"))
        postman.deliver(Webhook(url=Secret(env="URL")), FAILURES, SENDER)
    (post,) = sink.posts
    assert post.headers["Authorization"] == "Basic dXNlcjpwQHNz"
    assert "user" not in post.headers["Host"]
    monkeypatch.setitem(SECRETS, "URL", "http://user:p%40ss@hospital.example/")
    with pytest.raises(NotDelivered, match="password in the open"):
        postman.deliver(Webhook(url=Secret(env="URL"), encryption="none"), FAILURES, SENDER)


def test_nobody_there_is_a_sentence_too(postman: Postman) -> None:
    for channel in (mail(free_port()), Webhook(url=f"http://127.0.0.1:{free_port()}/")):
        with pytest.raises(NotDelivered, match=r"cannot be reached \(Connection refused\)"):
            postman.deliver(channel, FAILURES, SENDER)


def test_a_file_of_authorities_that_is_gone_is_a_sentence(postman: Postman, tmp_path: Path) -> None:
    with pytest.raises(NotDelivered, match="cannot be read"):
        postman.deliver(Webhook(url="https://127.0.0.1:1/", ca=str(tmp_path / "gone.pem")), FAILURES, SENDER)


def test_a_test_notification_is_known_as_one(postman: Postman) -> None:
    with WebhookSink() as sink:
        postman.deliver(Webhook(url=sink.url), a_test("chat", AT), SENDER)
    (post,) = sink.posts
    assert (post.json["kind"], post.json["severity"]) == ("test", "info")
    assert "nothing is wrong" in json.loads(post.body)["text"]
