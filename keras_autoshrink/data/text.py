"""Texts as numbers of words: the built-in one and your own files, and their vocabularies."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import re
import zlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from keras_autoshrink.checks import one_of
from keras_autoshrink.files import write_text

UNKNOWN = "<unk>"  # stands for every word that is not in the vocabulary
END = "<eos>"  # the end of a line
PYDOC = "pydoc"
PARTS = ("train", "validation", "test")

Tokens = npt.NDArray[np.int32]

_WORD_OR_MARK = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")  # noqa: RUF001 - both apostrophes occur


def tokenize(line: str) -> list[str]:
    """Splits a line of text that is divided into words already, by spaces.

    Penn Treebank as Mikolov prepared it and WikiText are. Their published numbers of tokens
    count one more for each line, a blank one too: its `END`, which is for the caller to add.
    """
    return line.split()


def tokenize_prose(text: str) -> list[str]:
    """Splits a text as people write it into words and punctuation marks, in lower case."""
    return _WORD_OR_MARK.findall(text.lower())


@dataclasses.dataclass(frozen=True, repr=False)
class Vocabulary:
    """The words that a language model knows, each numbered by its place.

    Every vocabulary has `"<unk>"`, which stands for all words that it lacks, and `"<eos>"`, the end
    of a line.

    Attributes:
        words: all different, without spaces in them, `"<unk>"` and `"<eos>"` among them.

    Raises:
        ValueError: they are not; the message names the word.
    """

    words: tuple[str, ...]
    _ids: dict[str, int] = dataclasses.field(init=False, compare=False)

    def __post_init__(self) -> None:
        words = tuple(self.words)
        ids: dict[str, int] = {}
        for number, word in enumerate(words):
            if word.split() != [word]:
                raise ValueError(f"word {number}, {word!r}: is empty or has a space in it")
            if word in ids:
                raise ValueError(f"word {number}, {word!r}: is word {ids[word]} already")
            ids[word] = number
        for word in (UNKNOWN, END):
            if word not in ids:
                raise ValueError(f"no {word!r} among the {len(words)} words; every vocabulary has")
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "_ids", ids)

    @classmethod
    def of(
        cls,
        words: Iterable[str] | Mapping[str, int],
        size: int | None = None,
        min_count: int = 1,
    ) -> Vocabulary:
        """Makes the vocabulary of a text: frequent words first, ties in alphabetical order.

        Args:
            words: the text, word by word, or how often it has each word. `"<unk>"` and `"<eos>"`
                are in the vocabulary even where they are not in the text.
            size: how many words to keep at most, 2 or more; all by default.
            min_count: words that occur less often are left out.

        Raises:
            ValueError: the size is too small.
        """
        if size is not None and size < 2:
            raise ValueError(f"size={size}: expected 2 or more, for {UNKNOWN!r} and {END!r}")
        counts = Counter(words)
        always = {word: counts.pop(word, 0) for word in (UNKNOWN, END)}
        frequent = (item for item in counts.items() if item[1] >= min_count)
        kept = sorted(frequent, key=_rank)[: None if size is None else size - len(always)]
        return cls(tuple(word for word, _ in sorted([*kept, *always.items()], key=_rank)))

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    def __repr__(self) -> str:
        return f"<Vocabulary of {len(self):,} words>"

    def encode(self, words: Iterable[str]) -> list[int]:
        """Returns the number of each word, that of `"<unk>"` for words not in the vocabulary.

        Raises:
            ValueError: the words are one string.
        """
        if isinstance(words, str):
            raise ValueError("words: are one string; expected several, such as tokenize() gives")
        unknown = self._ids[UNKNOWN]
        return [self._ids.get(word, unknown) for word in words]

    def split(self, text: str) -> list[str]:
        """Splits a text that somebody typed into words, as far as possible into known ones.

        A word that is not in it is taken apart into words and marks in lower case, if these are.
        """
        words: list[str] = []
        for word in tokenize(text):
            pieces = tokenize_prose(word)
            known = word in self or not all(piece in self for piece in pieces)
            words += [word] if known else pieces
        return words

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Returns the word of each number.

        Raises:
            ValueError: a number is no word's.
        """
        words = []
        for number in ids:
            if not 0 <= number < len(self):
                raise ValueError(f"id {number}: is not one of 0 to {len(self) - 1}")
            words.append(self.words[number])
        return words

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a text file, UTF-8: word 0 in the first line, word 1 in the next.

        Raises:
            OSError: it cannot be written. What was there before is as it was.
        """
        write_text(path, "".join(f"{word}\n" for word in self.words))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Vocabulary:
        """Reads what `save` wrote.

        Raises:
            ValueError: the file is not there, or holds no vocabulary; the message names it.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            words = text.split("\n")
            # Where the end is missing, the last word may be half of one.
            if words.pop():
                raise ValueError("its last line has no end; was it cut short?")
            return cls(tuple(words))
        except OSError as error:
            raise ValueError(f"{os.fspath(path)}: cannot be read: {error.strerror}") from error
        except ValueError as error:  # not UTF-8, too
            raise ValueError(f"{os.fspath(path)}: no vocabulary: {error}") from error


def _rank(item: tuple[str, int]) -> tuple[int, str]:
    word, count = item
    return -count, word


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
        """Returns the tokens of `"train"`, `"validation"` or `"test"`, int32 of shape (n,).

        Raises:
            ValueError: there is no such part, or it was not read.
        """
        tokens: Tokens | None = getattr(self, one_of("part", name, PARTS))
        if tokens is None:
            raise ValueError(f"part={name!r}: was not read; load_text with purpose='train' does")
        return tokens

    @property
    def checksum(self) -> int:
        """A checksum of the training and validation text and of the words."""
        words = "\n".join(self.vocabulary.words).encode()
        parts = (words, self.train.tobytes(), self.validation.tobytes())
        return functools.reduce(lambda sum_, part: zlib.crc32(part, sum_), parts, 0)

    def notes(self) -> list[str]:
        """Describes the words that are not in the vocabulary, in lines for people."""
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
        A `keras_autoshrink.data.text.TextData` of `train`, `validation` and `test`, the numbers of
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


# What a part's file may be called: by us, in WikiText, and in Mikolov's Penn Treebank.
_FILES = {
    part: (f"{short}.txt", f"wiki.{short}.tokens", f"ptb.{short}.txt")
    for part, short in zip(PARTS, ("train", "valid", "test"), strict=True)
}
_EXPECTED = "a folder with train.txt, valid.txt and test.txt"


def is_text(source: str | os.PathLike[str]) -> bool:
    """Tells whether a source is meant for a text: `"pydoc"`, or a folder with a file of a part."""
    names = (name for names in _FILES.values() for name in names)
    return str(source) == PYDOC or any(Path(source, name).is_file() for name in names)


def check_source(source: str | os.PathLike[str]) -> None:
    """Refuses a text that is not there, without reading it.

    Raises:
        ValueError: it is neither built in nor a folder with a file of each part.
    """
    if str(source) != PYDOC:
        _find_files(Path(source))


def _find_files(folder: Path) -> dict[str, str]:
    """Finds the file of each part; returns their names."""
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
    """Yields the words of each line of a file and its end; blank lines are their end alone."""
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
    """Finds the first byte, counted from 0, that is not UTF-8 in a file."""
    try:
        path.read_bytes().decode()
    except UnicodeDecodeError as error:
        return error.start
    raise AssertionError(f"{path} is UTF-8")


# How much of the text each part gets, and the shortest paragraph, in words and marks, that only
# one place of the whole text may have. Shorter ones ("See also:") say nothing.
_SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
_SHORTEST = 5

_RULE = re.compile(r"[-=*~^+|]{3,}")  # what underlines headings and frames tables


def pydoc_lines() -> dict[str, list[list[str]]]:
    """Reads the paragraphs of Python's own documentation, one line each.

    It is divided by topic. Many topics contain others: a paragraph belongs to the longest topic
    that has it, and the others go without it, so that none is in two parts or twice in one.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:  # a Python cut down to be small
        raise ValueError(f"{PYDOC}: is not in this Python; give {_EXPECTED}") from error
    seen: set[tuple[str, ...]] = set()
    lines: dict[str, list[list[str]]] = {}
    for topic, text in sorted(topics.items(), key=lambda item: (-len(item[1]), item[0])):
        lines[topic] = []
        for paragraph in re.split(r"\n\s*\n", _RULE.sub(" ", text)):
            words = tuple(tokenize_prose(paragraph))
            if words and (len(words) < _SHORTEST or words not in seen):
                seen.add(words)
                lines[topic].append([*words, END])
    sizes = {topic: sum(map(len, of_topic)) for topic, of_topic in lines.items()}
    parts: dict[str, list[list[str]]] = {part: [] for part in _SHARES}
    missing = {part: share * sum(sizes.values()) for part, share in _SHARES.items()}
    # The longest topic first, each to the part that lacks most.
    for topic in sorted(lines, key=lambda topic: (-sizes[topic], topic)):
        part = max(missing, key=lambda part: missing[part])
        parts[part] += lines[topic]
        missing[part] -= sizes[topic]
    return parts


def unigram_perplexity(data: TextData, part: str = "validation") -> float:
    """Returns the perplexity of a part under the training words' frequencies: what to beat.

    Each word has the probability `(count + 1) / (tokens + words in the vocabulary)`, whatever
    stands before it.
    """
    counts = np.bincount(data.train, minlength=len(data.vocabulary)) + 1
    return float(np.exp(-np.log(counts / counts.sum())[data.part(part)].mean()))
