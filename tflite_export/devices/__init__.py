"""Measures ``.tflite`` files on Android devices and in browsers."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Returns the folder ``tflite_export`` of the user's caches, which need not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tflite_export"
