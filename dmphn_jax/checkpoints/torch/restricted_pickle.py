"""Reads the few pickle instructions that hold tensors, and nothing that could run code.

Python's own unpickler imports and calls whatever a file names, and sizes its tables by numbers in
the file. This one is a small interpreter instead: it knows the instructions `torch.save` writes
for a state dict, names become inert `Name` values that are never imported, the only calls are to
the three constructors below, and memory grows with the bytes read and with nothing else.
"""

from __future__ import annotations

import dataclasses
import pickletools
from typing import Any, BinaryIO

# A state dict of 10,000 tensors is pickled in 1.3 MB and 400,000 instructions; their values lie
# outside the pickle.
MAX_BYTES = 8 << 20
MAX_INSTRUCTIONS = 1_000_000

ORDERED_DICT = "collections.OrderedDict"
REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
REBUILD_PARAMETER = "torch._utils._rebuild_parameter"
_CALLS = {ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER}

STORAGE_DTYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
_STORAGES = {f"{module}.{name}" for module in ("torch", "torch.cuda") for name in STORAGE_DTYPES}


class RefusedError(ValueError):
    """The pickle is well formed but asks for something that is no tensor."""


@dataclasses.dataclass(frozen=True)
class Name:
    """A global name in a pickle, such as `torch.FloatStorage`; never imported."""

    text: str


@dataclasses.dataclass
class Storage:
    """A run of `count` values of one dtype, found under `key` outside the pickle.

    `start` and `count` are those of a view into a longer storage where `whole` is its length.
    """

    key: str
    dtype: str
    whole: int
    start: int
    count: int


@dataclasses.dataclass
class Tensor:
    """A strided view of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Mark:
    """The stack's MARK."""


_MARK = _Mark()
_PUSHED = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),  # text, of Python 2
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NEW = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}


def load(
    stream: BinaryIO, limit: int = MAX_BYTES, storages: dict[str, Storage] | None = None
) -> Any:
    """Returns the value of the pickle that starts at the stream's position.

    Values are None, bool, int, float, str, tuple, list, dict (an OrderedDict is a dict too; a
    key that is a number becomes its text), `Name`, `Storage` and `Tensor`. The stream is left
    after the pickle's last byte.

    Args:
      stream: a file whose `read(n)` allocates no more than it holds, such as `io.BytesIO` or
        `mmap.mmap`.
      limit: longest pickle to read, in bytes.
      storages: filled with every storage the pickle mentions, by key.

    Raises:
      RefusedError: the pickle holds anything else: a call, an object, a foreign name.
      ValueError: the pickle is damaged, cut short, or longer than `limit` or a million
        instructions.
    """
    start = stream.tell()
    machine = _Machine({} if storages is None else storages)
    try:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(stream)):
            if position - start > limit:
                raise ValueError(f"its pickle is longer than {limit >> 20} MiB")
            if count == MAX_INSTRUCTIONS:
                raise ValueError(f"its pickle has more than {MAX_INSTRUCTIONS:,} instructions")
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except UnicodeDecodeError:
        raise ValueError("damaged pickle (a text that is none)") from None
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        # An instruction met a stack or memo that its file did not prepare.
        raise ValueError(f"damaged pickle ({type(error).__name__})") from None
    raise ValueError("damaged pickle (no end)")


class _Machine:
    """Stack, memo, and one method per kind of instruction."""

    def __init__(self, storages: dict[str, Storage]) -> None:
        self.storages = storages
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("damaged pickle (stray mark)")
        return value

    def pop_to_mark(self) -> list[Any]:
        values = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        values.reverse()
        return values

    def step(self, name: str, argument: Any) -> None:
        """Carries out one instruction."""
        if name in ("PROTO", "FRAME"):
            pass
        elif name in _VALUES:
            self.stack.append(argument)
        elif name in _PUSHED:
            self.stack.append(_PUSHED[name])
        elif name in _NEW:
            self.stack.append(_NEW[name]())
        elif name == "MARK":
            self.stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            # Picklers number their entries in turn. Numbers of any size could be chosen to collide.
            if argument > MAX_INSTRUCTIONS:
                raise ValueError("damaged pickle (a memo number that is none)")
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memo[argument])
        elif name in _TUPLES:
            values = [self.pop() for _ in range(_TUPLES[name])]
            self.stack.append(tuple(reversed(values)))
        elif name == "TUPLE":
            self.stack.append(tuple(self.pop_to_mark()))
        elif name in ("APPEND", "APPENDS"):
            values = [self.pop()] if name == "APPEND" else self.pop_to_mark()
            _a(list, self.stack[-1]).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            if name == "SETITEM":
                value = self.pop()
                values = [self.pop(), value]
            else:
                values = self.pop_to_mark()
            _set_items(_a(dict, self.stack[-1]), values[::2], values[1::2])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            self.name(name, argument)
        elif name == "BINPERSID":
            storage = _storage(self.pop())
            known = self.storages.setdefault(storage.key, storage)
            if (known.dtype, known.whole) != (storage.dtype, storage.whole):
                raise ValueError("damaged pickle (two descriptions of one storage)")
            self.stack.append(storage)
        elif name == "REDUCE":
            arguments = _a(tuple, self.pop())
            self.stack.append(_call(self.pop(), arguments))
        elif name == "BUILD":
            # The attributes of a state dict (`_metadata`, layer versions): nothing in them is
            # needed, and no other object may be given any.
            self.pop()
            if not isinstance(self.stack[-1], dict):
                raise RefusedError("its pickle sets an object's state")
        else:
            raise RefusedError(f"its pickle builds objects (instruction {name})")

    def name(self, opcode: str, argument: str | None) -> None:
        """Pushes a known global name; refuses any other."""
        if opcode == "GLOBAL":
            text = argument.replace(" ", ".", 1)
        else:
            attribute, module = _a(str, self.pop()), _a(str, self.pop())
            text = f"{module}.{attribute}"
        if text not in _CALLS and text not in _STORAGES:
            raise RefusedError(f"its pickle names {_short(text)}, which is no part of a tensor")
        self.stack.append(Name(text))


def _a(kind: type, value: Any) -> Any:
    """Returns `value` if it is of exactly this type."""
    if type(value) is not kind:
        raise ValueError(f"damaged pickle (no {kind.__name__} where one must be)")
    return value


def _short(text: str) -> str:
    text = ascii(text)
    return text if len(text) <= 60 else text[:56] + "...'"


def _set_items(target: dict, keys: list, values: list) -> None:
    if len(keys) != len(values):
        raise ValueError("damaged pickle (key without value)")
    for key, value in zip(keys, values):
        # Plain keys only: hashing a tuple nested a million deep would overflow the C stack.
        # Numbers (of an optimiser's entries) as text: a file could choose numbers whose hashes
        # collide, while those of texts are salted.
        if type(key) not in (str, int) or (type(key) is int and abs(key) >> 64):
            raise RefusedError("its pickle has keys that are no names")
        target[str(key)] = value


def _whole_number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError("damaged pickle (a size or offset that is none)")
    return value


def _whole_numbers(values: Any) -> tuple[int, ...]:
    if len(_a(tuple, values)) > 16:
        raise ValueError("damaged pickle (a tensor of more than 16 dimensions)")
    return tuple(_whole_number(value) for value in values)


def _storage(identifier: Any) -> Storage:
    """Makes a storage of ('storage', type, key, device, length[, view])."""
    if type(identifier) is tuple and identifier[:1] == ("module",):
        raise RefusedError("its pickle holds a whole module and its source code")
    if type(identifier) is not tuple or len(identifier) not in (5, 6):
        raise ValueError("damaged pickle (unknown kind of storage)")
    tag, kind, key, _, length = identifier[:5]
    if tag != "storage" or type(kind) is not Name or kind.text not in _STORAGES:
        raise ValueError("damaged pickle (unknown kind of storage)")
    whole = _whole_number(length)
    start, count = 0, whole
    if len(identifier) == 6 and identifier[5] is not None:
        _, start, count = _a(tuple, identifier[5])
        if _whole_number(start) + _whole_number(count) > whole:
            raise ValueError("damaged pickle (a view beyond its storage)")
    dtype = STORAGE_DTYPES[kind.text.rpartition(".")[2]]
    return Storage(_a(str, key), dtype, whole, start, count)


def _call(function: Any, arguments: tuple) -> Any:
    """Carries out one of the three calls that make a state dict."""
    if type(function) is not Name or function.text not in _CALLS:
        raise RefusedError("its pickle calls what is no tensor's constructor")
    if function.text == ORDERED_DICT:
        made: dict = {}
        if arguments:  # of Python 2: one list of [key, value]
            (pairs,) = arguments
            items = [(key, value) for key, value in _a(list, pairs)]
            _set_items(made, [key for key, _ in items], [value for _, value in items])
        return made
    if function.text == REBUILD_PARAMETER:
        return _a(Tensor, arguments[0])
    if not 4 <= len(arguments) <= 7:
        raise ValueError("damaged pickle (a tensor of other arguments)")
    storage, offset, shape, strides = arguments[:4]
    shape, strides = _whole_numbers(shape), _whole_numbers(strides)
    if len(shape) != len(strides):
        raise ValueError("damaged pickle (shape and strides differ in length)")
    return Tensor(_a(Storage, storage), _whole_number(offset), shape, strides)
