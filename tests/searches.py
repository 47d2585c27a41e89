"""What tests of searches share."""

import itertools
import json

import keras

# How many stages small networks have, each of one cell.
ONE_STAGE = {"stage_scales": (1,), "stage_strides": (1,), "stage_repeats": (1,)}
TWO_STAGES = {"stage_scales": (1, 2), "stage_strides": (1, 2), "stage_repeats": (1, 1)}


def timeless(records):
    """A copy of a trajectory without what a clock measured."""
    records = json.loads(json.dumps(records))
    for record in records:
        for each in (record, *record["candidates"]):
            del each["seconds"]
    return records


def unassigned(records):
    """A copy of a trajectory but for which trial trained what: that is who asked first."""
    records = json.loads(json.dumps(records))
    for record in records:
        for candidate in record["candidates"]:
            del candidate["trial_id"]
    return records


def interrupting(training):
    """A callback that interrupts one of a search's trainings, counted from 1."""
    begun = itertools.count(1)

    class Interrupt(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            if next(begun) == training:
                raise KeyboardInterrupt

    return Interrupt()
