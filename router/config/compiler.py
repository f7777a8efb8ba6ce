"""From a directory of YAML files to a RuleSet: read, check by the schema, merge, build the model, check its sense.

Every stage collects all it finds; a later stage works on what the earlier ones left intact.
"""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from router.config.cases import AnyCase, compile_cases
from router.config.checks import check_rule, check_rule_set
from router.config.checks_overlap import check_together
from router.config.diagnostics import Code, Diagnostic, in_order
from router.config.document import DocumentError, MappingNode, Node, SequenceNode, parse_document, read_bytes
from router.config.merge import Sections
from router.config.model import Builder
from router.config.schema import check, raw_value
from router.domain.problem import Step
from router.domain.rule import RuleSet

MAXIMUM_FILES = 2000


class Loaded(msgspec.Struct, frozen=True):
    """What came of a directory. `rule_set` is None where a diagnostic is an error."""

    rule_set: RuleSet | None
    diagnostics: tuple[Diagnostic, ...]
    content_hash: str = ""
    cases: tuple[AnyCase, ...] = ()
    """Of the section `tests`."""
    files: tuple[str, ...] = ()
    """The files that were read."""

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """The diagnostics that keep the configuration from being used."""
        return tuple(one for one in self.diagnostics if one.is_error)


class Sources(msgspec.Struct, frozen=True):
    """The files of a directory as they were read, and what could not be read."""

    files: tuple[tuple[str, bytes], ...]
    diagnostics: tuple[Diagnostic, ...]

    @property
    def content_hash(self) -> str:
        """SHA-256 over names and contents, and over what could not be read."""
        digest = hashlib.sha256()
        for name, contents in self.files:
            digest.update(f"{len(name)} {name} {len(contents)} ".encode() + contents)
        for diagnostic in self.diagnostics:
            digest.update(str(diagnostic).encode())
        return digest.hexdigest()


def read(directory: Path) -> Sources:
    """Read every `*.yaml` of a directory (not of directories in it, nothing that starts with a dot), by name."""
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix == ".yaml" and path.name[0] != ".")
    except OSError as error:
        reason = "is no directory" if isinstance(error, NotADirectoryError) else error.strerror or "cannot be read"
        problem = Diagnostic(
            file=str(directory),
            code=Code.UNREADABLE,
            message=f"the configuration directory: {reason}",
            hint="name it with --config, or make one with: dicom-router init DIR",
        )
        return Sources((), (problem,))
    files: list[tuple[str, bytes]] = []
    problems: list[Diagnostic] = []
    if len(paths) > MAXIMUM_FILES:
        message = f"holds more than {MAXIMUM_FILES} files"
        return Sources((), (Diagnostic(file=str(directory), code=Code.UNREADABLE, message=message),))
    for path in paths:
        try:
            name = os.fsencode(path).decode("utf-8", "replace")  # it is printed, wherever it comes from
            files.append((name, read_bytes(path, name)))
        except DocumentError as error:
            problems.append(error.diagnostic)
    if not paths:
        hint = "make a start with: dicom-router init DIR"
        yml = any(path.suffix == ".yml" for path in directory.iterdir())
        problems.append(
            Diagnostic(
                file=str(directory),
                code=Code.UNREADABLE,
                message="holds no *.yaml file",
                hint="rename *.yml to *.yaml" if yml else hint,
            )
        )
    return Sources(tuple(files), tuple(problems))


def load(directory: Path) -> Loaded:
    """Load a configuration. Never raises for what stands in it: see the diagnostics."""
    return compile_sources(read(directory), datetime.now(UTC))


def compile_sources(sources: Sources, now: datetime) -> Loaded:
    """Compile what was read. `now` decides only whether a date range is over already, which is a warning."""
    findings = list(sources.diagnostics)
    sections = Sections()
    damaged: set[Step] = {""} if findings else set()  # "": a whole file is lost, anything may be missing
    for name, contents in sources.files:
        try:
            root, duplicates = parse_document(contents, name)
        except DocumentError as error:
            findings.append(error.diagnostic)
            damaged.add("")
            continue
        findings += duplicates
        if root is None:
            continue
        broken = []
        for path, diagnostic in check(root):
            findings.append(diagnostic)
            broken.append(path)
            named = len(path) > 1 and path[0] in ("nodes", "rules", "windows", "tests")
            damaged.add(path[1] if named else path[0] if path else "")
            if len(path) == 1 and diagnostic.code is Code.UNKNOWN_KEY:
                damaged.add("")  # a section lost its name
        for path in broken:
            _prune(root, path)
        sections.add(root)
    findings += sections.diagnostics
    builder = Builder(sections, frozenset(damaged), now)
    rule_set = builder.build(sources.content_hash, _work_hash(sections))
    cases = compile_cases(sections.tests, rule_set, builder.is_damaged, builder.report)
    findings += builder.diagnostics
    for rule in rule_set.rules.values():
        findings += check_rule(rule, rule_set, builder)
    findings += check_rule_set(rule_set, builder)
    if not sources.files:
        findings = list(sources.diagnostics)
    has_errors = any(one.is_error for one in findings)
    if has_errors:  # what is missing then is likely what could not be read
        findings = [one for one in findings if one.code is not Code.NOTHING_TO_DO]
    else:
        findings += check_together(rule_set, builder)
    diagnostics = in_order(findings)
    return Loaded(
        None if has_errors else rule_set,
        diagnostics,
        sources.content_hash,
        () if has_errors else cases,
        tuple(name for name, _ in sources.files),
    )


def _work_hash(sections: Sections) -> str:
    """SHA-256 over what the sections say but `router` and `tests`, wherever it stands and in whichever order."""
    work = [raw_value(getattr(sections, name)) for name in ("nodes", "rules", "windows", "anatomy", "defaults")]
    return hashlib.sha256(msgspec.json.encode(work, order="deterministic")).hexdigest()


def _prune(root: Node, path: tuple[Step, ...]) -> None:
    """Take out what the schema refused, so that the stages after it do not stumble over it."""
    node: Node = root
    for depth, step in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(node, MappingNode) and isinstance(step, str) and step in node.values:
            if last or (isinstance(path[depth + 1], int) and depth + 2 == len(path)):
                del node.values[step], node.keys[step]  # a refused item takes its list with it
                return
            node = node.values[step]
        elif isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
        else:
            return
