"""The ``adb`` client: which device it reaches, and each of its failures in one line."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

# Seconds. Answers take less than one; the first call may start adb's server.
ANSWER_LIMIT = 30.0
# A model of hundreds of megabytes over USB 2 or Wi-Fi.
PUSH_LIMIT = 600.0

_LAST_LINES = 3


@dataclasses.dataclass(frozen=True)
class Device:
    """An Android device that a computer reaches through ``adb``.

    Attributes:
        adb: Path of the ``adb`` program.
        serial: What ``adb devices`` calls the device.
    """

    adb: str
    serial: str

    def property(self, name: str) -> str:
        """A system property, such as ``ro.product.cpu.abi``.

        Raises:
            OSError: The device does not answer or has no such property.
        """
        value = self.shell(["getprop", name])
        if not value:
            raise OSError(f"{self.serial}: has no property {name}: is it an Android device?")
        return value.splitlines()[-1]  # after what adb and the device's linker warn of

    def push(self, local: str | os.PathLike[str], remote: str) -> None:
        """Copies a file to the device.

        Raises:
            OSError: The device is full, does not let adb write there, or is gone.
        """
        status, output = _run(
            [self.adb, "-s", self.serial, "push", os.fspath(local), remote], PUSH_LIMIT
        )
        if "No space left on device" in output:
            raise OSError(
                f"{self.serial}: no space left on the device for {os.fspath(local)}: free some "
                f"({Path(local).stat().st_size:,} bytes)"
            )
        if status:
            raise self.failure(f"adb push {os.fspath(local)} {remote}", status, output)

    def shell(self, command: Sequence[str], limit: float = ANSWER_LIMIT) -> str:
        """Runs a program on the device.

        Args:
            command: The program and its arguments, each quoted for the device's shell.
            limit: Seconds that it may take.

        Returns:
            What it wrote to its output and its error output, stripped.

        Raises:
            OSError: It failed, was killed by a signal, or took too long; with its last lines.
        """
        status, output = _run([self.adb, "-s", self.serial, "shell", shlex.join(command)], limit)
        if status:
            raise self.failure(command[0], status, output)
        return output

    def failure(self, what: str, status: int, output: str) -> OSError:
        """The error for a command that ended with a status other than 0."""
        if "Permission denied" in output:
            return PermissionError(
                f"{self.serial}: permission denied on the device: {_last_lines(output)}: adb needs "
                "a folder that it may write to and run programs from"
            )
        return OSError(f"{self.serial}: {what} failed ({_cause(status)}): {_last_lines(output)}")


def find_device(adb: str | None = None, serial: str | None = None) -> Device:
    """Finds the device to use.

    Args:
        adb: Path of the ``adb`` program; by default the one on the search path.
        serial: The device's serial number, needed where there are several.

    Returns:
        A device that answers.

    Raises:
        OSError: There is no ``adb``, no device, several, none of that serial, or it is not ready.
    """
    program = shutil.which(adb or "adb")
    if program is None:
        raise OSError(
            f"{adb or 'adb'}: no such program: install Android's platform-tools (apt install adb) "
            "or give its path with --adb"
        )
    status, output = _run([program, "devices", "-l"], ANSWER_LIMIT)
    if status:
        raise OSError(f"{program} devices failed (exit status {status}): {_last_lines(output)}")
    devices = _listed(output)
    if serial is None:
        if not devices:
            raise OSError(
                "adb: no device: connect one and switch on USB debugging in its developer options"
            )
        if len(devices) > 1:
            found = ", ".join(f"{name} ({about})" for name, about in devices.items())
            raise OSError(f"adb: several devices, choose one with --serial: {found}")
        serial = next(iter(devices))
    elif serial not in devices:
        found = ", ".join(devices) or "none"
        raise OSError(f"{serial}: no such device; connected: {found}")
    _check_ready(serial, devices[serial])
    return Device(program, serial)


def _listed(output: str) -> dict[str, str]:
    """What ``adb devices -l`` says of each device: its state, then its product."""
    _, _, listing = output.partition("List of devices attached")
    lines = [line.split(None, 1) for line in listing.splitlines() if line.strip()]
    return {line[0]: line[1].strip() if len(line) > 1 else "" for line in lines}


def _check_ready(serial: str, about: str) -> None:
    state = about.split()[0] if about else "unknown"
    if state == "unauthorized":
        raise OSError(
            f"{serial}: not authorised: unlock the device and allow USB debugging from this "
            "computer"
        )
    if state == "offline":
        raise OSError(f"{serial}: offline: reconnect it, or restart adb with adb kill-server")
    if about.startswith("no permissions"):
        raise PermissionError(
            f"{serial}: this user may not open the USB device ({about}): add a udev rule for it"
        )
    if state != "device":
        raise OSError(f"{serial}: not ready, adb says {state!r}: start Android on it")


def _run(command: list[str], limit: float) -> tuple[int, str]:
    """A program's exit status and its two outputs, in the order that they came."""
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        words = " ".join(command[1:])
        raise TimeoutError(
            f"adb {words}: no end in {limit:g} s: is the device still connected and awake?"
        ) from None
    return ended.returncode, ended.stdout.decode(errors="replace").replace("\r\n", "\n").strip()


def _last_lines(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return " | ".join(lines[-_LAST_LINES:]) or "it said nothing"


def _cause(status: int) -> str:
    """An exit status in words; of a program that a signal killed, a shell gives 128 and that."""
    try:
        return signal.Signals(status - 128).name
    except ValueError:
        return f"exit status {status}"
