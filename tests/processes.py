"""Other processes: a training started as a user starts it, and one that holds a run folder."""
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8",
         "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
HOLD = """
import sys
from pathlib import Path
from vision_transformer.storage import lock
held = lock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def start_training(folder, *flags):
    """Starts train_digits.py in a folder; it hears Ctrl-C, which a shell's background jobs ignore."""
    def hear():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen([sys.executable, str(ROOT / "train_digits.py"), *flags], cwd=folder, **PIPES,
                            preexec_fn=hear if os.name == "posix" else None)


def hold(folder):
    """Starts a process that has the lock of a run folder until its input ends, or it does."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, **PIPES)
    assert process.stdout.readline() == "held\n"
    return process
