"""What Prometheus sees. The only importer of prometheus_client.

A registry per `Metrics` object, none global. Counters and histograms are told as things happen
(`tally`); gauges are read when somebody scrapes, from callbacks that the wiring gives. Labels are
bounded by whoever tells: aliases and backends of the configuration, nodes for as long as they are
registered (`keep`), and `OTHER` for anything else.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

import prometheus_client
from attrs import field, frozen
from prometheus_client import Gauge
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector, CollectorRegistry

from rolemesh import __version__
from rolemesh.server.inbound import Inbound
from rolemesh.server.logformat import AccessLine
from rolemesh.server.tally import Counts, Histogram, Histograms
from rolemesh.wire.openai import MODEL_PATHS

OTHER = "_other"
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
# From a cached embedding to a long answer of a slow model; `first_byte_s` is 600 as it comes.
DURATION_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600)
FIRST_BYTE_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

# Label values, in the family's order, and the value.
Samples = Iterable[tuple[Sequence[str], float]]


@frozen
class Scraped:
    """A family that is read at scrape time. A name in `_total` is a counter, else a gauge."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


_GPU = ("node", "gpu")
# An upstream may send any three digits, or more.
_CODES = {status: str(status) for status in range(100, 600)}
# What every daemon tells.
PROCESS = (
    Scraped("requests_in_flight", "Requests begun and not ended.", ("alias",)),
    Scraped("connections", "Client connections that are open."),
    Scraped("connections_shed_total", "Connections turned away for want of descriptors."),
    Scraped("log_lines_dropped_total", "Log lines that stderr could not take."),
    Scraped("config_last_reload_success", "1: the last reload was taken over."),
    Scraped("config_last_reload_timestamp_seconds", "When the configuration was last read."),
)
SCRAPED = (
    *PROCESS,
    Scraped("upstream_up", "1: the backend answered its last probe.", ("backend",)),
    Scraped("model_available", "1: a request for the alias could be sent now.", ("alias",)),
    Scraped("nodes", "Registered nodes by state.", ("state",)),
    Scraped("node_gpu_memory_used_bytes", "Memory in use, as the node told.", _GPU),
    Scraped("node_gpu_memory_total_bytes", "Memory of the device, as the node told.", _GPU),
    Scraped("node_gpu_utilization_ratio", "0 to 1, as the node told.", _GPU),
    Scraped("node_gpu_temperature_celsius", "Temperature, as the node told.", _GPU),
    Scraped("node_gpu_power_watts", "Power drawn, as the node told.", _GPU),
    Scraped("node_load1", "Load average over a minute, as the node told.", ("node",)),
    Scraped("node_memory_used_bytes", "Host memory in use, as the node told.", ("node",)),
    Scraped("node_memory_total_bytes", "Host memory, as the node told.", ("node",)),
)


class Metrics:
    """`scraped`: the families of this daemon that are read at scrape time. Telling costs next to
    nothing; no method raises."""

    def __init__(self, scraped: Iterable[Scraped] = SCRAPED) -> None:
        self.registry = CollectorRegistry()
        self._told = _Told()
        self._requests = self._told.count("requests", "Requests.", "alias status outcome")
        self._tokens = self._told.count("tokens", "Tokens, as told.", "alias kind")
        self._attempts = self._told.count(
            "upstream_attempts", "Tries to send a request.", "backend result"
        )
        self._cancelled = self._told.count("cancelled", "Clients that left.", "phase")
        self._reloads = self._told.count("config_reloads", "Reloads.", "result")
        self._durations = self._told.measure(
            "request_duration", "Request to end of answer.", DURATION_BUCKETS
        )
        self._first_bytes = self._told.measure(
            "time_to_first_byte", "Request to first byte.", FIRST_BYTE_BUCKETS
        )
        self._in_flight: Counter[str] = Counter()
        self._at_scrape = _AtScrape({f"rolemesh_{item.name}": item for item in scraped})
        self.registry.register(self._told)
        self.registry.register(self._at_scrape)
        self.read_at_scrape("requests_in_flight", self._read_in_flight)
        self._about_the_process()

    def began(self, alias: str) -> None:
        self._in_flight[alias] += 1

    def ended(self, alias: str, line: AccessLine) -> None:
        """The counterpart of `began`."""
        self._in_flight[alias] -= 1
        self._requests[alias, _CODES.get(line.status, OTHER), line.outcome] += 1
        self._durations[alias].observe(line.duration_s)
        if line.first_byte_s is not None:
            self._first_bytes[alias].observe(line.first_byte_s)
        if line.prompt_tokens:
            self._tokens[alias, "prompt"] += line.prompt_tokens
        if line.completion_tokens:
            self._tokens[alias, "completion"] += line.completion_tokens

    def settle(self, inbound: Inbound) -> None:
        """A request has come to its end, and its line says all. The model paths are counted."""
        line = inbound.line
        if inbound.request.method != "POST" or inbound.path not in MODEL_PATHS:
            return
        alias = line.alias
        if alias is None:  # refused before it was known, or there is none of that name
            alias = OTHER
            self.began(alias)
        self.ended(alias, line)
        if line.outcome == "client_abort":
            self.cancelled(inbound.phase)

    def attempted(self, backend: str, result: str) -> None:
        """`backend`: alias/name or the node_id. `result`: ok, or a failure's word."""
        self._attempts[backend, result] += 1

    def keep(self, backends: Container[str]) -> None:
        """Forget what was tried at any other: nodes may come and go under ever new names."""
        for labels in [labels for labels in self._attempts if labels[0] not in backends]:
            del self._attempts[labels]

    def cancelled(self, phase: str) -> None:
        """The client left; `phase` is what its request was doing."""
        self._cancelled[phase,] += 1

    def reloaded(self, success: bool) -> None:
        self._reloads["success" if success else "failure",] += 1

    def read_at_scrape(self, name: str, read: Callable[[], Samples]) -> None:
        """`name` is one of SCRAPED's; `read` is called in the event loop, at each scrape. Families
        that nobody reads are not shown."""
        self._at_scrape.read(f"rolemesh_{name}", read)

    async def render(self) -> bytes:
        """The whole text (CONTENT_TYPE). Thousands of lines are put together in a thread."""
        self._told.gather()
        self._at_scrape.gather()
        return await asyncio.to_thread(prometheus_client.generate_latest, self.registry)

    def _read_in_flight(self) -> Samples:
        return [((alias,), count) for alias, count in self._in_flight.items()]

    def _about_the_process(self) -> None:
        prometheus_client.ProcessCollector(registry=self.registry)
        prometheus_client.PlatformCollector(registry=self.registry)
        prometheus_client.GCCollector(registry=self.registry)
        name = "rolemesh_build_info"
        build = Gauge(name, "1, with the version.", ["version"], registry=self.registry)
        build.labels(__version__).set(1)


_NONE_YET = Counts()


@frozen(eq=False)
class _Told(Collector):
    """The tallies, and copies of them made in `gather` for `collect`, which runs in another thread:
    there are tens of thousands of lines, and the event loop waits for none of them."""

    counts: dict[tuple[str, str, str], Counts] = field(factory=dict)
    histograms: dict[tuple[str, str], Histograms] = field(factory=dict)
    counts_now: dict[tuple[str, str, str], Counts] = field(factory=dict)
    histograms_now: dict[tuple[str, str], dict[str, Histogram]] = field(factory=dict)

    def count(self, name: str, text: str, labels: str) -> Counts:
        made = self.counts[f"rolemesh_{name}", text, labels] = Counts()
        return made

    def measure(self, name: str, text: str, bounds: Sequence[float]) -> Histograms:
        made = self.histograms[f"rolemesh_{name}_seconds", text] = Histograms(bounds)
        return made

    def gather(self) -> None:
        for key, counts in self.counts.items():
            self.counts_now[key] = counts.copy()
        for name, histograms in self.histograms.items():
            self.histograms_now[name] = {
                alias: histogram.copy() for alias, histogram in histograms.items()
            }

    def collect(self) -> Iterator[Metric]:
        for key in self.counts:
            name, text, labels = key
            family = CounterMetricFamily(name, text, labels=labels.split())
            for values, count in self.counts_now.get(key, _NONE_YET).items():
                family.add_metric(values, count)
            yield family
        for name, text in self.histograms:
            measured = HistogramMetricFamily(name, text, labels=["alias"])
            for alias, histogram in self.histograms_now.get((name, text), {}).items():
                measured.add_metric([alias], list(histogram.buckets()), histogram.sum)
            yield measured


@frozen(eq=False)
class _AtScrape(Collector):
    """What the callbacks said in `gather`, kept for `collect`, which runs in another thread."""

    families: Mapping[str, Scraped]
    readers: dict[str, Callable[[], Samples]] = field(factory=dict)
    read_now: dict[str, list[tuple[Sequence[str], float]]] = field(factory=dict)

    def read(self, name: str, read: Callable[[], Samples]) -> None:
        if name not in self.families:
            raise KeyError(name)
        self.readers[name] = read

    def gather(self) -> None:
        for name, read in self.readers.items():
            self.read_now[name] = list(read())

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        for name, samples in list(self.read_now.items()):
            family = self.families[name]
            make = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            metric = make(name, family.help, labels=family.labels)
            for labels, value in samples:
                metric.add_metric(labels, value)
            yield metric
