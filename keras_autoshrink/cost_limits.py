"""What a network may cost to be trained at all."""

from __future__ import annotations

import dataclasses
import math

from keras_autoshrink.checks import positive, whole


@dataclasses.dataclass(frozen=True)
class CostLimits:
    """The limits of a search; without any, all that is proposed is trained.

    Args:
        max_macs: multiply-accumulates for one image or token, at most; None for any number.
        max_latency_ms: milliseconds that LiteRT takes, at most; None for any number.

    Raises:
        ValueError: a limit is no number greater than 0, or no whole number of MACs.
    """

    max_macs: int | None = None
    max_latency_ms: float | None = None

    def __post_init__(self) -> None:
        if self.max_macs is not None:
            whole("max_macs", self.max_macs, 1)
        if self.max_latency_ms is not None:
            positive("max_latency_ms", self.max_latency_ms)

    def __bool__(self) -> bool:
        return self.max_macs is not None or self.max_latency_ms is not None

    def over(self, macs: int, latency_ms: float | None = None) -> str | None:
        """What of a network is over a limit, as "2,345,678 MACs, at most 2,000,000".

        Args:
            macs: of the network.
            latency_ms: likewise; None if it has not been measured.
        """
        if macs > (self.max_macs or math.inf):
            return f"{macs:,} MACs, at most {self.max_macs:,}"
        if latency_ms is not None and latency_ms > (self.max_latency_ms or math.inf):
            return f"{latency_ms:.4g} ms, at most {self.max_latency_ms:g} ms"
        return None
