"""What tests ask about processes."""

import psutil


def is_alive(pid):
    """Whether a process runs; where nobody buries it, a dead one keeps its number."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
