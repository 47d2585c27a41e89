import functools
import gc
import os
import signal

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
# sees those made since.
gc.disable()


def pytest_collection_finish():
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module")
def one_cell_in_each_stage():
    """Instead of two: to trace and to convert them takes longer than all that is trained here."""
    from keras_autoshrink import training

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(training._SMALL_ARCHITECTURE, "stage_repeats", (1, 1, 1))
        yield


@pytest.fixture(scope="module")
def programs_traced_once():
    """Searches of a module by the same network and data share its program, which has no state.

    To trace it takes longer than all that it trains here. `programs_traced_anew` is for tests
    that say what two programs do.
    """
    from keras_autoshrink.masked_tensorflow import TensorFlowProgram

    trace, traced = TensorFlowProgram.__init__, {}

    @functools.wraps(trace)
    def traced_once(self, network, data, validation, *settings):
        arrays = [(array.shape, array.dtype.str, array.tobytes()) for array in (*data, *validation)]
        # The cell and all of the architecture, whatever comes to it. The address in a function's
        # repr is nobody else's: `traced` holds on to the network.
        key = (repr(vars(network)), *arrays, *settings)
        if key not in traced:
            trace(self, network, data, validation, *settings)
            traced[key] = dict(vars(self))
        vars(self).update(traced[key])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TensorFlowProgram, "__init__", traced_once)
        yield trace


@pytest.fixture
def programs_traced_anew(programs_traced_once, monkeypatch):
    """Each search of the test has a program of its own, as outside of the tests."""
    from keras_autoshrink.masked_tensorflow import TensorFlowProgram

    monkeypatch.setattr(TensorFlowProgram, "__init__", programs_traced_once)


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The network of `exported.py` and its files; not to be changed."""
    from exported import made_once

    return made_once(tmp_path_factory)
