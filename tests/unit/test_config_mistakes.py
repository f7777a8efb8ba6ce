"""One mistake a file: each is found, at its line, with its code, and nothing else is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from router import config
from router.config.diagnostics import CODES, Code, Severity, as_github, as_json, as_text

DATA = Path(__file__).parents[1] / "data" / "config"

MISTAKES = [
    # file, code, line, severity
    ("yaml-syntax", "DR002", 13, "error"),
    ("yaml-tab", "DR002", 12, "error"),
    ("yaml-duplicate-key", "DR003", 13, "error"),
    ("yaml-tag", "DR004", 12, "error"),
    ("yaml-merge-key", "DR004", 5, "error"),
    ("yaml-several-documents", "DR004", 8, "error"),
    ("unknown-section", "DR010", 8, "error"),
    ("unknown-key-in-node", "DR010", 5, "error"),
    ("unknown-key-in-rule", "DR010", 15, "error"),
    ("unknown-key-in-sweep", "DR010", 13, "error"),
    ("key-one-level-too-high", "DR010", 17, "error"),
    ("key-one-level-too-deep", "DR010", 13, "error"),
    ("arrival-that-never-comes", "DR087", 13, "warning"),
    ("type-list-for-text", "DR012", 11, "error"),
    ("type-text-for-list", "DR012", 18, "error"),
    ("type-text-for-mapping", "DR012", 15, "error"),
    ("type-text-for-number", "DR012", 5, "error"),
    ("type-yes-for-boolean", "DR012", 19, "error"),
    ("type-quoted-number", "DR012", 5, "error"),
    ("node-without-address", "DR013", 2, "error"),
    ("rule-without-source", "DR013", 10, "error"),
    ("rule-without-destination", "DR013", 17, "error"),
    ("tls-without-files", "DR013", 5, "error"),
    ("tls-certificate-without-key", "DR013", 5, "error"),
    ("bad-duration", "DR014", 12, "error"),
    ("bad-enum", "DR014", 19, "error"),
    ("bad-number-too-large", "DR014", 5, "error"),
    ("bad-empty-list", "DR014", 18, "error"),
    ("bad-ledger", "DR014", 9, "error"),
    ("ledger-without-database", "DR014", 9, "error"),
    ("ledger-password-in-plain-text", "DR066", 9, "error"),
    ("ledger-password-in-its-query", "DR066", 9, "error"),
    ("ledger-in-the-open", "DR078", 9, "warning"),
    ("ledger-not-to-be-had", "DR067", 9, "warning"),
    ("bad-period", "DR014", 12, "error"),
    ("bad-max-results", "DR014", 5, "error"),
    ("bad-settle", "DR014", 13, "error"),
    ("settle-too-long", "DR014", 13, "error"),
    ("settle-one-level-too-high", "DR010", 17, "error"),
    ("bad-studies-per-sweep", "DR014", 17, "error"),
    ("rule-limits-of-a-node", "DR010", 17, "error"),
    ("character-set-unknown", "DR014", 5, "error"),
    ("character-set-not-first", "DR014", 5, "error"),
    ("character-set-not-combined", "DR014", 5, "error"),
    ("character-set-old-name", "DR010", 5, "error"),
    ("commitment-too-long", "DR014", 8, "error"),
    ("commitment-not-offered", "DR014", 20, "error"),
    ("name-with-space", "DR021", 9, "error"),
    ("name-local", "DR021", 5, "error"),
    ("name-other", "DR021", 5, "error"),
    ("unknown-source", "DR022", 11, "error"),
    ("unknown-destination", "DR022", 18, "error"),
    ("source-local", "DR022", 11, "error"),
    ("ae-title-too-long", "DR023", 3, "error"),
    ("ae-title-with-spaces", "DR023", 3, "error"),
    ("ae-title-with-backslash", "DR023", 3, "error"),
    ("ae-title-not-ascii", "DR023", 3, "error"),
    ("sends-as-empty", "DR023", 5, "error"),
    ("address-without-port", "DR024", 4, "error"),
    ("address-port-too-large", "DR024", 4, "error"),
    ("same-node-twice", "DR025", 8, "warning"),
    ("destination-twice", "DR025", 18, "error"),
    ("node-is-this-router", "DR025", 5, "warning"),
    ("unknown-time-zone", "DR026", 5, "error"),
    ("unknown-time-zone-of-sweep", "DR026", 13, "error"),
    ("same-port", "DR027", 9, "error"),
    ("tls-file-missing", "DR028", 7, "error"),
    ("http-tls-file-missing", "DR028", 2, "error"),
    ("http-tls-without-files", "DR013", 2, "error"),
    ("certificate-names-without-tls", "DR084", 5, "error"),
    ("certificate-names-sha1", "DR085", 5, "error"),
    ("metrics-guarded-without-token", "DR086", 2, "error"),
    ("page-host-with-scheme", "DR093", 3, "error"),
    ("metrics-guarded-otherwise", "DR014", 2, "error"),
    ("sends-from-no-network", "DR024", 5, "error"),
    ("incoming-associations-none", "DR014", 5, "error"),
    ("attribute-misspelt", "DR030", 16, "error"),
    ("attribute-wrong-case", "DR030", 16, "error"),
    ("attribute-with-spaces", "DR030", 16, "error"),
    ("attribute-into-no-sequence", "DR030", 16, "error"),
    ("key-misspelt", "DR030", 15, "error"),
    ("matcher-misspelt", "DR031", 16, "error"),
    ("matcher-does-not-fit", "DR031", 16, "error"),
    ("matcher-any-without-list", "DR031", 16, "error"),
    ("value-no-number", "DR032", 16, "error"),
    ("value-no-age", "DR032", 16, "error"),
    ("value-empty", "DR032", 16, "error"),
    ("value-between-reversed", "DR032", 16, "error"),
    ("value-no-uid", "DR032", 15, "error"),
    ("value-wildcard-in-number", "DR032", 15, "error"),
    ("regex-invalid", "DR033", 16, "error"),
    ("regex-explodes", "DR033", 16, "error"),
    ("date-not-understood", "DR034", 14, "error"),
    ("date-open", "DR034", 14, "error"),
    ("date-no-such-day", "DR034", 14, "error"),
    ("date-hours-of-today", "DR034", 14, "error"),
    ("date-minutes", "DR034", 14, "warning"),
    ("date-reversed", "DR035", 14, "error"),
    ("date-reversed-fixed", "DR035", 14, "error"),
    ("date-over", "DR035", 14, "warning"),
    ("cron-four-fields", "DR036", 12, "error"),
    ("cron-bad-weekday", "DR036", 12, "error"),
    ("cron-never", "DR036", 12, "error"),
    ("key-set-by-router", "DR037", 15, "error"),
    ("key-sequence", "DR037", 15, "error"),
    ("key-below-level", "DR038", 15, "error"),
    ("key-uid-wildcard", "DR039", 15, "error"),
    ("key-not-selective", "DR040", 13, "error"),
    ("key-not-selective-star", "DR040", 13, "error"),
    ("key-not-selective-tier", "DR040", 15, "error"),
    ("loop-to-source", "DR041", 18, "error"),
    ("loop-same-ae-title", "DR041", 18, "error"),
    ("schedule-missing", "DR042", 10, "error"),
    ("schedule-twice", "DR042", 13, "error"),
    ("schedule-tier-without", "DR042", 14, "error"),
    ("retry-delays", "DR043", 19, "error"),
    ("deadlines", "DR043", 5, "error"),
    ("condition-below-level", "DR044", 16, "warning"),
    ("all-disabled", "DR045", 9, "warning"),
    ("via-get-elsewhere", "DR047", 19, "error"),
    ("key-unused", "DR046", 14, "warning"),
    ("both-ways", "DR041", 21, "warning"),
    ("haste", "DR043", 12, "warning"),
    ("window-bad-span", "DR048", 13, "error"),
    ("window-bad-time", "DR048", 13, "error"),
    ("window-bad-date", "DR048", 14, "error"),
    ("window-dates-reversed", "DR048", 14, "error"),
    ("window-unknown", "DR049", 6, "error"),
    ("window-never-opens", "DR050", 13, "error"),
    ("window-all-excepted", "DR050", 14, "error"),
    ("window-entry-neither", "DR051", 7, "error"),
    ("window-entry-both", "DR051", 6, "error"),
    ("window-entry-after-always", "DR046", 7, "warning"),
    ("window-entry-twice", "DR046", 7, "warning"),
    ("window-not-used", "DR046", 9, "warning"),
    ("window-duty", "DR014", 6, "error"),
    ("audit-in-the-open", "DR081", 3, "warning"),
    ("audit-tls-unused", "DR082", 5, "error"),
    ("audit-buffer-small", "DR083", 4, "error"),
    ("retention-watermark-crossed", "DR090", 5, "error"),
    ("retention-watermark-share", "DR090", 5, "error"),
    ("retention-without-forward", "DR091", 2, "warning"),
    ("retention-never-proven", "DR092", 19, "warning"),
    ("audit-without-address", "DR013", 2, "error"),
    ("audit-address", "DR024", 3, "error"),
    ("audit-certificate-without-key", "DR013", 4, "error"),
    ("audit-certificate-without-ca", "DR013", 4, "error"),
    ("audit-file-missing", "DR028", 4, "error"),
    ("limits-duty", "DR014", 5, "error"),
    ("breaker-pauses", "DR043", 5, "error"),
    ("breaker-no-pause", "DR014", 5, "error"),
    ("breaker-no-failures", "DR014", 5, "error"),
    ("window-without-times", "DR013", 11, "error"),
    ("window-time-zone", "DR026", 12, "error"),
    ("trigger-twice", "DR052", 18, "error"),
    ("trigger-missing", "DR052", 12, "error"),
    ("worklist-without-priors", "DR013", 13, "error"),
    ("arrival-without-priors", "DR013", 13, "error"),
    ("order-without-listener", "DR013", 13, "error"),
    ("worklist-unknown-source", "DR022", 14, "error"),
    ("worklist-without-source", "DR013", 13, "error"),
    ("worklist-of-local", "DR022", 14, "error"),
    ("worklist-key-of-an-archive", "DR037", 17, "error"),
    ("worklist-key-not-known", "DR037", 17, "error"),
    ("worklist-key-time", "DR037", 17, "error"),
    ("worklist-lookback", "DR010", 15, "error"),
    ("worklist-lead-too-long", "DR014", 18, "error"),
    ("worklist-schedule-missing", "DR042", 13, "error"),
    ("arrival-unknown-node", "DR022", 13, "error"),
    ("arrival-stable-too-long", "DR014", 13, "error"),
    ("order-unknown-event", "DR014", 19, "error"),
    ("order-sender-not-let-in", "DR046", 15, "warning"),
    ("priors-unknown-source", "DR022", 20, "error"),
    ("priors-of-local", "DR022", 20, "error"),
    ("priors-without-source", "DR013", 19, "error"),
    ("priors-without-groups", "DR013", 19, "error"),
    ("priors-to-their-source", "DR041", 32, "error"),
    ("priors-limits", "DR055", 33, "error"),
    ("priors-settle", "DR055", 18, "error"),
    ("priors-series", "DR055", 33, "error"),
    ("priors-undated", "DR014", 27, "error"),
    ("group-unbounded", "DR053", 26, "error"),
    ("group-without-name", "DR013", 26, "error"),
    ("group-bad-name", "DR021", 26, "error"),
    ("group-called-oldest", "DR021", 26, "error"),
    ("group-twice", "DR020", 26, "error"),
    ("group-never-used", "DR046", 25, "warning"),
    ("group-within-hours", "DR014", 25, "error"),
    ("group-within-too-long", "DR014", 25, "error"),
    ("region-unknown", "DR054", 23, "error"),
    ("region-empty", "DR012", 23, "error"),
    ("region-of-the-current-study", "DR031", 30, "error"),
    ("modality-of-the-current-study", "DR031", 30, "error"),
    ("modality-lower-case", "DR032", 23, "error"),
    ("modalities-twice", "DR003", 27, "error"),
    ("same-in-a-list", "DR031", 23, "error"),
    ("same-below-any", "DR031", 23, "error"),
    ("same-of-the-current-study", "DR031", 30, "error"),
    ("same-in-a-sequence", "DR031", 23, "error"),
    ("same-misspelt", "DR030", 23, "error"),
    ("prior-key-misspelt", "DR030", 23, "error"),
    ("prior-anatomy-below-any", "DR030", 23, "error"),
    ("prior-below-level", "DR044", 23, "warning"),
    ("exclude-empty", "DR014", 27, "error"),
    ("hl7-not-used", "DR046", 2, "warning"),
    ("secret-in-plain-text", "DR066", 9, "error"),
    ("secret-not-to-be-had", "DR067", 9, "warning"),
    ("log-key-not-to-be-had", "DR067", 9, "warning"),
    ("log-key-in-plain-text", "DR066", 9, "error"),
    ("log-level-unknown", "DR014", 9, "error"),
    ("page-identifiers-without-token", "DR080", 9, "error"),
    ("watch-too-often", "DR014", 9, "error"),
    ("notify-unknown-channel", "DR075", 11, "error"),
    ("notify-unknown-channel-of-a-rule", "DR075", 21, "error"),
    ("notify-without-channels", "DR076", 9, "warning"),
    ("notify-channel-not-used", "DR046", 10, "warning"),
    ("notify-channel-twofold", "DR014", 11, "error"),
    ("notify-template-misspelt", "DR077", 11, "error"),
    ("notify-template-missing", "DR077", 11, "error"),
    ("notify-password-in-the-open", "DR078", 11, "error"),
    ("notify-url-in-the-open", "DR078", 11, "error"),
    ("notify-header-in-the-open", "DR078", 11, "error"),
    ("notify-header-in-plain-text", "DR066", 11, "error"),
    ("notify-password-in-plain-text", "DR066", 11, "error"),
    ("notify-no-e-mail-address", "DR079", 11, "error"),
    ("notify-no-url", "DR079", 11, "error"),
    ("notify-user-without-password", "DR079", 11, "error"),
    ("notify-header-of-ours", "DR079", 11, "error"),
    ("notify-server-without-port", "DR024", 11, "error"),
    ("notify-ca-missing", "DR028", 11, "error"),
    ("notify-link", "DR014", 9, "error"),
    ("notify-unknown-word", "DR014", 9, "error"),
    ("notify-wait-too-long", "DR043", 9, "error"),
    ("notify-off", "DR014", 21, "error"),
    ("hl7-same-port", "DR027", 3, "error"),
    ("hl7-bad-address", "DR024", 3, "error"),
    ("hl7-tls-without-files", "DR013", 5, "error"),
    ("hl7-bad-network", "DR024", 5, "error"),
    ("hl7-bad-path", "DR056", 5, "error"),
    ("hl7-attribute-not-filled", "DR056", 5, "error"),
    ("hl7-attribute-misspelt", "DR030", 5, "error"),
    ("hl7-character-set", "DR014", 5, "error"),
    ("hl7-character-set-of-16-bits", "DR014", 5, "error"),
    ("hl7-size", "DR014", 5, "error"),
    ("hl7-time-zone", "DR026", 5, "error"),
    ("hl7-bad-sender", "DR014", 4, "error"),
    ("anatomy-neighbour-unknown", "DR014", 2, "error"),
    ("anatomy-regex", "DR033", 2, "error"),
    ("anatomy-called-same", "DR021", 2, "error"),
    ("anatomy-key-misspelt", "DR010", 2, "error"),
    ("case-without-rule", "DR070", 3, "error"),
    ("case-recording-missing", "DR071", 4, "error"),
    ("case-current-of-a-sweep", "DR072", 5, "error"),
    ("case-held-since-of-a-failed", "DR073", 8, "error"),
    ("case-group-of-a-sweep", "DR074", 7, "error"),
    ("rule-hidden", "DR057", 19, "warning"),
    ("rule-repeated", "DR057", 19, "warning"),
    ("windows-apart", "DR058", 30, "warning"),
    ("windows-apart-by-time-zone", "DR058", 30, "warning"),
    ("cron-outside-the-window", "DR059", 19, "warning"),
    ("cron-tier-outside-the-window", "DR059", 21, "warning"),
    ("where-outside-the-keys", "DR060", 16, "warning"),
    ("where-two-values", "DR060", 17, "warning"),
    ("where-numbers-apart", "DR060", 16, "warning"),
    ("where-not-what-the-keys-ask", "DR060", 17, "warning"),
    ("where-with-and-without-a-value", "DR060", 16, "warning"),
    ("group-never", "DR060", 21, "warning"),
    ("worklist-answers-otherwise", "DR060", 18, "warning"),
    ("modality-mri", "DR061", 15, "warning"),
    ("modality-x-ray", "DR061", 16, "warning"),
    ("modality-of-a-group", "DR061", 21, "warning"),
    ("sends-as-of-two", "DR062", 12, "warning"),
    ("node-not-used", "DR063", 8, "warning"),
    ("worklist-does-not-answer", "DR064", 18, "warning"),
    ("order-does-not-hold", "DR064", 16, "warning"),
    ("rule-as-series-too", "DR065", 19, "warning"),
    ("rule-in-two-ways", "DR065", 19, "warning"),
    ("region-like-a-shipped-one", "DR054", 2, "warning"),
    ("case-of-a-disabled-rule", "DR046", 38, "warning"),
    ("forward-to-its-sender", "DR041", 12, "error"),
    ("forward-to-local", "DR041", 12, "error"),
    ("forward-unknown-node", "DR022", 12, "error"),
    ("forward-unknown-node-of-a-group", "DR022", 13, "error"),
    ("forward-empty-group", "DR014", 13, "error"),
    ("forward-group-of-two-kinds", "DR014", 13, "error"),
    ("forward-group-misspelt", "DR010", 13, "error"),
    ("forward-without-destination", "DR013", 11, "error"),
    ("forward-twice-to-one", "DR025", 12, "error"),
    ("forward-without-arrival", "DR052", 14, "error"),
    ("forward-beside-move", "DR052", 12, "error"),
    ("forward-beside-priors", "DR055", 14, "error"),
    ("forward-limits", "DR010", 12, "error"),
    ("forward-more-than-arrived", "DR014", 12, "error"),
    ("forward-retry-delays", "DR043", 13, "error"),
    ("forward-commitment-not-offered", "DR014", 13, "error"),
    ("forward-syntax-unknown", "DR014", 13, "error"),
    ("arrival-level-beside-priors", "DR055", 10, "error"),
    ("not-utf8", "DR001", 9, "error"),
]


def load(name: str, directory: Path) -> config.Loaded:
    shutil.copy(DATA / f"{name}.yaml", directory)
    for file in ("authority.pem", "misspelt.j2"):  # a certificate and a template, for those that name one
        shutil.copy(DATA / file, directory)
    return config.load(directory)


@pytest.mark.parametrize(("name", "code", "line", "severity"), MISTAKES, ids=[row[0] for row in MISTAKES])
def test_mistake(name: str, code: str, line: int, severity: str, tmp_path: Path) -> None:
    loaded = load(name, tmp_path)
    found = [(one.code, one.line, one.severity) for one in loaded.diagnostics]
    assert found == [(code, line, severity)], as_text(loaded.diagnostics)
    assert (loaded.rule_set is None) is (severity == "error")
    [one] = loaded.diagnostics
    assert one.file == str(tmp_path / f"{name}.yaml")
    assert one.column >= 1
    assert "\n" not in str(one)


def test_every_file_is_in_the_table_and_every_code_has_a_file() -> None:
    assert {path.stem for path in DATA.glob("*.yaml")} == {row[0] for row in MISTAKES}
    assert {row[1] for row in MISTAKES} | {"DR020"} == set(Code) == set(CODES)


TWICE = [
    ("same-node-in-two-files", "b.yaml", 3, "a.yaml:2:3"),
    ("same-rule-in-two-files", "b.yaml", 2, "a.yaml:5:3"),
    ("same-setting-in-two-files", "b.yaml", 3, "a.yaml:9:3"),
    ("same-default-in-two-files", "b.yaml", 3, "a.yaml:9:11"),
    ("same-window-in-two-files", "b.yaml", 2, "a.yaml:11:3"),
]


@pytest.mark.parametrize(("name", "file", "line", "first"), TWICE, ids=[row[0] for row in TWICE])
def test_the_same_name_in_two_files_shows_both_places(name: str, file: str, line: int, first: str) -> None:
    loaded = config.load(DATA / name)
    [one] = loaded.diagnostics
    assert (Path(one.file).name, one.line, one.code) == (file, line, Code.DUPLICATE_NAME)
    assert one.hint.endswith(first)


HINTS = [
    ("unknown-key-in-sweep", "did you mean every?"),
    ("key-one-level-too-high", "it belongs into move"),
    ("key-one-level-too-deep", "it belongs beside sweep"),
    ("unknown-destination", "did you mean workstation?"),
    ("attribute-wrong-case", "did you mean StudyDescription?"),
    ("attribute-misspelt", "did you mean StudyDescription?"),
    ("key-misspelt", "did you mean ModalitiesInStudy?"),
    ("matcher-misspelt", "did you mean matches?"),
    ("unknown-time-zone-of-sweep", "did you mean Europe/Berlin?"),
    ("key-below-level", "ModalitiesInStudy"),
    ("key-not-selective-tier", "tier 2 has no lookback"),
    ("window-bad-span", "did you mean sun?"),
    ("window-unknown", "did you mean night?"),
    ("window-time-zone", "did you mean Europe/Berlin?"),
    ("trigger-twice", "sweep is at"),
    ("trigger-missing", "for example sweep"),
    ("arrival-without-priors", "forward"),
    ("worklist-unknown-source", "did you mean ris?"),
    ("worklist-key-of-an-archive", "use ScheduledProcedureStepStartDate"),
    ("worklist-key-time", "times are compared here"),
    ("order-unknown-event", "did you mean SIU^S1"),
    ("order-sender-not-let-in", "add it there"),
    ("priors-unknown-source", "did you mean archive?"),
    ("region-unknown", "did you mean abdomen?"),
    ("modality-lower-case", "did you mean CT?"),
    ("prior-key-misspelt", "did you mean modality?"),
    ("prior-anatomy-below-any", "never below them"),
    ("same-misspelt", "did you mean InstitutionName?"),
    ("same-in-a-list", "{equals: same}"),
    ("group-within-hours", "5y"),
    ("notify-unknown-channel", "did you mean on-call?"),
    ("notify-unknown-channel-of-a-rule", "channels: on-call"),
    ("notify-unknown-word", "did you mean failed?"),
    ("notify-off", "none"),
    ("hl7-bad-network", "did you mean 10.0.0.0/8?"),
    ("hl7-attribute-misspelt", "did you mean AccessionNumber?"),
    ("hl7-bad-path", "PID-3.1"),
    ("hl7-character-set", "did you mean utf-8?"),
    ("anatomy-neighbour-unknown", "did you mean abdomen?"),
    ("rule-hidden", "chest is at"),
    ("rule-as-series-too", "exclude each other"),
    ("windows-apart", "{always: true}"),
    ("cron-outside-the-window", "Europe/Berlin"),
    ("modality-mri", "did you mean MR?"),
    ("modality-x-ray", "did you mean DX or CR?"),
    ("modality-of-a-group", "did you mean CT?"),
    ("sends-as-of-two", "archive is at"),
    ("worklist-does-not-answer", "use RequestedProcedureDescription"),
    ("region-like-a-shipped-one", "did you mean abdomen?"),
]


@pytest.mark.parametrize(("name", "hint"), HINTS, ids=[row[0] for row in HINTS])
def test_hints_say_what_was_meant(name: str, hint: str, tmp_path: Path) -> None:
    assert hint in load(name, tmp_path).diagnostics[0].hint


def test_all_mistakes_are_found_at_once(tmp_path: Path) -> None:
    """Those of one stage do not hide those of another, in one file or in several."""
    (tmp_path / "nodes.yaml").write_text(
        "nodes:\n  archive: {ae_title: ARCHIVE, address: nowhere, colour: red}\n  ws: {ae_title: WS, address: 'h:1'}\n"
    )
    (tmp_path / "rules.yaml").write_text(
        "rules:\n"
        "  one:\n"
        "    sweep: {source: archive, evry: 5m, every: 5m, keys: {StudyDate: todayy}}\n"
        "    where: {StudyDescripton: x, PatientAge: {gt: old}}\n"
        "    move: {to: [wss], verify: sure}\n"
        "  two:\n"
        "    sweep: {source: archive, cron: '99 * * * *', keys: {StudyDate: today, Modality: CT}}\n"
        "    move: {to: [archive]}\n"
    )
    found = {(Path(one.file).stem, one.line, one.code) for one in config.load(tmp_path).diagnostics}
    assert found == {
        ("nodes", 2, "DR010"),
        ("nodes", 2, "DR024"),
        ("rules", 3, "DR010"),
        ("rules", 3, "DR034"),
        ("rules", 4, "DR030"),
        ("rules", 4, "DR032"),
        ("rules", 5, "DR022"),
        ("rules", 5, "DR014"),
        ("rules", 7, "DR036"),
        ("rules", 7, "DR038"),
        ("rules", 8, "DR041"),
    }


def test_a_lost_file_is_not_reported_as_missing_nodes(tmp_path: Path) -> None:
    (tmp_path / "nodes.yaml").write_text("nodes: [")
    (tmp_path / "rules.yaml").write_text(
        "rules:\n  one:\n    sweep: {source: archive, every: 5m, keys: {StudyDate: today}}\n    move: {to: [local]}\n"
    )
    assert [one.code for one in config.load(tmp_path).diagnostics] == ["DR002"]


def test_hostile_files_end_as_a_diagnostic(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    hostile = {
        "laughs": ("\n".join(lines).encode(), "DR004"),
        "deep": (b"[" * 200_000, "DR004"),
        "deep-block": (b"".join(b" " * n + b"a:\n" for n in range(500)), "DR004"),
        "huge": (b"# " + b"x" * (1 << 20), "DR001"),
        "null": (b"a: \x00", "DR002"),
        "binary": (bytes(range(256)), "DR001"),
        "circle": (b"a: &a [*a]", "DR004"),
        "complex-key": (b"? [a]\n: b", "DR004"),
        "list": (b"- a\n", "DR012"),
        "text": (b"hello", "DR012"),
    }
    for name, (contents, code) in hostile.items():
        directory = tmp_path / name
        directory.mkdir()
        (directory / "a.yaml").write_bytes(contents)
        loaded = config.load(directory)
        assert [one.code for one in loaded.diagnostics] == [code], name
        assert loaded.rule_set is None


def test_unreadable_places(tmp_path: Path) -> None:
    missing = config.load(tmp_path / "missing")
    assert [one.code for one in missing.diagnostics] == [Code.UNREADABLE]
    empty = config.load(tmp_path)
    assert "holds no *.yaml" in empty.diagnostics[0].message
    (tmp_path / "directory.yaml").mkdir()
    assert "cannot be read" in config.load(tmp_path).diagnostics[0].message
    (tmp_path / "file").write_text("")
    assert config.load(tmp_path / "file").rule_set is None


def test_formats(tmp_path: Path) -> None:
    diagnostics = load("unknown-key-in-sweep", tmp_path).diagnostics
    file = tmp_path / "unknown-key-in-sweep.yaml"
    assert as_text(diagnostics) == (
        f"{file}:13:7: error DR010 there is no key 'evry' in rules.chest.sweep (did you mean every?)"
    )
    [one] = json.loads(as_json(diagnostics))["diagnostics"]
    assert set(one) == {"file", "line", "column", "severity", "code", "message", "hint"}
    assert (one["line"], one["severity"], one["code"]) == (13, "error", "DR010")
    assert as_github(diagnostics).startswith(f"::error file={file},line=13,col=7,title=DR010::there is no key")
    percent = config.Diagnostic(file="a,b", code=Code.SYNTAX, message="50%\nlost", severity=Severity.WARNING)
    assert as_github([percent]) == "::warning file=a%2Cb,title=DR002::50%25%0Alost"
