"""How texts are read and numbered, and what they are refused for."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import refusals
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_autoshrink.data.text import (
    END,
    PARTS,
    UNKNOWN,
    TextData,
    Vocabulary,
    load_text,
    pydoc_lines,
    tokenize,
    unigram_perplexity,
)

TRAIN = "the cat sat\n\nthe <unk> sat down\n"
VALID = "the dog sat\nthe dog ran down\n"
TEST = "a cat\n"

words = st.text(min_size=1, max_size=4).filter(lambda word: word.split() == [word])


def write_folder(folder: Path, names: tuple[str, ...] | None = None, **parts: Any) -> Path:
    """Writes the files of a text; arguments replace their content, None leaves one out."""
    contents = {"train": TRAIN, "valid": VALID, "test": TEST, **parts}
    names = names or tuple(f"{part}.txt" for part in contents)
    folder.mkdir(exist_ok=True)
    for name, content in zip(names, contents.values(), strict=True):
        if content is not None:
            content = content if isinstance(content, bytes) else content.encode()
            (folder / name).write_bytes(content)
    return folder


def decoded(data: TextData, part: str) -> str:
    return " ".join(data.vocabulary.decode(data.part(part)))


def refusal(source: Any, purpose: str = "train", **options: Any) -> str:
    return refusals.refusal(load_text, source, purpose=purpose, **options)


# Vocabularies


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (END, "b", "a", "c", "d", UNKNOWN)),
        ({"size": 4}, (END, "b", "a", UNKNOWN)),
        ({"min_count": 3, "size": 3}, (END, "b", UNKNOWN)),
    ],
)
def test_words_by_frequency_then_alphabet(options, expected):
    text = ["b", "a", "c", "b", "a", "d", END, "b", END, END, END]
    vocabulary = Vocabulary.of(text, **options)
    assert vocabulary.words == expected
    assert Vocabulary.of(reversed(text), **options) == vocabulary
    assert Vocabulary.of(Counter(text), **options) == vocabulary


@settings(max_examples=30)
@given(text=st.lists(words), known=st.lists(words))
def test_encode_and_decode(text, known):
    vocabulary = Vocabulary.of(known)
    ids = vocabulary.encode(text)
    assert all(0 <= number < len(vocabulary) for number in ids)
    expected = [word if word in vocabulary else UNKNOWN for word in text]
    assert vocabulary.decode(ids) == expected
    assert vocabulary.decode(np.array(ids, np.int32)) == expected
    assert vocabulary.encode(vocabulary.words) == list(range(len(vocabulary)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Vocabulary(("a", END, UNKNOWN, "a")), "word 3, 'a': is word 0 already"),
        (lambda: Vocabulary(("a", UNKNOWN)), "no '<eos>' among the 2 words; every vocabulary has"),
        (lambda: Vocabulary.of(["a"], size=1), "size=1: expected 2 or more, for '<unk>' and"),
        (lambda: Vocabulary.of([]).encode("the cat"), "words: are one string; expected several"),
        (lambda: Vocabulary.of([]).decode([0, 2]), "id 2: is not one of 0 to 1"),
    ],
)
def test_vocabulary_refused(call, message):
    assert refusals.refusal(call).startswith(message)


def test_a_vocabulary_file(tmp_path):
    vocabulary = Vocabulary.of(["Größe", "猫", "isn\u2019t", "a", "a"])
    vocabulary.save(tmp_path / "words.txt")
    assert Vocabulary.load(str(tmp_path / "words.txt")) == vocabulary
    assert (tmp_path / "words.txt").read_text(encoding="utf-8").split("\n") == [
        *vocabulary.words,
        "",
    ]


def test_a_damaged_vocabulary_file(tmp_path):
    path = tmp_path / "words.txt"
    message = refusals.refusal(Vocabulary.load, path)
    assert message == f"{path}: cannot be read: No such file or directory"
    for content, problem in (
        (b"<eos>\n<unk>\nth", "its last line has no end; was it cut short?"),
        (b"<eos>\n<unk>\n\xe9\n", "'utf-8' codec can't decode byte 0xe9 in position 12: "),
    ):
        path.write_bytes(content)
        message = refusals.refusal(Vocabulary.load, path)
        assert message.startswith(f"{path}: no vocabulary: {problem}")


def test_tokens_are_what_spaces_divide():
    assert tokenize(" mr. <unk> 's\tN  \r\n") == ["mr.", "<unk>", "'s", "N"]
    assert tokenize("\n") == []


# Your own files


def test_a_folder(tmp_path):
    data = load_text(write_folder(tmp_path), purpose="train")
    assert decoded(data, "train") == "the cat sat <eos> <eos> the <unk> sat down <eos>"
    assert decoded(data, "validation") == "the <unk> sat <eos> the <unk> <unk> down <eos>"
    assert decoded(data, "test") == "<unk> cat <eos>"
    assert data.vocabulary.words == (END, "sat", "the", UNKNOWN, "cat", "down")
    assert all(data.part(part).dtype == np.int32 for part in PARTS)
    assert data.name == str(tmp_path)
    assert data.unknown == {"train": (0, 0), "validation": (3, 2), "test": (1, 1)}
    assert data.notes() == [
        "valid.txt: 3 of 9 tokens (2 different words) are not in the vocabulary: read as <unk>",
        "test.txt: 1 of 3 tokens (1 different word) are not in the vocabulary: read as <unk>",
    ]


def test_a_search_does_not_read_the_test_part(tmp_path):
    folder = write_folder(tmp_path, test=b"\xff")
    data = load_text(str(folder), purpose="search")
    assert data.test is None
    assert data.unknown == {"train": (0, 0), "validation": (3, 2)}
    assert len(data.notes()) == 1
    with pytest.raises(
        ValueError, match=r"^part='test': was not read; load_text with purpose='train'"
    ):
        data.part("test")
    with pytest.raises(ValueError, match=r"^part='val': expected one of train, validation, test$"):
        data.part("val")
    # What the search saw is what a training sees.
    write_folder(tmp_path)
    trained = load_text(folder, purpose="train")
    assert trained.vocabulary == data.vocabulary
    np.testing.assert_array_equal(trained.train, data.train)


def test_names_of_published_files(tmp_path):
    names = ("train.txt", "wiki.valid.tokens", "ptb.test.txt")
    data = load_text(write_folder(tmp_path, names), purpose="train")
    assert decoded(data, "test") == "<unk> cat <eos>"
    assert [note.partition(":")[0] for note in data.notes()] == list(names[1:])


def test_ways_to_write_the_same(tmp_path):
    for train in (
        TRAIN.encode("utf-8-sig"),
        TRAIN.replace("\n", "\r\n"),
        TRAIN.replace(" ", " \t\u00a0").rstrip("\n"),
    ):
        data = load_text(write_folder(tmp_path, train=train), purpose="train")
        assert decoded(data, "train") == "the cat sat <eos> <eos> the <unk> sat down <eos>"


def test_a_vocabulary_size(tmp_path):
    folder = write_folder(tmp_path)
    data = load_text(folder, purpose="search", vocabulary_size=4)
    assert data.vocabulary.words == (END, "sat", "the", UNKNOWN)
    assert decoded(data, "train") == "the <unk> sat <eos> <eos> the <unk> sat <unk> <eos>"
    # The <unk> in the file is not one of the unknown.
    assert data.unknown == {"train": (2, 2), "validation": (4, 3)}
    assert len(load_text(folder, purpose="search", vocabulary_size=99).vocabulary) == 6


def test_a_training_part_without_unknown_words(tmp_path):
    folder = write_folder(tmp_path, train="the cat sat\n")
    assert load_text(folder, purpose="search").notes()[1:] == [
        "train.txt: has no <unk>, so that nothing is learnt about it; with a vocabulary of fewer "
        "than 5 words, the rarest are read as <unk>"
    ]
    assert len(load_text(folder, purpose="search", vocabulary_size=4).notes()) == 2
    assert load_text(write_folder(tmp_path, valid="the cat\n"), purpose="search").notes() == []


@given(train=st.lists(words, min_size=1), valid=st.lists(words, min_size=1))
def test_what_is_read_is_what_was_written(tmp_path_factory, train, valid):
    folder = tmp_path_factory.getbasetemp() / "written"
    write_folder(folder, train=" ".join(train), valid=" ".join(valid))
    data = load_text(folder, purpose="search")
    assert data.vocabulary == Vocabulary.of([*train, END])
    assert data.train.tolist() == data.vocabulary.encode([*train, END])
    assert data.validation.tolist() == data.vocabulary.encode([*valid, END])
    unknown = [word for word in valid if word not in {*train, END, UNKNOWN}]
    assert data.unknown["validation"] == (len(unknown), len({*unknown}))


# Refusals

EXPECTED = "expected a folder with train.txt, valid.txt and test.txt"


def test_no_folder(tmp_path):
    assert refusal(tmp_path / "no") == f"{tmp_path / 'no'}: no such folder; {EXPECTED}, or 'pydoc'"
    file = write_folder(tmp_path) / "train.txt"
    assert refusal(str(file)) == f"{file}: is a file; {EXPECTED}, or 'pydoc'"


def test_two_files_for_a_part_or_none(tmp_path):
    folder = write_folder(tmp_path, test=None)
    assert refusal(folder, "search") == f"{folder}: has no test.txt; {EXPECTED}"
    (folder / "ptb.valid.txt").write_text(VALID)
    names = "valid.txt, wiki.valid.tokens, ptb.valid.txt"
    problem = f"has both valid.txt and ptb.valid.txt; expected one of {names}"
    assert refusal(folder) == f"{folder}: {problem}"


NOT_UTF8 = (
    "is not UTF-8 (at byte {}); convert it, as with 'iconv -f LATIN1 -t UTF-8 valid.txt > new.txt' "
    "if it is Latin-1"
)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("\ufeff\n \n\t\n".encode(), "has no words in it"),
        (b"\xef\xbb\xbfthe \xe9\n", NOT_UTF8.format("7")),
        ("größe\n".encode() * 5_000 + b"\xe9", NOT_UTF8.format("40,000")),
        (None, "cannot be read: Is a directory"),
    ],
)
def test_a_file_refused(tmp_path, content, problem):
    folder = write_folder(tmp_path, valid=content)
    if content is None:
        (folder / "valid.txt").mkdir()
    assert refusal(folder) == f"{folder / 'valid.txt'}: {problem}"


def test_arguments_refused():
    assert refusal("pydoc", "test") == "purpose='test': expected 'search' or 'train'"
    assert refusal("pydoc", vocabulary_size=2) == (
        "vocabulary_size=2: expected 3 or more, <unk> and <eos> among them"
    )


# The built-in text


@pytest.fixture
def topics(monkeypatch):
    """Sets what Python says of itself."""

    def replace(texts: dict[str, str] | None) -> None:
        module = ModuleType("pydoc_data.topics")
        if texts is not None:
            module.topics = texts
        monkeypatch.setitem(sys.modules, "pydoc_data.topics", module)

    return replace


def test_pydoc_is_large_enough_and_the_same_each_time():
    data, again = (load_text("pydoc", purpose="train") for _ in range(2))
    sizes = [len(data.part(part)) for part in PARTS]
    assert sum(sizes) > 60_000
    shares = np.array(sizes) / sum(sizes)
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.02)
    assert 1_500 < len(data.vocabulary) < 4_000
    for part in PARTS:
        np.testing.assert_array_equal(data.part(part), again.part(part))
        unknown, _ = data.unknown[part]
        assert 0 < unknown < 0.15 * len(data.part(part))
    # Every word was seen twice, and <unk> is among what is learnt.
    counts = np.bincount(data.train, minlength=len(data.vocabulary))
    assert counts.min() > 1
    searched = load_text(purpose="search")
    (note,) = searched.notes()
    assert note.startswith("pydoc: rare words are read as <unk>: ")
    assert searched.test is None
    assert searched.vocabulary == data.vocabulary
    np.testing.assert_array_equal(searched.train, data.train)


def test_pydoc_keeps_its_parts_apart():
    lines = pydoc_lines()
    long = {part: {tuple(line) for line in lines[part] if len(line) > 5} for part in PARTS}
    assert not long["train"] & (long["validation"] | long["test"])
    assert not long["validation"] & long["test"]
    # Not in other words, either: hardly a run of 20 words in the test part is one of training.
    words = {part: [word for line in lines[part] for word in line] for part in PARTS}
    runs = {
        part: [tuple(words[part][start : start + 20]) for start in range(len(words[part]) - 19)]
        for part in PARTS
    }
    trained_on = {*runs["train"]}
    for part in ("validation", "test"):
        assert sum(run in trained_on for run in runs[part]) < 0.05 * len(runs[part])


def test_how_topics_become_words(topics):
    topics(
        {
            "a": "The *Title*\n***********\n\n   It's 3.14,\n   isn\u2019t __it__?\n \n"
            "+---+===+\n\n"
            ">>> x ** 2 ...",
        }
    )
    assert [" ".join(line) for line in pydoc_lines()["train"]] == [
        "the * title * <eos>",
        "it's 3 . 14 , isn\u2019t __it__ ? <eos>",
        "> > > x * * 2 . . . <eos>",
    ]


paragraphs = st.lists(st.sampled_from("abc"), min_size=1, max_size=7).map(" ".join)


@given(
    texts=st.dictionaries(
        st.text(min_size=1, max_size=3), st.lists(paragraphs, max_size=8).map("\n\n".join)
    )
)
def test_no_topics_share_a_paragraph(texts):
    with pytest.MonkeyPatch.context() as patch:
        module = ModuleType("pydoc_data.topics")
        module.topics = texts
        patch.setitem(sys.modules, "pydoc_data.topics", module)
        parts = pydoc_lines()
        module.topics = dict(reversed(texts.items()))
        assert pydoc_lines() == parts
    assert tuple(parts) == PARTS
    found = Counter(" ".join(line) for part in parts.values() for line in part)
    written = Counter(
        f"{paragraph} {END}" for text in texts.values() for paragraph in text.split("\n\n")
    )
    del written[f" {END}"]
    for paragraph, count in written.items():
        assert found.pop(paragraph) == (1 if len(paragraph.split()) > 5 else count)
    assert not found


def test_a_python_without_its_documentation(topics):
    topics(None)
    problem = "give a folder with train.txt, valid.txt and test.txt"
    assert refusal("pydoc") == f"pydoc: is not in this Python; {problem}"


# What a model must beat


def test_unigram_perplexity_by_hand(tmp_path):
    folder = write_folder(tmp_path, train="a a b\n", valid="a\n", test="b c\n")
    data = load_text(folder, purpose="train")
    # Counts 2, 1, 1 and 0 (<unk>), one more each: 3, 2, 2 and 1 of 8.
    assert unigram_perplexity(data) == pytest.approx((8 / 3 * 8 / 2) ** (1 / 2))
    assert unigram_perplexity(data, "test") == pytest.approx((8 / 2 * 8 / 1 * 8 / 2) ** (1 / 3))
    with pytest.raises(ValueError, match="was not read"):
        unigram_perplexity(load_text(folder, purpose="search"), "test")
