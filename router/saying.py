"""What a person may say to transfers and rules: the same for the command line, the page and the API."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from router.domain.dicom import is_uid
from router.domain.rule import Rule, RuleSet
from router.domain.sweep import SweepDue, SweepState
from router.domain.transfer import Route, Transfer
from router.domain.wishes import WORDS, Word, refusal, unsweepable
from router.engine.explained import StudyExplained
from router.engine.ports import Clock, Ledger, Trouble
from router.errors import LedgerError, NotPossible, NotThere, RouterError, TooBusy

MOST_EXPLAINED = 2
"""Studies that are explained at once: each asks nodes, in associations beside those of the work."""
EXPLAIN_SECONDS = 60.0
"""How long an explanation is waited for; the nodes' own deadlines end it where they are longer."""


class ExplainStudy(Protocol):
    """Explains one study by all rules."""

    def __call__(self, rules: RuleSet, study_instance_uid: str, *, offline: bool) -> StudyExplained:
        """Ask the nodes (unless `offline`) and say what each rule makes of it. Raises RouterError."""


def say_to(ledger: Ledger, word: Word, transfer_id: int, now: datetime) -> Transfer:
    """Say a word to a transfer. Raises NotThere, NotPossible, or LedgerError where the ledger does not work."""
    try:
        return ledger.apply(transfer_id, word.happening, now)
    except LedgerError as error:
        transfer = ledger.transfer(transfer_id)
        if transfer is None:
            raise NotThere(str(error)) from None
        if sentence := refusal(transfer, word):
            raise NotPossible(sentence) from None
        raise


def make_due(ledger: Ledger, chosen: Sequence[Rule], now: datetime) -> list[int]:
    """Ask for these rules' sweeps now; a route of theirs that is stopped is tried at once. Returns the sweeps' ids."""
    for route in {Route(r.source, to): None for r in chosen for to in r.move.to}:
        ledger.probe_route(route, now)
    return ledger.add_sweeps(
        [SweepDue(rule=r.name, source=r.asked, due_at=now, tier=r.widest_tier, manual=True) for r in chosen]
    )


class Saying:
    """What may be said while a service runs. Thread-safe."""

    def __init__(
        self,
        *,
        rules: Callable[[], RuleSet],
        ledger: Ledger,
        clock: Clock,
        wake: Callable[[], None],
        explain: ExplainStudy,
        trouble: Trouble,
        explain_seconds: float = EXPLAIN_SECONDS,
    ) -> None:
        """`wake` is called once something that can be worked on is in the ledger."""
        self._rules = rules
        self._ledger = ledger
        self._clock = clock
        self._wake = wake
        self._explain = explain
        self._trouble = trouble
        self._explain_seconds = explain_seconds
        self._explained = threading.BoundedSemaphore(MOST_EXPLAINED)
        self._asking = threading.Lock()

    def say(self, word: str, transfer_id: int) -> Transfer:
        """Say `retry`, `cancel`, `hold` or `release` to a transfer; what it is now.

        Raises NotThere, NotPossible or LedgerError.
        """
        if word not in WORDS:
            raise NotThere(f"Nobody can say that to a transfer; there are: {', '.join(WORDS)}.")
        changed = say_to(self._ledger, WORDS[word], transfer_id, self._clock.now())
        self._wake()
        return changed

    def sweep(self, name: str) -> int:
        """Have a rule's sweep, or its look at the worklist, done now; the number of the sweep in the ledger.

        Raises NotThere for a rule that there is not, NotPossible where it cannot be asked for, or is open already.
        """
        rule = self._rules().rules.get(name)
        if rule is None:
            raise NotThere("The running configuration has no rule of that name.")
        if sentence := unsweepable(rule):
            raise NotPossible(sentence)
        with self._asking:
            now = self._clock.now()
            for one in self._ledger.open_sweeps(rule.asked):
                if one.due.rule == name and one.due.tier == rule.widest_tier and one.due.due_at <= now:
                    how = "runs already" if one.state is SweepState.RUNNING else f"waits for {rule.asked} already"
                    raise NotPossible(f"A sweep of the rule {name} {how}; look for its result, then ask again.")
            (number,) = make_due(self._ledger, [rule], now)
        self._wake()
        return number

    def explain(self, study_instance_uid: str, *, offline: bool) -> StudyExplained:
        """What every rule makes of a study, and why. Raises NotPossible, TooBusy, or what the ledger raises."""
        if not is_uid(study_instance_uid):
            raise NotPossible("That is no Study Instance UID: digits and dots, at most 64 characters.")
        if not self._explained.acquire(blocking=False):
            raise TooBusy(f"{MOST_EXPLAINED} studies are being explained already; try again in a moment.")
        task = _Explanation(self._rules(), study_instance_uid, offline, self._explain, self._explained.release)
        thread = threading.Thread(target=task.run, name="explain", daemon=True)
        thread.start()
        thread.join(self._explain_seconds)
        if task.found is not None:
            return task.found
        if isinstance(task.error, RouterError):
            raise task.error
        if task.error is not None:
            self._trouble("explain", task.error)
            raise NotPossible("The explanation failed; the router's log says where.")
        raise TooBusy(
            f"The nodes did not answer within {self._explain_seconds:g} seconds; ask again later, or offline."
        )


class _Explanation:
    """One explanation, in a thread of its own: whoever waits for it need not wait until its nodes' deadlines."""

    def __init__(
        self, rules: RuleSet, study: str, offline: bool, explain: ExplainStudy, ended: Callable[[], None]
    ) -> None:
        self._rules = rules
        self._study = study
        self._offline = offline
        self._explain = explain
        self._ended = ended
        self.found: StudyExplained | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.found = self._explain(self._rules, self._study, offline=self._offline)
        except Exception as error:  # noqa: BLE001  whoever waits is told
            self.error = error
        finally:
            self._ended()
