"""A Keras model to a checked ``.tflite`` file: convert, count, verify, measure.

Importing this package loads neither TensorFlow nor Keras; what takes a Keras model does so when it
is called.
"""

from tflite_export.convert import Quantization, convert, load_model
from tflite_export.keras_language import representative_steps
from tflite_export.language import generate, perplexity
from tflite_export.latency import Latency, benchmark
from tflite_export.macs import count_macs
from tflite_export.table import Check, check, check_language_model, render_table
from tflite_export.verify import Agreement, verify
from tflite_export.verify_language import TextAgreement, verify_language_model

__all__ = [
    "Agreement",
    "Check",
    "Latency",
    "Quantization",
    "TextAgreement",
    "benchmark",
    "check",
    "check_language_model",
    "convert",
    "count_macs",
    "generate",
    "load_model",
    "perplexity",
    "render_table",
    "representative_steps",
    "verify",
    "verify_language_model",
]
