"""Multiply-accumulates of real files, against sums done by hand."""

import flatbuffers
import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from keras import layers

from tflite_export import convert, count_macs
from tflite_export.file.flatbuffer import load

IMAGE = (8, 8, 3)


def sequential(*stack, shape=IMAGE, dtype="float32"):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *stack])


def attention():
    inputs = keras.Input((6, 4))
    return keras.Model(inputs, layers.Attention()([inputs, inputs]))


def two_branches():
    inputs = keras.Input(IMAGE)
    left = layers.Conv2D(4, 1)(inputs)
    right = layers.DepthwiseConv2D(3, padding="same")(inputs)
    joined = layers.MaxPooling2D()(layers.Concatenate()([left, right]))
    joined = layers.Activation("swish")(layers.BatchNormalization()(joined))
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling2D()(joined)))


@pytest.mark.parametrize(
    ("build", "macs"),
    [
        pytest.param(lambda: sequential(layers.Conv2D(4, 3)), 6 * 6 * 9 * 3 * 4, id="conv valid"),
        pytest.param(
            lambda: sequential(layers.Conv2D(4, (3, 1), strides=2, padding="same")),
            4 * 4 * 3 * 3 * 4,
            id="conv same, strides",
        ),
        pytest.param(
            lambda: sequential(layers.Conv2D(8, 3, groups=2), shape=(8, 8, 4)),
            6 * 6 * 9 * (4 // 2) * 8,
            id="conv of two groups",
        ),
        pytest.param(
            lambda: sequential(layers.Conv2D(6, 3, groups=3)),
            6 * 6 * 9 * (3 // 3) * 6,
            id="conv of a group for each channel",
        ),
        pytest.param(
            lambda: sequential(layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")),
            8 * 8 * 9 * 3 * 2,
            id="depthwise",
        ),
        pytest.param(
            lambda: sequential(layers.SeparableConv2D(5, 3, padding="same")),
            8 * 8 * (9 * 3 + 3 * 5),
            id="separable",
        ),
        pytest.param(
            lambda: sequential(layers.Conv2DTranspose(4, 3, strides=2, padding="same")),
            8 * 8 * 9 * 3 * 4,
            id="transposed",
        ),
        pytest.param(
            lambda: sequential(layers.Conv3D(4, 2), shape=(5, 4, 3, 2)),
            4 * 3 * 2 * 2**3 * 2 * 4,
            id="three dimensions",
        ),
        pytest.param(lambda: sequential(layers.Dense(7)), 8 * 8 * 3 * 7, id="dense on pixels"),
        pytest.param(
            lambda: sequential(layers.Flatten(), layers.Dense(7)), 8 * 8 * 3 * 7, id="dense"
        ),
        pytest.param(attention, 6 * 6 * 4 + 6 * 4 * 6, id="matrix products"),
        pytest.param(two_branches, 64 * 3 * 4 + 64 * 9 * 3 + 7 * 5, id="two branches"),
        pytest.param(
            lambda: sequential(
                layers.Embedding(20, 6),
                layers.LSTM(5),
                layers.Dense(20),
                shape=(9,),
                dtype="int32",
            ),
            9 * 4 * 5 * (6 + 5) + 5 * 20,
            id="loop of 9 steps",
        ),
        pytest.param(
            lambda: sequential(layers.ReLU(), layers.AveragePooling2D(2)), 0, id="nothing to count"
        ),
    ],
)
def test_equals_the_sum_by_hand(build, macs, tmp_path):
    assert count_macs(convert(build(), tmp_path / "model.tflite")) == macs


def test_batch_does_not_count(tmp_path):
    model = two_branches()
    single = count_macs(convert(model, tmp_path / "one.tflite"))
    assert count_macs(convert(model, tmp_path / "three.tflite", batch_size=3)) == single


def rewrite(model, path):
    """Writes a ``ModelT``."""
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    return path


@pytest.fixture
def conv_file(tmp_path):
    return convert(sequential(layers.Conv2D(4, 3)), tmp_path / "model.tflite")


@pytest.mark.parametrize(
    ("operator", "custom_code", "name"),
    [
        ("SVDF", None, "SVDF"),
        ("CONV_3D_TRANSPOSE", None, "CONV_3D_TRANSPOSE"),
        ("IF", None, "IF"),
        ("CUSTOM", b"MyConv", "CUSTOM 'MyConv'"),
    ],
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


def test_second_signature_is_named(conv_file):
    model = load(conv_file)
    model.subgraphs.append(load(conv_file).subgraphs[0])
    model.subgraphs[1].name = b"helper"
    rewrite(model, conv_file)
    with pytest.raises(ValueError, match=r"model.tflite: has several signatures: .*, 'helper'; "):
        count_macs(conv_file)
    signature = schema.SignatureDefT()
    signature.subgraphIndex, signature.signatureKey = 1, b"decode"
    model.signatureDefs = [*(model.signatureDefs or []), signature]
    rewrite(model, conv_file)
    with pytest.raises(ValueError, match=r"model.tflite: has several signatures: .*, 'decode'; "):
        count_macs(conv_file)


def test_second_name_of_the_only_graph_counts_once(conv_file):
    model = load(conv_file)
    signature = schema.SignatureDefT()
    signature.subgraphIndex, signature.signatureKey = 0, b"again"
    model.signatureDefs = [*(model.signatureDefs or []), signature]
    assert count_macs(rewrite(model, conv_file)) == 6 * 6 * 9 * 3 * 4


def test_dynamic_shapes_are_refused(conv_file):
    model = load(conv_file)
    for tensor in model.subgraphs[0].tensors:
        if tensor.shape[0] == 1:
            tensor.shapeSignature = np.array([-1, *tensor.shape[1:]], np.int32)
    rewrite(model, conv_file)
    with pytest.raises(ValueError, match="dynamic shape"):
        count_macs(conv_file)


def test_shape_of_wrong_rank_is_refused(conv_file):
    model = load(conv_file)
    model.subgraphs[0].tensors[model.subgraphs[0].operators[0].inputs[1]].shape = np.array([4])
    rewrite(model, conv_file)
    with pytest.raises(ValueError, match=r"operator CONV_2D has shapes \[\(1, 8, 8, 3\), \(4,\)"):
        count_macs(conv_file)


def loop_model(condition):
    """x * 0.5 @ weights, again and again while ``condition(step, x)`` holds."""

    class Loop(layers.Layer):
        def build(self, shape):
            self.weights_ = self.add_weight(shape=(4, 4))

        def call(self, inputs):
            def body(step, x):
                return step + 2, keras.ops.matmul(x, self.weights_) * 0.5

            return keras.ops.while_loop(condition, body, (np.int32(1), inputs))[1]

    inputs = keras.Input((4,))
    return keras.Model(inputs, Loop()(inputs))


@pytest.mark.parametrize(
    ("condition", "trips"),
    [
        (lambda step, x: step < 10, 5),  # 1, 3, 5, 7, 9
        (lambda step, x: step < 9, 4),
        (lambda step, x: keras.ops.greater(np.int32(6), step), 3),
        (lambda step, x: step < 1, 0),
    ],
)
def test_counted_loop(condition, trips, tmp_path):
    path = convert(loop_model(condition), tmp_path / "loop.tflite")
    assert count_macs(path) == trips * 4 * 4


def test_loop_of_unknown_length_is_named(tmp_path):
    model = loop_model(lambda step, x: keras.ops.logical_and(step < 10, keras.ops.max(x) > 0.1))
    path = convert(model, tmp_path / "loop.tflite")
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
    code.builtinCode = code.deprecatedBuiltinCode = operator
    node.opcodeIndex, node.inputs, node.outputs = 0, indices[:-1], indices[-1:]
    graph.tensors, graph.operators = tensors, [node]
    graph.inputs, graph.outputs = indices[:1], indices[-1:]
    model = schema.ModelT()
    model.version, model.subgraphs = 3, [graph]
    model.operatorCodes, model.buffers = [code], [schema.BufferT()]
    return rewrite(model, path)


def test_fused_lstm(tmp_path):
    sequence, input_, state = (2, 9, 6), (5, 6), (5, 5)
    coupled = [sequence, None, *[input_] * 3, None, *[state] * 3, None, (5,), (5,)]
    path = sequence_file(
        tmp_path / "lstm.tflite", schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM, coupled
    )
    assert count_macs(path) == 9 * 3 * 5 * (6 + 5)
    whole = [sequence, *[input_] * 4, *[state] * 4, *[None] * 3, *[(5,)] * 4, (7, 5)]
    path = sequence_file(
        tmp_path / "lstm.tflite", schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM, whole
    )
    assert count_macs(path) == 9 * (4 * 5 * (6 + 5) + 7 * 5)


def test_fused_rnn(tmp_path):
    shapes = [(2, 9, 6), (5, 6), (5, 5), (5,), (2, 5)]
    path = sequence_file(
        tmp_path / "rnn.tflite", schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_RNN, shapes
    )
    assert count_macs(path) == 9 * 5 * (6 + 5)
