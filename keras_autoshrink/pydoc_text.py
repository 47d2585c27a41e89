"""The built-in text: the documentation that Python itself brings."""

from __future__ import annotations

import re

from keras_autoshrink.vocabulary import END, tokenize_prose

PYDOC = "pydoc"

# How much of the text each part gets, and the shortest paragraph, in words and marks, that only
# one place of the whole text may have. Shorter ones ("See also:") say nothing.
_SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
_SHORTEST = 5

_RULE = re.compile(r"[-=*~^+|]{3,}")  # what underlines headings and frames tables


def pydoc_lines() -> dict[str, list[list[str]]]:
    """The paragraphs of Python's own documentation, one line each.

    It is divided by topic. Many topics contain others: a paragraph belongs to the longest topic
    that has it, and the others go without it, so that none is in two parts or twice in one.

    Returns:
        The words of each line of the parts `"train"`, `"validation"` and `"test"`.

    Raises:
        ValueError: this Python came without it.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:  # a Python cut down to be small
        raise ValueError(
            f"{PYDOC}: is not in this Python; give a folder with train.txt, valid.txt and test.txt"
        ) from error
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
