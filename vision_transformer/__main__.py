"""python -m vision_transformer COMMAND ...: one operation on a finished run per command."""
from __future__ import annotations

import argparse
import importlib
import os

os.environ.setdefault("DML_VISIBLE_DEVICES", "0")       # as the training scripts do, before TensorFlow is imported
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

COMMANDS = {            # each is a module of commands/ with add_arguments(parser) and run(arguments) -> exit code
    "evaluate": "accuracy on the whole test set, per class, with a confusion picture",
    "predict": "the likeliest classes of pictures",
}


def main(arguments=None) -> int:
    """Runs one command; gives its exit code."""
    parser = argparse.ArgumentParser(prog="python -m vision_transformer", description=__doc__)
    parser.add_argument("--debug", action="store_true", help="on an error, show Python's traceback")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modules = {name: importlib.import_module(f".commands.{name}", __package__) for name in COMMANDS}
    for name, module in modules.items():
        command = commands.add_parser(name, help=COMMANDS[name], description=module.__doc__)
        command.add_argument("run", metavar="RUN", help="a run folder, such as runs/cifar10-001")
        module.add_arguments(command)
    parsed = parser.parse_args(arguments)
    return modules[parsed.command].run(parsed)


if __name__ == "__main__":
    from .settings import run_script
    run_script(main)
