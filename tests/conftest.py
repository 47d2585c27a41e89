import os

# Before anything imports TensorFlow: it is talkative, and the tests read what commands print.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
