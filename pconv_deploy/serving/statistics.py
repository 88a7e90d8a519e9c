"""What a server counts: for Prometheus, and for clients of KServe's protocol."""

import time
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from importlib.metadata import version
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from pconv_deploy.serving.models import Model
from pconv_deploy.serving.pipeline import Done

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
# Triton's names of the stages.
_TRITON = {"compute_input": ("decode", "pre"), "compute_infer": ("infer",)}
_TRITON |= {"compute_output": ("post", "encode"), "queue": ("queue",)}


class Statistics:
    """The counts of one application, in a registry of its own: a program may hold several."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "pconv_requests",
            "Answered requests",
            ("model", "endpoint", "status"),
            registry=registry,
        )
        self._in_flight = Gauge("pconv_in_flight", "Requests being answered", registry=registry)
        self._stages = Histogram(
            "pconv_stage_seconds",
            "What each stage of a filled request took",
            ("model", "stage"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "pconv_batch_size",
            "Images in one run of the engine, once for each request",
            ("model",),
            buckets=_BATCHES,
            registry=registry,
        )
        self._counts: dict[str, _Counts] = defaultdict(_Counts)
        _watch(models, registry)

    def begun(self) -> None:
        """Count a request that came."""
        self._in_flight.inc()

    def ended(self, model: str, endpoint: str, status: int) -> None:
        """Count its answer; `model` and `endpoint` are ours, never what a client made up."""
        self._in_flight.dec()
        self._requests.labels(model, endpoint, str(status)).inc()

    def filled(self, model: str, images: int, done: Done[Any]) -> None:
        """Count a request that was filled."""
        for stage, seconds in done.stages.items():
            self._stages.labels(model, stage).observe(seconds)
        if done.batch_size:
            self._batches.labels(model).observe(done.batch_size)
        self._counts[model].add(images, dict(done.stages.items()), done.batch_size)

    def failed(self, model: str, seconds: float) -> None:
        """Count a request that could not be filled."""
        self._counts[model].fail(seconds)

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)

    def of_model(self, model: str) -> dict[str, Any]:
        """One element of `model_stats`, as Triton's clients read it."""
        return {"name": model, "version": "1"} | self._counts[model].told()


class _Counts:
    """Requests of one model, and nanoseconds, as Triton counts them; used on the event loop."""

    def __init__(self) -> None:
        self._inferences = self._successes = self._failures = 0
        self._failed = 0.0
        self._last = 0  # milliseconds since 1970
        self._seconds: dict[str, float] = defaultdict(float)
        self._batches: dict[int, tuple[int, float]] = {}  # runs and seconds of them

    def add(self, images: int, stages: dict[str, float], batch_size: int) -> None:
        self._successes += 1
        self._inferences += images
        self._last = time.time_ns() // 1_000_000
        for stage, seconds in stages.items():
            self._seconds[stage] += seconds
        if batch_size:
            count, seconds = self._batches.get(batch_size, (0, 0.0))
            self._batches[batch_size] = count + 1, seconds + stages["infer"]

    def fail(self, seconds: float) -> None:
        self._failures += 1
        self._failed += seconds

    def told(self) -> dict[str, Any]:
        none = _duration(0, 0)
        durations = {
            name: _duration(self._successes, sum(self._seconds[stage] for stage in stages))
            for name, stages in _TRITON.items()
        }
        return {
            "last_inference": self._last,
            "inference_count": self._inferences,
            "execution_count": self._successes,
            "inference_stats": {
                "success": _duration(self._successes, sum(self._seconds.values())),
                "fail": _duration(self._failures, self._failed),
                **durations,
                **dict.fromkeys(("cache_hit", "cache_miss"), none),
            },
            "batch_stats": [
                {
                    "batch_size": size,
                    "compute_input": none,
                    "compute_infer": _duration(count, seconds),
                    "compute_output": none,
                }
                for size, (count, seconds) in sorted(self._batches.items())
            ],
        }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": int(seconds * 1e9)}


def _watch(models: Iterable[Model], registry: CollectorRegistry) -> None:
    """Let Prometheus see the queues and facts of engines."""
    queue = Gauge(
        "pconv_queue_length", "Images that wait for the engine", ("model",), registry=registry
    )
    accepted = Gauge("pconv_accepted", "Images of accepted requests", ("model",), registry=registry)
    facts = ("backend", "precision", "device", "network")
    labels = ("model", *facts, "version")
    engine = Gauge("pconv_engine", "Facts of an engine, and our version", labels, registry=registry)
    for model in models:
        queue.labels(model.name).set_function(partial(getattr, model.batcher, "waiting"))
        accepted.labels(model.name).set_function(partial(getattr, model, "accepted"))
        known = model.facts()
        told = (str(known[fact]) for fact in facts)
        engine.labels(model.name, *told, version("pconv-deploy")).set(1)
