"""Reads the pickles of LeRobot's clients without ever calling what they name.

The opcodes are interpreted here. A name in a pickle is looked up in one closed table, whose entries
build plain values: arrays, scalars, and records of fields. Every other name is refused, and so is
every opcode that is not needed for these: there is no way from a pickle to a function of Python's.

    what a pickle may hold                          becomes
    lists, tuples, dictionaries, text, numbers      themselves
    RemotePolicyConfig, TimedObservation,
    TimedAction, of LeRobot's modules               Record
    numpy arrays and scalars; torch tensors         numpy arrays and scalars
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

from broker.gateway import arrays
from broker.gateway.pickled_values import (
    TORCH_STORAGES,
    Dtype,
    Name,
    PendingArray,
    Record,
    made_array,
    names_of_values,
)
from client.errors import ProtocolError
from client.wire import show

_MOST_OPCODES = 100_000  # an observation has some hundreds; each may build an object
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # of torch.save's form before zip files
_MARK = object()


def loads(data: bytes) -> Any:
    """What a pickle holds; its arrays are views of its bytes where they can be.

    Raises:
        ProtocolError: it names something else, or is no pickle.
    """
    return _Reader(_TABLE).read(io.BytesIO(data))


class _Reader:
    """One pickle's stack and memo."""

    def __init__(self, table: dict[tuple[str, str], Name], *, is_storage: bool = False) -> None:
        self._table, self._is_storage = table, is_storage
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def read(self, file: io.BytesIO) -> Any:
        """The value of the pickle at the file's position, which is left behind it.

        Raises:
            ProtocolError: it names something that is not in the table, or is no pickle.
        """
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
                if count > _MOST_OPCODES:
                    raise ProtocolError(f"a pickle of more than {_MOST_OPCODES} opcodes is refused")
                if opcode.name == "STOP":
                    return self._pop()
                self._run(opcode.name, argument)
        except ProtocolError:
            raise
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            raise ProtocolError(f"it is no pickle of an observation: {error!s:.80}") from error
        raise ProtocolError("a pickle without an end came")

    def _run(self, name: str, argument: Any) -> None:
        if name in _PUSHED:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name in _WITHOUT_EFFECT:
            pass
        elif (step := _STEPS.get(name)) is not None:
            step(self, argument)
        elif name == "BINPERSID" and self._is_storage:
            self._stack.append(_storage_description(self._stack.pop()))
        else:
            raise ProtocolError(f"a pickle with the opcode {name} is refused")

    def _pop_mark(self) -> list[Any]:
        at = len(self._stack) - 1
        while self._stack[at] is not _MARK:  # IndexError ends it
            at -= 1
            if at < 0:
                raise ProtocolError("a pickle ends a group that it never began")
        group = self._stack[at + 1 :]
        del self._stack[at:]
        return [_finished(value) for value in group]

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise ProtocolError("a pickle uses the mark of a group as a value")
        return _finished(value)

    def _named(self, module: Any, name: Any) -> None:
        found = None
        if isinstance(module, str) and isinstance(name, str):
            found = self._table.get((module, name))
        if found is None:
            raise ProtocolError(f"a pickle that names {show(module)} {show(name)} is refused")
        self._stack.append(found)

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._named(module, name)

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._named(module, name)

    def _reduce(self, _: Any) -> None:
        arguments, built = self._pop(), self._stack.pop()
        if not isinstance(built, Name) or not isinstance(arguments, tuple):
            raise ProtocolError("a pickle that calls something else than a name is refused")
        self._stack.append(built.build(arguments))

    def _build(self, _: Any) -> None:
        state, built = self._pop(), self._stack[-1]
        if isinstance(built, Record) and isinstance(state, dict) and not built.fields:
            if not all(isinstance(key, str) for key in state):
                raise ProtocolError(f"the fields of a {built.name} must have names")
            built.fields.update(state)
        elif isinstance(built, Dtype) and isinstance(state, tuple) and len(state) >= 2:
            order = state[1]
            if order not in ("<", ">", "|", "=") or any(state[2:5]):
                raise ProtocolError("a dtype that is a structure is refused")
            built.name = order.replace("=", "<") + built.name
        elif isinstance(built, PendingArray) and isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, is_fortran, data = state
            built.made = made_array(data, dtype, shape, "F" if is_fortran else "C")
        else:
            raise ProtocolError(f"a {type(built).__name__} of a pickle takes no such state")

    def _append(self, _: Any) -> None:
        value = self._pop()
        _expect(self._stack[-1], list).append(value)

    def _appends(self, _: Any) -> None:
        values = self._pop_mark()
        _expect(self._stack[-1], list).extend(values)

    def _set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        _put(self._stack[-1], [key, value])

    def _set_items(self, _: Any) -> None:
        values = self._pop_mark()
        _put(self._stack[-1], values)

    def _put_dict(self, _: Any) -> None:
        values = self._pop_mark()
        self._stack.append({})
        _put(self._stack[-1], values)

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._pop_mark()))

    def _short_tuple(self, length: int) -> None:
        values = [self._pop() for _ in range(length)]
        self._stack.append(tuple(reversed(values)))

    def _memoize(self, at: int | None) -> None:
        self._memo[len(self._memo) if at is None else at] = self._stack[-1]

    def _recall(self, at: int) -> None:
        self._stack.append(self._memo[at])


def _finished(value: Any) -> Any:
    if isinstance(value, PendingArray):
        if value.made is None:
            raise ProtocolError("a pickle's array has no data")
        return value.made
    return value


def _expect(value: Any, kind: type[list[Any]]) -> list[Any]:
    if type(value) is not kind:
        raise ProtocolError("a pickle appends to something that is no list")
    return value


def _put(target: Any, values: list[Any]) -> None:
    if type(target) is not dict or len(values) % 2:
        raise ProtocolError("a pickle puts items into something that is no dictionary")
    for key, value in zip(values[::2], values[1::2], strict=True):
        if not isinstance(key, (str, int, bytes)):
            raise ProtocolError(f"a dictionary's key is a {type(key).__name__}: text is expected")
        target[key] = value


def _build_storage(arguments: tuple[Any, ...]) -> np.ndarray[Any, Any]:
    (data,) = arguments
    if not isinstance(data, bytes):
        raise ProtocolError("a torch storage's bytes are none")
    file = io.BytesIO(data)
    magic = _Reader({}).read(file)
    _Reader({}).read(file)  # protocol
    about = _Reader({}).read(file)
    if magic != _TORCH_MAGIC or not isinstance(about, dict) or not about.get("little_endian"):
        raise ProtocolError("a torch storage is not of the form that torch.save writes")
    dtype = _Reader(_STORAGE_TABLE, is_storage=True).read(file)
    _Reader({}).read(file)  # the storage's key
    if not isinstance(dtype, Dtype):
        raise ProtocolError("a torch storage does not say what it holds")
    count = int.from_bytes(file.read(8), "little")
    return arrays.array(memoryview(data)[file.tell() :], dtype.name, (count,))


def _storage_description(described: Any) -> Any:
    if not isinstance(described, tuple) or len(described) < 2 or described[0] != "storage":
        raise ProtocolError("a torch storage is not described as one")
    kind = described[1]
    if not isinstance(kind, Name):
        raise ProtocolError("a torch storage does not say what it holds")
    return Dtype(TORCH_STORAGES[kind.name])


_PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
}
_WITHOUT_EFFECT = {"PROTO", "FRAME"}
_STEPS: dict[str, Callable[[_Reader, Any], None]] = {
    "GLOBAL": _Reader._global,
    "STACK_GLOBAL": _Reader._stack_global,
    "REDUCE": _Reader._reduce,
    "NEWOBJ": _Reader._reduce,
    "BUILD": _Reader._build,
    "APPEND": _Reader._append,
    "APPENDS": _Reader._appends,
    "SETITEM": _Reader._set_item,
    "SETITEMS": _Reader._set_items,
    "DICT": _Reader._put_dict,
    "TUPLE": _Reader._tuple,
    "LIST": lambda reader, _: reader._stack.append(reader._pop_mark()),
    "TUPLE1": lambda reader, _: reader._short_tuple(1),
    "TUPLE2": lambda reader, _: reader._short_tuple(2),
    "TUPLE3": lambda reader, _: reader._short_tuple(3),
    "MEMOIZE": _Reader._memoize,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Reader._memoize),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Reader._recall),
}
_STORAGE_TABLE = {("torch", name): Name("torch", name, lambda _: None) for name in TORCH_STORAGES}
_TABLE = names_of_values()
_LOAD = Name("torch.storage", "_load_from_bytes", _build_storage)
_TABLE[_LOAD.module, _LOAD.name] = _LOAD
