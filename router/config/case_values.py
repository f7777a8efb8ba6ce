"""What cases of the section `tests` are made of: moments, attributes, names. What is wrong goes to `report`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from router.config.diagnostics import Code
from router.config.document import MappingNode, Node, ScalarNode, SequenceNode
from router.config.schema import did_you_mean, raw_value
from router.config.tls import Report
from router.config.values import nearest_attribute
from router.domain.condition import Evaluation, attribute_path
from router.domain.dicom import Identifier, vr_of
from router.domain.problem import ExpressionError
from router.domain.recording import calculable
from router.domain.timing import DateExpression, parse_duration

_NOTHING = ("", "null", "~")
_CODE = {"code": "CodeValue", "scheme": "CodingSchemeDesignator", "meaning": "CodeMeaning"}
_PLURALS = {"study": "studies"}

SERIES = "series"
"""The key under which the series of a study stand."""


class CaseTree:
    """The tree of one case, and how its values are read."""

    def __init__(self, name: str, tree: MappingNode, key: Node, zone: ZoneInfo, report: Report) -> None:
        """`key` is the node of the case's name, `zone` that of the source."""
        self.name = name
        self.tree = tree
        self.key = key
        self.zone = zone
        self._report = report

    @property
    def place(self) -> str:
        """`file:line:column`."""
        return f"{self.key.file}:{self.key.line}:{self.key.column}"

    def section(self, key: str) -> MappingNode:
        """A mapping of the case; an empty one where it has none."""
        section = self.tree.values.get(key)
        return section if isinstance(section, MappingNode) else MappingNode(self.key.file, 0, 0)

    def text(self, key: str) -> str | None:
        """A scalar of the case."""
        node = self.tree.values.get(key)
        return node.text if isinstance(node, ScalarNode) and not node.is_nothing else None

    def refuse(self, node: Node, where: str, message: str, hint: str = "", *, code: Code = Code.CASE) -> None:
        """Report a mistake."""
        self._report(node, code, f"tests.{self.name}{'.' if where else ''}{where}: {message}", hint)

    def needs(self, key: str, hint: str) -> None:
        """Report that a key is missing, as the schema does."""
        self._report(self.key, Code.MISSING_KEY, f"tests.{self.name} needs {key!r}", hint)

    def knows(self, node: Node, where: str, name: str, what: str, known: Collection[str]) -> bool:
        """Whether there is something of that name; reports it where there is not."""
        if name not in known:
            self.refuse(node, where, f"there is no {what} {name!r}", near(name, _PLURALS.get(what, what + "s"), known))
        return name in known

    # values -----------------------------------------------------------------------------------------------------------

    def moment(self, key: str) -> datetime | None:
        """A moment, local to the source; None where it is missing or none."""
        node = self.tree.values.get(key)
        if not isinstance(node, ScalarNode):
            return None
        try:
            moment = datetime.fromisoformat(node.text).replace(tzinfo=self.zone)
        except ValueError:
            message = f"{node.text!r} is no moment of the calendar"
        else:
            if calculable(moment):
                return moment
            message = f"{node.text!r} is too near to the end of the calendar to count days from"
        self.refuse(node, key, message, "for example 2026-11-28T08:00", code=Code.BAD_VALUE)
        return None

    def ago(self, node: Node, where: str, now: datetime) -> datetime | None:
        """A moment before now: how long before, or local to the source."""
        if not isinstance(node, ScalarNode):
            return None
        try:
            return now - timedelta(seconds=parse_duration(node.text))
        except (ExpressionError, OverflowError):
            pass
        try:
            moment = datetime.fromisoformat(node.text).replace(tzinfo=self.zone)
        except ValueError:
            message = f"{node.text!r} is neither a duration nor a moment"
            self.refuse(node, where, message, "for example 20m, or 2026-11-28T07:40", code=Code.BAD_VALUE)
            return None
        if moment > now:
            self.refuse(
                node, where, "lies after the now of the case", "say how long before: 20m", code=Code.CASE_LEDGER
            )
        return moment

    def identifier(
        self, where: str, tree: MappingNode, evaluation: Evaluation, leave_out: Collection[str] = (SERIES,)
    ) -> Identifier:
        """The attributes of a mapping, `A.B` being B in the item of the sequence A; what is no attribute is reported.

        `leave_out`: keys that are none.
        """
        elements: dict[int, tuple[str | Identifier, ...]] = {}
        for name, value in tree.values.items():
            if name in leave_out:
                continue
            try:
                *outer, tag = attribute_path(name)
            except ExpressionError as error:
                hint = nearest_attribute(error.name) if error.name else "name a sequence, a dot and what is in it"
                self.refuse(tree.keys[name], where, error.message, hint, code=Code.UNKNOWN_ATTRIBUTE)
                continue
            items = value.items if isinstance(value, SequenceNode) else [value]
            found = (self._value(f"{where}.{name}", tag, item, evaluation) for item in items)
            _place(elements, outer, tag, tuple(one for one in found if one is not None))
        return Identifier(elements)

    def rows(self, where: str, tree: MappingNode, evaluation: Evaluation) -> Iterator[tuple[str, Identifier]]:
        """Studies or series by their names."""
        for name, given in tree.values.items():
            if isinstance(given, MappingNode):
                yield name, self.identifier(f"{where}.{name}", given, evaluation)
            elif isinstance(given, ScalarNode) and given.text in _NOTHING:
                yield name, Identifier()

    def _value(self, where: str, tag: int, node: Node, evaluation: Evaluation) -> str | Identifier | None:
        if isinstance(node, ScalarNode) and node.text in _NOTHING and (node.plain or not node.text):
            return None
        if vr_of(tag) == "SQ":
            if not isinstance(node, MappingNode):
                self.refuse(node, where, "a sequence takes codes", "for example [{code: 77477000, scheme: SCT}]")
                return None
            given: Mapping[str, str] = raw_value(node)
            return Identifier.of(**{keyword: given[key] for key, keyword in _CODE.items() if given.get(key)})
        if not isinstance(node, ScalarNode):
            self.refuse(node, where, "is no code sequence", "give a value, or a list of values")
            return None
        return self._day(where, node, evaluation) if vr_of(tag) == "DA" else node.text

    def _day(self, where: str, node: ScalarNode, evaluation: Evaluation) -> str | None:
        try:
            expression = DateExpression.parse(node.text)
            if not expression.single:
                self.refuse(node, where, f"{node.text!r} is more than one day", "a study has one date")
                return None
            return f"{expression.resolve(*evaluation).first:%Y%m%d}".rjust(8, "0")
        except ExpressionError as error:
            self.refuse(node, where, error.message, error.hint, code=Code.DATE)
        except (ValueError, OverflowError):
            self.refuse(node, where, f"{node.text!r} leaves the calendar", code=Code.DATE)
        return None

    def distinct(self, uids: Mapping[str, str], nodes: Mapping[str, Node]) -> None:
        """Report a UID that two studies (or series) have; by names, with the nodes of these."""
        seen: dict[str, str] = {}
        for name, uid in uids.items():
            if uid in seen and name in nodes:
                self.refuse(nodes[name], f"studies.{name}", f"has the UID of {seen[uid]}", "give each its own")
            seen.setdefault(uid, name)


def _place(
    elements: dict[int, tuple[str | Identifier, ...]],
    outer: Sequence[int],
    tag: int,
    values: tuple[str | Identifier, ...],
) -> None:
    """Put an attribute where it belongs: in the first item of the sequences around it."""
    if not outer:
        elements[tag] = values
        return
    first, *others = elements.get(outer[0], ()) or (Identifier(),)
    inside = dict(first.elements) if isinstance(first, Identifier) else {}
    _place(inside, outer[1:], tag, values)
    elements[outer[0]] = (Identifier(inside), *others)


def near(name: str, what: str, known: Collection[str]) -> str:
    """A hint about an unknown name: the nearest, or all there are."""
    some = list(known)[:20]
    more = ", ..." if len(known) > len(some) else ""
    return did_you_mean(name, known) or (f"{what}: " + ", ".join(some) + more if known else f"there are no {what}")
