"""Builds the typed model from merged trees and compiles every expression; remembers places for the checks after it.

Nothing here stops at a mistake: what cannot be built is reported and stands in the model as its default. Rules are
built by `router.config.rules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from router.config.access import certificate_names, networks, page_settings
from router.config.anatomy import compile_anatomy
from router.config.audit import audit_settings
from router.config.base import Base
from router.config.character_sets import with_character_set
from router.config.diagnostics import Code
from router.config.document import MappingNode
from router.config.history import history_keep
from router.config.hl7 import hl7_settings
from router.config.ledger import ledger_setting
from router.config.log import log_settings
from router.config.notify import notify_settings
from router.config.retention import retention_settings
from router.config.rules import build_rule
from router.config.schema import node_at, schema_at, value_of
from router.config.secrets import secret_setting
from router.config.tls import http_tls_settings, tls_settings
from router.config.values import ADDRESS_HINT, parse_address, parse_size
from router.config.windows import compile_windows, window_uses
from router.domain import rule as model
from router.domain.commitment import MAXIMUM_PATIENCE
from router.domain.dicom import InformationModel
from router.domain.quarantine import REFUSE, QuarantineSettings

_RESERVED = {
    model.LOCAL: "that is this router's own store",
    "other": "metrics call nodes so that are not configured",
}


WATCH_SECONDS = (1.0, 86400.0)
"""How often the files may be looked at: more often is work in vain, more rarely is not watching."""
LONGEST_LEAVE = 300.0
"""Seconds a service that ends may still take work: a load balancer has long noticed, and whoever stops it waits."""


class Builder(Base):
    """Makes the RuleSet of merged sections."""

    # --- the whole ----------------------------------------------------------------------------------------------------

    def build(self, content_hash: str, work_hash: str = "") -> model.RuleSet:
        """The model, as far as it can be built."""
        router = self._router()
        nodes: dict[str, model.Node] = {}
        for name, tree in self.sections.nodes.values.items():
            if isinstance(tree, MappingNode):
                nodes[name] = self._node(name, self.sections.with_defaults("nodes", tree), router.tls)
        anatomy = compile_anatomy(self.sections.anatomy, self.report)
        rules = {}
        for name, tree in self.sections.rules.values.items():
            if isinstance(tree, MappingNode):
                self.trees[name] = self.sections.with_defaults("rules", tree)
                rules[name] = build_rule(self, name, self.trees[name], nodes, anatomy)
        zone_of = partial(self.zone, default=self.machine_zone)
        windows = compile_windows(self.sections.windows, zone_of, self.now, self.report)
        return model.RuleSet(
            router=router,
            nodes=nodes,
            rules=rules,
            windows=windows,
            anatomy=anatomy,
            content_hash=content_hash,
            work_hash=work_hash,
        )

    # --- router and nodes ---------------------------------------------------------------------------------------------

    def _router(self) -> model.RouterSettings:
        tree = self.sections.router
        values = value_of(tree, schema_at(("router",)))
        changes: dict[str, Any] = {
            key: values[key]
            for key in ("store", "durability", "maximum_associations", "receivers", "metrics", "replica")
            if key in values
        }
        for key in ("listen", "http"):
            if key in values:
                address = parse_address(values[key])
                if address is None:
                    self.report(tree.values[key], Code.ADDRESS, f"{values[key]!r} is no address", ADDRESS_HINT)
                else:
                    changes[f"{key}_host"], changes[f"{key}_port"] = address
        if "ae_title" in values and self.ae_title(tree.values["ae_title"], values["ae_title"], "router.ae_title"):
            changes["ae_title"] = values["ae_title"]
        if "drain" in values:
            changes["drain"] = self.duration(tree.values["drain"], values["drain"])
        if "leave" in values:
            changes["leave"] = self.duration(tree.values["leave"], values["leave"])
            if changes["leave"] > LONGEST_LEAVE:
                message = f"router.leave: {values['leave']} is longer than 5m"
                self.report(tree.values["leave"], Code.BAD_VALUE, message, "5s is usual")
        if "watch" in values:
            changes["watch"] = values["watch"]
        if "watch_every" in values:
            changes["watch_every"] = every = self.duration(tree.values["watch_every"], values["watch_every"])
            if not WATCH_SECONDS[0] <= every <= WATCH_SECONDS[1]:
                message = f"router.watch_every: {values['watch_every']} is not between 1s and 1d"
                self.report(tree.values["watch_every"], Code.BAD_VALUE, message, "10s is usual")
        changes["token"] = secret_setting(tree, values, "token", "router", self.report)
        changes["page"] = page_settings(tree, values, self.report)
        if "minimum_free" in values:
            changes["minimum_free"] = parse_size(values["minimum_free"]) or 0
        if "quarantine" in values:
            given = dict(values["quarantine"])
            if "size" in given:
                given["size"] = parse_size(given["size"]) or 0
            changes["quarantine"] = QuarantineSettings(**given)
        changes["retention"] = retention_settings(self, tree, values)
        changes["history"] = history_keep(self, tree, values)
        changes["ledger"] = ledger_setting(tree, values, self.report)
        if not str(values.get("store", "x")).strip():
            self.report(tree.values["store"], Code.BAD_VALUE, "router.store is empty", "name a directory")
        changes["tls"] = tls_settings(
            tree, values, "router", own=None, whole=not self.is_damaged("router"), report=self.report
        )
        changes["http_tls"] = http_tls_settings(
            tree, values, own=changes["tls"], whole=not self.is_damaged("router"), report=self.report
        )
        if changes["http_tls"] is not None:
            clients, path = changes["http_tls"].clients, ("http_tls", "clients")
            certificate_names(tree, path, clients, "router.http_tls.clients", self.report)
        changes["log"] = log_settings(tree, values, self.report)
        changes["audit"] = audit_settings(self, tree, values, changes["tls"])
        changes["notify"] = notify_settings(self, tree, values)
        changes["hl7"] = hl7_settings(self, tree, values, changes["tls"])
        return model.RouterSettings(**changes)

    def _node(self, name: str, tree: MappingNode, own_tls: model.TlsSettings | None) -> model.Node:
        key = self.sections.nodes.keys[name]
        if name in _RESERVED:
            self.report(key, Code.BAD_NAME, f"a node cannot be called {name}: {_RESERVED[name]}")
        values = value_of(tree, schema_at(("nodes", name)))
        title = values.get("ae_title", "")
        if "ae_title" in values:
            self.ae_title(tree.values["ae_title"], title, f"nodes.{name}.ae_title")
        address = parse_address(values.get("address", ""))
        if address is None and "address" in values:
            self.report(tree.values["address"], Code.ADDRESS, f"{values['address']!r} is no address", ADDRESS_HINT)
        sends_as = tuple(dict.fromkeys(values.get("sends_as", ())))
        for index, calling in enumerate(values.get("sends_as", ())):
            self.ae_title(node_at(tree, ("sends_as", index)), calling, f"nodes.{name}.sends_as")
        return model.Node(
            name=name,
            ae_title=title,
            host=address[0] if address else "",
            port=address[1] if address else 0,
            timezone=self.zone(tree, values, self.machine_zone),
            sends_as=sends_as,
            sends_from=networks(
                tree, ("sends_from",), values.get("sends_from", ()), f"nodes.{name}.sends_from", self.report
            ),
            certificate_names=certificate_names(
                tree,
                ("certificate_names",),
                values.get("certificate_names", ()),
                f"nodes.{name}.certificate_names",
                self.report,
            ),
            push=values.get("push", REFUSE),
            root=InformationModel(values.get("root", "study")),
            limits=self.settings(model.NodeLimits, tree, values, "limits"),
            breaker=self.settings(model.BreakerSettings, tree, values, "breaker"),
            windows=window_uses(name, tree, values, whole=not self.is_damaged(name), report=self.report),
            find=self.settings(model.FindSettings, tree, with_character_set(name, tree, values, self.report), "find"),
            move=self.settings(model.MoveSettings, tree, values, "move"),
            timeouts=self.settings(model.Timeouts, tree, values, "timeouts"),
            commitment=self._commitment(name, tree, values),
            tls=tls_settings(
                tree,
                values,
                f"nodes.{name}",
                own=own_tls,
                whole=not self.is_damaged(name, "router"),
                report=self.report,
            ),
        )

    def _commitment(self, name: str, tree: MappingNode, values: Mapping[str, Any]) -> model.CommitmentSettings | None:
        given = values.get("commitment", False)
        if given is False:
            return None
        if given is True:
            return model.CommitmentSettings()
        settings = self.settings(model.CommitmentSettings, tree, values, "commitment")
        if settings.timeout > MAXIMUM_PATIENCE.total_seconds():
            place = node_at(tree, ("commitment", "timeout"))
            message = f"nodes.{name}.commitment.timeout is longer than {MAXIMUM_PATIENCE.days} days"
            self.report(place, Code.BAD_VALUE, message, "6h is usual")
        return settings
