"""Stopping a training from outside: Ctrl-C, or the SIGTERM by which systems and schedulers end a program."""
from __future__ import annotations

import os
import signal
import threading

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """While entered, the first Ctrl-C or SIGTERM is only noted in `asked`; the next one acts at once, as ever.

    advice: what a KeyboardInterrupt says on its way out, if it says nothing yet.
    """

    def __init__(self, advice: str):
        self.advice = advice

    def __enter__(self):
        """Takes the signals over, in the main thread: Python tells no other one of them."""
        self.asked, self._before = False, {}
        if threading.current_thread() is threading.main_thread():
            # What is ignored, as Ctrl-C is by a shell's background jobs, or is not Python's, stays so.
            heard = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
            self._before = {number: signal.signal(number, self._note) for number in heard}
        return self

    def _note(self, *_):
        self.asked = True
        self._give_back()
        # Not by print: the main thread may be in the middle of one.
        os.write(2, b"\nstopping: this step is finished and saved first; once more stops at once\n")

    def __exit__(self, kind, error, _):
        """Gives the signals back."""
        self._give_back()
        if kind is KeyboardInterrupt and not error.args:
            raise KeyboardInterrupt(self.advice)

    def _give_back(self):
        for number, before in self._before.items():
            signal.signal(number, before)
