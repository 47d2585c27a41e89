"""Averaged SGD by hand, compiled, saved and swapped; and from which epoch on it averages."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_autoshrink.training.averaged_sgd import AveragedSGD, NonMonotonicTrigger


def step(optimizer, weights, *gradients):
    optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], weights)


def value_of(variable):
    return np.array(keras.ops.convert_to_numpy(variable.value))


def averages(optimizer, weights):
    with optimizer.averaged():
        return [value_of(weight) for weight in weights]


# By hand


def test_the_average_by_hand():
    weight, optimizer = keras.Variable([1.0]), AveragedSGD(0.5)
    optimizer.build([weight])
    step(optimizer, [weight], [1.0])
    assert averages(optimizer, [weight]) == [0.5]  # no average yet: the weight itself
    optimizer.start_averaging()
    assert optimizer.averaging
    assert averages(optimizer, [weight]) == [0.5]  # there is still none
    seen = []
    for gradient in (1.0, -4.0, 2.0):
        step(optimizer, [weight], [gradient])
        seen.append((float(weight[0]), float(averages(optimizer, [weight])[0][0])))
    # The weight of before the start, 0.5, is not among what is averaged.
    assert seen == [(0.0, 0.0), (2.0, 1.0), (1.0, 1.0)]


def test_the_average_is_of_the_whole_step():
    """With weight decay and clipping, of two weights, by hand."""
    a, b = keras.Variable([1.0]), keras.Variable([2.0, -2.0])
    optimizer = AveragedSGD(0.5, weight_decay=0.2, global_clipnorm=5.0)
    optimizer.build([a, b])
    optimizer.start_averaging()
    # A norm of 10, of which half is left: 0, (3, 4). Decay takes 0.5 * 0.2 of each weight.
    step(optimizer, [a, b], [0.0], [6.0, 8.0])
    first = [[0.9], [1.8 - 1.5, -1.8 - 2.0]]
    for value, expected in zip((a, b), first, strict=True):
        np.testing.assert_allclose(value_of(value), expected, rtol=1e-6)
    # A norm of 3, which is left.
    step(optimizer, [a, b], [-3.0], [0.0, 0.0])
    second = [[0.81 + 1.5], [0.27, -3.42]]
    for value, expected in zip((a, b), second, strict=True):
        np.testing.assert_allclose(value_of(value), expected, rtol=1e-6)
    mean = [np.add(one, two) / 2 for one, two in zip(first, second, strict=True)]
    np.testing.assert_allclose(mean[0], [1.605])
    np.testing.assert_allclose(mean[1], [0.285, -3.61])
    for value, expected in zip(averages(optimizer, [a, b]), mean, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_until_it_averages_and_beside_the_average_it_is_sgd():
    weights = [keras.Variable([1.0, -3.0]) for _ in range(2)]
    optimizers = [kind(0.1, 0.9) for kind in (keras.optimizers.SGD, AveragedSGD)]
    rng = np.random.default_rng(0)
    for number in range(8):
        gradient = rng.normal(size=2).astype("float32")
        for weight, optimizer in zip(weights, optimizers, strict=True):
            step(optimizer, [weight], gradient)
        if number == 3:
            optimizers[1].start_averaging()
    np.testing.assert_array_equal(*map(value_of, weights))


# In a training


class _Recorder(keras.callbacks.Callback):
    """The weights after each step; starts the averaging once it has seen some."""

    def __init__(self, start_after):
        super().__init__()
        self.start_after, self.steps, self.swapped = start_after, [], None

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(self.model.get_weights())
        if len(self.steps) == self.start_after:
            self.model.optimizer.start_averaging()

    def on_epoch_end(self, epoch, logs=None):
        with self.model.optimizer.averaged():
            self.swapped = self.model.get_weights()


def build():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((3,), dtype="int32"), keras.layers.Embedding(5, 2), keras.layers.Dense(1)]
    )
    model.compile(AveragedSGD(0.3, weight_decay=0.01), "mse", jit_compile=False)
    return model


def fit(model, *callbacks, epochs=2):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (40, 3)), rng.normal(size=(40, 3, 1))
    model.fit(x, y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, callbacks=[*callbacks])


def test_compiled_the_average_is_the_mean_of_the_recorded_weights():
    """Of an embedding too, whose gradient has a form of its own."""
    model, recorder = build(), _Recorder(start_after=7)
    fit(model, recorder)
    assert not model.run_eagerly
    expected = [np.mean(values, axis=0) for values in zip(*recorder.steps[7:], strict=True)]
    for averaged, mean, last in zip(recorder.swapped, expected, model.get_weights(), strict=True):
        np.testing.assert_allclose(averaged, mean, rtol=1e-5, atol=1e-6)
        assert np.abs(averaged - last).max() > 1e-3
    # What was swapped in at the end of each epoch left no trace.
    for kept, last in zip(recorder.steps[-1], model.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, last)
    # To start again changes nothing.
    before = [value_of(variable) for variable in model.optimizer.variables]
    model.optimizer.start_averaging()
    for kept, variable in zip(before, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(kept, value_of(variable))


def test_the_average_takes_no_harm_from_what_is_done_within():
    model = build()
    fit(model, _Recorder(start_after=1))
    before = model.get_weights()
    optimizer = model.optimizer
    average = averages(optimizer, model.trainable_variables)

    def fail():
        with optimizer.averaged():
            model.set_weights([np.full_like(weight, np.nan) for weight in before])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    for kept, weight in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, weight)
    for one, two in zip(average, averages(optimizer, model.trainable_variables), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_saved_model_goes_on_averaging(tmp_path):
    whole, halves = build(), build()
    fit(whole, _Recorder(start_after=3), epochs=4)
    fit(halves, _Recorder(start_after=3))
    halves.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert type(loaded.optimizer) is AveragedSGD
    assert loaded.optimizer.averaging
    fit(loaded)
    for one, other in zip(whole.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(value_of(one), value_of(other))
    assert not build().optimizer.averaging


def test_not_built():
    optimizer = AveragedSGD(0.1)
    assert not optimizer.averaging
    with optimizer.averaged():
        pass


# The trigger


def triggered_after(losses, window, history=()):
    """The number of epochs after which averaging starts, of those in `losses`, or None."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(AveragedSGD(0.1))
    model.optimizer.build(model.trainable_variables)
    trigger = NonMonotonicTrigger(window, history)
    trigger.set_model(model)
    for epoch, loss in enumerate(losses):
        trigger.on_epoch_end(epoch, {"loss": 1.0, "val_loss": loss})
        if model.optimizer.averaging:
            return epoch + 1
    return None


TRUTH = [
    # losses, window, number of epochs
    ([5, 6, 7], 1, 3),  # 7 is above 5; 6 was above no loss but the last
    ([5, 9, 9, 9, 9, 9], 5, None),  # there are but five before it
    ([5, 4, 4.5, 4.5, 4.5, 4.5, 4.9, 4.1], 5, 8),  # 4 has left the window for the last one
    ([float("nan")] * 9, 5, None),
]


@pytest.mark.parametrize(("losses", "window", "expected"), TRUTH)
def test_when_averaging_starts(losses, window, expected):
    assert triggered_after(losses, window) == expected
    for done in range(expected or len(losses)):  # resumed in between
        later = triggered_after(losses[done:], window, losses[:done])
        assert later == (expected and expected - done)
