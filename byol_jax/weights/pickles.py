"""Plain values from a pickle, without Python's own reader: nothing that a file names is run.

A pickle is a program for a stack machine. This is that machine with the instructions that a saved
Haiku network needs, and with stand-ins for the few names that it calls: each builds numbers, arrays
or dicts. What is built is bounded by the size of the file, in bytes and in time.
"""

import pathlib
import pickletools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Refused(Exception):
    """A pickle holds something that no saved network does."""


class Name(NamedTuple):
    """A name that a pickle refers to, and what stands in for it.

    Attributes:
      kind: a key of `_CALLS`.
      words: the name.
    """

    kind: str
    words: str


class Fields(NamedTuple):
    """A class of named tuples, by the names of its fields."""

    names: tuple[str, ...]


class Dtype:
    """Stand-in for `numpy.dtype`: numbers alone."""

    def __init__(self, code: str):
        self.code, self.order = code, "="

    @property
    def value(self) -> np.dtype:
        """The dtype."""
        return np.dtype(("" if self.order == "|" else self.order) + self.code)


class Array:
    """Stand-in for an array, which gets its numbers after it is made."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None


class Inert:
    """An object whose content is not kept."""


# Names of functions and classes, and the kinds of their stand-ins.
NAMES: Mapping[str, str] = {
    **{f"dill.{module}._create_namedtuple": "fields" for module in ("_dill", "dill")},
    **{f"dill.{module}._create_array": "array" for module in ("_dill", "dill")},
    **{f"numpy.{core}.multiarray._reconstruct": "empty" for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": "scalar" for core in ("core", "_core")},
    "numpy.ndarray": "class",
    "numpy.dtype": "dtype",
    "_codecs.encode": "encode",
    "jax._src.array._reconstruct_array": "array",
    "jax._src.device_array.reconstruct_device_array": "array",
    "jax.interpreters.xla.reconstruct_device_array": "array",
    "haiku._src.data_structures.FlatMapping": "dict",
    "collections.OrderedDict": "dict",
    "byol.byol_experiment._ByolExperimentState": "state",
}
# Fields of the authors' named tuple, which some files name and others hold by value.
_STATE = Fields(("online_params", "target_params", "online_state", "target_state", "opt_state"))
# Classes of these packages hold states of optimisers, which are not read.
_INERT = re.compile(r"(optax|haiku)\.[\w.]*\.[A-Z]\w*")
_DTYPE = re.compile(r"[<>|=]?([fiub][1248])")
# More fields than any named tuple of such a file has, and longer than any name or number.
_MAX_FIELDS = 64
_MAX_TEXT = 200


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise Refused(f"{what} that is no short text")
    return value


def _quoted(value: str) -> str:
    short = value if len(value) <= 80 else f"{value[:77]}..."
    return "".join(letter if letter.isprintable() else "?" for letter in short)


class _Machine:
    """The stack, the memo, and how much may still be built."""

    def __init__(self, size: int):
        self.size = size
        self.budget = size
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def spend(self, count: int) -> None:
        """Counts bytes or entries that a call copies: each is in the file once."""
        self.budget -= count
        if self.budget < 0:
            raise Refused("values that are longer than the file")

    def above_mark(self) -> list[Any]:
        """Takes what lies above the last mark."""
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values


# ---------------------------------------------------------------- stand-ins


def _fields(machine: _Machine, args: tuple[Any, ...]) -> Fields:
    """dill's `_create_namedtuple(name, fields, module)`."""
    names = args[1].split() if isinstance(args[1], str) else [*args[1]]
    machine.spend(len(names))
    if len(names) > _MAX_FIELDS:
        raise Refused(f"a named tuple of {len(names)} fields")
    return Fields(tuple(_text(name, "a field") for name in names))


def _array(machine: _Machine, args: tuple[Any, ...]) -> Array:
    """dill's and JAX's functions that rebuild an array: `(function, args, state, ...)`."""
    if not isinstance(args[0], Name) or args[0].kind != "empty":
        raise Refused("an array that is built by another function")
    array = Array()
    _build(array, args[2])
    return array


def _scalar(machine: _Machine, args: tuple[Any, ...]) -> Any:
    dtype, content = args
    if not isinstance(dtype, Dtype) or not isinstance(content, bytes):
        raise Refused("a scalar that is no number")
    return np.frombuffer(content, dtype.value, 1)[0]


def _dtype(machine: _Machine, args: tuple[Any, ...]) -> Dtype:
    match = _DTYPE.fullmatch(args[0]) if isinstance(args[0], str) else None
    if not match:
        raise Refused("arrays of something else than numbers")
    return Dtype(match[1])


def _encode(machine: _Machine, args: tuple[Any, ...]) -> bytes:
    """`_codecs.encode`, with which protocol 2 writes bytes."""
    text, encoding = args
    if encoding != "latin1" or not isinstance(text, str):
        raise Refused("text in another encoding than latin1")
    machine.spend(len(text))
    return text.encode("latin1")


def _dict(machine: _Machine, args: tuple[Any, ...]) -> dict[str, Any]:
    if not args:
        return {}
    if not isinstance(args[0], dict):
        raise Refused("a mapping of something else than a dict")
    machine.spend(len(args[0]))
    return dict(args[0])


_CALLS: Mapping[str, Callable[[_Machine, tuple[Any, ...]], Any]] = {
    "fields": _fields,
    "array": _array,
    "empty": lambda machine, args: Array(),
    "scalar": _scalar,
    "dtype": _dtype,
    "encode": _encode,
    "dict": _dict,
    "inert": lambda machine, args: Inert(),
}


def _call(machine: _Machine, function: object, args: object) -> Any:
    """The value that a stand-in builds."""
    if not isinstance(args, tuple):
        raise Refused("arguments that are no tuple")
    if isinstance(function, Fields):
        if len(args) != len(function.names):
            raise Refused("a named tuple with another number of values")
        machine.spend(1)
        return dict(zip(function.names, args, strict=True))
    if not isinstance(function, Name) or function.kind not in _CALLS:
        raise Refused("a call of something that is no function")
    return _CALLS[function.kind](machine, args)


def _build(value: object, state: object) -> None:
    """Gives an object its state."""
    if isinstance(value, Inert):
        return
    if not isinstance(state, tuple):
        raise Refused("a state that is no tuple")
    if isinstance(value, Dtype):
        value.order = state[1] if state[1] in ("<", ">", "|", "=") else "="
    elif isinstance(value, Array):
        _, shape, dtype, is_fortran, content = state
        if not isinstance(dtype, Dtype) or not isinstance(content, bytes):
            raise Refused("an array of something else than numbers")
        # A view of the file's bytes; refused where they are not as many as the shape says.
        flat = np.frombuffer(content, dtype.value)
        value.value = flat.reshape(shape, order="F" if is_fortran else "C")
    else:
        raise Refused("a state for something that has none")


def _name(module: str, name: str) -> Name | Fields:
    words = f"{module}.{name}"
    kind = NAMES.get(words)
    if kind == "state":
        return _STATE
    if kind:
        return Name(kind, words)
    if _INERT.fullmatch(words):
        return Name("inert", words)
    raise Refused(f"the name {_quoted(words)}")


def _set_items(target: object, items: list[Any]) -> None:
    if not isinstance(target, dict) or len(items) % 2:
        raise Refused("entries for something that is no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Hashes of text alone: of nested values they can take forever, or end the interpreter.
        target[_text(key, "a key")] = value


# ---------------------------------------------------------------- instructions

_IGNORED = ("PROTO", "FRAME")
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_ARGUMENTS = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
)


def _short(machine: _Machine, name: str, argument: Any) -> bool:
    """Instructions that push a value, or move one; whether `name` was one of them."""
    stack = machine.stack
    if name in _ARGUMENTS:
        stack.append(argument)
    elif name in _VALUES:
        stack.append(_VALUES[name])
    elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
        stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
    elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
        machine.memo[len(machine.memo) if name == "MEMOIZE" else argument] = stack[-1]
    elif name in ("GET", "BINGET", "LONG_BINGET"):
        stack.append(machine.memo[argument])
    elif name == "MARK":
        machine.marks.append(len(stack))
    elif name == "POP":
        stack.pop()
    elif name == "POP_MARK":
        machine.above_mark()
    elif name not in _IGNORED:
        return False
    return True


def _step(machine: _Machine, name: str, argument: Any) -> None:
    """One instruction.

    Raises:
      Refused: it is not one that a saved network needs, or its values are not those of one.
    """
    stack = machine.stack
    if _short(machine, name, argument):
        return
    if name in ("GLOBAL", "STACK_GLOBAL"):
        if name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
        else:
            module, _, attribute = argument.partition(" ")
        stack.append(_name(_text(module, "a module"), _text(attribute, "a name")))
    elif name in ("REDUCE", "NEWOBJ"):
        args = stack.pop()
        stack.append(_call(machine, stack.pop(), args))
    elif name == "BUILD":
        state = stack.pop()
        _build(stack[-1], state)
    elif name in ("TUPLE", "LIST"):
        values = machine.above_mark()
        stack.append(tuple(values) if name == "TUPLE" else values)
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        count = int(name[-1])
        values = stack[-count:]
        del stack[-count:]
        stack.append(tuple(values))
    elif name in ("APPEND", "APPENDS"):
        values = [stack.pop()] if name == "APPEND" else machine.above_mark()
        if not isinstance(stack[-1], list):
            raise Refused("entries for something that is no list")
        stack[-1].extend(values)
    elif name in ("SETITEM", "SETITEMS", "DICT"):
        items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else machine.above_mark()
        if name == "DICT":
            stack.append({})
        _set_items(stack[-1], items)
    else:
        raise Refused(f"the instruction {name}")


def read(path: pathlib.Path) -> Any:
    """The value of a pickle, in which dicts stand for mappings and named tuples.

    Raises:
      Refused: it holds something else than saved networks do, or it is damaged.
      OSError: it cannot be read.
    """
    machine = _Machine(path.stat().st_size)
    with path.open("rb") as file:
        try:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "STOP":
                    return machine.stack[-1]
                _step(machine, opcode.name, argument)
        except Refused:
            raise
        except (IndexError, KeyError, TypeError, ValueError, OverflowError, MemoryError) as error:
            # A damaged file: what a step needs is not on the stack, or is something else.
            raise Refused(
                f"an instruction without its values, so it is damaged ({type(error).__name__})"
            ) from error
    raise Refused("no end")
