"""What multiplies and accumulates nothing at inference, by its Keras name (`Call.kind`).

A layer that is in no list is an error, so that a new one is never a silent zero. On purpose
absent: Lambda, Pipeline, MelSpectrogram, STFTSpectrogram, JaxLayer, FlaxLayer, TFSMLayer,
TorchModuleWrapper.
"""

from __future__ import annotations

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

# Operations of these modules of Keras are elementwise, reductions or moves of data ...
_ZERO_MODULES = frozenset(
    {"ops.core", "ops.einops", "ops.image", "ops.math", "ops.nn", "ops.numpy"}
)
# ... except these: they hide products, or functions that nobody can look into. (All of linalg
# is out but for its norm.)
_UNCOUNTABLE_NAMES = """
    ops.core.AssociativeScan ops.core.Cond ops.core.ForiLoop ops.core.Map ops.core.Scan
    ops.core.Switch ops.core.VectorizedMap ops.core.WhileLoop
    ops.image.ElasticTransform ops.image.GaussianBlur ops.image.RGBToGrayscale ops.image.SSIM
    ops.image.ScaleAndTranslate ops.image.SobelEdges
    ops.math.CDist ops.math.FFT ops.math.FFT2 ops.math.IFFT2 ops.math.IRFFT ops.math.ISTFT
    ops.math.Logdet ops.math.RFFT ops.math.STFT
    ops.numpy.Corrcoef ops.numpy.Correlate ops.numpy.Slogdet
"""
_UNCOUNTABLE = frozenset(_UNCOUNTABLE_NAMES.split())


def costs_nothing(kind: str) -> bool:
    """Whether a kind of layer or operation that no rule counts is known to cost nothing."""
    if kind in _ZERO_LAYERS or kind == "ops.linalg.Norm":
        return True
    return kind.rpartition(".")[0] in _ZERO_MODULES and kind not in _UNCOUNTABLE
