"""Reads ``.tflite`` files without TensorFlow, and writes their metadata."""
