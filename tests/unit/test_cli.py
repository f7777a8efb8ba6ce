"""The command line's own parts: progress in plain lines, tables, and errors nobody foresaw."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime

import click
import msgspec
import pytest
from rich.console import Console

from router.cli import main as command_line
from router.cli.progress import Ending, Seen, wait
from router.cli.render import explanation, summary, transfers_table
from router.cli.settings import plain
from router.domain.rule import Node, RouterSettings, RuleSet, WindowUse
from router.domain.sweep import SweepDue, SweepRecord, SweepReport, SweepState
from router.domain.transfer import Intent, State, Transfer
from router.domain.waiting import closed_nodes, explained
from router.domain.window import Window

NOW = datetime(2026, 5, 4, 10, 30, tzinfo=UTC)


def sweep(state: SweepState, reason: str = "") -> SweepRecord:
    ended = state not in (SweepState.DUE, SweepState.RUNNING)
    report = SweepReport(state=state, matches=1, selected=1, queries=1, reason=reason) if ended else None
    return SweepRecord(id=1, due=SweepDue(rule="r", source="archive", due_at=NOW), state=state, report=report)


def transfer(number: int, state: State, **more: object) -> Transfer:
    base = Transfer(
        id=number,
        intent=Intent("archive", f"1.2.3.4567890{number}", "", "local"),
        rule="r",
        priority=1,
        state=state,
        instance_count=4,
        queued_at=NOW,
        next_at=NOW,
        updated_at=NOW,
    )
    return msgspec.structs.replace(base, **more)


def console(**settings: object) -> Console:
    return Console(file=io.StringIO(), width=80, **settings)  # type: ignore[arg-type]


def written(on: Console) -> str:
    assert isinstance(on.file, io.StringIO)
    return on.file.getvalue()


def script(*pictures: Seen) -> Iterator[Seen]:
    yield from pictures
    while True:
        yield pictures[-1]


def test_plain_lines_tell_each_step_once() -> None:
    pictures = script(
        Seen([sweep(SweepState.RUNNING)], []),
        Seen([sweep(SweepState.COMPLETE)], [transfer(1, State.QUEUED)]),
        Seen([sweep(SweepState.COMPLETE)], [transfer(1, State.MOVING, completed=2)]),
        Seen([sweep(SweepState.COMPLETE)], [transfer(1, State.MOVING, completed=3)]),
        Seen([sweep(SweepState.COMPLETE)], [transfer(1, State.QUEUED, attempts=1, reason="Busy.")]),
        Seen([sweep(SweepState.COMPLETE)], [transfer(1, State.VERIFYING, attempts=2)]),
        Seen([sweep(SweepState.COMPLETE)], [transfer(1, State.COMPLETE, attempts=2, expected=4, completed=4)]),
    )
    out = console()
    seen, ending = wait(lambda: next(pictures), out, None)
    assert ending is Ending.ENDED
    assert seen.transfers[0].ended
    assert written(out).splitlines() == [
        "sweep r of archive: complete, 1 match, 1 to move.",
        "transfer 1 r: archive -> local: moving 4 instances",
        "transfer 1 r: archive -> local: queued, 0 of 4 instances. Busy.",
        "transfer 1 r: archive -> local: complete, 4 of 4 instances. (2 attempts)",
    ]


def test_waiting_ends_at_the_deadline_or_when_nobody_works() -> None:
    seen = Seen([sweep(SweepState.DUE)], [])
    assert wait(lambda: seen, console(), 0.0)[1] is Ending.DEADLINE
    assert wait(lambda: seen, console(), None, alive=lambda: False)[1] is Ending.ALONE


def test_what_is_held_is_not_waited_for() -> None:
    seen = Seen([sweep(SweepState.COMPLETE)], [transfer(1, State.HELD)])
    assert wait(lambda: seen, console(), None)[1] is Ending.ENDED


def test_a_terminal_that_cannot_draw_gets_lines() -> None:
    out = console(force_terminal=True, _environ={"TERM": "dumb"})
    wait(lambda: Seen([sweep(SweepState.FAILED, "archive is down.")], []), out, None)
    assert written(out) == "sweep r of archive: failed: archive is down.\n"


def test_reasons_stand_below_the_table_once() -> None:
    many = [transfer(n, State.FAILED, expected=4, reason="It [b]hangs[/b].", status=0xC001) for n in range(1, 10)]
    out = console()
    out.print(transfers_table([*many, transfer(10, State.COMPLETE, reason="All 4 instances are there.")], width=80))
    lines = [line.rstrip() for line in written(out).splitlines()]
    assert lines[-1] == "1,2,3,4,5,6 +3  It [b]hangs[/b]. (status C001)"
    assert sum("hangs" in line for line in lines) == 1
    assert "All 4" not in written(out)
    assert max(map(len, lines)) <= 80
    assert summary(many).plain == "9 transfers: 9 failed."


def test_without_a_reason_the_last_status_is_a_sentence() -> None:
    assert explanation(transfer(1, State.QUEUED)) == ""
    once = transfer(1, State.QUEUED, attempts=1, status=0xC000)
    assert explanation(once) == "The last attempt ended with status C000."
    assert explanation(msgspec.structs.replace(once, attempts=3)) == "The last of 3 attempts ended with status C000."


def test_a_closed_node_is_named_as_the_reason() -> None:
    never = Window.of("never", "UTC", [])
    nodes = {
        name: Node(name=name, ae_title=name, host="h", port=104, windows=uses)
        for name, uses in (
            ("archive", ()),
            ("ws", (WindowUse(window="night"),)),
            ("tape", (WindowUse(window="never"),)),
        )
    }
    night = Window.of("night", "UTC", [(7 * 60, 8 * 60)])
    rules = RuleSet(
        router=RouterSettings(), nodes=nodes, rules={}, windows={"night": night, "never": never}, content_hash="x"
    )
    closed = closed_nodes(rules, NOW)
    assert set(closed) == {"ws", "tape"}
    assert closed["ws"].startswith("ws is closed by its windows until 05-")
    assert closed["tape"] == "tape is closed by its windows and does not open any more."

    to_ws = Intent("archive", "1.2.3", "", "ws")
    queued = transfer(1, State.QUEUED, intent=to_ws, reason="Busy.")
    ways = [
        queued,
        transfer(2, State.QUEUED, intent=Intent("tape", "1.2.3", "", "ws")),
        transfer(3, State.VERIFYING, intent=Intent("tape", "1.2.3", "", "local")),
        transfer(4, State.COMPLETE, intent=to_ws, reason="All 4 instances are there."),
    ]
    assert [t.reason for t in explained(ways, {}, closed, NOW)] == [
        f"Busy. {closed['ws']}",
        closed["tape"],
        "",
        "All 4 instances are there.",
    ]


def test_long_names_never_cost_a_digit() -> None:
    long = transfer(123456, State.CONTRADICTED, rule="r" * 63, expected=99999, completed=12345)
    long = msgspec.structs.replace(long, intent=Intent("s" * 63, "1." * 30 + "77777777", "1.2.88888888", "d" * 63))
    out = console()
    out.print(transfers_table([long], width=80))
    row = written(out).splitlines()[1]
    assert len(row.rstrip()) <= 80
    for whole in ("123456", "12345/99999", "contradicted", "…7777777 / …8888888"):
        assert whole in row


def test_texts_from_outside_reach_no_terminal_as_commands() -> None:
    assert plain("a\x1b]0;title\x07b\tc\nd\x9b1m").plain == "a\ufffd]0;title\ufffdb c d\ufffd1m"


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (ValueError("the patient's name"), 1, "unforeseen ValueError at test_cli.py:"),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(3), 3, ""),
    ],
)
def test_what_nobody_foresaw_is_one_line_without_its_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raised: BaseException, code: int, said: str
) -> None:
    @click.command()
    def broken() -> None:
        raise raised

    monkeypatch.setitem(command_line.root.commands, "schema", broken)
    with pytest.raises(SystemExit) as ended:
        command_line.main(["schema"])
    assert ended.value.code == code
    err = capsys.readouterr().err
    assert said in err
    assert "patient" not in err
    assert len(err.strip().splitlines()) <= 1
