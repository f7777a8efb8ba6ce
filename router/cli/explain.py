"""`explain`: why a study was fetched as a prior, or was not."""

from __future__ import annotations

import click

from router.cli.considered import considered_row, considered_table
from router.cli.render import closed_nodes, explained, transfer_row, transfers_table
from router.cli.settings import load_rules, no_such, print_json, say, settings_of, terminal
from router.domain.dicom import is_uid
from router.errors import UsageError
from router.service import SystemClock, open_ledger

_PRIORS_ONLY = (
    "Only decisions about priors are explained; what a rule's sweep would do with a study, "
    "and why, says: dicom-router plan --rule NAME --all"
)


@click.command(short_help="Why a study was fetched as a prior, or was not.")
@click.argument("study", metavar="STUDY_UID")
@click.option("--rule", default="", metavar="NAME", help="Only decisions of this rule.")
@click.pass_context
def explain(ctx: click.Context, study: str, rule: str) -> int:
    """Say for which appointments STUDY_UID was looked at as a prior, and why it was taken or not, the latest first.

    Reads the ledger only. Rules that move what they sweep are not explained.
    """
    if not is_uid(study):
        raise UsageError("STUDY_UID is no UID: digits and dots, at most 64 characters.")
    settings = settings_of(ctx)
    rules = load_rules(settings)
    with open_ledger(rules, read_only=True, create=False) as ledger:
        considered = [one for one in ledger.priors_considered(study) if rule in ("", one[0].rule)]
        if rule and rule not in rules.rules and not considered:
            raise no_such("rule", rule, rules.rules)
        now = SystemClock().now()
        stopped = {one.route: one for one in ledger.stopped_routes()}
        found = ledger.transfers(study_instance_uid=study)
        transfers = explained(found, stopped, closed_nodes(rules, now), now)
    if settings.json:
        rows = [considered_row(one, rules) for one in considered]
        print_json(
            {"study_instance_uid": study, "considered": rows, "transfers": [transfer_row(one) for one in transfers]}
        )
        return 0
    out = terminal()
    if considered:
        out.print(considered_table(considered, rules))
    else:
        by = f"the rule {rule}" if rule else "any rule"
        out.print(f"The ledger knows of no look of {by} at this study as a prior.")
        say(_PRIORS_ONLY)
    if transfers:
        out.print()
        out.print(transfers_table(transfers, width=out.width))
    elif considered:
        out.print("\nThe ledger has no transfer of it.")
    return 0
