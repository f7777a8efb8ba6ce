"""Diagnostics: what is wrong with a configuration, where, what to do; their finite codes, and how they print."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

import msgspec


class Severity(StrEnum):
    """How bad it is: with an error the configuration is not used."""

    ERROR = "error"
    WARNING = "warning"


class Code(StrEnum):
    """Every code there is; its meaning stands in CODES."""

    UNREADABLE = "DR001"
    SYNTAX = "DR002"
    DUPLICATE_KEY = "DR003"
    YAML_FEATURE = "DR004"
    UNKNOWN_KEY = "DR010"
    WRONG_TYPE = "DR012"
    MISSING_KEY = "DR013"
    BAD_VALUE = "DR014"
    DUPLICATE_NAME = "DR020"
    BAD_NAME = "DR021"
    UNKNOWN_NODE = "DR022"
    AE_TITLE = "DR023"
    ADDRESS = "DR024"
    SAME_NODE = "DR025"
    TIME_ZONE = "DR026"
    SAME_PORT = "DR027"
    TLS_FILE = "DR028"
    UNKNOWN_ATTRIBUTE = "DR030"
    MATCHER = "DR031"
    ATTRIBUTE_VALUE = "DR032"
    REGULAR_EXPRESSION = "DR033"
    DATE = "DR034"
    DATE_ORDER = "DR035"
    CRON = "DR036"
    KEY_REFUSED = "DR037"
    LEVEL = "DR038"
    UID_WILDCARD = "DR039"
    NOT_SELECTIVE = "DR040"
    LOOP = "DR041"
    SCHEDULE = "DR042"
    LIMITS = "DR043"
    CONDITION_LEVEL = "DR044"
    NOTHING_TO_DO = "DR045"
    UNUSED_KEY = "DR046"
    GET_ELSEWHERE = "DR047"
    WINDOW = "DR048"
    UNKNOWN_WINDOW = "DR049"
    NEVER_OPEN = "DR050"
    WINDOW_ENTRY = "DR051"
    TRIGGER = "DR052"
    UNBOUNDED_PRIORS = "DR053"
    UNKNOWN_REGION = "DR054"
    NOT_WITH_PRIORS = "DR055"
    HL7_FIELD = "DR056"
    PLAIN_SECRET = "DR066"
    SECRET = "DR067"
    HIDDEN_RULE = "DR057"
    NEVER_TOGETHER = "DR058"
    NEVER_IN_WINDOW = "DR059"
    CONTRADICTION = "DR060"
    NO_DEFINED_TERM = "DR061"
    SAME_SENDER = "DR062"
    UNUSED_NODE = "DR063"
    NOT_ANSWERED = "DR064"
    MOVED_TWICE = "DR065"
    CASE = "DR070"
    RECORDING = "DR071"
    CASE_KEY = "DR072"
    CASE_LEDGER = "DR073"
    CASE_EXPECTATION = "DR074"
    UNKNOWN_CHANNEL = "DR075"
    NO_CHANNEL = "DR076"
    TEMPLATE = "DR077"
    NOT_ENCRYPTED = "DR078"
    CHANNEL = "DR079"
    NO_TOKEN = "DR080"
    AUDIT_IN_THE_OPEN = "DR081"
    AUDIT_TLS_UNUSED = "DR082"
    AUDIT_BUFFER = "DR083"
    UNSEEN_CERTIFICATE = "DR084"
    CERTIFICATE_NAME = "DR085"
    UNREADABLE_METRICS = "DR086"
    NEVER_ARRIVES = "DR087"
    WATERMARK = "DR090"
    NOTHING_LEAVES = "DR091"
    NEVER_PROVEN = "DR092"
    HOST_NAME = "DR093"


CODES: dict[Code, str] = {
    Code.UNREADABLE: "A file or the directory cannot be read, is no UTF-8, or is larger than 1 MiB.",
    Code.SYNTAX: "The file is no YAML.",
    Code.DUPLICATE_KEY: "A key stands twice in one mapping; YAML alone would silently keep the last.",
    Code.YAML_FEATURE: "A feature of YAML that is refused: tags, merge keys, several documents, nesting without end.",
    Code.UNKNOWN_KEY: "There is no such key here.",
    Code.WRONG_TYPE: "A list, mapping, number or boolean stands where something else belongs.",
    Code.MISSING_KEY: "A key that must be there is missing.",
    Code.BAD_VALUE: "A value that is not allowed here.",
    Code.DUPLICATE_NAME: "Two nodes, rules, windows or groups have the same name, or a setting is given twice.",
    Code.BAD_NAME: "No usable name: letters, digits, dot, dash, underscore; some, such as `local`, are reserved.",
    Code.UNKNOWN_NODE: "A rule names a node that is not configured, or that cannot be asked.",
    Code.AE_TITLE: "No valid AE title (PS3.5 section 6.2): 1 to 16 printable ASCII characters without backslash.",
    Code.ADDRESS: "No valid host and port, or network.",
    Code.SAME_NODE: "Two nodes are the same application entity, or one is this router.",
    Code.TIME_ZONE: "There is no such time zone in the IANA database.",
    Code.SAME_PORT: "Two services of the router would listen on the same port.",
    Code.TLS_FILE: "A certificate or key for TLS that cannot be read, is none, does not fit the other, or has expired.",
    Code.UNKNOWN_ATTRIBUTE: "There is no such DICOM attribute; keywords are written in exact case.",
    Code.MATCHER: "There is no such matcher, or it does not fit the attribute or its operand.",
    Code.ATTRIBUTE_VALUE: "A value the attribute can never have.",
    Code.REGULAR_EXPRESSION: "A regular expression that is not valid, or could take for ever.",
    Code.DATE: "A date expression that is not understood.",
    Code.DATE_ORDER: "A date range that ends before it begins.",
    Code.CRON: "A cron expression that is not understood or never comes due.",
    Code.KEY_REFUSED: "An attribute that cannot be a matching key.",
    Code.LEVEL: "A matching key that a query at the level of the sweep does not know.",
    Code.UID_WILDCARD: "A wildcard in a UID; archives answer an error, or everything.",
    Code.NOT_SELECTIVE: "A sweep without a key that every archive matches: it would ask for the whole archive.",
    Code.LOOP: "Studies would be moved back to where they come from.",
    Code.SCHEDULE: "A sweep, worklist or tier needs exactly one of every, cron and tiers.",
    Code.LIMITS: "Deadlines or delays that contradict each other.",
    Code.CONDITION_LEVEL: "A condition looks at an attribute that the answers at this level do not hold.",
    Code.NOTHING_TO_DO: "There is no rule, or none is enabled.",
    Code.UNUSED_KEY: "Something that is configured never takes effect.",
    Code.GET_ELSEWHERE: "C-GET brings studies to this router only; for another destination it takes C-MOVE.",
    Code.WINDOW: "Opening times or dates of a window that are not understood.",
    Code.UNKNOWN_WINDOW: "A node uses a window that is not configured.",
    Code.NEVER_OPEN: "A window that never opens: nothing would ever be begun in it.",
    Code.WINDOW_ENTRY: "An entry of a node's windows needs exactly one of use and always.",
    Code.TRIGGER: "A rule needs exactly one trigger: sweep, worklist, order or arrival.",
    Code.UNBOUNDED_PRIORS: "A group of priors with neither max nor within: it would take whatever a patient ever had.",
    Code.UNKNOWN_REGION: "A condition on priors names a region of the body that the anatomy table does not have.",
    Code.NOT_WITH_PRIORS: "A setting that has no meaning beside priors: groups bound what is moved, whole studies.",
    Code.HL7_FIELD: "No path into an HL7 message (SEGMENT-FIELD.COMPONENT), or an attribute that orders do not fill.",
    Code.HIDDEN_RULE: "A rule that moves nothing of its own: another moves all of it already.",
    Code.NEVER_TOGETHER: "The windows of a source and of a destination are never open at the same time.",
    Code.NEVER_IN_WINDOW: "A schedule that never falls into an open window of the node it asks.",
    Code.CONTRADICTION: "A condition that can never hold, by itself or beside the keys of its rule.",
    Code.NO_DEFINED_TERM: "A modality that DICOM does not know (PS3.3 section C.7.3.1.1.1), or that looks misspelt.",
    Code.SAME_SENDER: "Two nodes store under the same AE title: nobody can say which of them it was.",
    Code.UNUSED_NODE: "A node that no rule names.",
    Code.NOT_ANSWERED: "A condition looks at an attribute that a worklist does not answer, or an order does not hold.",
    Code.MOVED_TWICE: "Two rules would move the same images to the same destination, in two ways.",
    Code.PLAIN_SECRET: "A secret stands in the configuration itself, not in the environment or a file of its own.",
    Code.SECRET: "A secret that cannot be had from its environment variable or file, or that is too easily guessed.",
    Code.CASE: "A test case names something that is not there: a rule, a study or series, a destination, a group.",
    Code.RECORDING: "The recording that a test case names cannot be read, or is none.",
    Code.CASE_KEY: "A key of a test case that its rule has no use for, or that contradicts another.",
    Code.CASE_LEDGER: "What a test case says of the ledger cannot be: a hold that is none, or one that has not begun.",
    Code.CASE_EXPECTATION: "A test case expects what can never come of its rule, or expects nothing at all.",
    Code.UNKNOWN_CHANNEL: "Somebody is to be told on a channel that is not configured.",
    Code.NO_CHANNEL: "Something is to be told, and there is no channel to tell it on.",
    Code.TEMPLATE: "A template of notifications that cannot be read, or that makes nothing usable.",
    Code.NOT_ENCRYPTED: "A password or secret would go over a network that everybody can read along.",
    Code.CHANNEL: "A channel that cannot work: no e-mail address, no URL, half a login, or no way at all.",
    Code.NO_TOKEN: "Identifiers are to be shown on the page to who shows the token, and there is no token.",
    Code.AUDIT_IN_THE_OPEN: "Audit messages, with Patient IDs in them, go to another machine unencrypted.",
    Code.AUDIT_TLS_UNUSED: "Files for TLS are named, and audit messages do not go over TLS.",
    Code.AUDIT_BUFFER: "A buffer for audit messages that holds hardly any, or more than a disk should.",
    Code.UNSEEN_CERTIFICATE: "Names of a node's certificate, where TLS that would show it is not spoken.",
    Code.CERTIFICATE_NAME: "What is meant as the fingerprint of a certificate is no SHA-256.",
    Code.UNREADABLE_METRICS: "Metrics are guarded, and there is nothing that anybody could show.",
    Code.NEVER_ARRIVES: "A rule waits for what comes from a node that may not push, and that nothing is asked of.",
    Code.WATERMARK: "The shares of a full disk from which, and down to which, studies leave the store do not fit.",
    Code.NOTHING_LEAVES: "Studies are to leave the store once they were passed on, and nothing passes any on.",
    Code.NEVER_PROVEN: "Studies are to leave the store once they are proven elsewhere, and a rule has nothing proven.",
    Code.HOST_NAME: "What should be a name by which browsers call this router holds more or less than a name.",
}


_OF_VALUES = frozenset(
    {
        Code.SYNTAX,
        Code.WRONG_TYPE,
        Code.BAD_VALUE,
        Code.BAD_NAME,
        Code.MATCHER,
        Code.ATTRIBUTE_VALUE,
        Code.REGULAR_EXPRESSION,
        Code.DATE,
        Code.DATE_ORDER,
        Code.UID_WILDCARD,
        Code.CONTRADICTION,
        Code.PLAIN_SECRET,
        Code.SECRET,
        Code.CASE,
    }
)
"""Codes of diagnostics that quote values."""
_QUOTED = re.compile(r"'[^']*(?:'(?=\w)[^']*)*'")


class Diagnostic(msgspec.Struct, frozen=True, kw_only=True):
    """One finding. Line and column count from 1; 0 where the whole file or directory is meant."""

    file: str
    line: int = 0
    column: int = 0
    severity: Severity = Severity.ERROR
    code: Code
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = self.file if not self.line else f"{self.file}:{self.line}:{self.column}"
        text = f"{place}: {self.severity} {self.code} {self.message}" + (f" ({self.hint})" if self.hint else "")
        return "".join(character if character.isprintable() else "\ufffd" for character in text)

    @property
    def discreet(self) -> Diagnostic:
        """The same for logs and pages: without what stands in the file as a value, which may be a patient's or secret.

        The place says where it stands, and `validate` shows it to whoever may read the file.
        """
        if self.code not in _OF_VALUES:
            return self
        return msgspec.structs.replace(
            self, message=_QUOTED.sub("'…'", self.message), hint=_QUOTED.sub("'…'", self.hint)
        )

    @property
    def is_error(self) -> bool:
        """Whether the configuration cannot be used."""
        return self.severity is Severity.ERROR


def in_order(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """By place, each once."""
    return tuple(sorted(dict.fromkeys(diagnostics), key=lambda d: (d.file, d.line, d.column, d.code, d.message)))


def relative_to(directory: Path, diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    """The same with files named from a directory on, where they lie below it: GitHub knows no other names."""
    return [msgspec.structs.replace(one, file=_relative(directory, one.file)) for one in diagnostics]


def _relative(directory: Path, file: str) -> str:
    path = Path(os.path.abspath(file))  # noqa: PTH100  links stay: the name is the one in the repository
    return path.relative_to(directory).as_posix() if path.is_relative_to(directory) else file


def as_text(diagnostics: Iterable[Diagnostic]) -> str:
    """`file:line:column: severity CODE message (hint)`, one a line."""
    return "\n".join(str(diagnostic) for diagnostic in diagnostics)


def as_json(diagnostics: Iterable[Diagnostic]) -> str:
    """`{"diagnostics": [{file, line, column, severity, code, message, hint}]}`."""
    return json.dumps({"diagnostics": [msgspec.structs.asdict(one) for one in diagnostics]}, indent=2)


def as_github(diagnostics: Iterable[Diagnostic]) -> str:
    """Workflow commands that GitHub shows beside the line."""
    lines = []
    for one in diagnostics:
        text = one.message + (f" ({one.hint})" if one.hint else "")
        place = f"file={_escaped(one.file, True)}" + (f",line={one.line},col={one.column}" if one.line else "")
        lines.append(f"::{one.severity} {place},title={one.code}::{_escaped(text, False)}")
    return "\n".join(lines)


def _escaped(text: str, in_property: bool) -> str:
    escapes = {"%": "%25", "\r": "%0D", "\n": "%0A"} | ({":": "%3A", ",": "%2C"} if in_property else {})
    return "".join(escapes.get(character, character) for character in text)
