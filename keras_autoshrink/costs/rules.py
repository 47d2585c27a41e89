"""The multiply-accumulates of each of Keras's layers and operations, rule by rule.

`RULES` count convolutions and matrix products, `WRAPPERS` say which other layers a layer calls,
and `costs_nothing` knows all that costs nothing. What is in none of them is unknown.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_autoshrink.costs.calls import Call, MisfitError, Rule, Shape, describe


def _positions(shape: Shape, data_format: str | None) -> int:
    """Counts the elements of one channel: batch x spatial sizes."""
    channels_first = (data_format or keras.config.image_data_format()) == "channels_first"
    return shape[0] * math.prod(shape[2:] if channels_first else shape[1:-1])


def _taps(call: Call, *names: str) -> int:
    """Counts the elements of kernels: a layer's own weights, an operation's arguments."""
    if isinstance(call.operation, keras.layers.Layer):
        kernels = [getattr(call.operation, name) for name in names]
    else:
        kernels = [call.arguments[name] for name in names]
    return sum(math.prod(call.known(kernel)) for kernel in kernels)


def _conv(call: Call) -> int:
    # The kernel has shape (*taps, channels per group, filters), or (*taps, channels, multiplier).
    return _positions(call.output_shape, call.operation.data_format) * _taps(call, "kernel")


def _conv_transpose(call: Call) -> int:
    return _positions(call.shape("inputs"), call.operation.data_format) * _taps(call, "kernel")


def _separable_conv(call: Call) -> int:
    taps = _taps(call, "depthwise_kernel", "pointwise_kernel")
    return _positions(call.output_shape, call.operation.data_format) * taps


def _conv_lstm(call: Call) -> int:
    # The recurrent convolution runs on the output positions: it has stride 1, same padding.
    layer = call.operation
    rank = len(layer.kernel_size)
    batch, steps = call.shape("sequences")[:2]
    spatial = call.output_shape[-rank:]
    if layer.data_format == "channels_last":
        spatial = call.output_shape[-rank - 1 : -1]
    weights = steps * _cell_weights(layer.cell)
    if _begins_with_zeros(call):
        # Of the four gates, each a convolution, that which forgets has nothing to forget.
        recurrent, kernel = (
            math.prod(one.shape) for one in (layer.cell.recurrent_kernel, layer.cell.kernel)
        )
        weights -= recurrent + kernel // 4
    return batch * math.prod(spatial) * weights


def _begins_with_zeros(call: Call) -> bool:
    """Returns whether a recurrent layer's first state is known to be zeros.

    A loop multiplies by it all the same. Where the steps are unrolled, compilers leave out the
    products with these zeros, and files have none.
    """
    layer = call.operation
    given = call.arguments.get("initial_state")
    return bool(layer.unroll) and not layer.stateful and given is None


def _rnn_cell(call: Call) -> int:
    """Counts one step of a cell on (batch, features); its states are None where they are zeros."""
    shape = call.known(call.first)
    cell = call.operation
    call.check_features(shape, cell.kernel.shape[0])
    zeros = call.kwargs.get("states", ()) is None
    return shape[0] * (math.prod(cell.kernel.shape) if zeros else _cell_weights(cell))


def _cell_weights(cell: Any) -> int:
    return math.prod(cell.kernel.shape) + math.prod(cell.recurrent_kernel.shape)


def _dense(call: Call) -> int:
    return math.prod(call.shape("inputs")) * int(call.operation.units)


def _reversible_embedding(call: Call) -> int:
    if not call.arguments.get("reverse", False):
        return 0  # A look-up.
    return math.prod(call.shape("inputs")) * int(call.operation.input_dim)


def _einsum_dense(call: Call) -> int:
    layer = call.operation
    return _einsum_macs(call, layer.equation, [call.arguments["inputs"], layer.kernel])


def _einsum(call: Call) -> int:
    return _einsum_macs(call, call.operation.subscripts, call.args)


def _einsum_macs(call: Call, equation: str, tensors: Sequence[Any]) -> int:
    """Counts the multiply-accumulates of an einsum, `...` included.

    That is the product of the sizes of the labels, but for those that one operand alone has and
    that are summed before; 0 if no label that both operands share is summed. With three operands
    or more it would depend on the order in which a backend contracts them.
    """
    name = f"{describe(call.operation)}: einsum {equation!r}"
    left, arrow, output = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) > 2:
        raise ValueError(
            f"{name} of {len(terms)} operands has no single count: "
            "write it as einsums of two operands"
        )
    summed = set(left) - set(output) - set(",.")
    if not arrow:  # Implicit output: the labels that occur once, and the ellipsis.
        summed = {label for label in summed if left.count(label) > 1}
    sizes: dict[str, int] = {}
    for term, tensor in zip(terms, tensors, strict=True):
        shape = call.known(tensor)
        head, dots, tail = term.partition("...")
        extra = len(shape) - len(head) - len(tail)
        if extra < 0 or (extra and not dots):
            raise MisfitError(f"{name} does not take an input of shape {shape}")
        # Broadcasting aligns the axes under an ellipsis at their end.
        labels = [*head, *(f"...{i}" for i in range(extra, 0, -1)), *tail]
        for label, size in zip(labels, shape, strict=True):
            other = sizes.get(label, size)
            if size != other and 1 not in (size, other):
                raise MisfitError(f"{name} has {other} and {size} for {label!r}")
            sizes[label] = max(size, other)
    contracted = {x for x in summed if len(terms) == 2 and x in terms[0] and x in terms[1]}
    kept = [size for label, size in sizes.items() if label in contracted or label not in summed]
    return math.prod(kept) if contracted else 0


def _query_key_value(call: Call) -> tuple[Shape, Shape, Shape]:
    """Returns three shapes, (batch, ..., features); a key that is left out is the value."""
    value = call.arguments["value"]
    key = call.arguments.get("key")
    return call.shape("query"), call.known(value if key is None else key), call.known(value)


def _multi_head_attention(call: Call) -> int:
    layer = call.operation
    query, key, value = _query_key_value(call)
    call.check_features(query, layer.query_dense.kernel.shape[0])
    keys = math.prod(value[axis] for axis in layer.attention_axes)
    gates = layer.value_dim if layer.get_config().get("use_gate") else 0
    per_head = (
        math.prod(query) * (layer.key_dim + gates)
        + math.prod(key) * layer.key_dim
        + math.prod(value) * layer.value_dim
        + math.prod(query[:-1]) * keys * (layer.key_dim + layer.value_dim)
        + math.prod(call.output_shape) * layer.value_dim
    )
    return int(per_head * layer.num_heads)


def _group_query_attention(call: Call) -> int:
    # Keys and values are projected once per group, then every query head attends to a group.
    layer = call.operation
    query, key, value = _query_key_value(call)
    call.check_features(query, layer.feature_dim)
    gates = 1 if layer.get_config().get("use_gate") else 0
    per_query_head = (
        math.prod(query) * (1 + gates)
        + math.prod(query[:-1]) * value[1] * 2
        + math.prod(call.output_shape)
    )
    per_group = math.prod(key) + math.prod(value)
    heads = layer.num_query_heads * per_query_head + layer.num_key_value_heads * per_group
    return int(heads * layer.head_dim)


def _attention(call: Call) -> int:
    layer = call.operation
    query, value, *rest = (call.known(x) for x in call.first)
    keys = (rest[0] if rest else value)[-2]
    # A score is a dot product with the key, or a sum over tanh(query + key), which is scaled
    # element by element: no matrix product, neither here nor in a file.
    additive = isinstance(layer, keras.layers.AdditiveAttention) or layer.score_mode != "dot"
    scores = 0 if additive else math.prod(query) * keys
    return scores + math.prod(query[:-1]) * keys * value[-1]


def _dot_product_attention(call: Call) -> int:
    batch, queries, heads, features = call.shape("query")
    keys, values = call.shape("key")[1], call.shape("value")[-1]
    return batch * heads * queries * keys * (features + values)


def _dot_layer(call: Call) -> int:
    axes = call.operation.axes
    axis = axes if isinstance(axes, int) else axes[0]
    return math.prod(call.output_shape) * call.known(call.first[0])[axis]


def _matrix_product(call: Call) -> int:
    x1, x2 = call.shape("x1"), call.shape("x2")
    if not x1 or not x2:
        return 0  # A number times an array.
    return math.prod(call.output_shape) * x1[-1]


def _vdot(call: Call) -> int:
    return math.prod(call.shape("x1"))


def _tensordot(call: Call) -> int:
    x1, axes = call.shape("x1"), call.operation.axes
    if isinstance(axes, int):
        contracted = x1[len(x1) - axes :]
    else:
        first = [axes[0]] if isinstance(axes[0], int) else axes[0]
        contracted = tuple(x1[axis] for axis in first)
    return math.prod(call.output_shape) * math.prod(contracted) if contracted else 0


_RULE_KINDS: dict[Rule, str] = {
    _conv: "Conv1D Conv2D Conv3D DepthwiseConv1D DepthwiseConv2D ops.nn.Conv ops.nn.DepthwiseConv",
    _conv_transpose: "Conv1DTranspose Conv2DTranspose Conv3DTranspose ops.nn.ConvTranspose",
    _separable_conv: "SeparableConv1D SeparableConv2D ops.nn.SeparableConv",
    _conv_lstm: "ConvLSTM1D ConvLSTM2D ConvLSTM3D",
    _rnn_cell: "SimpleRNNCell LSTMCell GRUCell",
    _dense: "Dense",
    _reversible_embedding: "ReversibleEmbedding",
    _einsum_dense: "EinsumDense",
    _einsum: "ops.numpy.Einsum",
    _multi_head_attention: "MultiHeadAttention",
    _group_query_attention: "GroupedQueryAttention",  # keras.layers exports GroupQueryAttention
    _attention: "Attention AdditiveAttention",
    _dot_product_attention: "ops.nn.DotProductAttention",
    _dot_layer: "Dot",
    _matrix_product: "ops.numpy.Matmul ops.numpy.Dot ops.numpy.Inner",
    _vdot: "ops.numpy.Vdot",
    _tensordot: "ops.numpy.Tensordot",
}
# By `Call.kind`.
RULES = {kind: rule for rule, kinds in _RULE_KINDS.items() for kind in kinds.split()}


def _steps(call: Call) -> Any:
    """Returns a sequence (batch, steps, ...) as a layer or cell sees it: (batch x steps, ...)."""
    batch, steps, *rest = call.known(call.first)
    return keras.KerasTensor((batch * steps, *rest), dtype=call.first.dtype)


def _recurrent(call: Call) -> list[Call]:
    """Returns the calls of a recurrent layer's cell, the first step apart if its state is zeros."""
    if not _begins_with_zeros(call):
        return [Call(call.operation.cell, (_steps(call),))]
    batch, steps, *rest = call.known(call.first)
    first, others = (
        keras.KerasTensor((batch * number, *rest), dtype=call.first.dtype)
        for number in (1, steps - 1)
    )
    calls = [Call(call.operation.cell, (first,), {"states": None})]
    return calls + [Call(call.operation.cell, (others,))] * (steps > 1)


def _bidirectional(call: Call) -> list[Call]:
    # Each direction gets its half of the states; that there are some is all that counts.
    given = {"initial_state": call.arguments.get("initial_state")}
    layers = (call.operation.forward_layer, call.operation.backward_layer)
    return [Call(layer, (call.first,), given) for layer in layers]


def _stacked_cells(call: Call) -> list[Call]:
    calls, inputs = [], call.first
    for cell in call.operation.cells:
        calls.append(Call(cell, (inputs,), call.kwargs))
        size = getattr(cell, "output_size", None) or keras.tree.flatten(cell.state_size)[0]
        inputs = keras.KerasTensor((inputs.shape[0], size), dtype=inputs.dtype)
    return calls


# The calls that a layer makes of the layers in it; they are all its multiply-accumulates.
WRAPPERS: dict[str, Callable[[Call], list[Call]]] = {
    **dict.fromkeys(("RNN", "SimpleRNN", "LSTM", "GRU"), _recurrent),
    "StackedRNNCells": _stacked_cells,
    "TimeDistributed": lambda call: [Call(call.operation.layer, (_steps(call),))],
    "Bidirectional": _bidirectional,
    # At inference the wrapped layer alone runs; the power iterations belong to training.
    "SpectralNormalization": lambda call: [Call(call.operation.layer, (call.first,))],
}


_LAYER_NAMES = """
    InputLayer Identity Masking Embedding
    Activation ELU LeakyReLU PReLU ReLU Softmax
    Add Average Concatenate Maximum Minimum Multiply Subtract
    BatchNormalization GroupNormalization LayerNormalization RMSNormalization UnitNormalization
    Normalization
    AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D
    AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D
    AveragePooling1D AveragePooling2D AveragePooling3D
    GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D
    GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D
    MaxPooling1D MaxPooling2D MaxPooling3D
    Cropping1D Cropping2D Cropping3D Flatten Permute RepeatVector Reshape
    UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D
    ActivityRegularization AlphaDropout Dropout GaussianDropout GaussianNoise
    SpatialDropout1D SpatialDropout2D SpatialDropout3D
    CategoryEncoding Discretization HashedCrossing Hashing IntegerLookup StringLookup
    TextVectorization
    CenterCrop Rescaling Resizing AutoContrast Equalization Solarization MaxNumBoundingBoxes
    ContrastLimitedAdaptiveHistogramEqualization
    AugMix CutMix MixUp RandAugment RandomBrightness RandomColorDegeneration RandomColorJitter
    RandomContrast RandomCrop RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur
    RandomGrayscale RandomHue RandomInvert RandomPerspective RandomPosterization RandomRotation
    RandomSaturation RandomSharpness RandomShear RandomTranslation RandomZoom
"""
# Elementwise layers that keras.applications uses and Keras does not export.
_APPLICATION_LAYER_NAMES = """
    applications.convnext.LayerScale applications.convnext.StochasticDepth
    applications.inception_resnet_v2.CustomScaleLayer
"""
_ZERO_LAYERS = frozenset(_LAYER_NAMES.split() + _APPLICATION_LAYER_NAMES.split())

# Operations of keras.ops, by their module: elementwise, reductions or moves of data.
_OPERATION_NAMES = {
    "core": """
        Cast ConvertToTensor SaturateCast Scatter ScatterUpdate Slice SliceUpdate StopGradient
        Unstack
    """,
    "einops": "Rearrange",
    "image": "CropImages HSVToRGB MapCoordinates PadImages RGBToHSV Resize",
    "math": """
        Erf Erfc Erfinv InTopK Logsumexp Rsqrt SegmentMax SegmentMin SegmentProd SegmentReduction
        SegmentSum TopK ViewAsComplex ViewAsReal
    """,
    "nn": """
        AdaptiveAveragePool AdaptiveMaxPool AveragePool BatchNorm BinaryCrossentropy
        CategoricalCrossentropy Celu DepthToSpace Elu Fold Gelu Glu HardShrink HardSigmoid HardSilu
        HardTanh LayerNorm LeakyRelu LogSigmoid LogSoftmax MaxPool Moments MultiHot Normalize OneHot
        PSNR Polar RMSNorm Relu Relu6 Selu Sigmoid Silu SoftShrink Softmax Softplus Softsign
        SpaceToDepth SparseCategoricalCrossentropy SparsePlus SparseSigmoid Sparsemax Squareplus
        TanhShrink Threshold
    """,
    "numpy": """
        Abs Absolute Add All AllClose Amax Amin Angle Any Append Arange Arccos Arccosh Arcsin
        Arcsinh Arctan Arctan2 Arctanh Argmax Argmin Argpartition Argsort Array ArraySplit Bincount
        BitwiseAnd BitwiseInvert BitwiseLeftShift BitwiseNot BitwiseOr BitwiseRightShift BitwiseXor
        BroadcastTo Cbrt Ceil Clip Concatenate Conj Conjugate Copy Cos Cosh CountNonzero Cross
        Cumprod Cumsum Deg2rad Diag Diagflat Diagonal Diff Digitize Divide DivideNoNan Dsplit Dstack
        EmptyLike Equal Exp Exp2 ExpandDims Expm1 Fabs Flip Fliplr Flipud Floor FloorDivide Fmax
        Fmin Fmod Full FullLike Gcd Geomspace GetItem Greater GreaterEqual Heaviside Histogram
        Hsplit Hstack Hypot I0 Imag IsIn Isclose Isfinite Isinf Isnan Isneginf Isposinf Isreal Kron
        Lcm Ldexp LeftShift Less LessEqual Linspace Log Log10 Log1p Log2 Logaddexp Logaddexp2
        LogicalAnd LogicalNot LogicalOr LogicalXor Logspace Max Maximum Mean Median Meshgrid Min
        Minimum Mod Moveaxis Multiply NanToNum Nanargmax Nanargmin Nancumprod Nancumsum Nanmax
        Nanmean Nanmedian Nanmin Nanpercentile Nanprod Nanquantile Nanstd Nansum Nanvar Ndim
        Negative Nextafter Nonzero NotEqual OnesLike Outer Pad Percentile Power Prod Ptp Quantile
        Rad2deg Ravel Real Reciprocal Repeat Reshape RightShift Roll Rot90 Round SearchSorted Select
        Sign Signbit Sin Sinc Sinh Size Sort Split Sqrt Square Squeeze Stack Std Subtract Sum
        Swapaxes Take TakeAlongAxis Tan Tanh Tile Trace Transpose Trapezoid Tril Triu TrueDivide
        Trunc Unique UnravelIndex Vander Var View Vsplit Vstack Where ZerosLike
    """,
    "linalg": "Norm",
}
_ZERO_OPERATIONS = frozenset(
    f"ops.{module}.{name}" for module, names in _OPERATION_NAMES.items() for name in names.split()
)
# Their functions, without underscores: keras.ops.log_sigmoid for ops.nn.LogSigmoid.
_ZERO_FUNCTIONS = frozenset(f"keras.src.{kind.lower()}" for kind in _ZERO_OPERATIONS)


def costs_nothing(kind: str) -> bool:
    """Tells whether a kind of layer or operation that no rule counts is known to cost nothing."""
    return kind in _ZERO_LAYERS or kind in _ZERO_OPERATIONS


def function_costs_nothing(function: Any) -> bool:
    """Tells whether a function is of keras.activations, or one of keras.ops that costs nothing."""
    if not inspect.isfunction(function):
        return False
    if function.__module__ == "keras.src.activations.activations":
        return True
    return f"{function.__module__}.{function.__name__.replace('_', '')}" in _ZERO_FUNCTIONS
