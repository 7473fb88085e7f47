"""A process of one thread that measures whenever it is asked to: benchmarks let several take turns.

Each has the Python that has its libraries. It is the benchmark's own script, run with `--serve NAME`: it says what it
is, then answers each line that it reads; everything it says is a line of JSON.
"""
from __future__ import annotations

import json
import os
import subprocess

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), "1")


class Child:
    """The process; `facts` is what it is, None where it does not run here."""

    def __init__(self, python: str, script: str, name: str, **environment: str):
        self.process = subprocess.Popen(
            [python, script, "--serve", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
            stderr=subprocess.DEVNULL, env={**os.environ, **ONE_THREAD, **environment})
        self.facts = self._read()

    def ask(self, line: object = ""):
        """Gives its answer to a line."""
        print(line, file=self.process.stdin, flush=True)
        return self._read()

    def end(self) -> None:
        """Ends the process; its memory is free for the next."""
        self.process.kill()
        self.process.communicate()

    def _read(self):
        line = self.process.stdout.readline()
        return json.loads(line) if line else None
