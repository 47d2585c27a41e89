"""Where the time of a search goes: what goes on in it when, noted by any of its threads."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

KINDS = ("training", "tracing", "building", "saving")


class Clock:
    """Notes what went on when, by any thread."""

    def __init__(self) -> None:
        self._spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._epochs: dict[Any, list[tuple[float, float]]] = defaultdict(list)

    @contextlib.contextmanager
    def span(self, kind: str) -> Iterator[None]:
        """Something of a kind goes on."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._spans[kind].append((started, time.monotonic()))

    def epoch(self, candidate: Any, started: float) -> None:
        """An epoch of a candidate has ended."""
        self._epochs[candidate].append((started, time.monotonic()))

    def callback(self) -> Any:
        """Notes the epochs of a model of Keras."""
        import keras

        started = []
        name = object()
        return keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: started.append(time.monotonic()),
            on_epoch_end=lambda epoch, logs: self.epoch(name, started[-1]),
        )

    def seconds(self) -> dict[str, float]:
        """Of each kind, without what had been counted as another before: training first."""
        spans: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
        for epochs in self._epochs.values():
            usual = statistics.median(end - start for start, end in epochs[1:] or epochs)
            start, end = epochs[0]
            begun = max(start, end - usual)
            spans["tracing"].append((start, begun))
            spans["training"] += [(begun, end), *epochs[1:]]
        for kind, more in self._spans.items():
            spans[kind] += more
        taken: list[tuple[float, float]] = []
        result = {}
        for kind in KINDS:
            before = _length(taken)
            taken += spans[kind]
            result[kind] = _length(taken) - before
        return result


def _length(spans: list[tuple[float, float]]) -> float:
    """Of the union."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


@contextlib.contextmanager
def watched(clock: Clock, hypermodel: Any, plain: bool) -> Iterator[None]:
    """Within, the clock notes what building and saving take, and the epochs of our programs."""
    import keras

    from keras_autoshrink import files, masked_network

    if keras.backend.backend() == "jax":
        from keras_autoshrink.masked_jax import JaxProgram as program  # noqa: N813
    else:
        from keras_autoshrink.masked_tensorflow import TensorFlowProgram as program  # noqa: N813
    epoch = program.epoch
    local = threading.local()

    def timed_epoch(self: Any, training: Any, orders: Any) -> Any:
        started = time.monotonic()
        result = epoch(self, training, orders)
        clock.epoch(local.candidate, started)
        return result

    begin = program.begin

    def noted_begin(self: Any, *args: Any) -> Any:
        local.candidate = object()
        with clock.span("building"):
            return begin(self, *args)

    def timed(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with clock.span(kind):
                return function(*args, **kwargs)

        return call

    places = [
        (program, "__init__", timed("tracing", program.__init__)),
        (program, "epoch", timed_epoch),
        (program, "begin", noted_begin),
        (files, "write_bytes", timed("saving", files.write_bytes)),
        (keras.Model, "save_weights", timed("saving", keras.Model.save_weights)),
    ]
    network = masked_network.MaskedNetwork
    places.append((network, "initial_weights", timed("building", network.initial_weights)))
    if plain:
        places.append((hypermodel, "build", timed("building", hypermodel.build)))
    before = [(place, name, getattr(place, name)) for place, name, _ in places]
    try:
        for place, name, function in places:
            setattr(place, name, function)
        yield
    finally:
        for place, name, function in before:
            setattr(place, name, function)
