"""The multiply-accumulates of one call of one Keras layer or operation, kind by kind.

Convention (arXiv 1911.09251, and the published MobileNet and ResNet tables):

* convolution: output positions x kernel taps x input channels per group x filters; taps that
  fall on the padding count;
* transposed convolution: input positions x kernel taps x input channels x filters;
* recurrent layer: time steps x (kernel + recurrent kernel products);
* matrix product: output elements x contracted size. A product without a sum is no
  multiply-accumulate: `Multiply` and `einsum("bi,bi->bi")` cost nothing;
* bias, normalization, activation, pooling, resizing, addition, look-ups: nothing.

A rule counts every element it is given, the first axis too: the walk in `costs.py` feeds the
model a batch of one, so that positions which a reshape folded into the first axis are counted.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

Shape = tuple[int, ...]


class UnknownSizeError(ValueError):
    """A count needs a dimension that is None."""


class MisfitError(ValueError):
    """A layer is given an input that its weights do not fit."""


def describe(operation: Any) -> str:
    """Names an operation for an error: its kind, its own name, its class."""
    kind = "layer" if isinstance(operation, keras.layers.Layer) else "operation"
    name = getattr(operation, "name", None)
    return f"{kind} {name!r} ({type(operation).__name__})"


def shape_of(value: Any) -> tuple[int | None, ...]:
    """The shape of a KerasTensor, variable, array, list or number."""
    return tuple(value.shape) if hasattr(value, "shape") else np.shape(value)


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of an operation in a model's graph.

    Args:
        operation: A Keras layer or operation.
        args: Its positional arguments; tensors are KerasTensors of shape (batch, ...).
        kwargs: Its keyword arguments.
    """

    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @functools.cached_property
    def arguments(self) -> dict[str, Any]:
        """The arguments by their names in `operation.call`."""
        signature = inspect.signature(self.operation.call)
        return dict(signature.bind(*self.args, **self.kwargs).arguments)

    @property
    def first(self) -> Any:
        """The first argument: a tensor or a structure of tensors."""
        return self.args[0] if self.args else next(iter(self.kwargs.values()))

    @functools.cached_property
    def outputs(self) -> Any:
        """What the operation returns, as KerasTensors: shapes are inferred, nothing is run.

        Raises:
            MisfitError: The operation does not take inputs of these shapes.
        """
        try:
            return self.operation.compute_output_spec(*self.args, **self.kwargs)
        except Exception as error:
            shapes = [shape_of(x) for x in keras.tree.flatten(self.first) if x is not None]
            reason = " ".join(str(error).split())[:300]
            raise MisfitError(
                f"{describe(self.operation)} does not take an input of shape "
                f"{', '.join(map(str, shapes))}: {reason}"
            ) from error

    @property
    def output_shape(self) -> Shape:
        """The shape of the (first) output."""
        return self.known(keras.tree.flatten(self.outputs)[0])

    def shape(self, name: str) -> Shape:
        """The shape of the argument of that name."""
        return self.known(self.arguments[name])

    def known(self, tensor: Any) -> Shape:
        """The shape of a tensor, all of it known.

        Raises:
            UnknownSizeError: A dimension is None.
        """
        shape = shape_of(tensor)
        if any(size is None for size in shape):
            raise UnknownSizeError(
                f"{describe(self.operation)} has a tensor of unknown size {shape}"
            )
        return tuple(int(size) for size in shape if size is not None)


Rule = Callable[[Call], int]
LAYER_RULES: dict[type, Rule] = {}
# Keras exports its operations as functions only; their classes are told by module and name.
OPERATION_RULES: dict[str, Rule] = {}


def _counts(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule for public layers ("Dense") and operations ("numpy.Matmul")."""

    def register(rule: Rule) -> Rule:
        for name in names:
            if "." in name:
                OPERATION_RULES[name] = rule
            elif hasattr(keras.layers, name):  # Older releases of Keras 3 lack a few.
                LAYER_RULES[getattr(keras.layers, name)] = rule
        return rule

    return register


def _positions(shape: Shape, data_format: str | None) -> int:
    """Elements of one channel: batch x spatial sizes."""
    channels_first = (data_format or keras.config.image_data_format()) == "channels_first"
    return shape[0] * math.prod(shape[2:] if channels_first else shape[1:-1])


def _taps(call: Call, *names: str) -> int:
    """Elements of the kernels: a layer's own weights, an operation's arguments."""
    owner = call.operation if isinstance(call.operation, keras.layers.Layer) else None
    kernels = (getattr(owner, name) if owner else call.arguments[name] for name in names)
    return sum(math.prod(call.known(kernel)) for kernel in kernels)


@_counts("Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D")
@_counts("nn.Conv", "nn.DepthwiseConv")
def _conv(call: Call) -> int:
    # The kernel has shape (*taps, channels per group, filters), or (*taps, channels, multiplier).
    return _positions(call.output_shape, call.operation.data_format) * _taps(call, "kernel")


@_counts("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose", "nn.ConvTranspose")
def _conv_transpose(call: Call) -> int:
    return _positions(call.shape("inputs"), call.operation.data_format) * _taps(call, "kernel")


@_counts("SeparableConv1D", "SeparableConv2D", "nn.SeparableConv")
def _separable_conv(call: Call) -> int:
    taps = _taps(call, "depthwise_kernel", "pointwise_kernel")
    return _positions(call.output_shape, call.operation.data_format) * taps


@_counts("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
def _conv_lstm(call: Call) -> int:
    # The recurrent convolution runs on the output positions: it has stride 1, same padding.
    layer = call.operation
    rank = len(layer.kernel_size)
    batch, steps = call.shape("sequences")[:2]
    spatial = call.output_shape[-rank:]
    if layer.data_format == "channels_last":
        spatial = call.output_shape[-rank - 1 : -1]
    kernel, recurrent = layer.cell.kernel, layer.cell.recurrent_kernel
    taps: int = math.prod(kernel.shape) + math.prod(recurrent.shape)
    return batch * steps * math.prod(spatial) * taps


@_counts("SimpleRNNCell", "LSTMCell", "GRUCell")
def _rnn_cell(call: Call) -> int:
    """One step of a cell on (batch, features)."""
    cell = call.operation
    batch, features = call.known(call.first)
    if features != cell.kernel.shape[0]:
        raise MisfitError(f"{describe(cell)} takes {cell.kernel.shape[0]} features, not {features}")
    weights: int = math.prod(cell.kernel.shape) + math.prod(cell.recurrent_kernel.shape)
    return batch * weights


@_counts("Dense")
def _dense(call: Call) -> int:
    return math.prod(call.shape("inputs")) * int(call.operation.units)


@_counts("ReversibleEmbedding")
def _reversible_embedding(call: Call) -> int:
    if not call.arguments.get("reverse", False):
        return 0  # A look-up.
    return math.prod(call.shape("inputs")) * int(call.operation.input_dim)


def einsum_macs(equation: str, shapes: Sequence[Shape]) -> int:
    """Multiply-accumulates of an einsum, `...` included.

    Args:
        equation: As for `keras.ops.einsum`, such as "bij,jk->bik".
        shapes: The operands' shapes.

    Returns:
        The product of the sizes of the labels, but for those that one operand alone has and that
        are summed before; 0 if no label that both operands share is summed.

    Raises:
        MisfitError: A label has two sizes.
        ValueError: There are three operands or more: the count depends on the order in which
            a backend contracts them.
    """
    left, arrow, output = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) > 2:
        raise ValueError(
            f"einsum {equation!r} of {len(terms)} operands has no single count: "
            "write it as einsums of two operands"
        )
    sizes: dict[str, int] = {}
    summed = set(left) - set(output) - set(",.")
    if not arrow:  # Implicit output: the labels that occur once, and the ellipsis.
        summed = {label for label in summed if left.count(label) > 1}
    for term, shape in zip(terms, shapes, strict=True):
        head, dots, tail = term.partition("...")
        extra = len(shape) - len(head) - len(tail)
        # Broadcasting aligns the axes under an ellipsis at their end.
        labels = [*head, *(f"...{i}" for i in range(extra, 0, -1)), *tail]
        if extra < 0 or (extra and not dots):
            raise MisfitError(f"einsum {equation!r} does not take an input of shape {shape}")
        for label, size in zip(labels, shape, strict=True):
            if 1 not in (size, sizes.setdefault(label, size)) and size != sizes[label]:
                raise MisfitError(
                    f"einsum {equation!r} has {sizes[label]} and {size} for {label!r}"
                )
            sizes[label] = max(size, sizes[label])
    contracted = {x for x in summed if len(terms) == 2 and x in terms[0] and x in terms[1]}
    kept = [size for label, size in sizes.items() if label in contracted or label not in summed]
    return math.prod(kept) if contracted else 0


def _named_einsum_macs(call: Call, equation: str, tensors: Sequence[Any]) -> int:
    """As `einsum_macs`, with the operation's name in the errors."""
    try:
        return einsum_macs(equation, [call.known(x) for x in tensors])
    except ValueError as error:
        if isinstance(error, UnknownSizeError):
            raise
        raise type(error)(f"{describe(call.operation)}: {error}") from None


@_counts("EinsumDense")
def _einsum_dense(call: Call) -> int:
    layer = call.operation
    return _named_einsum_macs(call, layer.equation, [call.arguments["inputs"], layer.kernel])


@_counts("numpy.Einsum")
def _einsum(call: Call) -> int:
    return _named_einsum_macs(call, call.operation.subscripts, call.args)


@_counts("MultiHeadAttention")
def _multi_head_attention(call: Call) -> int:
    layer = call.operation
    query, value = call.shape("query"), call.shape("value")
    key = call.arguments.get("key")
    key = value if key is None else call.known(key)
    keys = math.prod(value[axis] for axis in layer.attention_axes)
    kernel = tuple(layer.query_dense.kernel.shape)
    gates = layer.value_dim if layer.get_config().get("use_gate") else 0
    if query[-1] != kernel[0]:
        raise MisfitError(f"{describe(layer)} takes {kernel[0]} features, not {query[-1]}")
    per_head = (
        math.prod(query) * (layer.key_dim + gates)
        + math.prod(key) * layer.key_dim
        + math.prod(value) * layer.value_dim
        + math.prod(query[:-1]) * keys * (layer.key_dim + layer.value_dim)
        + math.prod(call.output_shape) * layer.value_dim
    )
    return int(per_head * layer.num_heads)


@_counts("GroupQueryAttention")
def _group_query_attention(call: Call) -> int:
    # Keys and values are projected once per group, then every query head attends to a group.
    layer = call.operation
    query, value = call.shape("query"), call.shape("value")
    key = call.arguments.get("key")
    key = value if key is None else call.known(key)
    if query[-1] != layer.feature_dim:
        raise MisfitError(f"{describe(layer)} takes {layer.feature_dim} features, not {query[-1]}")
    gates = 1 if getattr(layer, "use_gate", False) else 0
    per_query_head = (
        math.prod(query) * (1 + gates)
        + math.prod(query[:-1]) * value[1] * 2
        + math.prod(call.output_shape)
    )
    per_group = math.prod(key) + math.prod(value)
    heads = layer.num_query_heads * per_query_head + layer.num_key_value_heads * per_group
    return int(heads * layer.head_dim)


@_counts("Attention", "AdditiveAttention")
def _attention(call: Call) -> int:
    layer = call.operation
    query, value, *rest = (call.known(x) for x in call.first)
    keys = (rest[0] if rest else value)[-2]
    # A score is a dot product with the key, or of tanh(query + key) with the learned scale;
    # without such a vector it is a plain sum.
    if isinstance(layer, keras.layers.AdditiveAttention):
        multiplies = layer.use_scale
    else:
        multiplies = layer.score_mode == "dot"
    scores = math.prod(query) * keys if multiplies else 0
    return scores + math.prod(query[:-1]) * keys * value[-1]


@_counts("nn.DotProductAttention")
def _dot_product_attention(call: Call) -> int:
    batch, queries, heads, features = call.shape("query")
    keys, values = call.shape("key")[1], call.shape("value")[-1]
    return batch * heads * queries * keys * (features + values)


@_counts("Dot")
def _dot_layer(call: Call) -> int:
    axes = call.operation.axes
    axis = axes if isinstance(axes, int) else axes[0]
    return math.prod(call.output_shape) * call.known(call.first[0])[axis]


@_counts("numpy.Matmul", "numpy.Dot", "numpy.Inner")
def _matrix_product(call: Call) -> int:
    x1, x2 = call.shape("x1"), call.shape("x2")
    if not x1 or not x2:
        return 0  # A number times an array.
    return math.prod(call.output_shape) * x1[-1]


@_counts("numpy.Vdot")
def _vdot(call: Call) -> int:
    return math.prod(call.shape("x1"))


@_counts("numpy.Tensordot")
def _tensordot(call: Call) -> int:
    x1, axes = call.shape("x1"), call.operation.axes
    if isinstance(axes, int):
        contracted = x1[len(x1) - axes :]
    else:
        first = [axes[0]] if isinstance(axes[0], int) else axes[0]
        contracted = tuple(x1[axis] for axis in first)
    return math.prod(call.output_shape) * math.prod(contracted) if contracted else 0


# Layers that multiply and accumulate nothing at inference, by their public names. A layer that
# is in no list of this module is an error, so that a new one is never a silent zero. On purpose
# absent: Lambda, Pipeline, MelSpectrogram, STFTSpectrogram, JaxLayer, FlaxLayer, TFSMLayer,
# TorchModuleWrapper.
_ZERO_LAYER_NAMES = """
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
ZERO_LAYERS = frozenset(
    getattr(keras.layers, name) for name in _ZERO_LAYER_NAMES.split() if hasattr(keras.layers, name)
)
# Elementwise layers that keras.applications.ConvNeXt* use and Keras does not export.
ZERO_PRIVATE_LAYERS = frozenset(
    {
        "keras.src.applications.convnext.LayerScale",
        "keras.src.applications.convnext.StochasticDepth",
    }
)

# Operations of these modules of keras.ops are elementwise, reductions or moves of data ...
ZERO_OPERATION_MODULES = frozenset({"core", "einops", "image", "math", "nn", "numpy"})
# ... except these: they hide products, or functions that nobody can look into. (All of linalg
# is out but for its norm.)
_UNCOUNTABLE_NAMES = """
    core.AssociativeScan core.Cond core.ForiLoop core.Map core.Scan core.Switch
    core.VectorizedMap core.WhileLoop
    image.ElasticTransform image.GaussianBlur image.RGBToGrayscale image.SSIM
    image.ScaleAndTranslate image.SobelEdges
    math.CDist math.FFT math.FFT2 math.IFFT2 math.IRFFT math.ISTFT math.Logdet math.RFFT math.STFT
    numpy.Corrcoef numpy.Correlate numpy.Slogdet
"""
UNCOUNTABLE_OPERATIONS = frozenset(_UNCOUNTABLE_NAMES.split())
ZERO_OPERATIONS = frozenset({"linalg.Norm"})
