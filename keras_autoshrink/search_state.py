"""The state of a search as plain values, and a search from these.

It is the settings and the outcome of each network; the rounds follow from them. What a search
by other means than the paper's has proposed is written too: see `ShrinkSearch`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from keras_autoshrink.cell import Cell
from keras_autoshrink.shrink import ShrinkSearch
from keras_autoshrink.trajectory import EXTRAS, Outcome

SETTINGS = ("num_candidates", "keep_fraction", "seed", "strategy", "max_candidates")

_FORMAT = "keras_autoshrink.search"
_VERSION = 1
# Of a search by the paper, which is written as it was before there were others.
_UNSAID = {"strategy": "paper", "max_candidates": None}


def to_json(search: ShrinkSearch) -> dict[str, Any]:
    """The whole state as plain values, for `json.dump`."""
    said = [name for name in SETTINGS if search.strategy != "paper" or name not in _UNSAID]
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "cell": search.cell.to_json(),
        **{name: getattr(search, name) for name in said},
        **({} if search.strategy == "paper" else {"proposals": search.proposals}),
        "outcomes": {key: _said(outcome) for key, outcome in search.outcomes.items()},
    }


def about(metric: str, objective: Any, max_seconds: float | None) -> dict[str, Any]:
    """What reports say of a search beside its settings; one that goes on asks for none of it.

    Args:
        metric: name of the metric behind the score.
        objective: KerasTuner's, whose name and direction are those of the score.
        max_seconds: that a candidate may take.

    Returns:
        `metric`; its `direction`, "min" or "max", None if nobody has said; and
        `max_seconds_per_trial`.
    """
    direction = objective.direction if metric == objective.name else None
    return {"metric": metric, "direction": direction, "max_seconds_per_trial": max_seconds}


def _said(outcome: Outcome) -> dict[str, Any]:
    """An outcome as it was written before there were costs and limits, and what it has of these."""
    values = dataclasses.asdict(outcome)
    return {name: v for name, v in values.items() if v is not None or name not in EXTRAS}


def from_json(data: Mapping[str, Any]) -> ShrinkSearch:
    """The search that `to_json` wrote.

    Raises:
        ValueError: not a search, one of another version, or one with outcomes that do not
            belong to it.
    """
    if not isinstance(data, Mapping) or data.get("format") != _FORMAT:
        raise ValueError(f"not a search: expected a JSON object with format {_FORMAT!r}")
    if data.get("version") != _VERSION:
        raise ValueError(
            f"search of version {data.get('version')!r}: this library reads version {_VERSION}"
        )
    try:
        said = with_unsaid(data)
        search = ShrinkSearch(
            Cell.from_json(said["cell"]),
            **{name: said[name] for name in SETTINGS},
            proposals=data.get("proposals", ()),  # older ones have none: they are found again
        )
        outcomes = {key: Outcome(**values) for key, values in data["outcomes"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"damaged search: {error!r}") from error
    _, strange = replay(search, outcomes)
    if strange:
        raise ValueError(f"damaged search: outcome of {next(iter(strange))}, never proposed")
    return search


def with_unsaid(data: Mapping[str, Any]) -> dict[str, Any]:
    """What `to_json` wrote, and those `SETTINGS` which go without saying."""
    return {**_UNSAID, **data}


def replay(
    search: ShrinkSearch,
    outcomes: Mapping[str, Outcome],
    examine: Callable[[list[Cell]], Mapping[Cell, Outcome | None]] = lambda cells: {},
) -> tuple[list[Cell], dict[str, Outcome]]:
    """Tells a search that begins the outcomes of its networks, round by round.

    Args:
        search: to be told.
        outcomes: by `Cell.key`.
        examine: finds outcomes again of networks that need not have been trained for one; asked
            where the others' do not suffice.

    Returns:
        The networks with one of the outcomes, as they were told, and the outcomes of such as the
        search did not propose.
    """
    left = dict(outcomes)
    told: list[Cell] = []
    while left:
        pending = [c.cell for c in search.pending()]
        known = [cell for cell in pending if cell.key in left]
        for cell in known:
            search.tell(cell, left.pop(cell.key))
        told += known
        if not known:
            found = {c: o for c, o in examine(pending).items() if o is not None}
            for cell, outcome in found.items():
                search.tell(cell, outcome)
            if not found:
                break
    return told, left
