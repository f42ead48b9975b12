"""What can be counted while the page serves, for Prometheus; a line in the log and a span for each call."""

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from statistics import median
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

from mmer import checkpoint
from mmer.ui.logs import REQUESTS

if TYPE_CHECKING:
    from mmer.ui.service import Service

# From what a sentence takes to what ten minutes of film take on two cores.
_SECONDS = (0.01, 0.03, 0.1, 0.3, 0.6, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0)
_LATELY = 8  # calls of a kind: what ran before under another load says little
_LOG = logging.getLogger(__name__)


class Call:
    """One call of the page, from its beginning to its end."""

    def __init__(self, monitor: "Monitor", name: str):
        self._monitor, self._name, self._since = monitor, name, time.perf_counter()
        self._fields: dict[str, Any] = {}
        self._span = trace.get_tracer("mmer").start_span(name)  # nobody's, unless the process was told where to

    def judged(self, result: Any) -> None:
        """Note a verdict the call came to: how long each stage took, of how long a clip, by which checkpoint."""
        self._fields = {
            "checkpoint": result.checkpoint,
            "clip_s": None if result.duration_s is None else round(result.duration_s, 1),
            "stages_ms": {stage: round(ms, 1) for stage, ms in result.timing_ms.items()},
        }

    def end(self, code: str) -> None:
        """Count the call and write its line.

        Args:
            code: `ok`, `stopped`, `internal`, or the code of an MmerError.
        """
        seconds = time.perf_counter() - self._since
        if code == "ok":
            self._monitor.lately[self._name].append(seconds)
        self._monitor.calls.labels(self._name, code).inc()
        self._monitor.call_seconds.labels(self._name).observe(seconds)
        fields = {"call": self._name, "code": code, "ms": round(seconds * 1e3, 1), **self._fields}
        told = " ".join(f"{name}={value}" for name, value in fields.items() if name != "stages_ms")
        REQUESTS.info(told, extra={"fields": fields})
        self._end_span(code)

    def _end_span(self, code: str) -> None:
        """End the span; like the line in the log it has no words, names or file names."""
        stages = self._fields.get("stages_ms", {})
        about = {name: value for name, value in self._fields.items() if name != "stages_ms" and value is not None}
        about |= {f"{stage}_ms": ms for stage, ms in stages.items()}
        self._span.set_attributes({"mmer.code": code, **{f"mmer.{name}": value for name, value in about.items()}})
        if code == "internal":
            self._span.set_status(trace.StatusCode.ERROR)
        self._span.end()


class Monitor:
    """One for each service: counters of its own, so that several pages in a process do not mix."""

    def __init__(self, service: "Service"):
        self._service = service
        self.queue_length: Callable[[], tuple[int, int]] = lambda: (0, 0)  # calls that wait, that run
        self.lately: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_LATELY))  # seconds, by kind of call
        self.registry = CollectorRegistry()
        self.stages = Histogram(
            "mmer_stage_seconds", "Time of one stage of a clip.", ["stage"], buckets=_SECONDS, registry=self.registry
        )
        self.call_seconds = Histogram(
            "mmer_call_seconds", "Time of a call of the page.", ["call"], buckets=_SECONDS, registry=self.registry
        )
        self.calls = Counter(
            "mmer_calls", "Calls of the page, by how they ended.", ["call", "code"], registry=self.registry
        )
        self.refusals = Counter(
            "mmer_refusals", "Requests that did not come in, by why.", ["code"], registry=self.registry
        )
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def begin(self, name: str) -> Call:
        return Call(self, name)

    def usual_s(self, name: str) -> float | None:
        """Return how long such calls took lately; None before there was one."""
        took = list(self.lately.get(name, ()))
        return median(took) if took else None

    def timed(self, timing_ms: dict[str, float]) -> None:
        """Count how long the stages of a clip took; those that were not needed took no time and are left out."""
        for stage, ms in timing_ms.items():
            if ms:
                self.stages.labels(stage).observe(ms / 1e3)

    def refused(self, code: str) -> None:
        self.refusals.labels(code).inc()

    def text(self) -> bytes:
        """Return everything as Prometheus reads it."""
        return generate_latest(self.registry)

    def describe(self) -> list:
        """Tell the registry nothing: it would collect, and so load the model, to find the names."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily | InfoMetricFamily]:
        """Yield what is looked up when it is asked for."""
        queue = GaugeMetricFamily("mmer_queue_length", "Calls that wait for their turn or run.", labels=["state"])
        for state, length in zip(("waiting", "running"), self.queue_length(), strict=True):
            queue.add_metric([state], length)
        yield queue
        health = self._service.health()
        served = InfoMetricFamily("mmer_checkpoint", "The checkpoint that answers, and the one that is promoted.")
        names = {"served": health["checkpoint"], "device": health["device"]}
        names["promoted"] = checkpoint.promoted(self._service.paths.checkpoints)
        served.add_metric([], names)
        yield served
        ready = GaugeMetricFamily("mmer_ready", "Whether clips can be answered and labels be stored.")
        ready.add_metric([], all(state == "ok" for state in self._service.readiness().values()))
        yield ready
        labels = GaugeMetricFamily("mmer_labels", "Rows of the database, by kind.", labels=["kind"])
        try:
            counts = self._service.store.counts()
        except Exception:  # the database is away; mmer_ready says so, and the rest is told all the same
            _LOG.warning("the labels could not be counted", exc_info=True)
            return
        for kind in ("clips", "predictions", "annotators", "labels", "media"):
            labels.add_metric([kind], counts[kind])
        yield labels
