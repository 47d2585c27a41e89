import gc
import os

# Before anything imports TensorFlow: it is talkative, and the tests read what commands print.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

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
