"""The command `autoshrink generate`: a text goes on, by LiteRT alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from rich.console import Console

from keras_autoshrink.data.text import END, Vocabulary
from tflite_export.convert import Quantization
from tflite_export.language import LanguageModelFile, continue_text


def vocabulary_path(model: Path) -> Path:
    """Returns where the words of a model, or of a file that it was exported to, are written.

    Example:
        >>> vocabulary_path(Path("lm.int8.tflite")).name, vocabulary_path(Path("lm.keras")).name
        ('lm.vocabulary.txt', 'lm.vocabulary.txt')
    """
    stem = model.stem
    kinds = get_args(Quantization) if model.suffix == ".tflite" else ()
    ending = next((f".{kind}" for kind in kinds if stem.endswith(f".{kind}")), "")
    return model.with_name(f"{stem.removesuffix(ending)}.vocabulary.txt")


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
    continuation = continue_text(model, prompt, options.words)
    if len(continuation) < options.words:
        raise ValueError(f"{options.model}: its log-probabilities are NaN")
    text = " ".join("\n" if x == END else x for x in [*words, *vocabulary.decode(continuation)])
    console.print(text.replace(" \n", "\n").replace("\n ", "\n"))
    return 0
