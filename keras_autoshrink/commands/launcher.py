"""`autoshrink search --chief` and `--worker`: a chief and workers of KerasTuner's service.

For workers on several machines, or with a GPU each. Each process has the same command line, in an
environment that names its part. This process loads neither Keras nor TensorFlow; it looks after the
others.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import itertools
import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from keras_autoshrink.backend import trainer_environment, visible_gpus
from keras_autoshrink.commands.arguments import PROGRAM, default_project
from keras_autoshrink.commands.processes import Address, Child, Supervisor
from tflite_export.command_line import Parser, fail


def launch(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Runs a search's processes on this machine until it has ended.

    Args:
        options: of the command `search`.
        arguments: the command line that they were parsed from.

    Returns:
        The exit status: the chief's, where it runs here.

    Raises:
        ValueError, OSError: the address cannot be used, or this process is a worker itself.
        SystemExit: the search failed or was interrupted, after one line on standard error.
    """
    if "KERASTUNER_ORACLE_IP" in os.environ:
        raise ValueError(
            "KERASTUNER_ORACLE_IP is set, so this process is a chief or a worker itself; unset "
            "it, or leave out --workers, --chief and --worker"
        )
    count = options.workers or (1 if options.worker else 0)
    own = options.chief or Address("127.0.0.1", 0)
    with contextlib.nullcontext(options.worker) if options.worker else own.reserved() as address:
        # Beside the search's folder, which --overwrite deletes.
        logs = options.directory / f"{options.project_name or default_project(options)}.logs"
        team = Team(_without_part(arguments), address, count, logs)
        supervisor = Supervisor(
            None if options.worker else team.chief(),
            team.workers,
            address.from_here.listens,
            first_arguments=["--overwrite"] if options.overwrite else [],
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


@dataclasses.dataclass
class Team:
    """The processes of a search, before they are started.

    Args:
        arguments: their command line.
        address: where the chief listens.
        count: of workers.
        logs: the folder for what workers print.

    Attributes:
        gpus: that the workers share, each as CUDA_VISIBLE_DEVICES names it.
    """

    arguments: Sequence[str]
    address: Address
    count: int
    logs: Path

    def __post_init__(self) -> None:
        self._command = [sys.executable, "-m", "keras_autoshrink.commands.cli", *self.arguments]
        self.gpus = visible_gpus()

    def chief(self) -> Child:
        """Returns the chief, which trains nothing."""
        environment = self._environment(os.environ, "chief", self.address)
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = "-1"
            environment["JAX_PLATFORMS"] = "cpu"  # JAX takes it for an error to find no GPU
        return Child("the chief", self._command, environment)

    def workers(self) -> list[Child]:
        """Returns the workers, each with one of the GPUs if there are any, and opens their logs."""
        self.logs.mkdir(parents=True, exist_ok=True)
        workers = []
        for index in range(self.count):
            tuner_id, log = _open_log(self.logs)
            gpu = self.gpus[index % len(self.gpus)] if self.gpus else None
            environment = trainer_environment(gpu)
            environment = self._environment(environment, tuner_id, self.address.from_here)
            workers.append(Child(f"worker {tuner_id}", self._command, environment, log))
        return workers

    def _environment(
        self, given: Mapping[str, str], tuner_id: str, address: Address
    ) -> dict[str, str]:
        """Returns an environment with the part that a process has in the search."""
        environment = {
            "no_grpc_proxy": address.host,  # gRPC would take a proxy that is meant for the web
            **given,
            "KERASTUNER_TUNER_ID": tuner_id,
            "KERASTUNER_ORACLE_IP": address.bracketed,
            "KERASTUNER_ORACLE_PORT": str(address.port),
        }
        if not {"", str(Path.cwd())} & {*sys.path}:
            # As a console script runs: `python -m` would look for each module that is imported in
            # the working directory first.
            environment["PYTHONSAFEPATH"] = "1"
        return environment


def _without_part(arguments: Sequence[str]) -> list[str]:
    """Returns a command line without the options for the launcher, or the first chief, alone."""
    parser = Parser(add_help=False)
    for option in ("--workers", "--chief", "--worker"):
        parser.add_argument(option)
    parser.add_argument("--overwrite", action="store_true")
    return parser.parse_known_args(arguments)[1]


def _open_log(folder: Path) -> tuple[str, BinaryIO]:
    """Opens an empty log for a worker, and returns the worker's tuner ID with it.

    The ID ends in the first number that no worker on this machine has: a log is locked while its
    worker runs.
    """
    # KerasTuner takes an ID that contains "chief" for the chief; a host's name has no case.
    prefix = os.environ.get("KERASTUNER_TUNER_ID") or socket.gethostname()
    prefix = re.sub(r"[^\w.-]", "_", prefix).replace("chief", "CHIEF")
    for number in itertools.count(1):
        log = (folder / f"{prefix}-{number}.log").open("ab")
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.close()
            continue
        except OSError:  # a file system without locks
            pass
        break
    log.truncate(0)
    return f"{prefix}-{number}", log
