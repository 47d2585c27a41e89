"""Converts Keras models to ``.tflite`` files, and counts, describes, verifies and measures these.

Importing this package loads neither TensorFlow nor Keras; what takes a Keras model does so when it
is called.
"""

from tflite_export.c_array import write_c_array
from tflite_export.convert import Quantization, convert, load_model
from tflite_export.file.description import Description, FloatOperator, describe, float_operators
from tflite_export.file.macs import count_macs
from tflite_export.file.metadata import Metadata, add_metadata, read_metadata
from tflite_export.language import generate, perplexity, representative_steps
from tflite_export.latency import Latency, benchmark
from tflite_export.memory import PeakMemory, peak_memory
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
    "PeakMemory",
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
    "peak_memory",
    "perplexity",
    "prune",
    "read_metadata",
    "render_table",
    "representative_steps",
    "train_quantized",
    "verify",
    "verify_language_model",
    "write_c_array",
]
