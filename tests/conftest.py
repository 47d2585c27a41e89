import functools
import gc
import os

# Before anything imports TensorFlow: it is talkative, and the tests read what commands print.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest
from hypothesis import settings

# A shared machine can take long over an example: no deadlines.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")

# What is imported stays: each collection would look through its million objects again, and
# KerasTuner asks for one whenever it builds a network. That was a fifth of the tests' time.
gc.disable()


def pytest_collection_finish():
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module")
def programs_traced_once():
    """Searches of a module by the same network and data share its program, which has no state.

    To trace it takes longer than all that it trains here.
    """
    from keras_autoshrink.masked_tensorflow import TensorFlowProgram

    trace, traced = TensorFlowProgram.__init__, {}

    @functools.wraps(trace)
    def traced_once(self, network, data, validation, *settings):
        arrays = [(array.shape, array.tobytes()) for array in (*data, *validation)]
        key = (repr(vars(network)), *arrays, *settings)
        if key not in traced:
            trace(self, network, data, validation, *settings)
            traced[key] = dict(vars(self))
        vars(self).update(traced[key])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TensorFlowProgram, "__init__", traced_once)
        yield
