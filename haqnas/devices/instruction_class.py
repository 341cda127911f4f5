"""What kind of work an instruction is, from its encoding: for cores that are modelled by costs of classes.

By encoding and not by a disassembler's text, because disassemblers of the machines that haqnas runs on are often older
than the instructions of its kernels (usmmla, RISC-V vectors). The first row that matches decides.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

InstructionClass: TypeAlias = Literal[
    "alu", "mul", "div", "branch", "load", "store", "vector_load", "vector_store",
    "simd", "simd_mul", "simd_dot", "other",
]  # fmt: skip
CLASSES: tuple[InstructionClass, ...] = get_args(InstructionClass)


class _Row(NamedTuple):
    """Instructions whose bits under `mask` are `value`."""

    mask: int
    value: int
    kind: InstructionClass


# Arm Architecture Reference Manual, "A64 instruction set encoding". In loads and stores bit 26 says vector, and
# bit 22 mostly load.
_AARCH64 = (
    _Row(0x1C000000, 0x10000000, "alu"),  # immediate
    _Row(0xFE000000, 0xD4000000, "other"),  # supervisor calls, hints, barriers, system registers
    _Row(0x1C000000, 0x14000000, "branch"),
    _Row(0x3F000000, 0x1C000000, "vector_load"),  # literal
    _Row(0x3F000000, 0x18000000, "load"),
    _Row(0x0E400000, 0x0C400000, "vector_load"),
    _Row(0x0E400000, 0x0C000000, "vector_store"),
    _Row(0x3F400000, 0x08000000, "store"),  # exclusive
    _Row(0x3E400000, 0x28000000, "store"),  # pair
    _Row(0x3F200C00, 0x38200000, "load"),  # atomic
    _Row(0x3EC00000, 0x38000000, "store"),
    _Row(0x0A000000, 0x08000000, "load"),
    _Row(0x1F000000, 0x1B000000, "mul"),
    _Row(0x7FE0F800, 0x1AC00800, "div"),
    _Row(0x0E000000, 0x0A000000, "alu"),  # registers
    _Row(0x9F20FC00, 0x0E009400, "simd_dot"),  # sdot, udot
    _Row(0x9F20FC00, 0x0E009C00, "simd_dot"),  # usdot
    _Row(0x9F20F400, 0x0E00A400, "simd_dot"),  # smmla, ummla, usmmla
    _Row(0x9F00E400, 0x0F00E000, "simd_dot"),  # by element
    _Row(0x9F20F400, 0x0E008400, "simd_mul"),  # sqrdmlah
    _Row(0x9F000400, 0x0F000000, "simd_mul"),  # by element
    _Row(0x9F208C00, 0x0E208000, "simd_mul"),  # widening: smull, smlal
    _Row(0x9F20F400, 0x0E209400, "simd_mul"),  # mla, mul
    _Row(0x9F20FC00, 0x0E20B400, "simd_mul"),  # sqdmulh
    _Row(0x9F20EC00, 0x0E20CC00, "simd_mul"),  # fmla, fmul
    _Row(0xBF20FC00, 0x2E20FC00, "div"),  # fdiv
    _Row(0xFF20FC00, 0x1E201800, "div"),  # scalar
    _Row(0xFF207C00, 0x1E200800, "simd_mul"),  # scalar fmul
    _Row(0xFF000000, 0x1F000000, "simd_mul"),  # scalar fmadd
    _Row(0x0E000000, 0x0E000000, "simd"),
)

# The RISC-V Instruction Set Manual, volume I: instruction set listings, and the tables of "C" and "V".
_RISCV = (
    _Row(0x0000607F, 0x00002007, "load"),  # flw, fld; other widths are vectors
    _Row(0x0000007F, 0x00000007, "vector_load"),
    _Row(0x0000007F, 0x00000003, "load"),
    _Row(0x0000607F, 0x00002027, "store"),
    _Row(0x0000007F, 0x00000027, "vector_store"),
    _Row(0x0000007F, 0x00000023, "store"),
    _Row(0x0000007F, 0x00000063, "branch"),
    _Row(0x0000007F, 0x0000006F, "branch"),
    _Row(0x0000007F, 0x00000067, "branch"),
    _Row(0xFE004077, 0x02000033, "mul"),
    _Row(0xFE004077, 0x02004033, "div"),
    _Row(0x00000077, 0x00000033, "alu"),
    _Row(0x00000077, 0x00000013, "alu"),
    _Row(0x0000007F, 0x00000017, "alu"),  # auipc
    _Row(0x0000007F, 0x00000037, "alu"),  # lui
    _Row(0x0000007F, 0x0000002F, "load"),  # atomic
    _Row(0x00000073, 0x00000043, "simd_mul"),  # fmadd
    _Row(0xF800007F, 0x10000053, "simd_mul"),  # fmul
    _Row(0xF800007F, 0x18000053, "div"),
    _Row(0x0000007F, 0x00000053, "simd"),
    _Row(0x0000707F, 0x00007057, "alu"),  # vsetvli
    _Row(0xF000307F, 0x80002057, "div"),  # vdiv, vrem
    _Row(0xF000307F, 0x90002057, "simd_mul"),  # vmul
    _Row(0xE000307F, 0xA0002057, "simd_mul"),  # vmacc
    _Row(0xE000307F, 0xE0002057, "simd_mul"),  # vwmul, vwmacc
    _Row(0xF000307F, 0x80001057, "div"),  # vfdiv
    _Row(0xF000307F, 0x90001057, "simd_mul"),  # vfmul
    _Row(0xE000307F, 0xA0001057, "simd_mul"),  # vfmacc
    _Row(0x0000007F, 0x00000057, "simd"),
)
_RISCV_COMPRESSED = (
    _Row(0xE003, 0x0000, "alu"),
    _Row(0x8003, 0x0000, "load"),
    _Row(0x8003, 0x8000, "store"),
    _Row(0xE003, 0x8001, "alu"),
    _Row(0x8003, 0x8001, "branch"),
    _Row(0x8003, 0x0001, "alu"),
    _Row(0xE003, 0x0002, "alu"),
    _Row(0x8003, 0x0002, "load"),
    _Row(0xE07F, 0x8002, "branch"),  # jr, jalr
    _Row(0xE003, 0x8002, "alu"),
    _Row(0x8003, 0x8002, "store"),
)


def classify(instruction: str, arch: str) -> InstructionClass:
    """The class of an instruction given as the hexadecimal bytes of memory; `arch` as in HardwareProfile.

    "other" for what is in no row, and for architectures without rows: x86-64 programs are timed, not modelled.
    """
    code = int.from_bytes(bytes.fromhex(instruction), "little")
    return next(
        (row.kind for row in _rows(arch, len(instruction) // 2) if code & row.mask == row.value), "other"
    )


def _rows(arch: str, size_bytes: int) -> Sequence[_Row]:
    if arch == "aarch64":
        return _AARCH64
    if arch == "riscv64":
        return _RISCV_COMPRESSED if size_bytes == 2 else _RISCV
    return ()
