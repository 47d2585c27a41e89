"""The searches that are compared; each trains until its budget is spent.

Of the `networks` of a session they use `dense`, `space`, `draw`, `neighbours`, `count_macs`,
`declare` and `of_values`.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import random
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import keras_tuner
from quality_networks import Session, SpentError, Table

from keras_autoshrink.search.records import Outcome
from keras_autoshrink.search.shrink import ShrinkSearch


def regrets(
    search: Callable[[Session, int], None], networks: Table, seed: int, budget: int
) -> list[float]:
    """Returns the regrets of one search, by how many networks it has trained: 0 to `budget`."""
    session = Session(networks, seed, budget)
    spend(search, session, seed)
    return session.finish()


def spend(search: Callable[[Session, int], None], session: Session, seed: int) -> None:
    """Searches until the budget is spent, or the search has nothing more to train."""
    with contextlib.suppress(SpentError):
        search(session, seed)


def random_networks(session: Session, seed: int) -> None:
    """Trains distinct networks, as the space draws them."""
    for cell in session.networks.draw(random.Random(f"random/{seed}")):
        session.train(cell)


def shrinking(num_candidates: int, **settings: Any) -> Callable[[Session, int], None]:
    """Makes the library's own search; once it has ended, it begins again with the next seed.

    Until 20 in a row have trained nothing new: one that tries all edges in each round always
    goes the same way.
    """

    def search(session: Session, seed: int) -> None:
        trained = [-1] * 20
        for walk in itertools.count():
            if len(session.seen) == trained[-20]:
                return
            trained.append(len(session.seen))
            state = ShrinkSearch(
                session.networks.dense,
                num_candidates=num_candidates,
                seed=1000 * seed + walk,
                space=session.networks.space,
                **settings,
            )
            while pending := state.pending():
                cell = pending[0].cell
                score, macs = session.train(cell), session.networks.count_macs(cell)
                state.tell(cell, Outcome(score, costs={"macs": macs}))

    return search


def evolution(population: int, sample: int) -> Callable[[Session, int], None]:
    """Makes a search by regularised evolution (Real et al. 2019, arXiv 1802.01548).

    The oldest of the population gives way to a changed copy (one edge added or removed) of the
    best of a sample.
    """

    def search(session: Session, seed: int) -> None:
        generator = random.Random(f"evolution/{seed}")
        drawn = session.networks.draw(generator, population)
        alive = [(session.train(cell), cell) for cell in drawn]
        while True:
            parent = max(generator.sample(alive, sample), key=lambda each: each[0])[1]
            child = generator.choice(session.networks.neighbours(parent))
            alive = [*alive[1:], (session.train(child), child)]

    return search


def local_search(first_better: bool) -> Callable[[Session, int], None]:
    """Makes a hill climb from random networks (White et al. 2020, arXiv 2005.02960).

    Args:
        first_better: whether to go on from the first better neighbour, not the best of all.
    """

    def search(session: Session, seed: int) -> None:
        generator = random.Random(f"local/{seed}")
        for start in session.networks.draw(generator):
            cell, score = start, session.train(start)
            climbing = True
            while climbing:
                climbing = False
                best = score, cell
                neighbours = session.networks.neighbours(cell)
                for other in generator.sample(neighbours, len(neighbours)):
                    found = session.train(other)
                    if found > best[0]:
                        best = found, other
                        climbing = True
                        if first_better:
                            break
                score, cell = best

    return search


def keras_tuner_oracle(
    make: Callable[..., Any], **arguments: Any
) -> Callable[[Session, int], None]:
    """Puts one of KerasTuner's oracles into a tuner that looks scores up.

    What is no network is a failed trial and costs nothing. Of an oracle that trains for fewer
    epochs only those count.
    """

    def search(session: Session, seed: int) -> None:
        oracle = make(
            objective=keras_tuner.Objective("score", "max"),
            seed=seed + 1,  # KerasTuner takes 0 for none
            max_consecutive_failed_trials=10_000,
            **arguments,
        )
        with tempfile.TemporaryDirectory() as folder:
            tuner = _Lookup(oracle, session.networks.declare, directory=folder)
            tuner.session = session
            # KerasTuner prints the traceback of each failed trial, scikit-learn warns.
            quiet = contextlib.redirect_stderr(io.StringIO())
            with quiet, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tuner.search(verbose=0)

    return search


class _SpentError(keras_tuner.errors.FatalError):
    """`SpentError` as KerasTuner lets it through."""


class _Lookup(keras_tuner.Tuner):
    """Takes scores from the table."""

    session: Session

    def search(self, *args: Any, **kwargs: Any) -> None:
        with contextlib.suppress(_SpentError):
            super().search(*args, **kwargs)

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        values = trial.hyperparameters.values
        cell = self.session.networks.of_values(values)
        if cell is None:
            raise keras_tuner.errors.FailedTrialError("no edge leaves node 0")
        try:
            if "tuner/epochs" in values:
                return {"score": self.session.train_until(cell, values["tuner/epochs"])}
            return {"score": self.session.train(cell)}
        except SpentError as error:
            raise _SpentError from error

    def on_trial_end(self, trial: Any) -> None:
        self.oracle.end_trial(trial)  # and no files of the oracle, which nobody reads

    def save(self) -> None:
        pass
