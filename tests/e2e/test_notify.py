"""Somebody is told: a real service with failures, a real mail server and a real webhook, across restarts."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from router.simulator import Behaviour, SimulatedPacs, make_study
from tests.support.certificates import Authority
from tests.support.ports import free_port
from tests.support.process import wait_for
from tests.support.router import RunningRouter, Site, node
from tests.support.sinks import MailSink, WebhookSink

STUDIES = 6
PASSWORD = "correct horse battery staple"


class Ward:
    """An archive whose instances the workstation does not take, a mail server and a webhook."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.stack = stack
        authority = Authority(directory / "tls")
        self.mail = stack.enter_context(MailSink(starttls=authority.issue("mail"), login=("router", PASSWORD)))
        self.chat = stack.enter_context(WebhookSink())
        (directory / "site").mkdir()
        (directory / "site" / "password").write_text(PASSWORD + "\n")
        self.channels: dict[str, Any] = {
            "on-call": {
                "mail": {
                    "to": ["pacs@hospital.example"],
                    "from": "router@hospital.example",
                    "server": self.mail.address,
                    "user": "router",
                    "password": {"file": str(directory / "site" / "password")},
                    "ca": str(authority.certificate),
                }
            },
            "chat": {"webhook": {"url": self.chat.url}},
        }
        self.site = Site(directory / "site", nodes={}, rules={}, router={"drain": "0s"})
        self.archive = stack.enter_context(SimulatedPacs("ARCHIVE"))
        self.uids = []
        for number in range(STUDIES):
            study = make_study(seed=f"s{number}", study_date=date.today(), instances=2)
            self.archive.add(study)
            self.uids.append(str(study[0].StudyInstanceUID))
        self.workstation = stack.enter_context(SimulatedPacs("WS1"))
        self.archive.set_destination("WS1", self.workstation.host, self.workstation.port)
        self.nodes = {"archive": node("ARCHIVE", self.archive.port), "ws1": node("WS1", self.workstation.port)}
        sweep = {"source": "archive", "every": "1h", "keys": {"StudyDate": "today-1d..today"}}
        move = {"to": ["ws1"], "retry": {"attempts": 1}, "verify": "none"}
        self.rules: dict[str, Any] = {"all": {"sweep": sweep, "move": move}}

    def configure(self, **notify: Any) -> None:
        self.site.settings["notify"] = {"channels": self.channels, "to": ["on-call"], "wait": "8s"} | notify
        self.site.configure(nodes=self.nodes, rules=self.rules)

    def run(self) -> RunningRouter:
        return self.stack.enter_context(self.site.run())

    def told(self) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = self.site.json("notify", "list")["notifications"]
        return found


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    with contextlib.ExitStack() as stack:
        yield Ward(tmp_path, stack)


FAILING = Behaviour(fail_instances=1)


def test_failures_are_one_mail_that_a_restart_does_not_repeat_and_no_uid_gets_out(ward: Ward) -> None:
    ward.archive.behaviour = FAILING
    ward.configure()
    with ward.run() as router:
        (mail,) = ward.mail.wait(1)
        assert ward.mail.logins == [("router", PASSWORD)]
        assert mail["Subject"] == f"[dicom-router ROUTER] archive -> ws1: {STUDIES} transfers partial"
        text = str(mail.get_content())
        assert f"Rules: all ({STUDIES})." in text
        named = re.findall(
            r"^  transfer (\d+), study ([0-9a-f]{12}): partial: .+$", text.replace("\r", ""), re.MULTILINE
        )
        assert len(named) == 5
        number, pseudonym = named[0]
        shown = ward.site.json("transfers", "show", number)["transfer"]
        assert shown["study"] == pseudonym
        assert shown["study_instance_uid"] in ward.uids
        for uid in ward.uids:
            assert uid not in mail.as_string() + router.log
        series = 'dicom_router_notifications_total{channel="on-call",result="sent"} 1.0'
        wait_for(lambda: series in router.metrics(), "the mail to be counted")
        assert 'dicom_router_notifications_waiting{channel="on-call"} 0.0' in router.metrics()
        assert "notification" in router.log
    with ward.run() as router:
        ward.site.call("transfers", "retry", "--all")
        wait_for(lambda: router.log.count("transfer ended") >= 2 * STUDIES, "all to fail again")
        router.send_signal(15)
        router.wait()
    assert len(ward.mail.mails) == 1
    (told,) = ward.told()
    assert (told["result"], told["channel"], told["counts"]) == ("sent", "on-call", {"partial": STUDIES})
    assert ward.chat.posts == []
    listed = " ".join(ward.site.call("notify", "list").stdout.split())
    assert f"archive -> ws1: {STUDIES} transfers partial sent" in listed


def test_identifiers_are_told_where_they_are_switched_on(ward: Ward) -> None:
    ward.archive.behaviour = FAILING
    ward.configure(identifiers=True, to=["chat"], link="https://router.hospital.example/")
    with ward.run():
        (post,) = ward.chat.wait(1)
    document = post.json
    told = [one["study_instance_uid"] for one in document["transfers"]]
    assert len(told) == 5
    assert set(told) <= set(ward.uids)
    assert told[0] in document["text"]
    assert document["url"] == "https://router.hospital.example/"
    assert not any(uid in document["title"] for uid in ward.uids)


def test_a_stopped_route_is_told_and_that_it_works_again(ward: Ward) -> None:
    ward.archive.forget_destination("WS1")
    ward.nodes["archive"]["move"] = {"probe": "2s"}
    ward.configure(wait="1s")
    with ward.run():
        (stopped,) = ward.mail.wait(1)
        assert stopped["Subject"].endswith("archive -> ws1: route stopped")
        assert "Nothing is moved this way until somebody corrects a configuration" in stopped.get_content()
        ward.archive.set_destination("WS1", ward.workstation.host, ward.workstation.port)
        _, over = ward.mail.wait(2)
        assert over["Subject"].endswith("archive -> ws1: route works again")
        assert over["References"] == stopped["Message-ID"]


def test_a_rule_has_its_own_channel_and_who_is_told_changes_without_a_restart(ward: Ward) -> None:
    ward.archive.behaviour = FAILING
    ward.rules["all"]["notify"] = {"to": ["chat"], "on": ["partial"]}
    ward.configure(wait="10s")  # so that all fail before it is over, one after the other
    with ward.run() as router:
        (post,) = ward.chat.wait(1)
        assert post.json["rules"] == {"all": STUDIES}
        ward.rules["all"]["notify"] = "none"
        ward.configure(wait="1s", again="1s")
        router.send_signal(1)
        wait_for(lambda: router.log.count("configuration loaded") >= 2, "the reload")
        assert "take effect after a restart" not in router.log
        (ward.site.rules_directory / "broken.yaml").write_text("nodes: [")
        router.send_signal(1)
        (mail,) = ward.mail.wait(1)
        assert mail["Subject"].endswith("configuration rejected")
        assert "broken.yaml:" in mail.get_content()
        (ward.site.rules_directory / "broken.yaml").unlink()
        router.send_signal(1)
        _, over = ward.mail.wait(2)
        assert over["Subject"].endswith("configuration accepted again")
    assert len(ward.chat.posts) == 1


def test_what_cannot_be_sent_is_sent_after_the_next_start(ward: Ward) -> None:
    ward.archive.behaviour = FAILING
    ward.channels["on-call"]["mail"] |= {"server": f"127.0.0.1:{(port := free_port())}", "encryption": "none"}
    del ward.channels["on-call"]["mail"]["user"], ward.channels["on-call"]["mail"]["password"]
    ward.configure(wait="10s")  # so that all fail before it is over, one after the other
    with ward.run() as router:
        wait_for(lambda: "cannot be reached (Connection refused)" in router.log, "the attempt to fail")
        waiting = 'dicom_router_notifications_waiting{channel="on-call"} 1.0'
        assert waiting in router.metrics()
    (told,) = ward.told()
    assert told["result"] == "waiting"
    assert str(port) in told["reason"]
    with MailSink(port=port) as sink, ward.run():
        wait_for(lambda: sink.mails, "the mail, half a minute after the attempt before", seconds=90)
    assert sink.subjects == [f"[dicom-router ROUTER] archive -> ws1: {STUDIES} transfers partial"]


def test_a_person_can_see_whether_notifications_arrive(ward: Ward) -> None:
    ward.channels["nobody"] = {"webhook": {"url": f"http://127.0.0.1:{free_port()}/"}}
    ward.configure(to=["on-call", "chat", "nobody"])
    done = ward.site.call("notify", "test")
    assert done.returncode == 1
    assert f"on-call: sent to pacs@hospital.example by {ward.mail.address}." in done.stdout
    assert "chat: posted, and answered with success." in done.stdout
    assert "nobody: not sent. 127.0.0.1:" in done.stdout
    assert ward.mail.subjects == ["[dicom-router ROUTER] test: this is how notifications arrive"]
    assert ward.chat.posts[0].json["kind"] == "test"
    one = ward.site.json("notify", "test", "chat")
    assert one == {"channels": [{"channel": "chat", "sent": True, "message": "posted, and answered with success."}]}
    unknown = ward.site.call("notify", "test", "chatt")
    assert unknown.returncode == 2
    assert "did you mean chat?" in unknown.stderr
    (ward.site.directory / "password").write_text("wrong one, sadly\n")
    refused = ward.site.call("notify", "test", "on-call")
    assert refused.returncode == 1
    assert "refused the user name and password (code 535)" in refused.stdout
    assert "sadly" not in refused.stdout + refused.stderr
    ward.site.settings.pop("notify")
    ward.site.configure(nodes=ward.nodes, rules=ward.rules)
    none = ward.site.call("notify", "test")
    assert none.returncode == 1
    assert "There is no channel to notify people on" in none.stderr
