"""python -m vision_transformer COMMAND ...: one operation on a finished run, or on this machine, per command."""
from __future__ import annotations

import argparse
import os
import sys

from . import load
from .adapters import DEFAULT, VARIABLE, check_choice

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

COMMANDS = {            # each is a module of commands/ with add_arguments(parser) and run(arguments) -> exit code
    "evaluate": "accuracy on the whole test set, per class, with a confusion picture",
    "predict": "the likeliest classes of pictures",
    "explain": "pictures, with numbers: where the model looks, its positions, its filters, its mistakes",
    "export": "a SavedModel, ONNX, TensorFlow Lite or Hugging Face copy for other programs",
    "compare": "curves and results of runs, side by side, and the constants that differ",
    "demo": "a page on this computer: drop a picture in, see its class and where the model looks",
    "doctor": "what is installed, what is wrong and its mend, and what trainings will run on",
    "benchmark": "images per second of the input pipeline, the train step and inference: which one is slow",
}


def main(arguments=None) -> int:
    """Runs one command; gives its exit code."""
    arguments = [word for word in (sys.argv[1:] if arguments is None else arguments) if word != "--debug"]
    parser = argparse.ArgumentParser(prog="python -m vision_transformer", description=__doc__)
    parser.add_argument("--debug", action="store_true", help="on an error, show Python's traceback (in any place)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    named = next((word for word in arguments if word in COMMANDS), None)
    if named not in (None, "doctor"):                   # which tells what this would refuse, and unset from 0
        os.environ.setdefault(VARIABLE, DEFAULT)        # before TensorFlow is imported
        check_choice(os.environ[VARIABLE])
    for name, meaning in COMMANDS.items():
        command = commands.add_parser(name, help=meaning)
        if name == named:       # no other is imported: doctor must run where TensorFlow doesn't
            module = load(f"commands.{name}")
            command.description = module.__doc__
            module.add_arguments(command)
    parsed = parser.parse_args(arguments)               # exits where no command is named
    return module.run(parsed)


if __name__ == "__main__":
    from .settings import run_script
    run_script(main)
