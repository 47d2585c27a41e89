"""A Keras model to a checked ``.tflite`` file: convert, count, describe, verify, measure.

Importing this package loads neither TensorFlow nor Keras; what takes a Keras model does so when it
is called.
"""

from tflite_export.convert import Quantization, convert, load_model
from tflite_export.description import Description, FloatOperator, describe, float_operators
from tflite_export.keras_language import representative_steps
from tflite_export.language import generate, perplexity
from tflite_export.latency import Latency, benchmark
from tflite_export.macs import count_macs
from tflite_export.metadata import Metadata, read_metadata
from tflite_export.metadata_writer import add_metadata
from tflite_export.optimize import prune, train_quantized
from tflite_export.smallest import Mode, NoModeHoldsError, Smallest, convert_smallest
from tflite_export.table import Check, check, check_language_model, render_table
from tflite_export.verify import Agreement, verify
from tflite_export.verify_language import TextAgreement, verify_language_model

__all__ = [
    "Agreement",
    "Check",
    "Description",
    "FloatOperator",
    "Latency",
    "Metadata",
    "Mode",
    "NoModeHoldsError",
    "Quantization",
    "Smallest",
    "TextAgreement",
    "add_metadata",
    "benchmark",
    "check",
    "check_language_model",
    "convert",
    "convert_smallest",
    "count_macs",
    "describe",
    "float_operators",
    "generate",
    "load_model",
    "perplexity",
    "prune",
    "read_metadata",
    "render_table",
    "representative_steps",
    "train_quantized",
    "verify",
    "verify_language_model",
]
