"""Slots where several configurations ask the same nodes at once: a plan compared with that of a changed copy."""

from __future__ import annotations

import msgspec

from router.domain.allowance import Allowance, allowance, strictest
from router.domain.rule import Node, RuleSet
from router.engine.ports import Clock
from router.engine.slots import NodeSlots


class SharedSlots(NodeSlots):
    """Slots of archives as they are, whatever a configuration calls them: by AE title, host and port.

    Of each limit the strictest holds that a configuration has for the archive now.
    """

    def __init__(self, clock: Clock) -> None:
        """Without configurations as yet; see `join`."""
        super().__init__(clock=clock)
        self._moment = clock.now
        self._configurations: list[RuleSet] = []

    def join(self, rules: RuleSet) -> None:
        """From now on the limits of this configuration are kept as well."""
        self._configurations.append(rules)

    def known_as(self, node: Node) -> Node:
        """The node by the name that it has in every configuration."""
        return msgspec.structs.replace(node, name=_archive(node))

    def allowance(self, node: Node) -> Allowance:
        """The limits that hold for the archive now, by all configurations that know it."""
        now = self._moment()
        known = [
            allowance(one, rules.windows, now)
            for rules in self._configurations
            for one in rules.nodes.values()
            if _archive(one) == _archive(node)
        ]
        return strictest(known) if known else super().allowance(node)


def _archive(node: Node) -> str:
    return f"{node.ae_title} at {node.host}:{node.port}"
