"""Puts runs side by side: results and the constants that differ as a table, their curves as a picture."""
from __future__ import annotations

from pathlib import Path

from ..messages import harmless
from ..pictures import save_comparison
from ..records import differences, read_history, read_results
from ..runs import Run
from ..storage import make_folder, write_table

COLUMNS = ("run", "epochs", "best epoch", "validation accuracy", "test accuracy", "test loss", "weights", "CPU minutes")


def add_arguments(parser) -> None:
    """Adds this command's arguments."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run folders, such as runs/cifar10-001 runs/cifar10-002")
    parser.add_argument("--output", metavar="FOLDER",
                        help="where compare.png and compare.csv go (default: beside the first run)")


def run(arguments) -> int:
    """Prints both tables, writes compare.csv and compare.png."""
    runs = [Run(path) for path in dict.fromkeys(Path(word) for word in arguments.runs)]
    if len(runs) < 2:
        raise ValueError(f"there is nothing to compare {runs[0].path} with; name two runs or more.")
    histories = [read_history(run) for run in runs]
    names = [harmless(run.path) for run in runs]
    results = [row_of(name, history, read_results(run)) for name, run, history in zip(names, runs, histories)]
    constants = [[name, *map(str, values)] for name, values in differences(runs).items()]
    folder = Path(arguments.output) if arguments.output else runs[0].path.parent
    make_folder(folder)
    write_table(folder / "compare.csv", [*COLUMNS, *(row[0] for row in constants)],
                [[*row, *(other[number] for other in constants)] for number, row in enumerate(results, start=1)])
    save_comparison(folder / "compare.png", {
        f"{name}{f', test {row[4]}' if row[4] else ''}": history
        for name, row, history in zip(names, results, histories)})
    print_table([COLUMNS, *results])
    if constants:
        print()
        print_table([("constant", *names), *constants])
    if len({run.read("data", "fingerprint", kind=str) for run in runs}) > 1:
        print("\nnote: not all of these were trained and tested on the same pictures; their accuracies don't compare")
    print(f"\nThe curves are in {folder / 'compare.png'}, the table in {folder / 'compare.csv'}.")
    return 0


def row_of(name: str, history: list, results: dict) -> list:
    """Gives a run's entries for COLUMNS; those of the test set are empty before the training's end."""
    best = max(history, key=lambda row: row["val_accuracy"])
    tested = results if results.get("epochs") == len(history) else {}       # not those of a shorter training
    return [name, len(history), int(best["epoch"]), f"{best['val_accuracy']:.2%}",
            *(format(tested[figure], form) if figure in tested else ""
              for figure, form in (("test_accuracy", ".2%"), ("test_loss", ".4f"), ("weights", ","))),
            f"{history[-1]['cpu_seconds'] / 60:.1f}"]


def print_table(rows: list) -> None:
    """Prints rows of entries in columns: the first to the left, the others to the right."""
    rows = [list(map(harmless, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for first, *others in rows:
        print("  ".join([first.ljust(widths[0]), *(entry.rjust(width) for entry, width in zip(others, widths[1:]))]))
