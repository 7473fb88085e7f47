"""How much memory a process, or a call in it, has used at most."""
import os
import re
import tracemalloc
from pathlib import Path

ROOT = Path(__file__).parents[1]


def peak_memory():
    """Gives the most memory, in MB, that this process has held at any time (0 on other systems than Linux).

    resource.getrusage won't do: on Linux a child begins with its parent's peak, and a test's parent has a large one.
    """
    status = Path("/proc/self/status")
    return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 1024 if status.exists() else 0


def measured(call):
    """Gives what a call gives, and the most bytes that Python held for it at any time."""
    tracemalloc.start()
    try:
        result = call()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def child_environment():
    """Gives an environment in which a child process finds the project and this file."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))), "TF_CPP_MIN_LOG_LEVEL": "3"}
