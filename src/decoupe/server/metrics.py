"""What a server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

STAGES = ("model", "worker")
"""The parts of a picture's way that are timed: its batch in the model, and all of it in the worker."""


class Metrics:
    """Counters of one server, in a registry of its own.

    Attributes:
        requests: answers, by route and status.
        seconds: from a request's first byte to its answer's last, by route.
        stages: what a picture took in its worker.
        waiting: jobs in the queue.
        held: bytes of requests in memory.
        refused: jobs that found the queue full.
        restarts: workers that died and were started again.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "decoupe_requests", "Answers by route and status.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "decoupe_request_seconds",
            "From a request's first byte to its answer's last.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.stages = Histogram(
            "decoupe_stage_seconds",
            "What a picture took: the model, and all of its way through the worker.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.waiting = Gauge("decoupe_waiting", "Pictures in the queue.", registry=registry)
        self.held = Gauge("decoupe_held_bytes", "Bytes of requests in memory.", registry=registry)
        self.refused = Counter("decoupe_refused", "Pictures that found the queue full.", registry=registry)
        self.restarts = Counter("decoupe_worker_restarts", "Workers that died.", registry=registry)

    def page(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)
