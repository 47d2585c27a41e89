"""A search as several processes: what they are given, and that they find what one finds."""

import contextlib
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from refusals import refused
from searches import unassigned

from keras_autoshrink import backend
from keras_autoshrink.commands import launcher
from keras_autoshrink.commands.arguments import build_parser, parse
from keras_autoshrink.commands.cli import main
from keras_autoshrink.commands.processes import Address

ROOT = Path(__file__).parent.parent
SEARCH = "search --dataset digits --nodes 3 --candidates 2 --epochs 1 --filters 4 --stem-filters 4"
FEW = ("--max-candidates", "2")

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
        "search --overwrite --workers=3 --dataset digits --seed -1",
        "search --proxy-images 100 50 --worker [::1]:5000 --keep-fraction 0.5",
        "search --task text --overwrite --chief node1:5000 --units 9 --quiet --workers 2",
    ],
)
def test_children_get_the_same_search(command):
    own = launcher._without_part(command.split())
    expected = vars(parse(command.split()))
    expected.update(workers=None, chief=None, worker=None, overwrite=False)
    expected["argv"] = ["autoshrink", *own]
    assert vars(parse(own)) == expected


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


def test_no_two_workers_of_a_machine_have_the_same_id(tmp_path, monkeypatch):
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
    # KerasTuner would take an ID that contains "chief" for the chief.
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "left/of-chief")
    (worker,) = close(launcher.Team([], LOOPBACK, 1, tmp_path).workers())
    assert worker.environment["KERASTUNER_TUNER_ID"] == "left_of-CHIEF-1"


def test_each_worker_has_a_gpu_and_the_chief_none(tmp_path, monkeypatch):
    def devices(count):
        team = launcher.Team([], LOOPBACK, count, tmp_path)
        children = (team.chief(), *close(team.workers()))
        return [child.environment["CUDA_VISIBLE_DEVICES"] for child in children]

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-af,5")
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert devices(2) == ["-1", "2", "GPU-af"]
    assert devices(4) == ["-1", "2", "GPU-af", "5", "2"]
    # Without a GPU, JAX would take it for an error to be asked for one.
    team = launcher.Team([], LOOPBACK, 1, tmp_path)
    assert team.chief().environment["JAX_PLATFORMS"] == "cpu"
    assert [c.environment["JAX_PLATFORMS"] for c in close(team.workers())] == ["cuda"]


@pytest.mark.parametrize(
    ("given", "visible"),
    [("", []), ("-1", []), ("0,-1,1", ["0"]), ("3", ["3"])],
)
def test_gpus_that_are_left_to_a_process(given, visible, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert backend.visible_gpus() == visible


def test_gpus_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert backend.visible_gpus() == []
    lister = tmp_path / "nvidia-smi"
    lister.write_text(
        "#!/bin/sh\n"
        "echo 'GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-0)'\n"
        "echo '  MIG 1g.5gb     Device  0: (UUID: MIG-0)'\n"
        "echo 'GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-1)'\n"
    )
    lister.chmod(0o755)
    assert backend.visible_gpus() == ["0", "1"]
    lister.write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    assert backend.visible_gpus() == []


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
    ("options", "name"),
    [
        ("", "digits"),
        ("--dataset some/folder.npz", "folder"),
        ("--task text", "pydoc"),
        ("--task text --data-dir corpora/ptb", "ptb"),
        ("--project-name mine", "mine"),
    ],
)
def test_logs_lie_beside_the_folder_of_the_search(tmp_path, monkeypatch, options, name):
    # Which --overwrite deletes.
    monkeypatch.chdir(tmp_path)
    texts = [f"corpora/ptb/{part}.txt" for part in ("train", "valid", "test")]
    for path in ("some/folder.npz", *texts):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    teams = []
    monkeypatch.setattr(launcher.Supervisor, "run", lambda self: (0, ""))
    team = launcher.Team
    monkeypatch.setattr(launcher, "Team", lambda *given: teams.append(given) or team(*given))
    chief = f"--chief localhost:{free_port()}"
    assert main(f"search --directory {tmp_path} {chief} {options}".split()) == 0
    assert teams[0][-1] == tmp_path / f"{name}.logs"


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


@pytest.mark.parametrize("text", ["5000", ":5000", "node1:0", "node1:65536", "node1:x", "::1:5000"])
def test_bad_addresses_are_refused(text, capsys):
    error = refused(capsys, f"search --chief {text}")
    assert f"argument --chief: {text!r} is no address of the kind node1:5000" in error


def test_what_cannot_be_is_refused_before_anything_starts(tmp_path, capsys, monkeypatch):
    search = f"search --directory {tmp_path}"
    assert "not allowed with" in refused(capsys, f"{search} --chief a:1 --worker a:1")
    assert "no whole number of 1 or more" in refused(capsys, f"{search} --workers 0")
    assert "--units: is for text" in refused(capsys, f"{search} --workers 2 --units 5")
    there_is_none = "there is no such host"
    assert there_is_none in refused(capsys, f"{search} --worker no-such-host.invalid:5000")
    # An address of documentation, which no machine has.
    assert "192.0.2.1:5000" in refused(capsys, f"{search} --chief 192.0.2.1:5000")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert "in use" in refused(capsys, f"{search} --chief 127.0.0.1:{port}")
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    assert "KERASTUNER_ORACLE_IP is set" in refused(capsys, f"{search} --worker a:1")
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
    assert refused(capsys, f"search --chief localhost:{free_port()} --workers 2") == (
        "autoshrink: error: worker host-1: holds another search\n"
    )


@pytest.fixture(scope="module")
def one_process(tmp_path_factory, optimised_graphs):
    """The trajectory of a search without a launcher."""
    directory = tmp_path_factory.mktemp("one")
    assert main([*SEARCH.split(), *FEW, "--directory", str(directory), "--quiet"]) == 0
    return trajectory(directory / "digits")


def trajectory(folder):
    return unassigned(json.loads((folder / "trajectory.json").read_text()))


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


def wait_for_trial(launched, directory):
    """The workers that have a trial, once there is one."""
    while launched.poll() is None:
        if out := trials_out(directory):
            return out
        time.sleep(0.02)
    raise AssertionError("the search has ended")


def test_a_worker_that_is_killed_starts_again_and_finds_what_one_process_finds(
    tmp_path, one_process
):
    # An older search, which is deleted.
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "older").touch()
    options = (*FEW, "--chief", f"127.0.0.1:{free_port()}", "--workers", "1", "--overwrite")
    launched = started(tmp_path, *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    (name,) = wait_for_trial(launched, tmp_path)
    process_of(launched, name).kill()
    printed, errors = launched.communicate()
    assert launched.returncode == 0, errors
    assert errors == f"worker {name} was killed (signal 9); starting it again\n"
    assert "\x1b" not in printed  # not a terminal: plain lines, no control codes
    assert trajectory(tmp_path / "digits") == one_process
    assert not (tmp_path / "digits" / "older").exists()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
