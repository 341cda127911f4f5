"""The table of layers that stands in front of the constants of every binary, for `inspect` and `verify` to read.

Deflated text, one line a layer with weights, filled up with zeros to whole lines of the cache; the constants begin
behind it, so that a layer's packed weights are found in an executable and in a library alike, without symbols and
without running it.
"""

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from haqnas.codegen.program import Pointer, Program, Region
from haqnas.errors import VerificationError

MAGIC = "HAQNAS-LAYERS"
SCHEMA = 2
ALIGNMENT = 64
_SIZE_DIGITS = 8


@dataclass(frozen=True, slots=True)
class TableRow:
    """One layer, as a binary says of itself."""

    name: str
    kernel: str  # row of the kernel table, with UNPACKED where that is so
    reader: str  # the function that the binary calls on the packed weights
    weight_bits: int
    act_bits: int
    offset_bytes: int  # of the packed weights, in the constants
    packed_bytes: int


@dataclass(frozen=True, slots=True)
class LayerTable:
    """What stands in a binary, and where its constants begin in the file."""

    rows: tuple[TableRow, ...]
    constants_offset_bytes: int
    constants_bytes: int


def table_rows(program: Program) -> tuple[TableRow, ...]:
    """The layers of a program that have weights; each reader is read off the calls, which become the binary's code."""
    readers: dict[int, str] = {}
    for call in program.calls:
        for argument in call.arguments:
            if isinstance(argument, Pointer) and argument.region is Region.CONSTANTS:
                readers.setdefault(argument.offset_bytes, call.symbol.removeprefix(f"{program.name}_"))
    return tuple(
        TableRow(
            layer.name,
            layer.kernel,
            readers[layer.weight_offset_bytes],
            layer.weight_bits,
            layer.act_bits,
            layer.weight_offset_bytes,
            layer.packed_bytes,
        )
        for layer in program.layers
        if layer.weight_bits is not None and layer.act_bits is not None
    )


def encode_table(program: Program) -> bytes:
    """The bytes that go in front of the constants, a multiple of ALIGNMENT."""
    rows = table_rows(program)
    pairs = list(dict.fromkeys((row.kernel, row.reader) for row in rows))
    lines = [f"k\t{kernel}\t{reader}" for kernel, reader in pairs]
    lines += [
        f"l\t{row.name}\t{pairs.index((row.kernel, row.reader))}\t{row.weight_bits}\t{row.act_bits}"
        f"\t{row.offset_bytes}\t{row.packed_bytes}"
        for row in rows
    ]
    body = zlib.compress(
        "\n".join(lines).encode(), 9
    )  # a third of it: a program has 100 kB for all but weights
    digest = hashlib.sha256(body).hexdigest()[:16]
    start = f"{MAGIC} {SCHEMA} {program.name} "
    rest = f" {len(body)} {len(program.constants)} {digest}\n"
    size = len(start) + _SIZE_DIGITS + len(rest) + len(body)
    size += -size % ALIGNMENT
    data = f"{start}{size:0{_SIZE_DIGITS}}{rest}".encode() + body
    return data + bytes(size - len(data))


def find_table(data: bytes, name: str, place: str) -> LayerTable:
    """The table of the model `name` in a file's bytes; raises VerificationError that names `place`."""
    start = data.find(f"{MAGIC} {SCHEMA} {name} ".encode())
    if start < 0:
        raise VerificationError(
            f"{place} holds no table of the layers of {name!r}: it is not what haqnas linked; compile again"
        )
    try:
        head, _, _ = data[start : start + (1 << 20)].partition(b"\n")
        size, body_bytes, constants_bytes = map(int, head.decode().split()[3:6])
        body = data[start + len(head) + 1 : start + len(head) + 1 + body_bytes]
        is_whole = hashlib.sha256(body).hexdigest()[:16] == head.decode().split()[6]
        rows = tuple(_decode_rows(zlib.decompress(body).decode()))
    except (ValueError, IndexError, zlib.error):
        is_whole, size, constants_bytes, rows = False, 0, 0, ()
    if not is_whole or start + size + constants_bytes > len(data):
        raise VerificationError(f"{place}: its table of layers is damaged; compile again")
    return LayerTable(rows, start + size, constants_bytes)


def _decode_rows(body: str) -> Iterator[TableRow]:
    pairs: list[tuple[str, str]] = []
    for line in body.splitlines():
        kind, *words = line.split("\t")
        if kind == "k":
            pairs.append((words[0], words[1]))
        else:
            kernel, reader = pairs[int(words[1])]
            numbers = map(int, words[2:6])
            yield TableRow(words[0], kernel, reader, *numbers)
