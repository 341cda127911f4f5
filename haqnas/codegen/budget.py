"""Keep programs small: a network with many kinds of layers gives up the specialised kernels that serve it least.

Specialised functions (a filter size and stride each, say) are fast, but every one is code in the executable. Where
the whole would stand more than LIMIT_BYTES beside the packed weights, functions that differ in how they end become one;
where that is not enough, those with the fewest multiplications per byte of code are left out. Their layers run on
another row of the kernel table: one that the program holds anyway, else a general one.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import fx

from haqnas.codegen.layer_table import encode_table
from haqnas.codegen.lower import lower
from haqnas.codegen.objects import build
from haqnas.codegen.program import Program
from haqnas.codegen.split import LEAST_PART_NS, Cutting
from haqnas.errors import HaqnasError, VerificationError
from haqnas.hardware import HardwareProfile
from haqnas.kernels.finish import Finish
from haqnas.kernels.row import Geometry, Kernel, with_any_ending
from haqnas.kernels.table import candidates, signed_kinds

LIMIT_BYTES = 100_000  # of an executable, beside its packed weights
# What is neither kernel nor constant, measured on the zoo: C runtime and libc 33 kB, 36 bytes for each kernel call.
RUNTIME_BYTES, CALL_BYTES = 33_100, 40
THREADED_BYTES = 11_500  # of a program for several threads: the team, and what it needs of libc
# Times the least part that pays: MobileNetV3-small on two threads took 454 us with 1, 419 with 2, 493 with 4.
_COARSEST = 2
_ATTEMPTS = 9
CHOICE = "kernel_choice.json"
NONE_PREFERRED: Mapping[Geometry, str] = MappingProxyType({})


def lower_and_build(
    graph: fx.GraphModule,
    profile: HardwareProfile,
    name: str,
    folder: Path,
    limit_bytes: int = LIMIT_BYTES,
    threads: int = 1,
    preferred: Mapping[Geometry, str] = NONE_PREFERRED,
) -> tuple[Program, Path]:
    """`lower` and `build` with kernels that fit; what was left out is kept in `folder` beside the object file.

    Layers in `preferred` get the row of that name where it fits. A program that no choice of kernels makes small enough
    is built with the smallest.
    """
    kernels, choice = folder / "kernels.o", folder / CHOICE
    if kernels.exists() and choice.exists():
        return lower_again(graph, profile, name, choice.read_text(encoding="utf-8"), threads), kernels
    left_out: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()  # functions of the attempt before
    share_endings, may_store_signed, cutting = False, True, Cutting(threads, LEAST_PART_NS)
    for _ in range(_ATTEMPTS):
        choose = _chooser(left_out, held, preferred, share_endings)
        program = lower(graph, profile, name, choose, may_store_signed, cutting)
        build(program.functions, profile, kernels)
        sizes = {symbol.removeprefix(f"{name}_"): size for symbol, size in code_sizes(kernels).items()}
        excess = overhead_bytes(program, sum(sizes.values())) - limit_bytes
        used = _Chosen(
            tuple(sorted(left_out)),
            tuple(sorted(held)),
            share_endings,
            may_store_signed,
            cutting.least_part_ns,
            tuple(preferred.items()),
        )
        if excess > 0 and not share_endings:
            share_endings = True  # costs least: a percent or two
            continue
        if excess > 0 and may_store_signed and signed_kinds(profile.isas):
            may_store_signed = False  # gains little: a few percent, for a second form of many functions
            continue
        if excess > 0 and threads > 1 and cutting.least_part_ns < _COARSEST * LEAST_PART_NS:
            cutting = replace(cutting, least_part_ns=2 * cutting.least_part_ns)  # fewer calls
            continue
        served = _served(program, profile.isas, share_endings)
        more = _least_useful(served, sizes, excess) if excess > 0 else frozenset()
        if not more:
            break
        left_out, held = left_out | more, frozenset(sizes)
    choice.write_bytes(_CHOSEN.dump_json(used))  # last: without it, kernels.o may be that of an attempt
    return program, kernels


def lower_again(
    graph: fx.GraphModule, profile: HardwareProfile, name: str, choice: str, threads: int = 1
) -> Program:
    """The program that `lower_and_build` made and described in the file CHOICE, whose text is `choice`.

    Raises VerificationError where that is damaged.
    """
    try:
        chosen = _CHOSEN.validate_json(choice)
    except ValidationError:
        raise VerificationError(f"{CHOICE} does not say which kernels were chosen; compile again") from None
    left_out, held = frozenset(chosen.left_out), frozenset(chosen.held)
    choose = _chooser(left_out, held, dict(chosen.preferred), chosen.share_endings)
    cutting = Cutting(threads, chosen.least_part_ns)
    return lower(graph, profile, name, choose, chosen.may_store_signed, cutting)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """All that a program depends on besides graph, profile and threads."""

    __pydantic_config__ = ConfigDict(ser_json_inf_nan="constants")  # bounds of geometries may be infinite
    left_out: tuple[str, ...]
    held: tuple[str, ...]
    share_endings: bool
    may_store_signed: bool
    least_part_ns: float
    preferred: tuple[tuple[Geometry, str], ...]


_CHOSEN = TypeAdapter(_Chosen)


def overhead_bytes(program: Program, code_bytes: int) -> int:
    """What the executable holds beside packed weights, from above."""
    data = len(encode_table(program)) + len(program.constants) - program.packed_weight_bytes
    threaded = THREADED_BYTES if program.threads > 1 else 0
    return data + code_bytes + RUNTIME_BYTES + threaded + CALL_BYTES * len(program.calls)


def _chooser(
    left_out: frozenset[str], held: frozenset[str], preferred: Mapping[Geometry, str], share_endings: bool
) -> Callable[[Geometry, Sequence[str]], Kernel]:
    """The best row whose function is not left out, else one whose function the program holds, else a stand-in."""

    def choose(geometry: Geometry, isas: Sequence[str]) -> Kernel:
        wanted = preferred.get(geometry)
        rows = sorted(_rows(geometry, isas, share_endings), key=lambda row: row.name != wanted)
        allowed = [row for row in rows if _symbol(row, geometry) not in left_out]
        if not allowed or allowed[0] is not rows[0]:
            allowed = [row for row in allowed if _symbol(row, geometry) in held]
        return allowed[0] if allowed else next((row for row in rows if row.is_general), rows[-1])

    return choose


def _rows(geometry: Geometry, isas: Sequence[str], share_endings: bool) -> tuple[Kernel, ...]:
    rows = candidates(geometry, isas)
    return tuple(map(with_any_ending, rows)) if share_endings else rows


def _symbol(row: Kernel, geometry: Geometry) -> str:
    """Of the function of an integer layer, without the program's name."""
    return row.symbol(geometry, Finish.UINT8 if geometry.residual is None else Finish.UINT8_ADD)


def _served(program: Program, isas: Sequence[str], share_endings: bool) -> dict[str, int]:
    """Functions that have a slower stand-in, by symbol -> multiplications of the layers that they serve."""
    served: dict[str, int] = {}
    for layer in program.layers:
        if layer.geometry is None:
            continue
        rows = _rows(layer.geometry, isas, share_endings)
        row = next(row for row in rows if row.name == layer.row)
        if not (row.is_general or row is rows[-1]):
            symbol = _symbol(row, layer.geometry)
            served[symbol] = served.get(symbol, 0) + layer.macs
    return served


def _least_useful(served: Mapping[str, int], sizes: Mapping[str, int], excess_bytes: int) -> frozenset[str]:
    """Functions to leave out, those with the fewest multiplications per byte first, until the excess is gone."""
    found: set[str] = set()
    for symbol in sorted(served, key=lambda s: served[s] / sizes.get(s, 1)):
        if excess_bytes <= 0:
            break
        if symbol in sizes:
            found.add(symbol)
            excess_bytes -= sizes[symbol]
    return frozenset(found)


def code_sizes(path: Path) -> dict[str, int]:
    """Bytes of machine code of each global function of a 64-bit little-endian ELF object file."""
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise HaqnasError(
            f"{path} must be a 64-bit little-endian ELF object, which LLVM writes for our targets"
        )
    start, count = struct.unpack_from("<Q", data, 40)[0], struct.unpack_from("<H", data, 60)[0]
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, start + 64 * i) for i in range(count)]
    sizes: dict[str, int] = {}
    for _, kind, _, _, offset, size, link, _, _, _ in sections:
        if kind != 2:  # SHT_SYMTAB
            continue
        names = sections[link][4]
        for entry in range(offset, offset + size, 24):
            name, info, _, _, _, length = struct.unpack_from("<IBBHQQ", data, entry)
            if info & 15 == 2:  # STT_FUNC
                end = data.index(b"\0", names + name)
                sizes[data[names + name : end].decode()] = length
    return sizes
