"""`explain`: what each rule makes of one study, and why."""

from __future__ import annotations

import click

from router.cli.considered import considered_table
from router.cli.explain_text import show
from router.cli.render import transfer_row, transfers_table
from router.cli.settings import load_rules, no_such, print_json, say, settings_of, terminal
from router.domain.appointment_rows import considered_row
from router.domain.dicom import is_uid
from router.domain.rule import Rule, RuleSet
from router.domain.waiting import closed_nodes, explained
from router.engine.explain_rows import explained_row
from router.engine.explained import StudyExplained
from router.errors import UsageError
from router.opening import Explaining, explaining


@click.command(short_help="Say why a study is moved or not: each clause of each rule, each gate.")
@click.argument("study", metavar="STUDY_UID")
@click.option("--rule", "names", multiple=True, metavar="NAME", help="Only this rule; may be repeated.")
@click.option(
    "--for",
    "current",
    default="",
    metavar="CURRENT_STUDY_UID",
    help="Explain it as a prior of this current study, now (rules with priors).",
)
@click.option("--offline", is_flag=True, help="Ask no node; say what the ledger knows.")
@click.pass_context
def explain(ctx: click.Context, study: str, names: tuple[str, ...], current: str, offline: bool) -> int:
    """Say what each rule makes of STUDY_UID: each clause with the value seen, then each gate and when it opens.

    Asks the rules' sources for the study and the destinations whether they hold it (C-FIND); moves and writes nothing.
    It prints values of the study, to this terminal only.

    Exit code 1 if a node could not be asked.
    """
    for uid, word in ((study, "STUDY_UID"), (current or study, "CURRENT_STUDY_UID")):
        if not is_uid(uid):
            raise UsageError(f"{word} is no UID: digits and dots, at most 64 characters.")
    if current and offline:
        raise UsageError("--for asks the sources, --offline asks nothing; leave one of them out.")
    settings = settings_of(ctx)
    rules = load_rules(settings)
    with explaining(rules, study, say, offline=offline) as opened:
        considered = [one for one in opened.ledger.priors_considered(study) if not names or one[0].rule in names]
        chosen = _chosen(rules, names, {one[0].rule for one in considered})
        now = opened.ledger.clock().now()
        closed = closed_nodes(rules, now)
        for name in () if offline else dict.fromkeys(rule.asked for rule in chosen if rule.asked in closed):
            say(f"{closed[name]} It is asked all the same, for this study only.")
        found = _explained(opened, chosen, current)
        stopped = {one.route: one for one in opened.ledger.stopped_routes()}
        known = opened.ledger.transfers(study_instance_uid=study)
        transfers = explained(known, stopped, closed, now)
    if settings.json:
        print_json(
            {
                "study_instance_uid": study,
                **explained_row(found),
                "considered": [considered_row(one, rules) for one in considered],
                "transfers": [transfer_row(one) for one in transfers],
            }
        )
        return 1 if found.failed else 0
    out = terminal()
    show(rules, found, out)
    if considered:
        out.print("\nLooked at as a prior:", style="bold")
        out.print(considered_table(considered, rules))
    if transfers:
        out.print("\nIts transfers:", style="bold")
        out.print(transfers_table(transfers, width=out.width))
    else:
        out.print("\nThe ledger has no transfer of it.")
    return 1 if found.failed else 0


def _chosen(rules: RuleSet, names: tuple[str, ...], known: set[str]) -> list[Rule]:
    """The rules of these names, or all; a name may be of a rule that is gone, if it has looked at the study."""
    for name in names:
        if name not in rules.rules and name not in known:
            raise no_such("rule", name, rules.rules)
    return [rule for rule in rules.rules.values() if not names or rule.name in names]


def _explained(opened: Explaining, chosen: list[Rule], current: str) -> StudyExplained:
    if not current:
        return opened.studies.explain(chosen)
    if not any(rule.priors is not None for rule in chosen):
        raise UsageError("--for is about rules with priors, and none of these rules has any.")
    return opened.priors.explain(chosen, current)
