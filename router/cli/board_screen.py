"""The board on a terminal: as many lines as there is room for."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from rich.text import Text

from router.cli.board_lines import ROOMY, Column, Row, Section, cut, drawn
from router.cli.board_source import Answer
from router.cli.render import STYLES, UNDER_WAY_STYLE, counted, short
from router.cli.settings import plain
from router.domain.board import Board, NodeSeen, QueueSeen, ReplicaSeen, RuleSeen, TransferSeen, said
from router.domain.sweep import SweepState
from router.domain.transfer import State

_NARROW, _WIDE = ROOMY, 110
_STATES = {str(state): style for state, style in STYLES.items()}
_SWEEPS = {
    str(SweepState.COMPLETE): "green",
    str(SweepState.INCOMPLETE): "red",
    str(SweepState.FAILED): "red",
}
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_COUNTED = (State.QUEUED, State.HELD, State.MOVING, State.VERIFYING, State.FAILED, State.PARTIAL, State.CONTRADICTED)


def screen(answer: Answer, width: int, height: int | None, trouble: str = "") -> list[Text]:
    """The lines of a screen; `height` None: as many as it takes. `trouble`: why the board is an old one."""
    board = answer.board
    head = [cut(line, width) for line in _head(answer, trouble)]
    room = None if height is None else max(0, height - len(head))
    lines = drawn(_sections(board, width), width, room)
    return [*head, *lines][:height]


def _head(answer: Answer, trouble: str) -> list[Text]:
    board = answer.board
    counts = _counts(board, _COUNTED) or _counts(board, State) or "no transfers yet"
    first = Text.assemble((f"{board.at.astimezone():%m-%d %H:%M:%S}", "bold"), "  ", counts)
    lines = [first, plain(answer.origin, "dim" if board.served else "yellow")]
    if trouble:
        lines.append(plain(trouble, "red"))
    lines += [plain(f"{part}: {sentence}", "red") for part, sentence in sorted(board.problems.items())]
    return lines


def _counts(board: Board, states: Iterable[State]) -> str:
    return ", ".join(f"{board.states[state]} {state}" for state in states if board.states.get(state))


def _sections(board: Board, width: int) -> list[Section]:
    return [
        _live(board, width),
        _queues(board, width),
        _failures(board, width),
        _nodes(board, width),
        *([_replicas(board)] if len(board.replicas) > 1 else []),
        _rules(board, width),
    ]


# sections -------------------------------------------------------------------------------------------------------------


def _live(board: Board, width: int) -> Section:
    wide, narrow = width >= _WIDE, width < _NARROW
    columns = [Column("moving", right=True, firm=True)]
    columns += [Column("study")] if wide else []
    columns += [] if narrow else [Column("rule"), Column("from")]
    columns += [Column("to"), Column("", firm=True), Column("there", right=True, firm=True)]
    columns += [Column("failed", right=True, firm=True)] if not narrow else []
    columns += [Column("left", right=True, firm=True)]
    size = 20 if wide else 8 if narrow else 12

    def row(one: TransferSeen) -> Row:
        cells = [Text(str(one.id))]
        cells += [_study(one)] if wide else []
        cells += [] if narrow else [plain(one.rule), _from(one.source)]
        of = "?" if one.expected is None else one.expected
        cells += [plain(one.destination), _bar(one, size), Text(f"{one.completed}/{of}")]
        cells += [Text(str(one.failed or ""), "red")] if not narrow else []
        return Row([*cells, _left(one, board.at)])

    return Section("moves", columns, [row(one) for one in board.live], "Nothing moves now.")


def _queues(board: Board, width: int) -> Section:
    wide = width >= _WIDE
    columns = [Column("waiting from"), Column("to")]
    columns += [Column(name, right=True, firm=True) for name in ("queued", *(("held",) if width >= _NARROW else ()))]
    columns += [Column("oldest", right=True, firm=True), *([Column("why")] if wide else [])]

    def row(one: QueueSeen) -> Row:
        oldest = spelled(board.at, one.oldest_queued_at) if one.oldest_queued_at else ""
        cells = [_from(one.source), plain(one.destination), Text(str(one.queued))]
        cells += [Text(str(one.held or ""))] if width >= _NARROW else []
        cells += [Text(oldest)]
        return Row([*cells, plain(one.why, "yellow")]) if wide else Row(cells, _one_line(one.why))

    return Section("queues", columns, [row(one) for one in board.queues if one.queued or one.held])


def _replicas(board: Board) -> Section:
    """The services on the ledger, where there are several."""

    def row(one: ReplicaSeen) -> Row:
        state = Text("silent", "red") if one.silent else Text("leads" if one.leads else "works", "green")
        since = spelled(board.at, one.started_at) if one.started_at else ""
        below = "has another configuration" if one.other_configuration else ""
        return Row([plain(one.name), state, Text(since), plain(one.address)], below)

    columns = [Column("replica"), Column("state", firm=True), Column("for", right=True, firm=True), Column("http")]
    return Section("replicas", columns, [row(one) for one in board.replicas])


def _failures(board: Board, width: int) -> Section:
    wide, narrow = width >= _WIDE, width < _NARROW
    columns = [Column("failed", right=True, firm=True), Column("ago", right=True, firm=True)]
    columns += [] if narrow else [Column("rule"), Column("from")]
    columns += [Column("to"), Column("state", firm=True)]
    columns += [Column("study"), Column("why")] if wide else []

    def row(one: TransferSeen) -> Row:
        ago = spelled(board.at, one.finished_at) if one.finished_at else ""
        cells = [Text(str(one.id)), Text(ago)]
        cells += [] if narrow else [plain(one.rule), _from(one.source)]
        cells += [plain(one.destination), Text(one.state, _STATES.get(one.state, ""))]
        return Row([*cells, _study(one), plain(one.reason)]) if wide else Row(cells, _one_line(one.reason))

    return Section("failures", columns, [row(one) for one in board.failures])


def _nodes(board: Board, width: int) -> Section:
    wide, served = width >= _WIDE, board.served
    columns = [
        Column("node"),
        *([Column("state", firm=True), Column("in use", right=True, firm=True)] if served else []),
    ]
    columns += [Column("queued", right=True, firm=True), *([Column("why")] if wide else [])]

    def row(one: NodeSeen) -> Row:
        cells = [plain(one.name)]
        if served:
            cells += [_standing(one), Text(f"{one.associations or 0}/{one.associations_allowed or 0}")]
        cells += [Text(str(one.queued or ""))]
        return Row([*cells, plain(one.why, "yellow")]) if wide else Row(cells, _one_line(one.why))

    return Section("nodes", columns, [row(one) for one in sorted(board.nodes, key=_trouble_of_node)])


def _rules(board: Board, width: int) -> Section:
    narrow = width < _NARROW
    columns = [Column("rule"), Column("last sweep")]
    columns += [] if narrow else [Column("matches", right=True, firm=True), Column("to move", right=True, firm=True)]
    columns += [Column("next", right=True, firm=True)]

    def row(one: RuleSeen) -> Row:
        last = one.last
        cells = [plain(one.name), _last(one, board.at)]
        if not narrow:
            told = last is not None and last.state in _SWEEPS
            cells += [
                Text(str(last.matches) if last and told else ""),
                Text(str(last.selected) if last and told else ""),
            ]
        troubled = last is not None and _SWEEPS.get(last.state) == "red"
        return Row([*cells, _next(one, board.at)], _one_line(last.reason) if last is not None and troubled else "")

    return Section(
        "rules", columns, [row(one) for one in sorted(board.rules, key=lambda one: _order_of_rule(one, board.at))]
    )


# cells ----------------------------------------------------------------------------------------------------------------


def _study(one: TransferSeen) -> Text:
    if one.study_instance_uid is None:
        return Text(one.study)
    return plain(short(one.study_instance_uid, one.series_instance_uid or ""))


def _from(source: str) -> Text:
    return plain(said(source))


def _bar(one: TransferSeen, size: int) -> Text:
    if one.state == State.VERIFYING:
        return Text("verifying".ljust(size)[:size], UNDER_WAY_STYLE)
    total = max(one.expected or 0, one.completed + one.failed, 1)
    done = size * (one.completed + one.failed) // total
    return Text.assemble(("━" * done, "green" if not one.failed else "yellow"), ("·" * (size - done), "dim"))


def _left(one: TransferSeen, now: datetime) -> Text:
    return Text(spelled(one.ends_at, now) if one.ends_at is not None and one.ends_at > now else "")


def _standing(node: NodeSeen) -> Text:
    if node.left_alone:
        return Text("left alone", "red")
    if not node.window_open:
        return Text("closed", "yellow")
    return {True: Text("up", "green"), False: Text("down", "red"), None: Text("not asked yet", "dim")}[node.up]


def _last(rule: RuleSeen, now: datetime) -> Text:
    if not rule.enabled:
        return Text("not enabled", "dim")
    if rule.arriving:
        return Text(f"{counted(rule.arriving, 'study', 'studies')} still arriving", UNDER_WAY_STYLE)
    if rule.last is None:
        return Text("none yet" if rule.trigger == "sweep" else f"by {rule.trigger}", "dim")
    when = ""
    if rule.last.at is not None:
        ago = spelled(now, rule.last.at)
        when = f" for {ago}" if rule.last.state == SweepState.RUNNING else f" {ago} ago"
    return Text(f"{rule.last.state}{when}", _SWEEPS.get(rule.last.state, UNDER_WAY_STYLE))


def _next(rule: RuleSeen, now: datetime) -> Text:
    if rule.next_at is None:
        return Text("")
    return Text(f"in {spelled(rule.next_at, now)}" if rule.next_at > now else "now")


def spelled(later: datetime, earlier: datetime) -> str:
    """A duration in its largest unit, such as `4 min`."""
    seconds = max(0, int((later - earlier).total_seconds()))
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= size), (1, "s"))
    return f"{seconds // size} {unit}"


def _one_line(sentence: str) -> str:
    return plain(sentence).plain


# order ----------------------------------------------------------------------------------------------------------------


def _trouble_of_node(node: NodeSeen) -> tuple[bool, bool, bool, int]:
    """What needs a look stands first: nodes that do not answer, that are closed, with work."""
    return (not node.left_alone, node.up is not False, not node.why, -node.queued)


def _order_of_rule(rule: RuleSeen, now: datetime) -> tuple[bool, bool, bool, float]:
    last = rule.last
    troubled = last is not None and _SWEEPS.get(last.state) == "red"
    running = last is not None and last.state not in _SWEEPS
    due = (rule.next_at - now).total_seconds() if rule.next_at is not None else float("inf")
    return (not rule.enabled, not troubled, not running, due)
