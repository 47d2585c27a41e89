"""What multiplies and accumulates nothing at inference, by its Keras name (`Call.kind`).

A layer or operation that is in no list is an error, so that a new one is never a silent zero.
The lists were reviewed for Keras 3.15. On purpose absent are

* the layers Lambda, Pipeline, MelSpectrogram, STFTSpectrogram, JaxLayer, FlaxLayer, TFSMLayer,
  TorchModuleWrapper;
* the operations that take functions (Cond, Map, Scan, WhileLoop, ...), and those that are or hide
  products, on one backend at least (Average, Corrcoef, ExtractPatches, FFT, GaussianBlur, Unfold,
  all of linalg but its norm, ...).
"""

from __future__ import annotations

import inspect
from typing import Any

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
    """Whether a kind of layer or operation that no rule counts is known to cost nothing."""
    return kind in _ZERO_LAYERS or kind in _ZERO_OPERATIONS


def function_costs_nothing(function: Any) -> bool:
    """Whether it is a function of keras.activations, or one of keras.ops that costs nothing."""
    if not inspect.isfunction(function):
        return False
    if function.__module__ == "keras.src.activations.activations":
        return True
    return f"{function.__module__}.{function.__name__.replace('_', '')}" in _ZERO_FUNCTIONS
