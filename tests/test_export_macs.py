"""Multiply-accumulates of real files, against sums done by hand."""

import flatbuffers
import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from exported import MACS, MODES
from keras import layers

from keras_autoshrink import count_macs as keras_macs
from tflite_export import convert, count_macs, describe
from tflite_export.file.flatbuffer import load
from tflite_export.runtime import native_output_silenced


def convolutions():
    """All on the same images but one, each with an output of its own."""
    inputs, volumes = keras.Input((8, 8, 6)), keras.Input((5, 4, 3, 2))
    outputs = [
        layer(inputs)
        for layer in (
            layers.Conv2D(4, 3),
            layers.Conv2D(4, (3, 1), strides=2, padding="same"),
            layers.Conv2D(8, 3, groups=2),
            layers.Conv2D(12, 3, groups=6),
            layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"),
            layers.SeparableConv2D(5, 3, padding="same"),
            layers.Conv2DTranspose(4, 3, strides=2, padding="same"),
        )
    ]
    return keras.Model([inputs, volumes], [*outputs, layers.Conv3D(4, 2)(volumes)])


CONVOLUTIONS = (
    6 * 6 * 9 * 6 * 4
    + 4 * 4 * 3 * 6 * 4
    + 6 * 6 * 9 * (6 // 2) * 8
    + 6 * 6 * 9 * (6 // 6) * 12
    + 8 * 8 * 9 * 6 * 2
    + 8 * 8 * (9 * 6 + 6 * 5)
    + 8 * 8 * 9 * 6 * 4
    + 4 * 3 * 2 * 2**3 * 2 * 4
)


def products():
    """Dense layers on pixels and on vectors, and attention."""
    inputs = keras.Input((6, 4))
    attended = layers.Attention()([inputs, inputs])
    return keras.Model(
        inputs, [layers.Dense(7)(inputs), layers.Dense(5)(layers.Flatten()(attended))]
    )


def uncounted():
    inputs = keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Activation("swish")(inputs) * inputs)
    x = layers.Concatenate()([layers.MaxPooling2D()(x), layers.AveragePooling2D(2)(x)])
    return keras.Model(inputs, layers.Softmax()(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize(
    ("build", "macs"),
    [
        pytest.param(convolutions, CONVOLUTIONS, id="convolutions"),
        pytest.param(products, 6 * 4 * 7 + 6 * 6 * 4 + 6 * 4 * 6 + 6 * 4 * 5, id="products"),
        pytest.param(uncounted, 0, id="nothing to count"),
    ],
)
def test_equals_the_sum_by_hand(build, macs, tmp_path):
    assert count_macs(convert(build(), tmp_path / "model.tflite")) == macs


def test_equal_in_all_modes(exported):
    assert {count_macs(exported.path(mode)) for mode in MODES} == {MACS}


def rewrite(model, path):
    """Writes a ``ModelT``."""
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    return path


@pytest.fixture(scope="module")
def converted_conv(tmp_path_factory):
    path = tmp_path_factory.mktemp("conv") / "model.tflite"
    return convert(keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3)]), path)


@pytest.fixture
def conv_file(converted_conv, tmp_path):
    """A file that may be changed."""
    path = tmp_path / "model.tflite"
    path.write_bytes(converted_conv.read_bytes())
    return path


@pytest.mark.parametrize(
    ("operator", "custom_code", "name"),
    [("SVDF", None, "SVDF"), ("IF", None, "IF"), ("CUSTOM", b"MyConv", "CUSTOM 'MyConv'")],
)
def test_operator_that_cannot_be_counted_is_named(conv_file, operator, custom_code, name):
    model = load(conv_file)
    code = model.operatorCodes[model.subgraphs[0].operators[0].opcodeIndex]
    code.builtinCode = getattr(schema.BuiltinOperator, operator)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    code.customCode = custom_code
    rewrite(model, conv_file)
    with pytest.raises(ValueError, match=f"model.tflite: .* operator {name}"):
        count_macs(conv_file)


def signature(subgraph, key):
    added = schema.SignatureDefT()
    added.subgraphIndex, added.signatureKey = subgraph, key
    return added


def test_second_signature_is_named(conv_file):
    model = load(conv_file)
    model.subgraphs.append(load(conv_file).subgraphs[0])
    model.subgraphs[1].name = b"helper"
    rewrite(model, conv_file)
    with pytest.raises(ValueError, match=r"model.tflite: has several signatures: .*, 'helper'; "):
        count_macs(conv_file)
    model.signatureDefs = [*(model.signatureDefs or []), signature(1, b"decode")]
    rewrite(model, conv_file)
    with pytest.raises(ValueError, match=r"model.tflite: has several signatures: .*, 'decode'; "):
        count_macs(conv_file)


def test_second_name_of_the_only_graph_counts_once(conv_file):
    model = load(conv_file)
    model.signatureDefs = [*(model.signatureDefs or []), signature(0, b"again")]
    assert count_macs(rewrite(model, conv_file)) == 6 * 6 * 9 * 3 * 4


def written_with_an_open_batch(model, path):
    """What TensorFlow's converter writes by default."""
    with native_output_silenced():
        path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    assert describe(path).inputs[0].shape[0] == -1
    return path


def test_an_open_batch_counts_as_one(tmp_path):
    # A dense layer of sequences folds the steps into the batch, which the file stores as 1.
    stack = [keras.Input((6, 8)), layers.Dense(7), layers.Flatten(), layers.Dense(3)]
    path = written_with_an_open_batch(keras.Sequential(stack), tmp_path / "m.tflite")
    assert count_macs(path) == 6 * 8 * 7 + 6 * 7 * 3


def test_an_unrolled_file_has_its_models_count(tmp_path):
    """Of a state that begins with what the run before has left."""
    network = keras.Sequential(
        [keras.Input((3, 5), batch_size=1), layers.GRU(4, unroll=True, stateful=True)]
    )
    macs = 3 * 5 * 12 + 3 * 4 * 12
    assert count_macs(convert(network, tmp_path / "m.tflite")) == keras_macs(network) == macs


def test_shapes_that_say_nothing_are_refused(conv_file):
    model = load(conv_file)
    graph = model.subgraphs[0]
    for tensor in graph.tensors:
        if tensor.shape[0] == 1:
            tensor.shapeSignature = np.array([-1, -1, *tensor.shape[2:]], np.int32)
    with pytest.raises(ValueError, match="dynamic shape"):
        count_macs(rewrite(model, conv_file))
    for tensor in graph.tensors:
        tensor.shapeSignature = None
    graph.tensors[graph.operators[0].inputs[1]].shape = np.array([4])
    with pytest.raises(ValueError, match=r"operator CONV_2D has shapes \[\(1, 8, 8, 3\), \(4,\)"):
        count_macs(rewrite(model, conv_file))


def loop_model(units, *conditions):
    """x * 0.5 @ weights, again and again while ``condition(step, x)`` holds: one loop for each."""

    class Loop(layers.Layer):
        def __init__(self, condition):
            super().__init__()
            self.condition = condition

        def build(self, shape):
            self.weights_ = self.add_weight(shape=(shape[-1], shape[-1]))

        def call(self, inputs):
            def body(step, x):
                return step + 2, keras.ops.matmul(x, self.weights_) * 0.5

            return keras.ops.while_loop(self.condition, body, (np.int32(1), inputs))[1]

    inputs = [keras.Input((each,)) for each in units]
    pairs = zip(inputs, conditions, strict=True)
    return keras.Model(inputs, [Loop(condition)(x) for x, condition in pairs])


def test_counted_loops(tmp_path):
    conditions = (
        lambda step, x: step < 10,  # 1, 3, 5, 7, 9
        lambda step, x: keras.ops.greater(np.int32(6), step),
        lambda step, x: step < 1,
    )
    path = convert(loop_model((4, 5, 6), *conditions), tmp_path / "loop.tflite")
    assert count_macs(path) == 5 * 4 * 4 + 3 * 5 * 5 + 0


def test_loop_of_unknown_length_is_named(tmp_path):
    def condition(step, x):
        return keras.ops.logical_and(step < 10, keras.ops.max(x) > 0.1)

    path = convert(loop_model((4,), condition), tmp_path / "loop.tflite")
    with pytest.raises(ValueError, match=r"loop.tflite: cannot tell how often WHILE runs"):
        count_macs(path)


def sequence_file(path, operator, shapes):
    """A file of one fused recurrent operator; a shape of None is an absent input."""
    tensors, indices = [], []
    for shape in [*shapes, (2, 9, 5)]:
        indices.append(len(tensors) if shape is not None else -1)
        if shape is not None:
            tensor = schema.TensorT()
            tensor.shape, tensor.name = np.array(shape, np.int32), b"t"
            tensors.append(tensor)
    node, graph, code = schema.OperatorT(), schema.SubGraphT(), schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, operator)
    node.opcodeIndex, node.inputs, node.outputs = 0, indices[:-1], indices[-1:]
    graph.tensors, graph.operators = tensors, [node]
    graph.inputs, graph.outputs = indices[:1], indices[-1:]
    model = schema.ModelT()
    model.version, model.subgraphs = 3, [graph]
    model.operatorCodes, model.buffers = [code], [schema.BufferT()]
    return rewrite(model, path)


SEQUENCE, INPUT, STATE, UNITS = (2, 9, 6), (5, 6), (5, 5), (5,)


@pytest.mark.parametrize(
    ("operator", "shapes", "macs"),
    [
        (
            "UNIDIRECTIONAL_SEQUENCE_LSTM",  # coupled gates
            [SEQUENCE, None, *[INPUT] * 3, None, *[STATE] * 3, None, UNITS, UNITS],
            9 * 3 * 5 * (6 + 5),
        ),
        (
            "UNIDIRECTIONAL_SEQUENCE_LSTM",  # and a projection
            [SEQUENCE, *[INPUT] * 4, *[STATE] * 4, *[None] * 3, *[UNITS] * 4, (7, 5)],
            9 * (4 * 5 * (6 + 5) + 7 * 5),
        ),
        (
            "UNIDIRECTIONAL_SEQUENCE_RNN",
            [SEQUENCE, INPUT, STATE, UNITS, (2, 5)],
            9 * 5 * (6 + 5),
        ),
    ],
)
def test_fused_sequences(tmp_path, operator, shapes, macs):
    assert count_macs(sequence_file(tmp_path / "m.tflite", operator, shapes)) == macs
