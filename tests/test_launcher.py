"""One search as several processes: what they are given, and that they find what one finds."""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import filelock
import psutil
import pytest
from processes import is_alive
from searches import timeless, unassigned

from keras_autoshrink.commands import launcher
from keras_autoshrink.commands.arguments import build_parser
from keras_autoshrink.commands.cli import main
from keras_autoshrink.commands.processes import Address
from keras_autoshrink.data.text import PYDOC

ROOT = Path(__file__).parent.parent
SEARCH = "search --dataset digits --nodes 3 --candidates 2 --epochs 1 --filters 4 --stem-filters 4"

LOOPBACK = Address("127.0.0.1", 5000)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", "KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("no_grpc_proxy", raising=False)
    monkeypatch.setattr(socket, "gethostname", lambda: "host")


def close(children):
    for child in children:
        child.close()
    return children


@pytest.mark.parametrize(
    "command",
    [
        "search",
        "search --workers 3",
        "search --overwrite --workers=3 --dataset digits --seed -1",
        "search --dataset digits --overwrite --chief node1:5000 --quiet --workers 2",
        "search --proxy-images 100 50 --worker [::1]:5000 --keep-fraction 0.5",
        "search --strategy bayesian --worker node1:5000 --max-candidates 9",
    ],
)
def test_children_get_the_same_search(command):
    own = launcher._own(command.split())
    expected = vars(build_parser().parse_args(command.split()))
    expected.update(workers=None, chief=None, worker=None, overwrite=False)
    assert vars(build_parser().parse_args(own)) == expected


def test_each_process_knows_its_part(tmp_path):
    team = launcher.Team(["search"], Address("0.0.0.0", 5000), 2, tmp_path / "logs")
    chief, workers = team.chief(), close(team.workers())
    names = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")
    parts = [[child.environment[name] for name in names] for child in (chief, *workers)]
    assert parts == [
        ["chief", "0.0.0.0", "5000"],
        ["host-1", "127.0.0.1", "5000"],
        ["host-2", "127.0.0.1", "5000"],
    ]
    assert not any("CUDA_VISIBLE_DEVICES" in c.environment for c in (chief, *workers))
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == [
        "host-1.log",
        "host-2.log",
    ]
    assert chief.log is None
    assert workers[0].environment["no_grpc_proxy"] == "127.0.0.1"


def test_ids_of_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "chief-machine")
    (worker,) = close(launcher.Team([], LOOPBACK, 1, tmp_path).workers())
    assert "chief" not in worker.environment["KERASTUNER_TUNER_ID"]
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "left/of")
    (worker,) = close(launcher.Team([], LOOPBACK, 1, tmp_path).workers())
    assert worker.environment["KERASTUNER_TUNER_ID"] == "left_of-1"


def test_no_two_workers_of_a_machine_have_the_same_id(tmp_path):
    first = launcher.Team([], LOOPBACK, 2, tmp_path).workers()
    first[0].log.write(b"of a worker that runs")
    first[0].log.flush()
    second = launcher.Team([], LOOPBACK, 1, tmp_path).workers()
    assert [w.name[-6:] for w in (*first, *second)] == ["host-1", "host-2", "host-3"]
    assert (tmp_path / "host-1.log").read_bytes() == b"of a worker that runs"
    close([*first, *second])
    again = close(launcher.Team([], LOOPBACK, 1, tmp_path).workers())
    assert again[0].name == "worker host-1"
    assert (tmp_path / "host-1.log").read_bytes() == b""


def devices(team):
    return [c.environment["CUDA_VISIBLE_DEVICES"] for c in (team.chief(), *close(team.workers()))]


def test_a_chief_without_a_gpu_asks_jax_for_none(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    team = launcher.Team([], LOOPBACK, 1, tmp_path)
    assert team.chief().environment["JAX_PLATFORMS"] == "cpu"
    assert [c.environment["JAX_PLATFORMS"] for c in close(team.workers())] == ["cuda"]


def test_each_worker_has_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-af,5")
    assert devices(launcher.Team([], LOOPBACK, 2, tmp_path)) == ["-1", "2", "GPU-af"]
    assert devices(launcher.Team([], LOOPBACK, 4, tmp_path)) == ["-1", "2", "GPU-af", "5", "2"]


@pytest.mark.parametrize(
    ("given", "visible"),
    [("", []), ("-1", []), ("0,-1,1", ["0"]), ("3", ["3"])],
)
def test_gpus_that_are_left_to_a_process(given, visible, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert launcher.visible_gpus() == visible


def test_gpus_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launcher.visible_gpus() == []
    lister = tmp_path / "nvidia-smi"
    lister.write_text(
        "#!/bin/sh\n"
        "echo 'GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-0)'\n"
        "echo '  MIG 1g.5gb     Device  0: (UUID: MIG-0)'\n"
        "echo 'GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-1)'\n"
    )
    lister.chmod(0o755)
    assert launcher.visible_gpus() == ["0", "1"]
    lister.write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    assert launcher.visible_gpus() == []


def test_modules_are_looked_for_where_this_process_found_them(tmp_path, monkeypatch):
    def safe():
        return launcher.Team([], LOOPBACK, 0, tmp_path).chief().environment.get("PYTHONSAFEPATH")

    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setattr(sys, "path", ["/usr/bin", *sys.path])
    monkeypatch.chdir(tmp_path)
    assert safe() == "1"
    monkeypatch.syspath_prepend(str(tmp_path))
    assert safe() is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"task": "images", "dataset": None},
        {"task": "images", "dataset": "some/folder.npz"},
        {"task": "text", "data_dir": None},
        {"task": "text", "data_dir": Path("corpora/ptb")},
    ],
)
def test_logs_lie_beside_the_folder_of_the_search(arguments):
    # Which --overwrite deletes.
    options = argparse.Namespace(directory=Path("runs"), project_name=None, **arguments)
    name = {"images": "digits", "text": PYDOC}[options.task]
    given = getattr(options, "dataset", None) or getattr(options, "data_dir", None)
    expected = Path(given).stem if given else name
    assert launcher._logs(options) == Path("runs", f"{expected}.logs")
    options.project_name = "mine"
    assert launcher._logs(options) == Path("runs", "mine.logs")


@pytest.mark.parametrize(
    ("text", "host", "written"),
    [
        ("node1:5000", "node1", "node1:5000"),
        ("[::1]:80", "::1", "[::1]:80"),
        ("10.0.0.1:1", "10.0.0.1", "10.0.0.1:1"),
    ],
)
def test_addresses(text, host, written):
    address = build_parser().parse_args(["search", "--chief", text]).chief
    assert address.host == host
    assert str(address) == written


def test_loopback():
    assert LOOPBACK.is_loopback()
    assert Address("localhost", 5000).is_loopback()
    assert Address("::1", 5000).is_loopback()
    assert not Address("0.0.0.0", 5000).is_loopback()
    assert not Address("192.0.2.1", 5000).is_loopback()
    assert Address("::", 5000).from_here == ("::1", 5000)


def test_a_reserved_port_is_for_one_search_and_for_its_chief():
    with Address("127.0.0.1", 0).reserved() as address:
        assert address.port > 0
        assert not address.listens()
        with pytest.raises(ValueError, match=r"cannot listen at .*in use"), address.reserved():
            pass
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as gRPC does
            server.bind(address)
            server.listen()
            assert address.listens()
    with address.reserved():  # free again
        pass


def test_a_connection_that_meets_itself_is_no_chief(monkeypatch):
    # The system may give a connection to a free port that very port to come from.
    connect = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", lambda to, wait: connect(to, wait, to))
    assert not Address("127.0.0.1", free_port()).listens()


def refused(capsys, command):
    """The one line on standard error with which a command refuses."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(command.split())
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    "text",
    ["5000", "node1", "node1:", ":5000", "node1:0", "node1:65536", "node1:x", "::1:5000", "[]:1"],
)
def test_bad_addresses_are_refused(text, capsys):
    for option in ("--chief", "--worker"):
        error = refused(capsys, f"search {option} {text}")
        assert f"argument {option}: {text!r} is no address of the kind node1:5000" in error


def test_what_cannot_be_is_refused_before_anything_starts(tmp_path, capsys, monkeypatch):
    search = f"search --directory {tmp_path}"
    assert "not allowed with" in refused(capsys, f"{search} --chief a:1 --worker a:1")
    assert "no whole number of 1 or more" in refused(capsys, f"{search} --workers 0")
    assert "--units: is for text" in refused(capsys, f"{search} --workers 2 --units 5")
    there_is_none = "there is no such host"
    assert there_is_none in refused(capsys, f"{search} --worker no-such-host.invalid:5000")
    assert there_is_none in refused(capsys, f"{search} --chief no-such-host.invalid:5000")
    # An address of documentation, which no machine has.
    assert "192.0.2.1:5000" in refused(capsys, f"{search} --chief 192.0.2.1:5000")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert "in use" in refused(capsys, f"{search} --chief 127.0.0.1:{port}")
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    assert "KERASTUNER_ORACLE_IP is set" in refused(capsys, f"{search} --workers 2")
    assert not [*tmp_path.iterdir()]


def test_what_is_said_before_a_search(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(launcher.Supervisor, "run", lambda self: (0, ""))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert main(["search", "--workers", "2"]) == 0
    assert main(["search", "--chief", "localhost:46123"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["search", "--chief", "0.0.0.0:46123", "--workers", "3"]) == 0
    trust, shared = capsys.readouterr().err.splitlines()
    assert trust.startswith("0.0.0.0:46123: no authentication, no encryption: ")
    assert shared == "3 workers share 2 GPUs"


def test_an_error_of_a_worker_is_one_line(monkeypatch, capsys):
    line = "worker host-1: autoshrink: error: holds another search"
    monkeypatch.setattr(launcher.Supervisor, "run", lambda self: (2, line))
    assert refused(capsys, "search --workers 2") == (
        "autoshrink: error: worker host-1: holds another search\n"
    )


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The trajectory of a search without a launcher."""
    directory = tmp_path_factory.mktemp("one")
    assert main([*SEARCH.split(), "--directory", str(directory), "--quiet"]) == 0
    return trajectory(directory / "digits")


def trajectory(folder):
    return unassigned(timeless(json.loads((folder / "trajectory.json").read_text())))


def started(directory, *options, **arguments):
    command = [sys.executable, "-m", "keras_autoshrink.commands.cli", *SEARCH.split()]
    command += ["--directory", str(directory), *options]
    return subprocess.Popen(command, cwd=ROOT, text=True, **arguments)


def trials_out(directory):
    """Which worker has which trial, as the chief has noted it last."""
    try:
        return json.loads((directory / "digits" / "oracle.json").read_text())["ongoing_trials"]
    except OSError:
        return {}


def process_of(launched, tuner_id):
    for child in psutil.Process(launched.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            if child.environ().get("KERASTUNER_TUNER_ID") == tuner_id:
                return child
    raise AssertionError(f"no {tuner_id}")


def wait_for_trials(launched, directory, known=()):
    """The trials under way, once there is one that is not known."""
    while launched.poll() is None:
        out = trials_out(directory)
        if {*out.values()} - {*known}:
            return out
        time.sleep(0.02)
    raise AssertionError("the search has ended")


def test_two_workers_of_which_one_is_killed_and_so_is_the_chief(tmp_path, one_process):
    # An older search that the chief deletes once, and what has been trained since never.
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "older").touch()
    launched = started(
        tmp_path, "--workers", "2", "--overwrite", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    first = wait_for_trials(launched, tmp_path)
    (name,) = first
    process_of(launched, name).kill()
    wait_for_trials(launched, tmp_path, first.values())
    process_of(launched, "chief").kill()
    output, errors = launched.communicate()
    assert launched.returncode == 0, errors
    assert errors.splitlines() == [
        f"worker {name} was killed (signal 9); starting it again",
        "the chief was killed (signal 9); starting it again",
    ]
    assert "Going on in round " in output
    assert trajectory(tmp_path / "digits") == one_process
    assert not (tmp_path / "digits" / "older").exists()


@pytest.mark.slow
def test_workers_search_by_the_strategy_that_they_are_given(tmp_path):
    strategy = ("--strategy", "bayesian", "--max-candidates", "5")
    assert main([*SEARCH.split(), "--directory", str(tmp_path / "one"), *strategy]) == 0
    address = f"127.0.0.1:{free_port()}"
    launched = started(tmp_path / "two", "--chief", address, *strategy)
    while not (tmp_path / "two" / "digits" / "tuner0.json").exists():
        assert launched.poll() is None
        time.sleep(0.05)
    other = (tmp_path / "two", "--worker", address, "--strategy", "paper")
    refused = started(*other, stderr=subprocess.PIPE)
    assert "strategy='bayesian', not 'paper'" in refused.communicate(timeout=120)[1]
    assert refused.returncode == 2
    assert started(tmp_path / "two", "--worker", address, "--workers", "2", *strategy).wait() == 0
    assert launched.wait() == 0
    found = trajectory(tmp_path / "two" / "digits")
    assert sum(len(record["candidates"]) for record in found) == 5
    assert found == trajectory(tmp_path / "one" / "digits")


@pytest.mark.slow
def test_a_launcher_that_is_killed_leaves_a_search_that_one_process_ends(tmp_path, one_process):
    launched = started(tmp_path, "--workers", "2", "--max-seconds-per-trial", "200")
    wait_for_trials(launched, tmp_path, wait_for_trials(launched, tmp_path).values())
    left = psutil.Process(launched.pid).children(recursive=True)
    assert len(left) == 3
    launched.kill()
    launched.wait()
    while any(is_alive(process.pid) for process in left):
        time.sleep(0.02)
    # A zombie's threads may live on for a moment, and with them its lock.
    with filelock.FileLock(tmp_path / "digits" / ".lock", timeout=60):
        pass
    command = [*SEARCH.split(), "--directory", str(tmp_path), "--max-seconds-per-trial", "200"]
    assert main(command) == 0
    assert trajectory(tmp_path / "digits") == one_process


@pytest.mark.slow
def test_ctrl_c_and_then_another_number_of_workers(tmp_path, one_process):
    launched = started(tmp_path, "--workers", "1", stderr=subprocess.PIPE)
    wait_for_trials(launched, tmp_path)
    launched.send_signal(signal.SIGINT)
    _, errors = launched.communicate()
    assert launched.returncode == 130
    assert errors.endswith("run it again, without --overwrite, to go on\n")
    chief = f"127.0.0.1:{free_port()}"
    environment = {**os.environ, "KERASTUNER_TUNER_ID": "elsewhere"}
    joined = started(
        tmp_path, "--worker", chief, "--workers", "2", env=environment, stderr=subprocess.PIPE
    )
    assert joined.stderr.readline() == f"waiting for a chief at {chief}\n"
    launched = started(tmp_path, "--chief", chief)
    assert launched.wait() == 0
    assert joined.communicate() == (None, "")
    assert joined.returncode == 0
    assert trajectory(tmp_path / "digits") == one_process
    assert {"elsewhere-1.log", "elsewhere-2.log"} < {
        path.name for path in (tmp_path / "digits.logs").iterdir()
    }


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
