"""The families of the metrics and their text: with `metrics`, the home of prometheus_client."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from router.observe.definitions import PREFIX, Definition
from router.observe.labels import OTHER, Labels, Names

OPEN_METRICS = "application/openmetrics-text"
END = "# EOF\n"
"""How the text of OpenMetrics ends."""

Metered = Counter | Gauge | Histogram
_KINDS: dict[str, type[Metered]] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}

disable_created_metrics()  # type: ignore[no-untyped-call]


class Family:
    """One metric. The text of a series is kept until it changes: a scrape costs what changed, not what there is.

    Everything but `render` is for holders of the lock.
    """

    def __init__(self, definition: Definition) -> None:
        more = {"buckets": definition.buckets} if definition.buckets else {}
        kind: Callable[..., Metered] = _KINDS[definition.kind]
        self.metric = kind(f"{PREFIX}{definition.name}", definition.text, definition.labels, registry=None, **more)
        (self._described,) = self.metric.describe()
        self._definition = definition
        self._children: dict[Labels, Metered] = {}
        self._levels: dict[Labels, float] = {}
        self._changed: set[Labels] = set()
        self._lines: dict[Labels, str] = {}
        self._heads: dict[Labels, list[str]] = {}
        """What stands before the values of a label set's lines: only numbers become text again when they change."""
        self._text = ""
        self._headers = [_header(self._described, open_metrics=which) for which in (False, True)]
        if not definition.labels and definition.scope is not None:
            self._child(())

    def configure(self, names: Names) -> None:
        """Let the label sets of these names exist, and of others only those that count what is `other`."""
        _, _, _, label_names, scope, vocabularies, _ = self._definition
        if scope is None or not label_names:
            return
        bases = list(scope(names))
        wanted = [base + words for base in bases for words in itertools.product(*vocabularies)]
        allowed = set(bases)
        width = len(label_names) - len(vocabularies)
        self.keep({*wanted, *(own for own in self._children if own[:width] in allowed or own[0] == OTHER)})
        for labels in wanted:
            self._child(labels)

    def keep(self, labels: Iterable[Labels]) -> None:
        """Drop all other label sets."""
        for gone in self._children.keys() - labels:
            if gone:
                self.metric.remove(*gone)
            del self._children[gone]
            self._levels.pop(gone, None)
            self._changed.add(gone)

    def has(self, labels: Labels) -> bool:
        """Whether the label set exists."""
        return labels in self._children

    def add(self, labels: Labels, amount: float = 1) -> None:
        """Count; what is not positive changes nothing."""
        child = self._child(labels)
        if amount > 0 and isinstance(child, Counter):
            child.inc(amount)
            self._changed.add(labels)

    def set(self, labels: Labels, value: float) -> None:
        """Set the level."""
        child = self._child(labels)
        if self._levels.get(labels) != value and isinstance(child, Gauge):
            child.set(value)
            self._levels[labels] = value
            self._changed.add(labels)

    def observe(self, labels: Labels, seconds: float) -> None:
        """Observe a duration."""
        child = self._child(labels)
        if isinstance(child, Histogram):
            child.observe(seconds)
            self._changed.add(labels)

    def collect(self) -> Iterable[Metric]:
        """As prometheus_client knows it."""
        return self.metric.collect() if self._children or self._definition.labels else [self._described]

    def _child(self, labels: Labels) -> Metered:
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self.metric.labels(*labels) if labels else self.metric
            self._changed.add(labels)
        return child

    def render(self, lock: threading.Lock, open_metrics: bool) -> tuple[str, str]:
        """Header and series. The lock is held only while numbers are read, not while they become text."""
        with lock:
            changed = {labels: self._samples(labels) for labels in self._changed}
            self._changed.clear()
        if changed:
            self._note_heads(changed)
            for labels, samples in changed.items():
                if samples:
                    values = (floatToGoString(one.value) for one in samples)  # type: ignore[no-untyped-call]
                    lines = zip(self._heads[labels], values, strict=True)
                    self._lines[labels] = "".join([f"{head} {value}\n" for head, value in lines])
                else:
                    self._lines.pop(labels, None)
                    self._heads.pop(labels, None)
            self._text = "".join(self._lines.values())
        return self._headers[open_metrics], self._text

    def _samples(self, labels: Labels) -> list[Sample]:
        child = self._children.get(labels)
        return [] if child is None else [sample for own in child.collect() for sample in own.samples]

    def _note_heads(self, changed: Mapping[Labels, Sequence[Sample]]) -> None:
        """Have the beginnings of lines written that there are none of yet."""
        fresh = {labels: samples for labels, samples in changed.items() if samples and labels not in self._heads}
        named = []
        for labels, samples in fresh.items():
            own = dict(zip(self._definition.labels, labels, strict=True))
            named += [sample._replace(labels=own | sample.labels) for sample in samples]
        lines = iter(_lines(self._described, named) if named else ())
        for labels, samples in fresh.items():
            self._heads[labels] = [line.rpartition(" ")[0] for line in itertools.islice(lines, len(samples))]


class ProcessText:
    """What this process uses, by the names that programs in any language have for it."""

    def __init__(self) -> None:
        self._collector = ProcessCollector(registry=None)

    def render(self, open_metrics: bool) -> str:
        """Headers and series."""
        texts = []
        for metric in self._collector.collect():
            described = Metric(metric.name, metric.documentation, metric.type)
            texts += [_header(described, open_metrics=open_metrics), *_lines(described, metric.samples)]
        return "".join(texts)


class _One(Collector):
    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return [self._metric]


def _lines(described: Metric, samples: list[Sample]) -> list[str]:
    """A line per sample; the two formats differ in their headers only."""
    metric = Metric(described.name, described.documentation, described.type)
    metric.samples = samples
    return generate_latest(_One(metric)).decode().splitlines(keepends=True)[2:]


def _header(metric: Metric, *, open_metrics: bool) -> str:
    if not open_metrics:
        return generate_latest(_One(metric)).decode()
    if metric.type == "counter" and metric.name == f"{PREFIX}transfers":
        # To OpenMetrics the counter `transfers_total` and the gauge `transfers` are of one family, which may not be.
        # Of unknown type a name may end in `_total` as it is.
        metric = Metric(f"{metric.name}_total", metric.documentation, "unknown")
    text: str = openmetrics.generate_latest(_One(metric)).decode()  # type: ignore[no-untyped-call]
    return text.removesuffix(END)


def wants_open_metrics(accept: str) -> bool:
    """Whether an Accept header takes OpenMetrics 1.x; the order of media ranges is that of the scraper's liking."""
    for choice in accept.split(","):
        media_type, *parameters = (part.strip() for part in choice.split(";"))
        if media_type == "text/plain":
            return False
        given = dict(parameter.partition("=")[::2] for parameter in parameters)
        if media_type == OPEN_METRICS and given.get("version", "1.0.0").startswith("1."):
            return True
    return False
