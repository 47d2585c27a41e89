"""What a search has found, as its tuner tells it."""

from __future__ import annotations

from typing import Any

from keras_autoshrink.cell import Cell


class SearchResults:
    """The results of a tuner with an `AutoShrinkOracle`, its `oracle`."""

    oracle: Any

    def trajectory(self) -> list[dict[str, Any]]:
        """What came of each finished round, as plain values: a `pandas.DataFrame` takes the list.

        Returns:
            A dict for each round, about the cell that the search went on from.

            - `round`: int; round 0 has the complete DAG alone.
            - `removed_edge`: list [i, j], the one edge by which it is less than the cell of the
              round before; None in round 0, and where they differ otherwise.
            - `removed_edges`, `added_edges`: lists of all edges [i, j] by which they differ; only
              with the strategy "bayesian".
            - `edges_left`: int, the number of its edges.
            - `score`: float, what is maximised, at its best epoch; None if it was not trained.
            - `objective`: float, the metric behind the score at that epoch, which the score's
              attribute `objective` names: the validation accuracy, 0 to 1, of `AccuracyScore`,
              the validation perplexity of `PerplexityScore`; the score itself of one without
              the attribute. None if it was not trained.
            - `macs`: int, multiply-accumulates (1 MAC = 2 FLOPs) for one image or token, whatever
              the cost in the score is.
            - `params`: int, all parameters, those of BatchNorm among them.
            - `latency_ms`: float, milliseconds that LiteRT takes; only where it was measured.
            - `measured_cost`: float, what the score's callable `cost` returned; only where it has
              one.
            - `over_limit`: str, what of it was over a limit; only where it was not trained for
              that.
            - `seconds`: float, the sum of the round's candidates'. It is longer than the round
              took where they were trained side by side.
            - `cell`: a dict for JSON and `Cell.from_json`, its nodes numbered as those of the
              complete DAG.
            - `candidates`: list of the round's candidates in the order in which they were
              drawn, of each a dict.

            Where a round adopted none of its candidates, all but `round`, `seconds` and
            `candidates` is that of the round before, and no edge was removed or added.

            The dict of a candidate has the keys above but `round` and `candidates`, and:

            - `status`: str, "adopted", which the search went on from; "rejected", of a score that
              was not the best; "failed", without one; or "over limit", which was not trained.
            - `reused`: bool, whether the search had trained the same network before. Its outcome
              then counts here too, and its `seconds` are 0.
            - `trial_id`: str, its trial of the tuner; None if it was not trained.
            - `error`: str, the line that says what it failed with; None if it did not fail.

        Example:
            >>> import numpy as np
            >>> from keras_autoshrink import AutoShrink, CNNCellHyperModel
            >>> x, y = np.zeros((8, 4, 4, 1)), np.array([0, 1] * 4)  # 4x4 images of 2 classes
            >>> tuner = AutoShrink(CNNCellHyperModel((4, 4, 1), classes=2, num_nodes=2))
            >>> tuner.search(x, y, validation_data=(x, y), epochs=1, verbose=0)
            >>> (record,) = tuner.trajectory()  # of two nodes there is but one cell
            >>> record["round"], record["edges_left"], record["objective"]
            (0, 1, 0.5)
            >>> [candidate["status"] for candidate in record["candidates"]]
            ['adopted']
            >>> Cell.from_json(record["cell"])
            Cell(ops=('input', 'conv1x1'), edges=((0, 1),))
        """
        return self.oracle.search.trajectory()

    def best_cell(self) -> Cell:
        """The best-scoring cell of the trajectory, pruned; ties go to fewer edges.

        Raises:
            RuntimeError: no network has a score; it says why.
        """
        best = self.oracle.search.best()
        if best is None:
            reason = self.oracle.search.error or "run search() first"
            raise RuntimeError(f"no network has a score yet: {reason}")
        return Cell.from_json(best["cell"]).prune()
