"""Texts for language models: a built-in one, and your own files.

Arrays only: what comes from here serves every Keras backend.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import zlib
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from keras_autoshrink.pydoc_text import PYDOC, pydoc_lines
from keras_autoshrink.vocabulary import END, UNKNOWN, Vocabulary, tokenize

PARTS = ("train", "validation", "test")

# What a part's file may be called: by us, in WikiText, and in Mikolov's Penn Treebank.
_FILES = {
    part: (f"{short}.txt", f"wiki.{short}.tokens", f"ptb.{short}.txt")
    for part, short in zip(PARTS, ("train", "valid", "test"), strict=True)
}
_EXPECTED = "a folder with train.txt, valid.txt and test.txt"

Tokens = npt.NDArray[np.int32]


@dataclasses.dataclass(frozen=True, eq=False)
class TextData:
    """A text for a language model, as numbers of words; its lines end with `"<eos>"`.

    Attributes:
        train: what networks are trained on, int32 of shape (n,).
        validation: what a search scores on, int32 of shape (n,).
        test: what nothing is chosen by, int32 of shape (n,); None where a search loads the data.
        vocabulary: the words of the training part, or the most frequent of them.
        name: the source, as it was given.
        unknown: for each part that was read, how many of its tokens are not in the vocabulary,
            and how many different words these are. They are read as `"<unk>"`; where a file
            says `<unk>` itself, that is a word like another.
        files: the name of each part in messages.
    """

    train: Tokens
    validation: Tokens
    test: Tokens | None
    vocabulary: Vocabulary
    name: str
    unknown: Mapping[str, tuple[int, int]]
    files: Mapping[str, str]

    def part(self, name: str) -> Tokens:
        """The tokens of `"train"`, `"validation"` or `"test"`, int32 of shape (n,).

        Raises:
            ValueError: there is no such part, or it was not read.
        """
        if name not in PARTS:
            raise ValueError(f"part={name!r}: expected one of {', '.join(PARTS)}")
        tokens: Tokens | None = getattr(self, name)
        if tokens is None:
            raise ValueError(f"part={name!r}: was not read; load_text with purpose='train' does")
        return tokens

    @property
    def checksum(self) -> int:
        """Of the training and validation text and the words; another text has another one."""
        words = "\n".join(self.vocabulary.words).encode()
        parts = (words, self.train.tobytes(), self.validation.tobytes())
        return functools.reduce(lambda sum_, part: zlib.crc32(part, sum_), parts, 0)

    def notes(self) -> list[str]:
        """What to know of the words that are not in the vocabulary, one line each."""
        if self.name == PYDOC:
            shares = ", ".join(
                f"{unknown / len(self.part(part)):.1%} of {part}"
                for part, (unknown, _) in self.unknown.items()
            )
            return [f"{PYDOC}: rare words are read as {UNKNOWN}: {shares}"]
        notes = [
            f"{self.files[part]}: {unknown:,} of {len(self.part(part)):,} tokens ({different:,} "
            f"different {'word' if different == 1 else 'words'}) are not in the vocabulary: read "
            f"as {UNKNOWN}"
            for part, (unknown, different) in self.unknown.items()
            if unknown
        ]
        if notes and not np.any(self.train == self.vocabulary.encode([UNKNOWN])[0]):
            notes.append(
                f"{self.files['train']}: has no {UNKNOWN}, so that nothing is learnt about it; "
                f"with a vocabulary of fewer than {len(self.vocabulary):,} words, the rarest are "
                f"read as {UNKNOWN}"
            )
        return notes


def load_text(
    source: str | os.PathLike[str] = PYDOC, *, purpose: str, vocabulary_size: int | None = None
) -> TextData:
    """Loads a text for a search, or for the training of one network.

    Args:
        source: `"pydoc"` (the documentation that Python itself brings, about 80,000 words and
            punctuation marks in lower case; its wording differs a little between versions of
            Python), or a folder with the files `train.txt`, `valid.txt` and `test.txt`, under
            these names or those of WikiText or Penn Treebank (`wiki.train.tokens`,
            `ptb.train.txt` and so on): UTF-8, words divided by spaces.
        purpose: `"search"` leaves out the test part, unread; `"train"` takes everything.
        vocabulary_size: how many words of the training part to keep, the most frequent,
            `"<unk>"` and `"<eos>"` among them, 3 or more; all by default, of `"pydoc"` those that
            occur twice.

    Returns:
        A `keras_autoshrink.text_data.TextData` of `train`, `validation` and `test`, the numbers of
        the words, int32 of shape (n,), and of the `vocabulary`.

    Raises:
        ValueError: the source is no text; the message says what is wrong with it.

    Example:
        >>> from pathlib import Path
        >>> for part in ("train", "valid", "test"):
        ...     _ = Path(f"{part}.txt").write_text("a rose is a rose")
        >>> text = load_text(".", purpose="search")
        >>> text.vocabulary.words, text.train, text.test
        (('a', 'rose', '<eos>', 'is', '<unk>'), array([0, 1, 3, 0, 1, 2], dtype=int32), None)
    """
    if purpose not in ("search", "train"):
        raise ValueError(f"purpose={purpose!r}: expected 'search' or 'train'")
    if vocabulary_size is not None and vocabulary_size < 3:
        raise ValueError(
            f"vocabulary_size={vocabulary_size}: expected 3 or more, {UNKNOWN} and {END} among them"
        )
    built_in = str(source) == PYDOC
    files = {part: part for part in PARTS} if built_in else _find_files(Path(source))
    lines = pydoc_lines() if built_in else {}
    # Words are numbered as they come first, and by the vocabulary when that is known: numbers
    # take a tenth of the memory that the words of a text would.
    ids: defaultdict[str, int] = defaultdict(itertools.count().__next__)
    numbers = {}
    for part in PARTS if purpose == "train" else PARTS[:2]:
        of_part = lines[part] if built_in else _read_lines(Path(source, files[part]))
        found = array("i")
        for words in of_part:
            found.extend(map(ids.__getitem__, words))
        numbers[part] = np.array(found, np.int32)
    counts = np.bincount(numbers["train"], minlength=len(ids)).tolist()
    occurring = {word: count for word, count in zip(ids, counts, strict=True) if count}
    # Where every word of the training part is in the vocabulary, none of them teaches UNKNOWN.
    vocabulary = Vocabulary.of(occurring, vocabulary_size, min_count=2 if built_in else 1)
    renumbered = np.array(vocabulary.encode(ids), np.int32)
    absent = np.array([word not in vocabulary for word in ids])
    tokens = {part: renumbered[found] for part, found in numbers.items()}
    unknown = {part: found[absent[found]] for part, found in numbers.items()}
    return TextData(
        tokens["train"],
        tokens["validation"],
        tokens.get("test"),
        vocabulary,
        os.fspath(source),
        {part: (len(found), len(np.unique(found))) for part, found in unknown.items()},
        files,
    )


def unigram_perplexity(data: TextData, part: str = "validation") -> float:
    """What a model must beat: the perplexity of a part under the training words' frequencies.

    Each word has the probability `(count + 1) / (tokens + words in the vocabulary)`, whatever
    stands before it.

    Raises:
        ValueError: there is no such part, or it was not read.
    """
    counts = np.bincount(data.train, minlength=len(data.vocabulary)) + 1
    return float(np.exp(-np.log(counts / counts.sum())[data.part(part)].mean()))


def _find_files(folder: Path) -> dict[str, str]:
    """The name of each part's file."""
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "no such folder"
        raise ValueError(f"{folder}: {problem}; expected {_EXPECTED}, or {PYDOC!r}")
    found = {}
    for part, names in _FILES.items():
        there = [name for name in names if Path(folder, name).exists()]
        if len(there) != 1:
            have = f"both {there[0]} and {there[1]}" if there else f"no {names[0]}"
            one_of = f"one of {', '.join(names)}" if there else _EXPECTED
            raise ValueError(f"{folder}: has {have}; expected {one_of}")
        found[part] = there[0]
    return found


def _read_lines(path: Path) -> Iterator[list[str]]:
    """The words of each line of a file, and its end; blank lines are their end alone."""
    blank = True
    try:
        with path.open(encoding="utf-8-sig") as file:  # without a byte order mark, if it has one
            for line in file:
                words = tokenize(line)
                blank = blank and not words
                yield [*words, END]
    except UnicodeDecodeError:
        raise ValueError(
            f"{path}: is not UTF-8 (at byte {_undecodable(path):,}); convert it, as with 'iconv -f "
            f"LATIN1 -t UTF-8 {path.name} > new.txt' if it is Latin-1"
        ) from None  # whose place counts from somewhere in the file
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    if blank:
        raise ValueError(f"{path}: has no words in it")


def _undecodable(path: Path) -> int:
    """The first byte, counted from 0, of a file that is not UTF-8."""
    try:
        path.read_bytes().decode()
    except UnicodeDecodeError as error:
        return error.start
    raise AssertionError(f"{path} is UTF-8")
