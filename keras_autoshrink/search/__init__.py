"""Searches over the cells of a space: no Keras, no KerasTuner, no files."""

from __future__ import annotations

from typing import Any

from keras_autoshrink.search.bayesian import Bayesian
from keras_autoshrink.search.evolution import Evolution
from keras_autoshrink.search.paper import Paper
from keras_autoshrink.search.strategies import Strategy

# A strategy is a class with a place here: commands, tuner and reports know it by its name.
STRATEGIES: dict[str, type[Strategy]] = {each.name: each for each in (Bayesian, Evolution, Paper)}


def make_strategy(name: str, **arguments: Any) -> Strategy:
    """Makes a strategy by its name, from the arguments of `Strategy`.

    Raises:
        ValueError: there is none of this name, or an argument is not as described.
    """
    if name not in STRATEGIES:
        raise ValueError(f"strategy={name!r}: expected one of {', '.join(STRATEGIES)}")
    return STRATEGIES[name](**arguments)
