"""PromQL: what is asked for again and again."""

from __future__ import annotations

ROUTE = ("rule", "source", "destination")
PAIR = ("source", "destination")
SWEEP = ("rule", "source")
ARROW = "{{source}} → {{destination}}"
"""The legend of a route."""


def of(metric: str, *variables: str, **labels: str) -> str:
    """A metric of the router, selected by variables of the dashboard and by labels.

    A value that begins with `~` is a pattern, with `!` one that must not be.
    """
    chosen = [f'{name}=~"${name}"' for name in ("instance", *variables)]
    for name, value in labels.items():
        sign = {"~": "=~", "!": "!="}.get(value[0], "=")
        chosen.append(f'{name}{sign}"{value if sign == "=" else value[1:]}"')
    return f"dicom_router_{metric}{{{','.join(chosen)}}}"


def rate(selector: str, by: str = "") -> str:
    """How often a second, summed."""
    return summed(f"rate({selector}[$__rate_interval])", by)


def counted(selector: str, by: str = "", window: str = "$__rate_interval") -> str:
    """How many within a bar, or within the time shown (`$__range`), summed."""
    return summed(f"increase({selector}[{window}])", by)


def summed(expression: str, by: str = "", how: str = "sum") -> str:
    """The sum, or another aggregate, by these labels."""
    return f"{how} by ({by}) ({expression})" if by else f"{how}({expression})"


def quantile(share: float, histogram: str, by: str = "") -> str:
    """Below which value this share lies. Series without observations have none."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({histogram}[$__rate_interval]))) >= 0"


def or_none(expression: str) -> str:
    """0 where nothing is there to be counted."""
    return f"{expression} or vector(0)"


def called(*variables: str) -> str:
    """The nodes that the router has called: of all others the gauge `node_up` is 0 as well."""
    return f"sum by (job, instance, node) ({of('associations_total', *variables, role='requestor')}) > 0"


def up(*variables: str) -> str:
    """1 or 0 for each node that was called, or that called and was understood."""
    gauge = of("node_up", *variables)
    return f"{gauge} == 1 or {gauge} and on (job, instance, node) ({called(*variables)})"


def down(*variables: str) -> str:
    """The nodes that were called and did not answer."""
    return f"({of('node_up', *variables)} == 0) and on (job, instance, node) ({called(*variables)})"


def late(*variables: str) -> str:
    """The rules whose next complete sweep is overdue."""
    return f"({of('sweep_due_timestamp_seconds', *variables)} > 0) < time()"


def by_node(selector: str, end: str) -> str:
    """A metric of routes with the node at one end, `source` or `destination`, as label `node`."""
    return f'label_replace({selector}, "node", "$1", "{end}", "(.*)")'


POORLY = of("transfers_total", *ROUTE, verdict="~failed|partial|contradicted")
WAITED = of("transfers_oldest_queued_seconds", *PAIR)
ALERTS = 'ALERTS{alertname=~"DicomRouter.*",alertstate="firing",instance=~"$instance"}'
