"""Language models: what they compute, in all their forms, and what is dropped in training."""

import inspect
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_autoshrink as kas
import tflite_export
from keras_autoshrink.cell import SHRINKRNN_CELL
from keras_autoshrink.networks.language_model import (
    CarriedState,
    ShrinkRNN,
    TemporalActivationRegularization,
    TiedEmbedding,
    carrying,
    language_model,
    reset_state,
    step_model,
)
from keras_autoshrink.networks.rnn import ShrinkRNNCell
from keras_autoshrink.training.step import accelerate

VOCABULARY, UNITS = 20, 6
CHAIN = kas.Cell(("input", "tanh"), ((0, 1),))
RECURRENT_CELLS = {
    "shrinkrnn": lambda: ShrinkRNNCell(SHRINKRNN_CELL, UNITS),
    "lstm": lambda: keras.layers.LSTMCell(UNITS),
}
every_cell = pytest.mark.parametrize("kind", RECURRENT_CELLS)


def small(kind="shrinkrnn", **regularization):
    """A language model with weights large enough for every token to matter."""
    model = language_model(RECURRENT_CELLS[kind](), VOCABULARY, **regularization)
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(-0.7, 0.7, w.shape) for w in model.weights])
    return model


def text(batch=3, steps=8, seed=1):
    return np.random.default_rng(seed).integers(0, VOCABULARY, (batch, steps)).astype("int32")


def outputs(model, inputs, **kwargs):
    result = model(inputs, **kwargs)
    return [np.array(x) for x in result] if isinstance(result, list) else np.array(result)


def assert_close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def hidden_states(model, tokens):
    """What the model's recurrent layer returns, (batch, steps, units)."""
    return outputs(keras.Model(model.input, model.get_layer("recurrent").output), tokens)


def log_softmax(logits):
    logits = logits.astype("float64")
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def generate(model, tokens):
    """All outputs of a step model over the tokens (batch, steps), and the last states."""
    states = [np.zeros((len(tokens), *x.shape[1:]), "float32") for x in model.inputs[1:]]
    steps = []
    for step in range(tokens.shape[1]):
        log_probabilities, *states = outputs(model, [tokens[:, step : step + 1], *states])
        steps.append(log_probabilities)
    return np.concatenate(steps, axis=1), states


# The models as such


def test_the_published_network_has_the_published_counts():
    model = ShrinkRNN()
    w0, edge, softmax = 2 * 745 * 2 * 745, 745 * 2 * 745, 745 * 10_000
    macs = w0 + 12 * edge + softmax
    assert macs == 22_990_700
    assert kas.count_macs(model, input_shape=(1,)) == macs
    assert kas.count_macs(model, input_shape=(35,)) == 35 * macs
    # The embedding is the softmax's weights; the softmax has a bias.
    assert kas.count_params(model) == macs + 10_000 == 23_000_700
    assert model.output_shape == (None, None, 10_000)


def test_the_arguments_reach_the_cell():
    model = ShrinkRNN(CHAIN, 30, 7, dropout=0.25, recurrent_dropout=0.5, name="a_name")
    cell = model.get_layer("recurrent").cell
    assert (cell.cell, cell.units, cell.dropout, cell.recurrent_dropout) == (CHAIN, 7, 0.25, 0.5)
    assert model.name == "a_name"
    assert model.output_shape == (None, None, 30)


def test_an_output_depends_on_no_later_token():
    model = small()
    tokens = text()
    changed = tokens.copy()
    changed[:, 4] = (changed[:, 4] + 1) % VOCABULARY
    before, after = outputs(model, tokens), outputs(model, changed)
    assert before.shape == (3, 8, VOCABULARY)
    assert_close(before[:, :4], after[:, :4], 1e-6)
    assert (np.abs(before - after)[:, 4:].max(axis=(0, 2)) > 1e-4).all()


def test_the_softmax_shares_the_embedding():
    model = small()
    tokens = text()
    embedding = model.get_layer("embedding")
    embeddings, bias = embedding.get_weights()
    np.testing.assert_array_equal(outputs(embedding, tokens), embeddings[tokens])
    expected = hidden_states(model, tokens) @ embeddings.T + bias
    assert_close(outputs(model, tokens), expected)


@every_cell
def test_all_forms_are_saved_and_compute_the_same(kind, tmp_path):
    model = small(
        kind,
        word_dropout=0.1,
        embedding_dropout=0.2,
        output_dropout=0.3,
        activation_regularization=0.4,
    )
    tokens = text()

    def reloaded(form):
        form.save(tmp_path / "m.keras")
        return kas.load_model(tmp_path / "m.keras")

    loaded = reloaded(model)
    logits = outputs(model, tokens)
    np.testing.assert_array_equal(outputs(loaded, tokens), logits)
    # json turns the shapes of both into lists.
    assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())
    # What was loaded is a language model still.
    assert_close(outputs(carrying(loaded, 3), tokens), logits)
    assert_close(outputs(reloaded(carrying(model, 3, steps=8)), tokens), logits)
    assert_close(generate(reloaded(step_model(model)), tokens)[0], log_softmax(logits))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocabulary_size": 1}, "vocabulary_size=1: expected"),
        ({"word_dropout": 1.0}, "word_dropout=1.0: expected"),
        ({"embedding_dropout": float("nan")}, "embedding_dropout=nan: expected"),
        ({"output_dropout": -1}, "output_dropout=-1: expected"),
        ({"activation_regularization": float("inf")}, "activation_regularization=inf: expected"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ShrinkRNN(**{"cell": CHAIN, "vocabulary_size": 10, "units": 4, **arguments})


# Carrying the state


@every_cell
def test_two_windows_are_one_stream(kind):
    model, tokens = small(kind), text()
    whole = outputs(model, tokens)
    windows = carrying(model, batch_size=3)
    first = outputs(windows, tokens[:, :5])
    assert_close(first, whole[:, :5])
    second = outputs(windows, tokens[:, 5:])
    assert_close(second, whole[:, 5:])
    # Which takes the state: the second window on its own is another text.
    assert np.abs(second - outputs(model, tokens[:, 5:])).max() > 0.01
    reset_state(windows)
    np.testing.assert_array_equal(outputs(windows, tokens[:, :5]), first)


def test_two_carrying_models_of_one_model_have_a_state_each():
    model, tokens = small(), text()
    training, scoring = carrying(model, 3), carrying(model, 3)
    whole = outputs(model, tokens)
    outputs(training, tokens[:, :5])
    outputs(scoring, text(seed=2))
    reset_state(scoring)
    assert_close(outputs(training, tokens[:, 5:]), whole[:, 5:])
    # Nor did they change the model itself, each of whose sequences begins anew.
    assert_close(outputs(model, tokens), whole, 1e-6)


def test_training_goes_on_from_the_state_and_all_forms_share_the_weights():
    model, tokens = small(), text(steps=9)
    windows, step = carrying(model, 3, steps=4), step_model(model)
    before, _ = generate(step, tokens)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    windows.compile(keras.optimizers.SGD(0.0), loss, jit_compile=False)
    accelerate(windows)  # as a search does: Keras's own step takes longer to be traced

    def trained():
        """The losses of two windows, one after the other."""
        reset_state(windows)
        return [
            windows.train_on_batch(tokens[:, start : start + 4], tokens[:, start + 1 : start + 5])
            for start in (0, 4)
        ]

    logits = outputs(model, tokens[:, :8])
    expected = loss(tokens[:, 1:5], logits[:, :4]), loss(tokens[:, 5:9], logits[:, 4:])
    first = trained()
    assert first == pytest.approx([float(each) for each in expected], rel=1e-5)
    windows.optimizer.learning_rate = 1.0
    trained()
    assert (np.array(trained()) < first).all()
    after, _ = generate(step, tokens)
    assert np.abs(after - before).max() > 0.01
    assert_close(after, log_softmax(outputs(model, tokens)))


# One token at a time


@pytest.mark.parametrize(("kind", "count"), [("shrinkrnn", 1), ("lstm", 2)])
def test_step_by_step_it_computes_the_log_probabilities(kind, count):
    model, tokens = small(kind), text()
    step = step_model(model)
    log_probabilities, states = generate(step, tokens)
    assert_close(log_probabilities, log_softmax(outputs(model, tokens)))
    assert_close(states[0], hidden_states(model, tokens)[:, -1])
    names = [f"state_{n}" for n in range(count)]
    assert [x.name for x in step.inputs] == ["tokens", *names]
    assert [x.shape for x in step.inputs] == [(None, 1), *[(None, UNITS)] * count]
    assert [x.dtype for x in step.inputs] == ["int32", *["float32"] * count]
    assert step.name == "language_model_step"


def test_nothing_is_dropped_in_the_step_model():
    tokens = text()
    expected, _ = generate(step_model(small()), tokens)
    cell = ShrinkRNNCell(SHRINKRNN_CELL, UNITS, 0.5, 0.5)
    model = language_model(
        cell, VOCABULARY, word_dropout=0.5, embedding_dropout=0.5, output_dropout=0.5
    )
    model.set_weights(small().get_weights())
    assert_close(generate(step_model(model), tokens)[0], expected, 1e-6)


def test_the_step_models_file_has_its_counts(tmp_path):
    step = step_model(ShrinkRNN(CHAIN, VOCABULARY, UNITS, dropout=0.5, recurrent_dropout=0.5))
    tflite_export.convert(step, tmp_path / "step.tflite")
    assert tflite_export.count_macs(tmp_path / "step.tflite") == kas.count_macs(step)


@every_cell
def test_macs_of_all_forms(kind):
    model = small(kind)
    edges = len(SHRINKRNN_CELL.edges)
    recurrent = {"shrinkrnn": (2 + edges) * UNITS * 2 * UNITS, "lstm": 2 * UNITS * 4 * UNITS}
    token = recurrent[kind] + UNITS * VOCABULARY
    assert kas.count_macs(model, input_shape=(1,)) == token
    assert kas.count_macs(step_model(model)) == token
    assert kas.count_macs(carrying(model, 3, steps=4)) == 4 * token
    assert kas.count_macs(carrying(model, 3), input_shape=(7,)) == 7 * token
    assert kas.count_params(step_model(model)) == kas.count_params(model)
    assert kas.count_params(carrying(model, 3)) == kas.count_params(model)


def test_what_is_no_language_model_is_refused():
    dense = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)], name="dense_net")
    with pytest.raises(ValueError, match="'dense_net': is no language model of this library"):
        carrying(dense, 2)
    with pytest.raises(ValueError, match="'language_model_step': is no language model"):
        step_model(step_model(small()))
    with pytest.raises(ValueError, match="None: is no language model"):
        step_model(None)


# The regularization


def between(model, *names):
    """The outputs of some layers of a model, in training."""
    parts = keras.Model(model.input, [model.get_layer(name).output for name in names])
    return lambda tokens, training=True: outputs(parts, tokens, training=training)


def ratio(dropped, kept):
    """dropped / kept, as a mask."""
    assert (np.abs(kept) > 1e-6).all()
    return dropped / kept


def embedding_of_ones(**options):
    keras.utils.set_random_seed(0)
    layer = TiedEmbedding(40, 3, **options)
    layer.build()
    layer.embeddings.assign(np.ones((40, 3)))
    return layer


def test_word_dropout_drops_a_word_wherever_it_occurs():
    layer = embedding_of_ones(word_dropout=0.25)
    tokens = np.random.default_rng(0).integers(0, 40, (10, 30)).astype("int32")
    masks = [outputs(layer, tokens, training=True) for _ in range(2)]
    for mask in masks:
        of_word = {word: np.unique(mask[tokens == word]) for word in range(40)}
        # All features of all occurrences, in all sequences of the batch.
        assert {values.size for values in of_word.values()} == {1}
        factors = np.array([values[0] for values in of_word.values()])
        assert np.unique(factors) == pytest.approx([0, 1 / 0.75])
        assert 0 < (factors == 0).mean() < 0.5
    assert (masks[0] != masks[1]).any()


def test_word_dropout_is_for_training_and_for_the_input_alone():
    layer = embedding_of_ones(word_dropout=0.9)
    tokens = np.arange(40)[None]
    assert (outputs(layer, tokens) == 1).all()
    assert (outputs(layer, np.ones((1, 2, 3), "float32"), reverse=True, training=True) == 3).all()
    # In a model it is the argument of this name.
    assert (between(small(word_dropout=0.5), "embedding")(text())[0] == 0).any()
    assert not (between(small(), "embedding")(text())[0] == 0).any()


def masks_over_time(name, before):
    """The masks of two calls in training, and that of one without, each (batch, steps, units)."""
    run = between(small(**{name: 0.5}), before, name)
    tokens = text(batch=6)
    masks = []
    for training in (True, True, False):
        kept, dropped = run(tokens, training)
        masks.append(ratio(dropped, kept))
    return masks


@pytest.mark.parametrize(
    ("name", "before"), [("embedding_dropout", "embedding"), ("output_dropout", "recurrent")]
)
def test_dropout_is_locked_over_time(name, before):
    first, second, none = masks_over_time(name, before)
    assert (none == 1).all()
    for mask in (first, second):
        assert set(np.unique(mask.round(4))) == {0, 2}
        assert (mask.round(4) == mask.round(4)[:, :1]).all()
        assert len(np.unique(mask[:, 0].round(4), axis=0)) > 1  # between sequences
    assert np.abs(first - second).max() > 1  # between calls


def test_activation_regularization_is_of_what_output_dropout_has_not_dropped():
    model = small(activation_regularization=2.0, output_dropout=0.5)
    tokens = text()
    hidden = hidden_states(model, tokens)
    change = np.mean((hidden[:, 1:] - hidden[:, :-1]) ** 2)
    assert change > 1e-3
    for form in (model, carrying(model, 3, steps=8)):
        form(tokens, training=True)
        assert [float(loss) for loss in form.losses] == pytest.approx([2 * change], rel=1e-5)
    model(tokens)
    assert sum(map(float, model.losses)) == 0


def test_a_window_of_one_step_has_no_change_to_add():
    layer = TemporalActivationRegularization(1.0)

    def added(x):
        layer(x, training=True)
        return layer.losses[0]

    window = np.ones((2, 1, 3), "float32")
    assert float(added(window)) == 0
    # The last window of a text may be the one, in a graph for windows of any length.
    any_length = tf.function(added, input_signature=[tf.TensorSpec((2, None, 3))])
    assert float(any_length(window)) == 0
    two = np.concatenate([window, 3 * window], axis=1)
    assert float(any_length(two)) == pytest.approx(4)


# The layers


@pytest.mark.parametrize(
    "layer",
    [
        ShrinkRNNCell(
            SHRINKRNN_CELL, 5, 0.25, 0.5, kernel_initializer="orthogonal", seed=7, name="c"
        ),
        TiedEmbedding(9, 4, word_dropout=0.5, name="e"),
        TemporalActivationRegularization(0.25, name="r"),
        CarriedState(3, [4, 5], name="s"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layers_config_makes_the_same_layer(layer):
    config = json.loads(json.dumps(layer.get_config()))
    copy = type(layer).from_config(config)
    assert json.loads(json.dumps(copy.get_config())) == config
    arguments = inspect.signature(type(layer)).parameters.keys() - {"kwargs"}
    assert arguments <= config.keys()
    for name in arguments:
        value = getattr(layer, name)
        if isinstance(value, keras.Initializer):
            assert type(getattr(copy, name)) is type(value) is keras.initializers.Orthogonal
        else:
            assert getattr(copy, name) == value


def test_an_embedding_begins_uniform_and_its_bias_at_0():
    layer = TiedEmbedding(100, 50)
    layer.build()
    embeddings, bias = layer.get_weights()
    assert 0.099 < np.abs(embeddings).max() <= 0.1
    assert embeddings.std() == pytest.approx(0.1 / 3**0.5, rel=0.05)
    np.testing.assert_array_equal(bias, np.zeros(100))
