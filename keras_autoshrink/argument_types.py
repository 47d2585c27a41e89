"""The kinds of numbers and addresses that the command `autoshrink` takes."""

from __future__ import annotations

import argparse
import math

from keras_autoshrink.address import Address


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


def rate(text: str) -> float:
    """A finite number greater than 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number greater than 0")
    return number


def count(text: str) -> int:
    """A number such as 300M."""
    factor = {"K": 10**3, "M": 10**6, "G": 10**9}.get(text[-1:].upper())
    try:
        number = float(text[:-1]) * factor if factor else float(text)
    except ValueError:
        number = 0
    if not 1 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of the kind 300M or 300000000")
    return round(number)


def address(text: str) -> Address:
    """A host and a port, such as 192.168.0.7:5000, node1:5000 or [::1]:5000."""
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not (host and port.isdecimal() and 1 <= int(port) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r} is no address of the kind node1:5000")
    return Address(host, int(port))
