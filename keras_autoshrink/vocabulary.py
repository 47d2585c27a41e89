"""The words of a language model and their numbers, in pure Python.

It takes neither NumPy nor Keras to number the words for a network on a phone.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from keras_autoshrink.files import write_text

UNKNOWN = "<unk>"  # stands for every word that is not in the vocabulary
END = "<eos>"  # the end of a line

_WORD_OR_MARK = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")  # noqa: RUF001 - both apostrophes occur


def tokenize(line: str) -> list[str]:
    """The words of a line of text that is divided into words already, by spaces.

    Penn Treebank as Mikolov prepared it and WikiText are. Their published numbers of tokens
    count one more for each line, a blank one too: its `END`, which is for the caller to add.
    """
    return line.split()


def tokenize_prose(text: str) -> list[str]:
    """The words and punctuation marks of a text as people write it, in lower case."""
    return _WORD_OR_MARK.findall(text.lower())


@dataclasses.dataclass(frozen=True, repr=False)
class Vocabulary:
    """Words, each numbered by its place.

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
        """The vocabulary of a text: the most frequent words first, ties in alphabetical order.

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
        """The number of each word; that of `"<unk>"` for words that are not in the vocabulary.

        Raises:
            ValueError: the words are one string.
        """
        if isinstance(words, str):
            raise ValueError("words: are one string; expected several, such as tokenize() gives")
        unknown = self._ids[UNKNOWN]
        return [self._ids.get(word, unknown) for word in words]

    def split(self, text: str) -> list[str]:
        """The words of a text that somebody typed, as far as possible those of the vocabulary.

        A word that is not in it is taken apart into words and marks in lower case, if these are.
        """
        words: list[str] = []
        for word in tokenize(text):
            pieces = tokenize_prose(word)
            known = word in self or not all(piece in self for piece in pieces)
            words += [word] if known else pieces
        return words

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The word of each number.

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
