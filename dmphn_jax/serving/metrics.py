"""Figures for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)


class Metrics:
    """One server's figures, in a registry of their own."""

    def __init__(self, under_way: Callable[[], int], films: Callable[[], int]) -> None:
        """Takes what counts the pictures under way and the films held, when asked for."""
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "dmphn_requests", "Requests answered.", ("route", "method", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "dmphn_request_seconds",
            "From a request's header to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.pictures = Counter("dmphn_pictures", "Pictures deblurred.", registry=registry)
        self.pixels = Counter("dmphn_pixels", "Pixels of these.", registry=registry)
        self.picture_seconds = Histogram(
            "dmphn_picture_seconds",
            "Decoding, computing and encoding of a picture, without the queue before it.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.frames = Counter("dmphn_film_frames", "Frames of films deblurred.", registry=registry)
        queue = Gauge(
            "dmphn_queue", "Pictures under way, waiting ones included.", registry=registry
        )
        queue.set_function(under_way)
        held = Gauge("dmphn_films", "Films held: waiting, running or done.", registry=registry)
        held.set_function(films)
        self._registry = registry

    def text(self) -> bytes:
        """Returns all figures in Prometheus' text format."""
        return generate_latest(self._registry)
