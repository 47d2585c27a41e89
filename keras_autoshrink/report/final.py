"""The final of a search, in words and as the rows of a table: what it found beside references."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_autoshrink.cell import Cell
from keras_autoshrink.report import saved_search
from keras_autoshrink.report.quantities import Record, is_objective, known_costs
from keras_autoshrink.search.points import EPOCHS, REPEAT, Point
from keras_autoshrink.search.shrink import ShrinkSearch

BY_SCORE = "the validation score"


def by_images(count: int) -> str:
    """Says by what a search has chosen, where that is a number of images."""
    return f"{count:,} validation images"


def judged_by(folder: Path) -> tuple[str, float | None]:
    """Says by what the search in a folder has chosen, and what accuracy is chance there.

    Raises:
        ValueError: a file of the folder is damaged.
    """
    chance = chance_of(saved_search.read_tuner_settings(folder))
    match saved_search.read_settings(folder).get("proxy"):
        case [_, int(count)]:
            return by_images(count), chance
    return BY_SCORE, chance


def chance_of(settings: Mapping[str, Any]) -> float | None:
    """Returns the accuracy of guessing, as the settings of a tuner say it; None if they do not."""
    match settings:
        case {"hypermodel": {"config": {"classes": int(classes)}}}:
            return 1 / classes
    return None


def _is_near(accuracy: float, chance: float) -> bool:
    """Whether an accuracy is below twice chance, or of few classes not a tenth of the way to 1."""
    return accuracy < min(2 * chance, chance + 0.1 * (1 - chance))


def verdict(
    search: ShrinkSearch, objective: str, by: str = BY_SCORE, chance: float | None = None
) -> str:
    """Says whether the best network that a search has found beats the best reference.

    Args:
        search: that has had a final.
        objective: what to call the metric behind the score.
        by: what the score is measured by.
        chance: the accuracy of guessing, None if it is not known. Of a reference that is hardly
            better nothing is said to be beaten.

    Returns:
        A sentence, with the difference of the mean scores, and its standard error where both
        networks have been trained several times, as it takes to beat a reference. (Where all were
        scored on the same images, it says nothing of what others would have shown.)
    """
    if search.space.folds > 1:
        by += ", with other images in each training"
    records = search.final()
    found = next((each for each in records if each["reference"] is None), None)
    reference = next((each for each in records if each["reference"] is not None), None)
    if reference is None:
        mean = f"{records[0]['mean']:.4f}"
        return f"The best network found has a mean score of {mean}, judged by {by}."
    name = reference["reference"]
    if found is None:
        return f"The reference {name} is the result: no network found has a score in the final."
    difference = found["mean"] - reference["mean"]
    unit, form, what = 1, ".4f", "of the score"
    is_accuracy = False
    pairs = ((each.score, each.objective) for each in search.outcomes.values())
    if objective.endswith("accuracy") and is_objective(pairs):
        is_accuracy = True
        unit, form, what = 100, ".2f", f"points of {objective}"
    said = f"{abs(difference) * unit:{form}} {what}"
    by_chance = math.inf
    if min(len(found["scores"]), len(reference["scores"])) > 1:
        alike = [each for each in records if each["repeats"] == found["repeats"]]
        is_paired = search.space.folds > 1 and reference in alike
        error, degrees = (
            _paired_error(alike) if is_paired else _pooled_error(found, reference, records)
        )
        by_chance = error * _STUDENTS_T[min(degrees, len(_STUDENTS_T)) - 1]
        said += f" (standard error {error * unit:{form}})"
    elif len(found["scores"]) == len(reference["scores"]) == 1:
        said += " (one training each)"
    if is_accuracy and chance is not None and _is_near(reference["mean"], chance):
        return (
            f"Too little training to tell: the best reference ({name}) has an {objective} of "
            f"{reference['mean']:.4f}, where chance is {chance:.4f}; the network found is {said} "
            f"{'above' if difference >= 0 else 'below'} it, judged by {by}. Give more epochs or "
            "images."
        )
    if records[0] is found and difference <= by_chance:
        return (
            f"The network found is {said} above the best reference ({name}), judged by {by}: not "
            "enough to say that it beats it."
        )
    if records[0] is found:
        return f"The network found beats the best reference ({name}) by {said}, judged by {by}."
    return (
        f"The reference {name} is the result: the best network found is {said} below it, judged by "
        f"{by}."
    )


# What Student's t exceeds by chance once in forty times, by its degrees of freedom, from 1.
# Of three equal networks that were trained twice, two differ by two standard errors once in seven.
_STUDENTS_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


def _pooled_error(one: Record, other: Record, records: Sequence[Record]) -> tuple[float, int]:
    """Returns the standard error of the difference of two mean scores, and its degrees of freedom.

    From the scores of all records: two networks alone that were trained twice would tell too little
    of it.
    """
    several = [record["scores"] for record in records if len(record["scores"]) > 1]
    degrees = sum(len(scores) - 1 for scores in several)
    squares = sum((len(scores) - 1) * statistics.variance(scores) for scores in several)
    shares = sum(1 / len(record["scores"]) for record in (one, other))
    return math.sqrt(squares / degrees * shares), degrees


def _paired_error(records: Sequence[Record]) -> tuple[float, int]:
    """Returns what `_pooled_error` does, of networks that were scored on the same images each.

    From what is left of the scores of all records without the networks' means and the images'.
    """
    scores = np.array([record["scores"] for record in records])
    left = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0) + scores.mean()
    networks, trainings = scores.shape
    degrees = (networks - 1) * (trainings - 1)
    return math.sqrt((left**2).sum() / degrees * 2 / trainings), degrees


def mean_score(record: Record) -> str:
    """Writes the mean score of a network of a final, with its standard error where there is one."""
    scores = record["scores"]
    if len(scores) < 2:
        return f"{record['mean']:.4f}"
    return f"{record['mean']:.4f} ± {statistics.stdev(scores) / math.sqrt(len(scores)):.4f}"


def caption(search: ShrinkSearch) -> str:
    """Returns what stands with the table of a final."""
    epochs = search.space.rungs[1]
    several = any(len(record["scores"]) > 1 for record in search.final())
    return (
        f"The final: the best networks found, and the best references, trained for {epochs} epochs"
        + (", ± the standard error of the trainings" if several else "")
    )


def headings(search: ShrinkSearch) -> list[str]:
    """Returns the headings of the table of a final; the first is of texts, others of numbers."""
    costs = (each.heading for each in known_costs(search.final()))
    return ["network", "trainings", "mean score", "scores", *costs]


def rows(search: ShrinkSearch) -> list[list[str]]:
    """Returns the rows of the table of a final, the best first."""
    records = search.final()
    costs = known_costs(records)
    return [
        [
            record["reference"] or f"found: {_described(record, search.space.start)}",
            str(len(record["scores"])),
            mean_score(record),
            ", ".join(f"{score:.4f}" for score in record["scores"]),
            *(cost.text(record) for cost in costs),
        ]
        for record in records
    ]


def _described(record: Record, start: Cell) -> str:
    """Describes a network by its edges and ops, and by the values that are not the start's."""
    cell = Cell.from_json(record["cell"])
    ops = [f"node {node} {cell.ops[node]}" for node in cell.reachable[1:]]
    edges = ", ".join(f"{i}-{j}" for i, j in cell.live_edges)
    values = dict(start.values) if isinstance(start, Point) else {}
    others = [
        f"{name} {value}"
        for name, value in record["cell"]["values"].items()
        if name not in (EPOCHS, REPEAT) and values.get(name) != value
    ]
    return ", ".join([edges, *ops, *others])
