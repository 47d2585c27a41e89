"""The command `autoshrink generate`: a text goes on, by LiteRT alone."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

import tflite_export
from keras_autoshrink.vocabulary import END, Vocabulary
from tflite_export.language import LanguageModelFile


def vocabulary_path(model: Path) -> Path:
    """Where the words of a model, or of a file that it was exported to, are written.

    Example:
        >>> vocabulary_path(Path("lm.int8.tflite")).name, vocabulary_path(Path("lm.keras")).name
        ('lm.vocabulary.txt', 'lm.vocabulary.txt')
    """
    stem = model.stem
    for quantization in ("float32", "float16", "dynamic", "int8"):
        stem = stem.removesuffix(f".{quantization}")
    return model.with_name(f"{stem}.vocabulary.txt")


def generate(options: argparse.Namespace) -> int:
    """Prints a text and its continuation; the text begins a line."""
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    model = LanguageModelFile(options.model)
    path = options.vocabulary or vocabulary_path(options.model)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; name the model's words with --vocabulary FILE.txt")
    vocabulary = Vocabulary.load(path)
    if model.vocabulary_size != len(vocabulary):
        raise ValueError(
            f"{path}: has {len(vocabulary):,} words, {options.model} {model.vocabulary_size:,}; "
            "they do not belong together"
        )
    words = vocabulary.split(options.prompt)
    unknown = [word for word in words if word not in vocabulary]
    if unknown:
        Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False).print(
            f"not in the vocabulary, read as <unk>: {', '.join(dict.fromkeys(unknown))}"
        )
    prompt = vocabulary.encode([END, *words])
    continuation = tflite_export.generate(options.model, prompt, options.words)
    text = " ".join([*words, *vocabulary.decode(continuation)])
    console.print(text.replace(f" {END}", "\n").replace("\n ", "\n"))
    return 0
