"""Where the chief of a search listens."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

# "On all interfaces", and where to reach it from the same machine.
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}

# A connection that takes longer, in seconds, is not made.
_TIMEOUT = 1.0


class Address(NamedTuple):
    """A host, by name or number, and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.bracketed}:{self.port}"

    @property
    def bracketed(self) -> str:
        """The host as it stands in front of a colon."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def from_here(self) -> Address:
        """Where to reach what listens there, from the same machine."""
        return Address(_WILDCARDS.get(self.host, self.host), self.port)

    def is_loopback(self) -> bool:
        """Whether only this machine can reach it.

        Raises:
            ValueError: there is no such host.
        """
        numbers = {str(found[-1][0]).partition("%")[0] for found in self._resolved()}
        return all(ipaddress.ip_address(number).is_loopback for number in numbers)

    def listens(self) -> bool:
        """Whether somebody accepts connections there."""
        try:
            with socket.create_connection(self, _TIMEOUT) as connection:
                # Where nobody listens a connection can, by chance, meet itself.
                met: bool = connection.getsockname() != connection.getpeername()
                return met
        except OSError:
            return False

    @contextlib.contextmanager
    def reserved(self) -> Iterator[Address]:
        """Keeps the port for a process of this user that shares ports, as gRPC does.

        Yields:
            The address; where the port was 0, with one that was free.

        Raises:
            ValueError: it is in use, or is none of this machine.
        """
        family, kind, protocol, _, place = self._resolved()[0]
        with contextlib.ExitStack() as stack:
            try:
                with socket.socket(family, kind, protocol) as probe:
                    # Connections that have ended do not count, listeners do.
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(place)
                    port = probe.getsockname()[1]
                if hasattr(socket, "SO_REUSEPORT"):
                    held = stack.enter_context(socket.socket(family, kind, protocol))
                    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    held.bind((place[0], port, *place[2:]))
            except OSError as error:
                raise ValueError(f"cannot listen at {self}: {error.strerror}") from error
            yield Address(self.host, port)

    def _resolved(self) -> Sequence[tuple[int, int, int, str, tuple[Any, ...]]]:
        try:
            return socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ValueError(f"{self}: there is no such host: {error}") from error
