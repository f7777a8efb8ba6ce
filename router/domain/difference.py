"""What a changed configuration makes different: decisions before and after, compared. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from router.domain.rule import Model, Node, RuleSet
from router.domain.selection import Action, Decision
from router.domain.transfer import Intent

NAME = "name"
"""The setting of a node that is called otherwise."""

_ORDER = list(Action)
_NOT_SHOWN = frozenset({NAME})


class Unit(NamedTuple):
    """What a decision is about. The destination is empty where destinations did not come to matter."""

    study_instance_uid: str
    series_instance_uid: str
    destination: str


class Stand(msgspec.Struct, frozen=True, kw_only=True):
    """How a study or series stands by a rule."""

    decision: Action
    code: str
    reason: str


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A study or series for which it makes a difference; None: the rule does not come upon it."""

    unit: Unit
    before: Stand | None
    after: Stand | None

    @property
    def added(self) -> bool:
        """It would be moved now."""
        return _moves(self.after) and not _moves(self.before)

    @property
    def removed(self) -> bool:
        """It would not be moved any more."""
        return _moves(self.before) and not _moves(self.after)

    @property
    def reworded(self) -> bool:
        """It is decided alike, by a reason of the same kind that says something else."""
        return (
            self.before is not None
            and self.after is not None
            and (self.before.decision, self.before.code) == (self.after.decision, self.after.code)
        )


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One rule's decisions before and after."""

    differences: tuple[Difference, ...] = ()
    unchanged: int = 0
    """What would be moved before and after, for whatever reason."""

    @property
    def added(self) -> int:
        """How much would be moved that would not have been."""
        return sum(one.added for one in self.differences)

    @property
    def removed(self) -> int:
        """How much would not be moved that would have been."""
        return sum(one.removed for one in self.differences)

    @property
    def changed(self) -> int:
        """How much is decided otherwise without that: held instead of skipped, or any of it for another reason."""
        return len(self.differences) - self.added - self.removed

    @property
    def reworded(self) -> int:
        """How much of what is changed stands as before, and only its reason says something else."""
        return sum(one.reworded for one in self.differences)


class Totals(NamedTuple):
    """What would be moved over all rules; what several of them want counts once."""

    added: int
    removed: int
    unchanged: int


def compare(
    before: Iterable[Decision], after: Iterable[Decision], called: Mapping[str, str] | None = None
) -> Comparison:
    """What the decisions of one rule differ in. `called`: what nodes were called before, see `renamed`.

    What is left out is no difference where the rule does not come upon it at all on the other side: which studies a
    source returns that are not wanted is not the rule's doing.
    """
    old, new = _stands(before, {}), _stands(after, called or {})
    differences, unchanged = [], 0
    for unit in _aligned(old, new):
        was, is_now = _stand(old, unit), _stand(new, unit)
        unchanged += _moves(was) and _moves(is_now)
        if was != is_now and (None not in (was, is_now) or not (_nothing(was) and _nothing(is_now))):
            differences.append(Difference(unit=unit, before=was, after=is_now))
    differences.sort(key=_in_order)
    return Comparison(differences=tuple(differences), unchanged=unchanged)


def totals(before: Iterable[Intent], after: Iterable[Intent], called: Mapping[str, str] | None = None) -> Totals:
    """What of the moves (in any order, some perhaps several times) is new, gone and the same; `called` as above."""
    names = called or {}
    old = set(before)
    new = {
        one._replace(source=names.get(one.source, one.source), destination=names.get(one.destination, one.destination))
        for one in after
    }
    return Totals(len(new - old), len(old - new), len(old & new))


def _stands(decisions: Iterable[Decision], called: Mapping[str, str]) -> dict[Unit, Stand]:
    """Each unit once: of several decisions the one that does most."""
    found: dict[Unit, Stand] = {}
    for one in decisions:
        destination = called.get(one.destination, one.destination)
        unit = Unit(one.study_instance_uid, one.series_instance_uid, destination)
        had = found.get(unit)
        if had is None or _ORDER.index(one.action) < _ORDER.index(had.decision):
            found[unit] = Stand(decision=one.action, code=one.code, reason=one.reason)
    return found


def _aligned(old: Mapping[Unit, Stand], new: Mapping[Unit, Stand]) -> list[Unit]:
    """The units to compare: one without destination (or series) stands for all that the other side has of it."""
    units = dict.fromkeys((*old, *new))
    finer = {wider for unit in units for wider in _wider(unit)}
    return [unit for unit in units if unit not in finer]


def _wider(unit: Unit) -> tuple[Unit, ...]:
    """What speaks of a unit along with others, the closest first."""
    study, series, destination = unit
    wider = [Unit(study, series, ""), Unit(study, "", destination), Unit(study, "", "")]
    return tuple(one for one in dict.fromkeys(wider) if one != unit and (destination or not one.destination))


def _stand(stands: Mapping[Unit, Stand], unit: Unit) -> Stand | None:
    return next((stands[one] for one in (unit, *_wider(unit)) if one in stands), None)


def _moves(stand: Stand | None) -> bool:
    return stand is not None and stand.decision is Action.MOVE


def _nothing(stand: Stand | None) -> bool:
    return stand is None or stand.decision is Action.SKIP


def _in_order(one: Difference) -> tuple[int, Unit]:
    return 0 if one.added else 1 if one.removed else 3 if one.reworded else 2, one.unit


# the configuration itself ---------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """A setting with its value before and after, as text; empty: there is no such."""

    setting: str
    before: str
    after: str


class Homes(NamedTuple):
    """The directories of both configurations: a path that only moved along with its directory is no change."""

    before: str = ""
    after: str = ""

    def back(self, value: object) -> object:
        """A value of the changed configuration, as it would be in the directory of the other."""
        inside = isinstance(value, str) and self.after and value.startswith(f"{self.after}/")
        return self.before + str(value)[len(self.after) :] if inside else value


SAME_HOME = Homes()
"""Both are in one place."""


def renamed(before: RuleSet, after: RuleSet) -> dict[str, str]:
    """Name of a node -> what it was called before, of those with an AE title and address that only got another name."""
    gone: dict[str, list[str]] = {}
    for name, node in before.nodes.items():
        if name not in after.nodes:
            gone.setdefault(_address(node), []).append(name)
    found: dict[str, str] = {}
    for name, node in after.nodes.items():
        if name not in before.nodes and gone.get(_address(node)):
            found[name] = gone[_address(node)].pop(0)
    return found


def node_changes(before: RuleSet, after: RuleSet, homes: Homes = SAME_HOME) -> dict[str, tuple[Change, ...]]:
    """Name of a node (before, if it was there) that is new, gone or otherwise -> its settings that are otherwise.

    A node that names a window which was redefined is among them.
    """
    called = renamed(before, after)
    is_now = {called.get(name, name): node for name, node in after.nodes.items()}
    found: dict[str, tuple[Change, ...]] = {}
    redefined = {name for name, window in before.windows.items() if after.windows.get(name, window) != window}
    for name in dict.fromkeys((*before.nodes, *is_now)):
        old, new = before.nodes.get(name), is_now.get(name)
        if old is None or new is None:
            found[name] = (Change("address", _address(old), _address(new)),)
            continue
        changes = [] if name == new.name else [Change(NAME, name, new.name)]
        changes += [] if _address(old) == _address(new) else [Change("address", _address(old), _address(new))]
        changes += _settings("", old, new, _NOT_SHOWN | {"ae_title", "host", "port"}, homes)
        again = redefined.intersection(use.window for use in new.windows if use.window is not None)
        changes += [Change(f"window {one}", "as it was", "redefined") for one in sorted(again)]
        if changes:
            found[name] = tuple(changes)
    return found


def router_changes(before: RuleSet, after: RuleSet, homes: Homes = SAME_HOME) -> tuple[Change, ...]:
    """The settings of this router itself that are otherwise."""
    return tuple(_settings("router.", before.router, after.router, frozenset(), homes))


def _address(node: Node | None) -> str:
    return f"{node.ae_title} at {node.host}:{node.port}" if node is not None else ""


def _settings(
    prefix: str, old: msgspec.Struct, new: msgspec.Struct, without: frozenset[str], homes: Homes
) -> list[Change]:
    found = []
    for name in old.__struct_fields__:
        was, is_now = getattr(old, name), homes.back(getattr(new, name))
        if name in without or was == is_now:
            continue
        if isinstance(was, msgspec.Struct) and isinstance(is_now, type(was)):
            found += _settings(f"{prefix}{name}.", was, is_now, frozenset(), homes)
        else:
            found.append(Change(f"{prefix}{name}", _spelled(was), _spelled(is_now)))
    return found


def _spelled(value: object) -> str:
    """A value for people; what has parts is only said to be there."""
    if value is None:
        return "none"
    if isinstance(value, msgspec.Struct | Mapping):
        return "set"
    if isinstance(value, tuple):
        parts = [_window(one) if isinstance(one, Model) else str(one) for one in value]
        return ", ".join(parts) or "none"
    return str(value)


def _window(use: Model) -> str:
    said = {name: getattr(use, name) for name in use.__struct_fields__}
    name = said.pop("window", None) or "always"
    limits = ", ".join(f"{key} {value}" for key, value in said.items() if value is not None)
    return f"{name} ({limits})" if limits else str(name)
