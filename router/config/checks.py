"""Checks of sense on the finished model: what the parts of a configuration mean together. They read, nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from router.config.checks_access import check_access, check_pushes
from router.config.checks_condition import check_conditions, check_regions
from router.config.checks_forward import check_forward
from router.config.checks_notify import check_notify
from router.config.checks_prefetch import (
    check_longest,
    check_orders,
    check_prefetch,
    check_source,
    nodes_hint,
    warning_at,
)
from router.config.diagnostics import Code, Diagnostic, Severity
from router.config.document import MappingNode, Node
from router.config.model import Builder
from router.config.retention import check_retention
from router.config.schema import diagnostic_at, did_you_mean, node_at
from router.domain.attributes import below, level_of
from router.domain.dicom import QueryRetrieveLevel, name_of, tag_of
from router.domain.rule import GET, LOCAL, RouterSettings, Rule, RuleSet, Sweep

_STUDY_DATE = tag_of("StudyDate")
_HASTE = 5.0
"""Seconds; a sweep more often than this keeps the source busy with nothing else."""
_SHORTEST_PAUSE = 1.0
"""Seconds."""


def check_rule(rule: Rule, rules: RuleSet, builder: Builder) -> Iterator[Diagnostic]:
    """What is wrong with one rule in its configuration."""
    if rule.sweep is not None:
        yield from check_source(rule, rules, builder, "sweep", rule.sweep.source)
        yield from _check_keys(rule, rule.sweep, builder)
        yield from _check_condition(rule, rule.sweep.level, builder)
        yield from check_longest(rule, builder, "sweep", "settle", rule.sweep.settle)
    yield from check_prefetch(rule, rules, builder)
    yield from check_conditions(rule, builder)
    yield from check_forward(rule, rules, builder)
    if rule.forward is None:
        yield from _check_destinations(rule, rules, builder)
    retry = rule.move.retry
    if retry.delay > retry.maximum_delay:
        action = "move" if rule.forward is None else "forward"
        place = builder.rule_place(rule.name, action, "retry", at_key=True)
        yield diagnostic_at(place, Code.LIMITS, f"rules.{rule.name}.{action}.retry: delay is longer than maximum_delay")
    trigger = "sweep" if rule.sweep is not None else "worklist"
    for index, tier in enumerate(rule.tiers):
        if tier.schedule.every is not None and tier.schedule.every < _HASTE:
            path: tuple[str | int, ...] = (trigger, "every")
            if isinstance(builder.trees[rule.name].values.get(trigger), Node) and len(rule.tiers) > 1:
                path = (trigger, "tiers", index, "every")
            message = f"rules.{rule.name} asks {rule.asked} every {tier.schedule.every:g} seconds"
            yield warning_at(builder.rule_place(rule.name, *path), Code.LIMITS, message, "archives rarely like that")


def _check_destinations(rule: Rule, rules: RuleSet, builder: Builder) -> Iterator[Diagnostic]:
    subject = f"rules.{rule.name}.move.to"
    if not rule.move.to and not builder.is_damaged(rule.name):
        place = builder.rule_place(rule.name, "move", at_key=True)
        yield diagnostic_at(place, Code.MISSING_KEY, f"rules.{rule.name} has no move.to", "for example to: [local]")
    elsewhere = [name for name in rule.move.to if name != LOCAL]
    if rule.move.via == GET and elsewhere:
        place = builder.rule_place(rule.name, "move", "via")
        message = f"rules.{rule.name}.move.via: get cannot bring studies to {elsewhere[0]}, only to local"
        hint = "a rule of its own for local, or via: get at the node, which then holds for local only"
        yield diagnostic_at(place, Code.GET_ELSEWHERE, message, hint)
    source = rules.nodes.get(rule.source)
    titles: dict[str, str] = {}
    for index, name in enumerate(rule.move.to):
        place = builder.rule_place(rule.name, "move", "to", index)
        if name != LOCAL and name not in rules.nodes:
            if not builder.is_damaged(name, "nodes"):
                message = f"{subject}: there is no node {name!r}"
                yield diagnostic_at(place, Code.UNKNOWN_NODE, message, nodes_hint(name, rules))
            continue
        title = rules.router.ae_title if name == LOCAL else rules.nodes[name].ae_title
        if source is not None and title and title == source.ae_title:
            message = f"{subject}: {name} is where the studies come from (AE title {title})"
            yield diagnostic_at(place, Code.LOOP, message, "a study is never moved back to its source")
        elif title in titles:
            same = "stands twice" if titles[title] == name else f"is the same destination as {titles[title]}"
            message = f"{subject}: {name} {same} (AE title {title})"
            yield diagnostic_at(place, Code.SAME_NODE, message, "leave one out")
        titles[title] = name
        if rule.move.verify == "commitment" and name != LOCAL and rules.nodes[name].commitment is None:
            message = f"rules.{rule.name}.move.verify: {name} is not known to answer storage commitment requests"
            hint = f"if it does, set nodes.{name}.commitment: true"
            yield diagnostic_at(builder.rule_place(rule.name, "move", "verify"), Code.BAD_VALUE, message, hint)


def _check_keys(rule: Rule, sweep: Sweep, builder: Builder) -> Iterator[Diagnostic]:
    for key in sweep.keys:
        if below(key.tag, sweep.level) and not builder.is_damaged(rule.name):
            level = level_of(key.tag)
            hint = f"level: {level} asks for it" if level is QueryRetrieveLevel.SERIES else "leave it out"
            if key.name == "Modality" and sweep.level is QueryRetrieveLevel.STUDY:
                hint = "use ModalitiesInStudy, or level: SERIES"
            place = builder.rule_place(rule.name, "sweep", "keys", key.name, at_key=True)
            message = f"rules.{rule.name}.sweep.keys: {key.name} is a key of the {level} level, not of {sweep.level}"
            yield diagnostic_at(place, Code.LEVEL, message, hint)
    looking_back = [tier.lookback is not None for tier in sweep.tiers]
    date = next((key for key in sweep.keys if key.tag == _STUDY_DATE and key.values), None)
    if date is not None and looking_back and all(looking_back):
        place = builder.rule_place(rule.name, "sweep", "keys", date.name, at_key=True)
        message = f"rules.{rule.name}.sweep.keys: {date.name} is never used, every tier has a lookback"
        yield warning_at(place, Code.UNUSED_KEY, message, "leave it out")
    selective = any(key.selective for key in sweep.keys) or (looking_back and all(looking_back))
    if not selective and not builder.is_damaged(rule.name) and rule.name not in builder.refused_keys:
        steps = ("sweep", "keys") if "keys" in _sweep_keys(rule, builder) else ("sweep",)
        place = builder.rule_place(rule.name, *steps, at_key=True)
        message = f"rules.{rule.name}.sweep asks for the whole archive: it has no key that every archive matches"
        hint = "add a StudyDate such as today-2d..today, a PatientID, PatientName, AccessionNumber or StudyID"
        if any(looking_back):
            hint = f"tier {looking_back.index(False) + 1} has no lookback: give it one, or {hint}"
        yield diagnostic_at(place, Code.NOT_SELECTIVE, message, hint)


def _sweep_keys(rule: Rule, builder: Builder) -> tuple[str, ...]:
    sweep = builder.trees[rule.name].values.get("sweep")
    return tuple(getattr(sweep, "values", {}))


def _check_condition(rule: Rule, level: QueryRetrieveLevel, builder: Builder) -> Iterator[Diagnostic]:
    for clause in rule.where.clauses:
        if below(clause.path[0], level):
            place = builder.rule_place(rule.name, "where", clause.name, at_key=True)
            name = name_of(clause.path[0])
            hint = "use ModalitiesInStudy, or level: SERIES" if name == "Modality" else "sweep at level: SERIES"
            if level_of(clause.path[0]) is QueryRetrieveLevel.IMAGE:
                hint = "no sweep sees single images"
            message = f"rules.{rule.name}.where: answers at the {level} level do not hold {name}"
            yield warning_at(place, Code.CONDITION_LEVEL, message, hint)


def check_rule_set(rules: RuleSet, builder: Builder) -> Iterator[Diagnostic]:
    """What is wrong between rules, nodes and the router."""
    router, places = rules.router, builder.sections
    yield from _check_ports(router, places.router)
    yield from _check_page(router, builder)
    yield from check_notify(rules, builder)
    yield from check_orders(rules, builder)
    seen: dict[tuple[str, str, int], str] = {}
    for name, node in rules.nodes.items():
        place = places.nodes.keys[name]
        identity = (node.ae_title, node.host.casefold(), node.port)
        if node.port and identity in seen:
            message = f"nodes {seen[identity]} and {name} are the same application entity"
            yield warning_at(place, Code.SAME_NODE, message, "limits of one do not hold for the other")
        seen.setdefault(identity, name)
        if node.ae_title == router.ae_title:
            message = f"node {name} has this router's own AE title {router.ae_title}"
            yield warning_at(place, Code.SAME_NODE, message, "the router's own store is the destination local")
    yield from _check_breakers(rules, builder)
    yield from _check_circles(rules, builder)
    yield from _check_windows(rules, builder)
    yield from check_regions(builder)
    yield from check_access(rules, builder)
    yield from check_pushes(rules, builder)
    yield from check_retention(rules, builder)
    if not any(rule.enabled for rule in rules.rules.values()):
        place_of = next(iter(places.rules.keys.values()), next(iter(places.nodes.keys.values()), None))
        what = "every rule is disabled" if rules.rules else "there is no rule"
        yield Diagnostic(
            file=place_of.file if place_of else "",
            line=place_of.line if place_of else 0,
            column=place_of.column if place_of else 0,
            severity=Severity.WARNING,
            code=Code.NOTHING_TO_DO,
            message=f"{what}: nothing will be moved",
        )


def _check_ports(router: RouterSettings, tree: MappingNode) -> Iterator[Diagnostic]:
    """Services of the router that would listen on the same port."""
    services: list[tuple[str, str, int, tuple[str, ...]]] = [
        ("listen", router.listen_host, router.listen_port, ("listen",)),
        ("http", router.http_host, router.http_port, ("http",)),
    ]
    if router.hl7 is not None:
        services.append(("hl7", router.hl7.host, router.hl7.port, ("hl7", "listen")))
    for number, (name, host, port, path) in enumerate(services):
        for other, other_host, other_port, other_path in services[:number]:
            if port != other_port or not (host == other_host or {"0.0.0.0", "::"} & {host, other_host}):
                continue
            place = next((one for at in (path, other_path) if (one := node_at(tree, at)) is not tree), None)
            if place is not None:
                message = f"router.{other} and router.{name} share port {port}"
                yield diagnostic_at(place, Code.SAME_PORT, message, "give each its own")


def _check_page(router: RouterSettings, builder: Builder) -> Iterator[Diagnostic]:
    """Identifiers that nobody can come to see."""
    if router.page.identifiers and router.token is None and not builder.is_damaged("router"):
        place = node_at(builder.sections.router, ("page", "identifiers"))
        message = "router.page.identifiers: nobody can see them, for there is no router.token to show"
        yield diagnostic_at(place, Code.NO_TOKEN, message, "set router.token, or leave page.identifiers out")


def _check_breakers(rules: RuleSet, builder: Builder) -> Iterator[Diagnostic]:
    """Pauses that contradict each other, or that are none."""
    for name, node in rules.nodes.items():
        place, breaker = node_at(builder.node_tree(name), ("breaker",), at_key=True), node.breaker
        if breaker.pause > breaker.maximum_pause:
            message = f"nodes.{name}.breaker: pause is longer than maximum_pause"
            yield diagnostic_at(place, Code.LIMITS, message, "maximum_pause is 10m where it is not set")
        elif breaker.pause < _SHORTEST_PAUSE:
            message = f"nodes.{name}.breaker.pause is shorter than {_SHORTEST_PAUSE:g} second"
            yield diagnostic_at(place, Code.BAD_VALUE, message, "30s is usual")


def _check_windows(rules: RuleSet, builder: Builder) -> Iterator[Diagnostic]:
    """Windows that do not exist, that no node uses, and that a node never comes to."""
    used: set[str | None] = set()
    doubtful = any(one.code is Code.WINDOW_ENTRY for one in builder.diagnostics)
    for name, node in rules.nodes.items():
        tree = builder.node_tree(name)
        before = ""
        for index, use in enumerate(node.windows):
            place = node_at(tree, ("windows", index))
            window = rules.windows.get(use.window or "")
            if use.window is not None and window is None and not builder.is_damaged(use.window, "windows"):
                message = f"nodes.{name}.windows: there is no window {use.window!r}"
                doubtful = True
                known = ", ".join(rules.windows) or "none is configured"
                hint = did_you_mean(use.window, rules.windows) or f"windows: {known}"
                yield diagnostic_at(node_at(tree, ("windows", index, "use")), Code.UNKNOWN_WINDOW, message, hint)
            if before or use.window in [other.window for other in node.windows[:index]]:
                message = f"nodes.{name}.windows: entry {index + 1} is never used"
                why = f"{before} before it is always open" if before else f"{use.window} stands before it already"
                yield warning_at(place, Code.UNUSED_KEY, message, why)
            elif use.window is None or (window is not None and window.always_open):
                before = f"entry {index + 1}"
            used.add(use.window)
    for name in rules.windows:
        if name not in used and not doubtful and not builder.is_damaged(*rules.nodes, "nodes"):
            message = f"windows.{name} is not used by any node"
            hint = f"name it under a node: windows: [{{use: {name}}}]"
            yield warning_at(builder.sections.windows.keys[name], Code.UNUSED_KEY, message, hint)


def _check_circles(rules: RuleSet, builder: Builder) -> Iterator[Diagnostic]:
    """Two rules that move to and fro between the same two nodes."""
    routes: dict[tuple[str, str], str] = {}
    for rule in rules.rules.values():
        # What is passed on never goes to who sent it: no circle comes of that.
        for index, destination in enumerate(rule.move.to if rule.enabled and rule.forward is None else ()):
            back = routes.get((destination, rule.source))
            routes.setdefault((rule.source, destination), rule.name)
            if back is not None:
                place = builder.rule_place(rule.name, "move", "to", index)
                message = f"rules {back} and {rule.name} move between {rule.source} and {destination} both ways"
                yield warning_at(
                    place, Code.LOOP, message, "keep skip_present on, or let their keys exclude each other"
                )
