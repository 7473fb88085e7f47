"""A pickle of dicts, lists, text, numbers and numpy's arrays -> just those; nothing that it names is ever run.

Python's own reader is no good for a stranger's file, even one that refuses to call anything: a memo index of 2^31 fills
32 GB with nothing, nested tuples as a dict's key take for ever to hash, 256 MB of "]" become 14 GB of lists. So here
pickletools takes the file apart, which builds nothing, and only those instructions are followed that such values need.
"""
from __future__ import annotations

import pickletools
import warnings

MOST_INSTRUCTIONS = 10**6       # CIFAR-100's train has some 200,000, with 50,000 pictures
LONGEST_KEY = 100               # letters
LITERALS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
            "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
            "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
PYTHON2_STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}
EMPTY = {"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_TUPLE": tuple,
         "EMPTY_LIST": list, "EMPTY_DICT": dict}
FRONT_MATTER = {"PROTO", "FRAME", "STOP"}
ENCODE = "_codecs.encode"       # how Python 3 writes bytes in protocols 0 to 2
FROM_BUFFER = "numpy.core.numeric._frombuffer"          # how numpy writes arrays in protocol 5
ARRAY_NAMES = {"numpy.core.multiarray._reconstruct", FROM_BUFFER, "numpy.ndarray", "numpy.dtype"}


class Recipe:
    """What a pickle would call, with which arguments, and the state that it would give to the result."""

    def __init__(self, name: str, arguments=None):
        self.name, self.arguments, self.state = name, arguments, None


def unpickle(content: bytes):
    """Gives what a pickle of any protocol holds, with a Recipe for each array and dtype.

    Raises ValueError for a damaged one, and for one that holds anything else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")                     # of text that is escaped in an odd way
            return _follow(pickletools.genops(content), len(content))
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"its pickle is damaged ({type(error).__name__}: {str(error)[:80]})") from error


def _follow(instructions, budget):
    """Gives what the instructions build; budget: bytes that may be encoded, as one text could be so again and again."""
    stack, outer, memo = [], [], {}             # outer: the stacks below each mark
    for count, (instruction, argument, _) in enumerate(instructions):
        name = instruction.name
        if count == MOST_INSTRUCTIONS:
            raise ValueError(f"its pickle has more than {MOST_INSTRUCTIONS} instructions, which a CIFAR file never has")
        if name in LITERALS:
            stack.append(argument)
        elif name in PYTHON2_STRINGS:
            stack.append(argument.encode("latin1"))
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            outer.append(stack)
            stack = []
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            size = int(name[-1])
            stack[-size:] = [tuple(stack[-size:])]
        elif name in ("TUPLE", "LIST", "DICT", "APPENDS", "SETITEMS"):
            items, stack = stack, outer.pop()
            if name in ("TUPLE", "LIST"):
                stack.append(tuple(items) if name == "TUPLE" else items)
            elif name == "APPENDS":
                _append(stack[-1], items)
            else:
                if name == "DICT":
                    stack.append({})
                _set_items(stack[-1], items)
        elif name == "APPEND":
            item = stack.pop()
            _append(stack[-1], [item])
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _set_items(stack[-1], [key, value])
        elif name == "GLOBAL":
            stack.append(_recipe(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            own, module = stack.pop(), stack.pop()
            stack.append(_recipe(module, own))
        elif name == "REDUCE":
            arguments, called = stack.pop(), stack.pop()
            if called.name == ENCODE:
                budget -= len(arguments[0])
                if budget < 0:
                    raise ValueError("its pickle encodes more text than it holds, which a CIFAR file never does")
                stack.append(str.encode(arguments[0], "latin1"))
            else:
                stack.append(Recipe(called.name, arguments))
        elif name == "BUILD":
            state = stack.pop()
            if not isinstance(stack[-1], Recipe):
                raise ValueError("its pickle gives a state to what has none")
            stack[-1].state = state
        elif name not in FRONT_MATTER:
            raise ValueError(f"its pickle has the instruction {name}, which a CIFAR file never has")
    return stack[-1]


def _append(values, items):
    if not isinstance(values, list):
        raise ValueError("its pickle appends to what is no list")
    values.extend(items)


def _set_items(values, items):
    if not isinstance(values, dict) or len(items) % 2:
        raise ValueError("its pickle is damaged: it has keys without values, or no dict to put them in")
    for key in items[::2]:
        if not isinstance(key, (str, bytes)) or len(key) > LONGEST_KEY:
            raise ValueError(f"a dict in it has a key that is not text of at most {LONGEST_KEY} letters")
    values.update(zip(items[::2], items[1::2]))


def _recipe(module, name):
    """Gives the stand-in for one of the few names in a CIFAR file."""
    path = ".".join((module, name)).replace("numpy._core.", "numpy.core.")
    if path not in ARRAY_NAMES and path != ENCODE:
        raise ValueError(f"the file wants to run {module[:60]}.{name[:60]}, which a CIFAR file never does")
    return Recipe(path)
