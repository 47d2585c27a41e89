import gc
import os
import runpy
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

# Before anything imports TensorFlow: it is talkative, and the tests read what commands print.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest
from hypothesis import settings

# A shell that runs the tests in the background lets them ignore Ctrl-C, and the processes that they
# start with them; many tests are of what it does.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A shared machine can take long over an example: no deadlines.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")

# What is imported stays: each collection would look through its million objects again, and
# KerasTuner asks for one whenever it builds a network. That was a fifth of the tests' time.
# gc.get_objects does not list what is frozen either: test_memory.py, which counts graphs with it,
# sees those made since. Nor does it pay in the short lives of the processes that tests start, of
# which Python imports this first.
_STARTED = str(Path(__file__).with_name("started"))
runpy.run_path(f"{_STARTED}/sitecustomize.py")
_PATHS = os.environ.get("PYTHONPATH", "").split(os.pathsep)
if _STARTED not in _PATHS:  # as it is in a process of pytest-xdist
    os.environ["PYTHONPATH"] = os.pathsep.join([_STARTED, *filter(None, _PATHS)])


def pytest_collection_finish():
    _optimise_graphs(False)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)  # to trace one network makes more objects than that
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def what_stays_is_not_looked_through():
    """As above, for what the modules of tests before have imported and left."""
    gc.collect()
    gc.freeze()


def _optimise_graphs(whether):
    from forked import optimise_graphs

    if "tensorflow" in sys.modules:
        optimise_graphs(whether)


@pytest.fixture(scope="module")
def optimised_graphs():
    """For what is of the numbers of optimised graphs, such as those of processes of their own."""
    _optimise_graphs(True)
    yield
    _optimise_graphs(False)


@pytest.fixture(scope="module")
def one_cell_in_each_stage():
    """Instead of two: to trace and to convert them takes longer than all that is trained here."""
    from keras_autoshrink.training import classifier

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(classifier._SMALL_ARCHITECTURE, "stage_repeats", (1, 1, 1))
        yield


@pytest.fixture
def workers_at_once(monkeypatch):
    """The workers of searches, which start as copies of a process that has imported all they need.

    That they start as they do elsewhere is seen where a script searches, and a command.
    """
    from forked import WorkerProcess

    from keras_autoshrink.tuner import workers

    started = []

    def start(*args, **kwargs):
        started.append(WorkerProcess(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(workers, "subprocess", SimpleNamespace(Popen=start, DEVNULL=None))
    return started


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The network of `exported.py` and its files; not to be changed."""
    from exported import made_once

    return made_once(tmp_path_factory)
