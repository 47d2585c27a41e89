"""`autoshrink search --workers`: a chief and workers of KerasTuner's service as processes.

Each has the same command line, in an environment that names its part. This process loads
neither Keras nor TensorFlow; it looks after the others.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import itertools
import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from keras_autoshrink.commands.arguments import PROGRAM, default_project, settle
from keras_autoshrink.commands.processes import Address, Child, Supervisor
from tflite_export.command_line import fail


def launch(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Runs a search's processes on this machine until it has ended.

    Args:
        options: of the command `search`.
        arguments: the command line that they were parsed from.

    Returns:
        The exit status: the chief's, where it runs here.

    Raises:
        ValueError, OSError: something in the options cannot be.
        SystemExit: the search failed or was interrupted, after one line on standard error.
    """
    settle(options, options.task)  # at once what the chief would refuse after seconds
    if "KERASTUNER_ORACLE_IP" in os.environ:
        raise ValueError(
            "KERASTUNER_ORACLE_IP is set, so this process is a chief or a worker itself; unset "
            "it, or leave out --workers, --chief and --worker"
        )
    count = options.workers or (1 if options.worker else 0)
    with contextlib.ExitStack() as stack:
        address = options.worker
        if address is None:
            wanted = options.chief or Address("127.0.0.1", 0)
            address = stack.enter_context(wanted.reserved())
        team = Team(_own(arguments), address, count, _logs(options))
        supervisor = Supervisor(
            None if options.worker else team.chief(),
            team.workers,
            address.from_here.listens,
            once=["--overwrite"] if options.overwrite else [],
            others=options.chief is not None,
        )
        loopback = address.is_loopback()  # raises where there is no such host
        if options.chief and not loopback:
            supervisor.say(
                f"{address}: no authentication, no encryption: whoever reaches this port can read "
                "and change the search; only for networks that you trust"
            )
        if options.worker and not address.listens():
            supervisor.say(f"waiting for a chief at {address}")
        if team.gpus and count > len(team.gpus):
            supervisor.say(f"{count} workers share {len(team.gpus)} GPUs")
        status, message = supervisor.run()
    if message:
        fail(PROGRAM, message.replace(f"{PROGRAM}: error: ", ""), status)  # a worker's own line
    return status


class Team:
    """Makes the processes of a search.

    Args:
        arguments: their command line.
        address: where the chief listens.
        count: of workers.
        logs: the folder for what workers print.

    Attributes:
        gpus: that they share.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        address: Address,
        count: int,
        logs: Path,
    ) -> None:
        self._command = [sys.executable, "-m", "keras_autoshrink.commands.cli", *arguments]
        self._address = address
        self._count = count
        self._logs = logs
        self.gpus = visible_gpus()

    def chief(self) -> Child:
        """The chief; it trains nothing."""
        environment = self._environment("chief", self._address)
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = "-1"
            environment["JAX_PLATFORMS"] = "cpu"  # or JAX would take no GPU for an error
        return Child("the chief", self._command, environment)

    def workers(self) -> list[Child]:
        """The workers, each with one of the GPUs if there are any."""
        self._logs.mkdir(parents=True, exist_ok=True)
        workers = []
        for index in range(self._count):
            name, log = _open_log(self._logs)
            environment = self._environment(name, self._address.from_here)
            if self.gpus:
                environment["CUDA_VISIBLE_DEVICES"] = self.gpus[index % len(self.gpus)]
            workers.append(Child(f"worker {name}", self._command, environment, log))
        return workers

    def _environment(self, tuner_id: str, address: Address) -> dict[str, str]:
        environment = {
            **os.environ,
            "KERASTUNER_TUNER_ID": tuner_id,
            "KERASTUNER_ORACLE_IP": address.bracketed,
            "KERASTUNER_ORACLE_PORT": str(address.port),
        }
        # Or gRPC would take a proxy that is meant for the web.
        environment.setdefault("no_grpc_proxy", address.host)
        if not {"", str(Path.cwd())} & {*sys.path}:
            # As here, where a console script runs: `python -m` would look for each module that
            # is imported in the working directory first.
            environment["PYTHONSAFEPATH"] = "1"
        return environment


def visible_gpus() -> list[str]:
    """The GPUs that processes may use, each as CUDA_VISIBLE_DEVICES names it."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        names = [name.strip() for name in given.split(",")]
        # CUDA does not read on, either, behind what cannot be one.
        return list(itertools.takewhile(lambda name: name and name[0] != "-", names))
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(index) for index in range(len(re.findall(r"(?m)^GPU \d+:", listed.stdout)))]


def _own(arguments: Sequence[str]) -> list[str]:
    """A command line without what is for the launcher, or the chief, alone."""
    parser = argparse.ArgumentParser(add_help=False)
    for option in ("--workers", "--chief", "--worker"):
        parser.add_argument(option)
    parser.add_argument("--overwrite", action="store_true")
    return parser.parse_known_args(arguments)[1]


def _logs(options: argparse.Namespace) -> Path:
    """A folder beside the search's, which --overwrite deletes."""
    folder: Path = options.directory
    return folder / f"{options.project_name or default_project(options)}.logs"


def _open_log(folder: Path) -> tuple[str, BinaryIO]:
    """An ID for a worker, and an empty file for what it prints.

    The first number that no worker on this machine has: the file is locked while one runs.
    """
    # What contains "chief" would be one. Names of hosts are the same in capitals.
    prefix = os.environ.get("KERASTUNER_TUNER_ID") or socket.gethostname()
    prefix = re.sub(r"[^\w.-]", "_", prefix).replace("chief", "CHIEF")
    for number in itertools.count(1):
        name = f"{prefix}-{number}"
        log = (folder / f"{name}.log").open("ab")
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.close()
            continue
        except OSError:  # a file system without locks
            pass
        log.truncate(0)
        return name, log
    raise AssertionError  # never
