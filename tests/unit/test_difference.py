"""What a changed configuration makes different: decisions before and after, and the configuration itself."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from router.domain.audit import AuditSettings
from router.domain.difference import (
    Change,
    Homes,
    Stand,
    Totals,
    Unit,
    compare,
    node_changes,
    renamed,
    router_changes,
    totals,
)
from router.domain.rule import Node, NodeLimits, RouterSettings, RuleSet, TlsSettings, WindowUse
from router.domain.secret import Secret
from router.domain.selection import Action, Decision
from router.domain.transfer import Intent
from router.domain.window import Window

MOVE, HOLD, SKIP = Action.MOVE, Action.HOLD, Action.SKIP
CODES = {MOVE: "new", HOLD: "limit", SKIP: "condition"}


def decision(study: str, action: Action = MOVE, to: str = "ws", reason: str = "", series: str = "") -> Decision:
    return Decision(
        action=action,
        code=CODES[action],
        reason=reason or f"because of {action}",
        study_instance_uid=study,
        series_instance_uid=series,
        destination=to,
    )


def stand(action: Action, reason: str = "") -> Stand:
    return Stand(decision=action, code=CODES[action], reason=reason or f"because of {action}")


class TestDecisions:
    def test_what_would_be_moved_is_counted_as_added_removed_and_unchanged(self) -> None:
        before = [decision("1"), decision("2"), decision("3", SKIP)]
        after = [decision("2"), decision("3"), decision("4")]
        found = compare(before, after)
        assert (found.added, found.removed, found.unchanged, found.changed) == (2, 1, 1, 0)
        assert [(one.unit.study_instance_uid, one.before, one.after) for one in found.differences] == [
            ("3", stand(SKIP), stand(MOVE)),
            ("4", None, stand(MOVE)),
            ("1", stand(MOVE), None),
        ]

    def test_each_destination_counts(self) -> None:
        found = compare([decision("1")], [decision("1"), decision("1", to="local")])
        assert (found.added, found.removed, found.unchanged) == (1, 0, 1)

    def test_what_is_held_or_skipped_for_another_reason_is_changed(self) -> None:
        before = [decision("1", SKIP), decision("2", HOLD), decision("3", SKIP, reason="a"), decision("4", reason="a")]
        after = [decision("1", HOLD), decision("2", SKIP), decision("3", SKIP, reason="b"), decision("4", reason="b")]
        found = compare(before, after)
        assert (found.added, found.removed, found.unchanged, found.changed) == (0, 0, 1, 4), "one is moved either way"

    def test_a_reason_that_only_reads_otherwise_is_told_apart(self) -> None:
        found = compare(
            [decision("1", SKIP, reason="not chest"), decision("2", SKIP)],
            [decision("1", SKIP, reason="not chest|lung"), decision("2", HOLD)],
        )
        assert (found.changed, found.reworded) == (2, 1)
        assert [one.reworded for one in found.differences] == [False, True]

    def test_what_stays_skipped_is_neither_changed_nor_counted(self) -> None:
        assert compare([decision("1", SKIP)], [decision("1", SKIP)]) == compare([], [])

    def test_what_a_source_returns_and_the_rule_leaves_out_is_no_difference(self) -> None:
        assert not compare([], [decision("1", SKIP, to="")]).differences
        assert not compare([decision("1", SKIP, to="")], []).differences
        assert compare([], [decision("1", HOLD)]).changed == 1

    def test_a_study_left_out_before_destinations_matter_stands_for_all_of_them(self) -> None:
        found = compare([decision("1", SKIP, to="")], [decision("1"), decision("1", to="local")])
        assert found.added == 2
        assert {one.before for one in found.differences} == {stand(SKIP)}
        back = compare([decision("1"), decision("1", to="local")], [decision("1", SKIP, to="")])
        assert back.removed == 2
        assert {one.after for one in back.differences} == {stand(SKIP)}

    def test_a_study_left_out_stands_for_its_series(self) -> None:
        found = compare([decision("1", SKIP, to="")], [decision("1", series="1.1"), decision("1", series="1.2")])
        assert [one.unit for one in found.differences] == [Unit("1", "1.1", "ws"), Unit("1", "1.2", "ws")]
        assert {one.before for one in found.differences} == {stand(SKIP)}

    def test_a_prior_of_several_current_studies_counts_once(self) -> None:
        found = compare([], [decision("1", SKIP), decision("1"), decision("1", HOLD)])
        assert (found.added, found.changed) == (1, 0)

    @given(st.lists(st.builds(decision, st.sampled_from("123"), st.sampled_from(Action), st.sampled_from(["ws", ""]))))
    def test_against_itself_nothing_differs(self, decisions: list[Decision]) -> None:
        assert not compare(decisions, decisions).differences

    @given(
        st.lists(st.builds(decision, st.sampled_from("12345"), st.sampled_from(Action))),
        st.lists(st.builds(decision, st.sampled_from("12345"), st.sampled_from(Action))),
    )
    def test_the_way_back_adds_what_the_way_there_removes(self, one: list[Decision], other: list[Decision]) -> None:
        there, back = compare(one, other), compare(other, one)
        assert (there.added, there.removed) == (back.removed, back.added)
        assert (there.changed, there.unchanged) == (back.changed, back.unchanged)


def test_over_all_rules_what_several_of_them_want_counts_once() -> None:
    def intents(*studies: str) -> list[Intent]:
        return [Intent("pacs", study, "", "ws") for study in studies]

    assert totals(intents("1", "2", "2"), intents("2", "3", "3", "4")) == Totals(added=2, removed=1, unchanged=1)


def test_what_goes_between_nodes_that_got_another_name_is_the_same() -> None:
    called = {"archive": "pacs", "station": "ws"}
    assert not compare([decision("1")], [decision("1", to="station")], called).differences
    before, after = Intent("pacs", "1", "", "ws"), Intent("archive", "1", "", "station")
    assert totals([before], [after], called) == Totals(added=0, removed=0, unchanged=1)


class TestConfiguration:
    def rules(self, *nodes: Node, windows: tuple[Window, ...] = (), **settings: Any) -> RuleSet:
        return RuleSet(
            router=RouterSettings(**settings),
            nodes={one.name: one for one in nodes},
            rules={},
            windows={one.name: one for one in windows},
            content_hash="x",
        )

    def node(self, name: str = "pacs", **settings: Any) -> Node:
        return Node(**({"name": name, "ae_title": name.upper(), "host": "10.0.0.5", "port": 104} | settings))

    def test_nodes_that_are_the_same_are_not_named(self) -> None:
        assert node_changes(self.rules(self.node()), self.rules(self.node())) == {}

    def test_a_changed_address_and_limits_are_named_with_their_values(self) -> None:
        after = self.node(port=4242, limits=NodeLimits(associations=4, moves_per_hour=100), windows=(WindowUse(),))
        found = node_changes(self.rules(self.node()), self.rules(after))
        assert found == {
            "pacs": (
                Change("address", "PACS at 10.0.0.5:104", "PACS at 10.0.0.5:4242"),
                Change("limits.associations", "1", "4"),
                Change("limits.moves_per_hour", "none", "100"),
                Change("windows", "none", "always"),
            )
        }

    def test_nodes_that_are_new_or_gone_are_named(self) -> None:
        found = node_changes(self.rules(self.node("old")), self.rules(self.node("new")))
        assert found == {
            "old": (Change("address", "OLD at 10.0.0.5:104", ""),),
            "new": (Change("address", "", "NEW at 10.0.0.5:104"),),
        }

    def test_a_node_that_is_called_otherwise_is_known_by_its_ae_title_and_address(self) -> None:
        before = self.rules(self.node("pacs"), self.node("ws"))
        after = self.rules(
            self.node("archive", ae_title="PACS", limits=NodeLimits(associations=2)), self.node("ws2", port=105)
        )
        assert renamed(before, after) == {"archive": "pacs"}
        assert node_changes(before, after) == {
            "pacs": (Change("name", "pacs", "archive"), Change("limits.associations", "1", "2")),
            "ws": (Change("address", "WS at 10.0.0.5:104", ""),),
            "ws2": (Change("address", "", "WS2 at 10.0.0.5:105"),),
        }

    def test_of_two_nodes_at_one_address_each_is_renamed_once(self) -> None:
        before = self.rules(self.node("a", ae_title="X"), self.node("b", ae_title="X"))
        after = self.rules(self.node("c", ae_title="X"), self.node("b", ae_title="X"), self.node("d", ae_title="X"))
        assert renamed(before, after) == {"c": "a"}

    def test_a_window_that_is_redefined_changes_the_nodes_that_use_it(self) -> None:
        node = self.node(windows=(WindowUse(window="night", associations=4),))
        before = self.rules(node, self.node("ws"), windows=(Window.of("night", "UTC", [(0, 60)]),))
        after = self.rules(node, self.node("ws"), windows=(Window.of("night", "UTC", [(0, 90)]),))
        assert node_changes(before, after) == {"pacs": (Change("window night", "as it was", "redefined"),)}

    def test_settings_of_the_router_itself_are_named(self) -> None:
        found = router_changes(self.rules(), self.rules(ae_title="OTHER"))
        assert found == (Change("router.ae_title", "ROUTER", "OTHER"),)

    def test_a_path_that_only_moved_along_with_a_copied_directory_is_no_change(self) -> None:
        homes = Homes("/etc/router", "/tmp/edited")

        def settings(home: str, key: str = "us.key") -> RuleSet:
            tls = TlsSettings(ca=f"{home}/ca.pem", certificate=f"{home}/us.pem", key=f"{home}/{key}")
            node = self.node(tls=tls)
            return self.rules(node, tls=tls, token=Secret(file=f"{home}/token"))

        before = settings(homes.before)
        assert router_changes(before, settings(homes.after), homes) == ()
        assert node_changes(before, settings(homes.after), homes) == {}
        other = (Change("tls.key", "/etc/router/us.key", "/etc/router/them.key"),)
        assert node_changes(before, settings(homes.after, "them.key"), homes) == {"pacs": other}
        assert node_changes(before, settings("/tmp/edited2"), homes)["pacs"][0].after == "/tmp/edited2/ca.pem"

    def test_the_parts_of_a_setting_are_named_one_by_one(self) -> None:
        before, after = (self.rules(audit=AuditSettings(host=host, port=514)) for host in ("a", "b"))
        assert router_changes(before, after) == (Change("router.audit.host", "a", "b"),)
        assert router_changes(self.rules(), after) == (Change("router.audit", "none", "set"),)
