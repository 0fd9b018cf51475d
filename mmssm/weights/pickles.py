"""Pickles as plain data: nothing that a pickle names is looked up, called or changed.

`pickle` builds objects, and PyTorch's own restricted unpickler fills no subclass of
dict, which the configurations inside released checkpoints are.  `Decoder` reads the
opcodes (`pickletools`) instead.  A name is a `Foreign`, an inert record; a call of it
gives what a table of ours makes, or another `Foreign`; state to set is dropped.
"""

import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import BinaryIO

MOST_OPCODES = 2_000_000  # a checkpoint has about 25 for each tensor
MOST_KEY_BITS = 60  # integers beyond collide at will as keys
SCALARS = (str, bytes, float, bool, type(None))


class DamagedFile(ValueError):
    """What is wrong with a file, in words that follow its name."""


class Foreign(dict):
    """Stands for a class, a function or an object that the file names.

    Keeps what dicts and lists of a foreign class hold (lists under 0, 1, …).
    name: 'module.name' in the file.
    """

    __slots__ = ('name',)
    __hash__ = object.__hash__

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def __repr__(self) -> str:
        return f'<{self.name}, not read>'


class Pending:
    """An object that a later opcode completes: `finish(state)` gives it."""

    def __init__(self, finish: Callable[[object], object]) -> None:
        self.finish = finish
        self.memo_keys: list[int] = []


Table = Mapping[str, Callable[..., object]]


class Decoder:
    """One pickle after the other from a file.

    values: 'module.name' -> the immutable value that it stands for.
    makers: 'module.name' -> what makes an object from the arguments.
    storage: what a persistent id ('storage', ...) stands for; other ids are refused.
    Raises DamagedFile, and what reading opcodes and makers raise on damaged input.
    """

    def __init__(
        self,
        file: BinaryIO,
        values: Mapping[str, object],
        makers: Table,
        storage: Callable[[tuple], object],
    ) -> None:
        self.file = file
        self.values = values
        self.makers = makers
        self.storage = storage
        self.left = MOST_OPCODES

    def load(self) -> object:
        """The next object of the file."""
        self.stack: list = []
        self.marks: list[list] = []
        self.memo: dict[int, object] = {}
        for opcode, argument, _ in pickletools.genops(self.file):
            self.left -= 1
            if self.left < 0:
                raise DamagedFile(f'it has more than {MOST_OPCODES} opcodes')
            if opcode.name == 'STOP':
                return self.stack.pop()
            step = STEPS.get(opcode.name)
            if step is None:
                raise DamagedFile(f'it uses {opcode.name}, which no checkpoint needs')
            step(self, argument)
        raise DamagedFile('it ends early')

    def push(self, value: object) -> None:
        self.stack.append(value)

    def mark(self, _: object) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def top(self, count: int) -> list:
        if len(self.stack) < count:
            raise DamagedFile('its stack is empty too early')
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def pop(self, _: object) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def get(self, key: int) -> None:
        self.push(self.memo[int(key)])

    def put(self, key: int) -> None:
        value = self.memo[int(key)] = self.stack[-1]
        if isinstance(value, Pending):
            value.memo_keys.append(int(key))

    def name(self, module: str, name: str) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise DamagedFile('it has a name that is no text')
        full = f'{module}.{name}'
        self.push(self.values.get(full) or Foreign(full))

    def call(self, function: object, arguments: object) -> None:
        if not isinstance(function, Foreign) or not isinstance(arguments, tuple):
            raise DamagedFile('it calls something that is no function')
        self.push(self.make(function.name, arguments))

    def make(self, name: str, arguments: tuple) -> object:
        """The object that a call of `name` gives."""
        maker = self.makers.get(name)
        return Foreign(name) if maker is None else maker(*arguments)

    def instance(self, argument: str) -> None:
        arguments = tuple(self.since_mark())
        self.call(Foreign(argument.replace(' ', '.', 1)), arguments)

    def object(self, _: object) -> None:
        function, *arguments = self.since_mark()
        self.call(function, tuple(arguments))

    def build(self, _: object) -> None:
        state = self.top(1)[0]
        target = self.stack[-1]
        if isinstance(target, Pending):
            done = self.stack[-1] = target.finish(state)
            for key in target.memo_keys:
                self.memo[key] = done

    def persistent(self, _: object) -> None:
        (key,) = self.top(1)
        kind = key[0] if isinstance(key, tuple) and key else None
        if kind not in ('storage', b'storage'):
            raise DamagedFile('it refers to something outside that is no storage')
        self.push(self.storage(key))

    def append(self, items: list) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, Foreign):
            target.update(zip(range(len(target), 2**31), items, strict=False))
        else:
            raise DamagedFile('it appends to something that is no list')

    def set_items(self, items: list) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise DamagedFile('it sets items of something that is no dict')
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[as_key(key)] = value

    def add(self, items: list) -> None:
        target = self.stack[-1]
        if not isinstance(target, set):
            raise DamagedFile('it adds to something that is no set')
        target.update(map(as_key, items))


def as_key(value: object) -> object:
    """A key that is hashed at once: no nested tuples, no integers made to collide."""
    if isinstance(value, SCALARS):
        return value
    if isinstance(value, int) and value.bit_length() <= MOST_KEY_BITS:
        return value
    if isinstance(value, tuple) and all(isinstance(v, (str, bool)) for v in value):
        return value
    return value if isinstance(value, Foreign) else Foreign('key')


def _pairs(items: object = ()) -> list:
    """Pairs of a dict as its class is given them: a dict or pairs."""
    if isinstance(items, Mapping):
        return list(items.items())
    return [(as_key(key), value) for key, value in items]


def _encode(text: str, encoding: str = 'utf-8') -> bytes:
    if encoding not in ('latin1', 'latin-1', 'utf-8', 'ascii'):
        raise DamagedFile(f'it encodes as {encoding!r}')
    return text.encode(encoding)


def _bytearray(content: object = b'', encoding: str = 'latin-1') -> bytearray:
    if isinstance(content, str):
        content = _encode(content, encoding)
    if not isinstance(content, (bytes, list)):
        raise DamagedFile('it has a bytearray of something else')
    return bytearray(content)


def _complex(real: float, imaginary: float = 0.0) -> complex:
    if not isinstance(real, (int, float)) or not isinstance(imaginary, (int, float)):
        raise DamagedFile('it has a complex number of something else')
    return complex(real, imaginary)


CONTAINERS: dict[str, Callable[..., object]] = {
    'collections.OrderedDict': lambda items=(): OrderedDict(_pairs(items)),
    'collections.Counter': lambda items=(): dict(_pairs(items)),
    'collections.defaultdict': lambda factory=None, items=(): dict(_pairs(items)),
    '_codecs.encode': _encode,
}
for _module in ('builtins', '__builtin__'):
    CONTAINERS |= {
        f'{_module}.set': lambda items=(): set(map(as_key, items)),
        f'{_module}.frozenset': lambda items=(): frozenset(map(as_key, items)),
        f'{_module}.bytearray': _bytearray,
        f'{_module}.complex': _complex,
    }


def _constant(value: object) -> Callable[[Decoder, object], None]:
    return lambda decoder, _: decoder.push(value)


def _tuple(count: int) -> Callable[[Decoder, object], None]:
    return lambda decoder, _: decoder.push(tuple(decoder.top(count)))


def _literal(decoder: Decoder, argument: object) -> None:
    decoder.push(argument)


def _global(decoder: Decoder, argument: str) -> None:
    decoder.name(*argument.split(' ', 1))


def _new(decoder: Decoder, _: object) -> None:
    decoder.call(*decoder.top(2))


def _new_with_keywords(decoder: Decoder, _: object) -> None:
    function, arguments, _ = decoder.top(3)
    decoder.call(function, arguments)


LITERALS = (
    'INT',
    'LONG',
    'LONG1',
    'LONG4',
    'BININT',
    'BININT1',
    'BININT2',
    'FLOAT',
    'BINFLOAT',
    'STRING',
    'BINSTRING',
    'SHORT_BINSTRING',
    'UNICODE',
    'BINUNICODE',
    'SHORT_BINUNICODE',
    'BINUNICODE8',
    'BINBYTES',
    'SHORT_BINBYTES',
    'BINBYTES8',
    'BYTEARRAY8',
)
STEPS: dict[str, Callable[[Decoder, object], None]] = {
    **dict.fromkeys(LITERALS, _literal),
    **dict.fromkeys(('PROTO', 'FRAME'), lambda decoder, _: None),
    'NONE': _constant(None),
    'NEWTRUE': _constant(True),
    'NEWFALSE': _constant(False),
    'EMPTY_TUPLE': _constant(()),
    'EMPTY_LIST': lambda decoder, _: decoder.push([]),
    'EMPTY_DICT': lambda decoder, _: decoder.push({}),
    'EMPTY_SET': lambda decoder, _: decoder.push(set()),
    'TUPLE1': _tuple(1),
    'TUPLE2': _tuple(2),
    'TUPLE3': _tuple(3),
    'TUPLE': lambda decoder, _: decoder.push(tuple(decoder.since_mark())),
    'LIST': lambda decoder, _: decoder.push(decoder.since_mark()),
    'DICT': lambda decoder, _: _new_dict(decoder),
    'FROZENSET': lambda decoder, _: decoder.push(
        frozenset(map(as_key, decoder.since_mark()))
    ),
    'MARK': Decoder.mark,
    'POP': Decoder.pop,
    'POP_MARK': lambda decoder, _: decoder.since_mark() and None,
    'DUP': lambda decoder, _: decoder.push(decoder.stack[-1]),
    **dict.fromkeys(('GET', 'BINGET', 'LONG_BINGET'), Decoder.get),
    **dict.fromkeys(('PUT', 'BINPUT', 'LONG_BINPUT'), Decoder.put),
    'MEMOIZE': lambda decoder, _: decoder.put(len(decoder.memo)),
    'GLOBAL': _global,
    'STACK_GLOBAL': lambda decoder, _: decoder.name(*decoder.top(2)),
    'REDUCE': _new,
    'NEWOBJ': _new,
    'NEWOBJ_EX': _new_with_keywords,
    'INST': Decoder.instance,
    'OBJ': Decoder.object,
    'BUILD': Decoder.build,
    'BINPERSID': Decoder.persistent,
    'APPEND': lambda decoder, _: decoder.append(decoder.top(1)),
    'APPENDS': lambda decoder, _: decoder.append(decoder.since_mark()),
    'SETITEM': lambda decoder, _: decoder.set_items(decoder.top(2)),
    'SETITEMS': lambda decoder, _: decoder.set_items(decoder.since_mark()),
    'ADDITEMS': lambda decoder, _: decoder.add(decoder.since_mark()),
}


def _new_dict(decoder: Decoder) -> None:
    items = decoder.since_mark()
    decoder.push({})
    decoder.set_items(items)
