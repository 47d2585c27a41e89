"""Checks of arguments; what is wrong is named in one line."""

from __future__ import annotations

import difflib
import json
import math
import operator
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

MOST_NAMED = 5  # in one line; of what is more, the number is enough

_shortened = reprlib.Repr()
_shortened.maxstring = 100  # paths are longer than the default of 30


def whole(name: str, value: Any, least: int) -> int:
    """Returns the value, of Python or NumPy, as an int.

    Raises:
        ValueError: it is no whole number of `least` or more.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise ValueError(f"{name}={value!r}: expected a whole number of {least} or more")
    return number


def share(name: str, value: float) -> float:
    """Returns the value as a float.

    Raises:
        ValueError: it is not 0 or more and less than 1.
    """
    try:
        if 0 <= value < 1:
            return float(value)
    except TypeError:
        pass
    raise ValueError(f"{name}={value!r}: expected 0 or more and less than 1")


def not_negative(name: str, value: float) -> float:
    """Returns the value as a float.

    Raises:
        ValueError: it is not a finite number of 0 or more.
    """
    try:
        if 0 <= value < math.inf:
            return float(value)
    except TypeError:
        pass
    raise ValueError(f"{name}={value!r}: expected a number of 0 or more")


def positive(name: str, value: float) -> float:
    """Returns the value as a float.

    Raises:
        ValueError: it is not a finite number greater than 0.
    """
    try:
        if 0 < value < math.inf:
            return float(value)
    except TypeError:
        pass
    raise ValueError(f"{name}={value!r}: expected a number greater than 0")


def one_of(name: str, value: str, expected: Sequence[str]) -> str:
    """Returns the value.

    Raises:
        ValueError: it is none of those expected.
    """
    if value not in expected:
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(expected)}")
    return value


def instance(name: str, value: Any, kind: type) -> None:
    """Checks the class of an argument.

    Raises:
        TypeError: it is another one.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name}={value!r}: expected a {kind.__name__}")


def enumerated(names: Sequence[str]) -> str:
    """Lists the first of some names, and how many more there are: `a, b, c, d, e and 3 more`."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def meant(name: str, names: Iterable[str]) -> str:
    """Says which of some names is the closest to one that is none: `; did you mean epochs?`.

    Args:
        name: that is none of them.
        names: that there are.

    Returns:
        Empty if none of them is close.
    """
    found = difflib.get_close_matches(name, sorted(names), 1)
    return f"; did you mean {found[0]}?" if found else ""


def difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Names the settings in which a search or training on the disk differs from ours.

    Args:
        theirs: plain values, as read from JSON. What they have beside ours does not count, but
            for the entries of a mapping that both have.
        ours: plain values, which are compared as JSON would give them back.

    Returns:
        Such as `seed=0, not 1; config.filters=unset, not 8`; empty if ours are the same.

    Example:
        >>> difference({"seed": 0, "loss": 2.5}, {"seed": 0, "sizes": (1, 2)})
        'sizes=unset, not [1, 2]'
    """
    ours = json.loads(json.dumps(ours))
    return "; ".join(_differences(theirs, ours, ours, ""))


def _differences(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], names: Iterable[str], prefix: str
) -> Iterator[str]:
    for name in names:
        if name in theirs and name in ours:
            one, other = theirs[name], ours[name]
            if isinstance(one, Mapping) and isinstance(other, Mapping):
                yield from _differences(one, other, {**one, **other}, f"{prefix}{name}.")
                continue
            if one == other:
                continue
        said = (_shortened.repr(s[name]) if name in s else "unset" for s in (theirs, ours))
        yield "{}{}={}, not {}".format(prefix, name, *said)


# What to do where a folder holds another search.
ANOTHER_SEARCH = (
    "use another project_name (--project-name), or overwrite=True (--overwrite) to delete it"
)


def check_same(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], what: str, way_out: str = ANOTHER_SEARCH
) -> None:
    """Checks that what is on the disk is ours, to go on with.

    Args:
        theirs: its settings, plain values.
        ours: those that it has to have.
        what: where it is and what, as "runs/digits holds a search".
        way_out: what to do if it is not.

    Raises:
        ValueError: it differs; the message names the settings that do.
    """
    if differs := difference(theirs, ours):
        raise ValueError(f"{what} with {differs}; {way_out}")


# What TensorFlow and Keras put around the reason of an error: frames, nodes, colours, arguments.
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ARGUMENTS = re.compile(r"^Arguments received by .*:$", re.M)
_AROUND = re.compile(
    r"\[\[(\{\{.*|[\w/.:-]+\]\])|File \".*\", line \d+.*|Detected at node .*"
    r"|<stack traces unavailable>|Graph execution error:|\d+ root error\(s\) found\."
    r"|\([1-9]\d*\) [A-Z_]+: .*"
    r"|\d+ (successful operations|derived errors).*"
    r"|Hint: If you want to see a list of allocated tensors.*"
)
_BEFORE = re.compile(r"^(\(0\) [A-Z_]+: +)?(\{\{\w+ [^}]*\}\} |Error in .* with iterator: \S+: )*")
_OPERATION = re.compile(r" ?\[Op:[^\]]*\]( name:.*)?$")

_MOST_CHARACTERS = 400  # of a reason


def reason_of(message: str) -> str:
    """Returns what the message of an error says, in one line.

    Args:
        message: of several lines, as TensorFlow and Keras write them.

    Returns:
        Its lines without those that name nodes, frames and arguments, unless it has no others.
    """
    message = _COLOUR.sub("", message)
    lines = [line.strip() for line in _ARGUMENTS.split(message)[0].splitlines()]
    lines = [_BEFORE.sub("", _OPERATION.sub("", line)) for line in lines]
    kept = [line for line in lines if line and not _AROUND.fullmatch(line)]
    said = " ".join(kept or message.split())
    return said if len(said) <= _MOST_CHARACTERS else f"{said[:_MOST_CHARACTERS].rstrip()} ..."


def tensorflow_reason(error: Exception) -> str:
    """Returns what an error of TensorFlow's says, in one line; its class if it says nothing."""
    return reason_of(str(getattr(error, "message", error))) or type(error).__name__
