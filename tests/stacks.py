"""Graphs in less time."""

import sys


def note_one_for_all():
    """Lets TensorFlow note one stack for all operations of graphs, for its messages.

    It walks through that of each operation: a tenth of what tracing takes where stacks are as deep
    as in tests.
    """
    if ops := sys.modules.get("tensorflow.python.framework.ops"):
        stack = ops.tf_stack.extract_stack()
        ops.tf_stack.extract_stack = lambda stacklevel=1: stack
