"""Checks this installation: what is installed, what is wrong and its mend, and what trainings will run on.

--compare checks what the GPU computes, --ops what a model costs on DirectML.
"""
from __future__ import annotations

import argparse
import os
from pathlib import Path

from .. import adapters, installation
from ..adapters import DEFAULT, VARIABLE

TIME_LIMIT = 120.0                      # seconds for TensorFlow to load: minutes on a cold disk with a virus scanner


def add_arguments(parser) -> None:
    """Adds this command's arguments."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--compare", action="store_true",
                        help="train a few steps on the GPU and on the CPU: do they agree but for rounding?")
    either.add_argument("--ops", nargs=argparse.REMAINDER, metavar="",
                        help="RUN-or-SCRIPT [FLAG ...]: find what leaves the GPU, or makes it wait, in a run or in a "
                             "training script with these of its flags, which is run up to its first step; needs no "
                             "GPU (default: train_digits.py)")


def run(arguments) -> int:
    """Prints the check; gives 1 where something is wrong."""
    if arguments.ops is None and not arguments.compare:
        return check_installation(os.environ.get(VARIABLE))
    os.environ.setdefault(VARIABLE, DEFAULT)
    adapters.check_choice(os.environ[VARIABLE])
    # Imported only here: without these two, doctor must run where TensorFlow doesn't.
    if arguments.compare:
        from ..drift import report
        return int(not report())
    from ..directml import report
    from ..dry_run import dry_run
    from ..xla import as_on_directml
    script, *flags = arguments.ops or [Path(__file__).parents[2] / "train_digits.py"]
    training = dry_run(script, flags)
    with as_on_directml():
        return int(not report(training.functions()))


def check_installation(typed: str | None) -> int:
    """Prints facts, findings with mends, and what trainings run on when DML_VISIBLE_DEVICES is `typed` (None: unset).

    Gives 0 where trainings work on what the user chose, else 1.
    """
    choice = DEFAULT if typed is None else typed
    print("asking TensorFlow what it finds, which takes some seconds ...\n", flush=True)
    facts, everything = installation.gather(), adapters.list_adapters(TIME_LIMIT)
    chosen = everything                 # a choice is tried, since DirectML may leave out an adapter that it counts
    if choice and (everything.adapters or everything.failure):
        chosen = adapters.ask_tensorflow({**os.environ, VARIABLE: choice}, TIME_LIMIT)
    findings = installation.findings(facts, everything, chosen, wants_gpu=not adapters.is_negative(choice))
    findings += choice_findings(facts, choice, everything, chosen)
    wrong = [finding for finding in findings if finding.wrong]
    print_facts(facts_by_name(facts, typed, everything, chosen), {piece for each in wrong for piece in each.pieces})
    for finding in [*wrong, *(finding for finding in findings if not finding.wrong)]:
        print(f"\n{'wrong' if finding.wrong else 'note '}  " + finding.cause.replace("\n", "\n       "))
        if finding.mend:
            print("mend   " + finding.mend.replace("\n", "\n       "))
    print(f"\n{verdict(facts, choice, chosen, wrong)}")
    return int(bool(wrong))


def choice_findings(facts, choice, everything, chosen) -> list:
    """What is to be said about DML_VISIBLE_DEVICES, where the plugin reads it."""
    if not choice or not (installation.PLUGIN in facts.installed and chosen.tensorflow):
        return []
    known, seen = everything.adapters, [adapter.name for adapter in chosen.adapters]
    expected = [known[number].name for number in adapters.selected(choice, len(known))]
    if adapters.is_malformed(choice) or (known and not expected + seen and not adapters.is_negative(choice)):
        return [installation.Finding([VARIABLE], True, adapters.complaint(choice, known))]
    if expected != seen:
        return [installation.Finding(["DirectML"], not seen, f"{VARIABLE}={choice} really selects "
                                     f"{' and '.join(seen) or 'nothing'}: DirectML leaves out a GPU that the variable "
                                     "counts; try the neighbouring numbers")]
    return []


def facts_by_name(facts, typed, everything, chosen) -> dict:
    """The lines to print: name -> text."""
    lines = {"Python": f"{facts.python}, {facts.bits} bits: {installation.python()}",
             "system": f"{facts.system} {facts.release}",
             "processor": f"{facts.processor}, {facts.machine}, {os.cpu_count()} logical cores"}
    for need in facts.needs:
        if not need.fits or need.name in (*installation.TENSORFLOWS, installation.PLUGIN):
            lines.setdefault(need.name, (need.version or "missing") + f"; needed is {need.text}" * (not need.fits))
    others = {need.name: need.version for need in facts.needs if need.name not in lines
              and (not need.by or need.name in ("numpy", "protobuf"))}
    if others:
        lines["others"] = ", ".join(f"{name} {version}" for name, version in others.items())
    for name in installation.TENSORFLOWS:
        if name in facts.installed:
            lines.setdefault(name, facts.installed[name])
    loads = f"loads: {chosen.tensorflow} with Keras {chosen.keras}"
    lines["TensorFlow"] = loads if chosen.tensorflow else "doesn't load"
    if everything.directml is not None:
        loads = "loads" if everything.directml else "can't be loaded"
        lines["DirectML"] = f"{loads}; adapters: {len(everything.adapters)}"
    for adapter in everything.adapters:
        driver = f", driver {adapter.driver}" if adapter.driver else ""
        lines[f"adapter {adapter.number}"] = (adapter.name or "name unknown") + driver
    if installation.PLUGIN not in facts.installed:
        if typed is not None:
            lines[VARIABLE] = f"{typed} has no effect without {installation.PLUGIN}"
    elif chosen.tensorflow:
        unset = "not set, so the scripts take 0: " if typed is None else ""
        lines[VARIABLE] = unset + adapters.explain(DEFAULT if unset else typed, everything.adapters)
    return lines


def print_facts(lines, marked) -> None:
    """Prints the facts in columns, the marked ones with a !."""
    width = max(map(len, lines))
    for name, text in lines.items():
        print(f"{'!' if name in marked else ' '} {name:{width}}  {text}")


def verdict(facts, choice, chosen, wrong) -> str:
    """What trainings run on, as their own first line will say."""
    if not chosen.tensorflow:
        return "no training can run before TensorFlow loads"
    if not all(need.version for need in facts.needs if not need.by and need.name != installation.PLUGIN):
        return "no training can run before what is missing is installed"
    if any(VARIABLE in finding.pieces for finding in wrong):
        return f"no training starts while {VARIABLE} is {choice}"
    if chosen.failure:
        return "no training can run on a GPU that TensorFlow fails on"
    if chosen.adapters:
        typed = f" ({VARIABLE}={choice})" if choice else ""
        return f"trainings run on DirectML GPU 0: {chosen.adapters[0].name or 'name unknown'}{typed}"
    if chosen.gpus:
        return f"trainings run on GPU 0: {chosen.gpus[0]}"
    if adapters.is_negative(choice):
        return f"trainings run on the CPU, as {VARIABLE}={choice} wants"
    kind = "DirectML adapter" if installation.PLUGIN in facts.installed else "GPU"
    return f"trainings run on the CPU: no {kind} was found"
