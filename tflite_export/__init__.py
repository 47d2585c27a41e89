"""A Keras model to a checked ``.tflite`` file: convert, count, verify, measure.

Importing this package loads neither TensorFlow nor Keras; ``convert`` and ``verify`` do so when
they are called.
"""

from tflite_export.convert import Quantization, convert, load_model
from tflite_export.latency import Latency, benchmark
from tflite_export.macs import count_macs
from tflite_export.table import Check, check, render_table
from tflite_export.verify import Agreement, verify

__all__ = [
    "Agreement",
    "Check",
    "Latency",
    "Quantization",
    "benchmark",
    "check",
    "convert",
    "count_macs",
    "load_model",
    "render_table",
    "verify",
]
