"""Settings: the constants at the top of a training script, each of them also a command-line flag.

    # --- model ---
    PATCH_SIZE = 4             # side of a square patch, pixels        <->  --patch-size 4

Names, values, order, groups and meanings are read from the script's source, so they are written in one place.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import functools
import io
import json
import math
import os
import re
import sys
import tokenize
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterable, NamedTuple

from .messages import OUT_OF_MEMORY, harmless, one_line


class Settings(SimpleNamespace):
    """One attribute per constant, and three more.

    `given`: the names that came from the command line; `changed`: those of them with another value than the script's;
    `headings`: name -> heading.
    """

    def as_dict(self) -> dict[str, int | float | bool | str]:
        """Constant's name -> value, in the script's order; JSON can hold it."""
        return {name: value for name, value in vars(self).items() if name.isupper()}

    def below(self, heading: str) -> dict[str, int | float | bool | str]:
        """The constants below `# --- heading ---`, named as a function's arguments: {"patch_size": 4, ...}."""
        return {name.lower(): value for name, value in self.as_dict().items() if self.headings[name] == heading}


class Constant(NamedTuple):
    """A script's constant: `NAME = default  # meaning`, below the heading `# --- group ---`."""

    name: str
    default: int | float | bool | str
    meaning: str
    group: str

    @property
    def flag(self) -> str:
        """What sets it on the command line."""
        return flag_of(self.name)

    @property
    def shown(self) -> str:
        """The default as messages show it: 4, true, "flatten"."""
        return json.dumps(self.default, ensure_ascii=False)


def flag_of(name: str) -> str:
    """PATCH_SIZE -> --patch-size."""
    return "--" + name.lower().replace("_", "-")


# ------------------------------------------------------------------------------------------ values
def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def _truth(text: str) -> bool:
    if text.lower() not in TRUE + FALSE:
        raise ValueError(text)
    return text.lower() in TRUE


KINDS = {  # kind of the constant -> what its flag takes, and how the typed text becomes the value
    int: ("a whole number", int),
    float: ("a number", _finite),
    bool: ("true or false", _truth),
    str: ("a text", str),
}


# ------------------------------------------------------------------------------------------ the script
def read_constants(script: str | Path) -> tuple[str, list[Constant]]:
    """Script's path -> the first line of its docstring and its constants in order; the script is not run.

    A constant is a module-level name in capitals that does not start with an underscore.

    Raises ValueError when one is not `NAME = literal`, is set twice or has no comment on its line.
    """
    with tokenize.open(script) as file:                      # decodes and splits lines as Python itself does
        source = file.read()
    tree = ast.parse(source, str(script))
    meanings, headings = _comments(source)
    constants: dict[str, Constant] = {}
    for statement in tree.body:
        for name in _capitals(statement):
            where = f"{Path(script).name}, line {statement.lineno}: {name}"
            value, meaning = _literal(statement), meanings.get(statement.end_lineno)
            if type(value) not in KINDS:
                raise ValueError(f"{where} is no flag unless its line is {name} = a number, True, False or a"
                                 " text, written out; give any other value a name in small letters")
            if name in constants:
                raise ValueError(f"{where} is already set above; keep one of the two")
            if not meaning:
                raise ValueError(f"{where} has no meaning; say it in a comment at the end of the line")
            group = [title for line, title in headings if line < statement.lineno][-1]
            constants[name] = Constant(name, value, meaning, group)
    return (ast.get_docstring(tree) or "").partition("\n")[0], list(constants.values())


def _comments(source: str) -> tuple[dict[int, str], list[tuple[int, str]]]:
    """Source -> the comment at the end of each line that has one, and the (line, title) of each heading."""
    meanings, headings = {}, [(0, "settings")]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line, column = token.start
            title = re.fullmatch(r"#\s*-{3,}\s*(.+?)\s*-{3,}\s*", token.string)
            if column > 0:
                meanings[line] = token.string[1:].strip()
            elif title:
                headings.append((line, title[1]))
    return meanings, headings


def _capitals(statement: ast.stmt) -> list[str]:
    """The constants' names that a module-level statement binds, also inside an `if` or a tuple."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return []
    return [node.id for node in ast.walk(statement)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            and node.id.isupper() and not node.id.startswith("_")]


def _literal(statement: ast.stmt) -> Any:
    """The value of `name = literal`; None when the statement is anything else."""
    if not isinstance(statement, ast.Assign) or [type(target) for target in statement.targets] != [ast.Name]:
        return None
    try:
        return ast.literal_eval(statement.value)
    except (ValueError, TypeError):
        return None


# ------------------------------------------------------------------------------------------ the command line
class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: {harmless(message)}\n")  # one line: the usage of 40 flags would bury it

    def print_help(self, file: Any = None) -> None:
        # Windows redirects into a code page that lacks letters such as ≤; those become "?", not a crash
        encoding = sys.stdout.encoding or "utf-8"
        print(self.format_help().encode(encoding, "replace").decode(encoding), end="", file=file)


def read_settings(script: str | Path, arguments: list[str] | None = None) -> Settings:
    """Script's path and typed flags (default: sys.argv's) -> Settings: its constants, the flags overriding.

    `--help` prints every flag and exits with 0; a bad flag or value prints one line on stderr, exits with 2.
    Raises ValueError when a constant of the script breaks the rules of `read_constants`.
    """
    description, constants = read_constants(script)
    parser = _parser(Path(script).name, description, constants)
    namespace, leftover = parser.parse_known_args(arguments)
    if leftover:
        parser.error(_refusal(leftover[0].partition("=")[0], constants))
    typed = vars(namespace)
    values = {constant.name: _convert(parser, constant, typed[constant.name])
              if constant.name in typed else constant.default for constant in constants}
    changed = frozenset(c.name for c in constants if c.name in typed and values[c.name] != c.default)
    return Settings(**values, given=frozenset(typed), changed=changed, headings={c.name: c.group for c in constants})


def _parser(name: str, description: str, constants: list[Constant]) -> _Parser:
    """A parser that leaves every value as typed text, and leaves out what was not typed."""
    wide = functools.partial(argparse.HelpFormatter, max_help_position=34)
    parser = _Parser(prog=name, usage=argparse.SUPPRESS, description=description,
                     formatter_class=wide, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    parser._negative_number_matcher = re.compile(r"-\.?\d")  # Python 3.14's; older ones take -1e-3 for a flag
    titles = dict.fromkeys(constant.group for constant in constants)
    groups = {title: parser.add_argument_group(title) for title in titles}
    for constant in constants:
        meaning = f"{constant.meaning} (default {constant.shown})".replace("%", "%%")
        kind = type(constant.default).__name__.upper()
        alone = {"nargs": "?", "const": "true"} if kind == "BOOL" else {}           # --debug means --debug true
        groups[constant.group].add_argument(constant.flag, dest=constant.name, metavar=kind, help=meaning, **alone)
    return parser


def _convert(parser: _Parser, constant: Constant, text: str) -> Any:
    kind, convert = KINDS[type(constant.default)]
    try:
        return convert(text)
    except ValueError:
        parser.error(f"{constant.flag} takes {kind}, not {text!r} (default {constant.shown})")


def _refusal(word: str, constants: list[Constant]) -> str:
    """What is wrong with a word that argparse could not place."""
    if not word.startswith("-"):
        return f"{word!r} belongs to no flag; write --name value (--help lists all)"
    near = nearest(word.lstrip("-"), [constant.flag.lstrip("-") for constant in constants])
    return f"unknown flag {word}{f'; did you mean --{near}?' if near else ''} (--help lists all)"


def nearest(name: str, allowed: Iterable[str]) -> str:
    """A mistyped name and the allowed ones -> the allowed one most like it, "" when none is near."""
    spelled = {choice.lower(): choice for choice in allowed}
    return next((spelled[near] for near in difflib.get_close_matches(name.lower(), spelled, n=1)), "")


# ------------------------------------------------------------------------------------------ errors
def run_script(main: Callable[[], Any]) -> None:
    """Runs a script's main and exits: with 2 and one line for bad input, 1 for a failed training, 130 after Ctrl-C.

    The traceback is shown where the script has DEBUG = True or the flag --debug is given.
    """
    typed = re.findall(r"(?<!\S)--debug(?:[= ](\S+))?(?!\S)", " ".join(sys.argv))
    debug = typed[-1].lower() not in FALSE if typed else main.__globals__.get("DEBUG", False)
    for stream in (sys.stdout, sys.stderr):             # a file name that Windows' console can't show is no error
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        sys.exit(main())
    except BrokenPipeError:                             # the reader, such as `| head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())      # or Python complains as it ends
        sys.exit(1)
    except KeyboardInterrupt as stop:
        code, message = 130, str(stop) or "stopped"
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        if debug:
            raise
        code = 1 if isinstance(error, RuntimeError) else 2
        message = f"{one_line(error)} (--debug shows where)"
    except Exception as error:
        if debug or type(error).__name__ != "ResourceExhaustedError":       # TensorFlow's, which may not be imported
            raise
        code, message = 2, f"{OUT_OF_MEMORY} (--debug shows where)"
    name = Path(sys.argv[0]).name
    print(f"{'vision_transformer' if name == '__main__.py' else name}: {message}", file=sys.stderr)
    sys.exit(code)
