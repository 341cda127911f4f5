"""Rows of the kernel table for depthwise convolution on x86."""

from math import gcd
from typing import NamedTuple

import numpy as np

from haqnas.kernels import finish, x86_columns, x86_depthwise, x86_general_depthwise
from haqnas.kernels.finish import Finish
from haqnas.kernels.row import Extra, Geometry, Kernel, finish_values, grid, parameters
from haqnas.kernels.x86_finish import PACKED, Machine, Narrowing
from haqnas.quantspec import ACT_BITS, WEIGHT_BITS

LARGEST_FILTER = 49  # taps; the code is unrolled over them
TILE_PIXELS = 4
BAND_BYTES = (
    256 << 10
)  # of an image that stays in the second-level cache while all blocks of channels pass it
MOST_SUMS = 24  # registers of 32


class Steps(NamedTuple):
    """How a filter moves over an image of which neighbouring pixels are read as one, so that they fill a block."""

    repeats: int  # pixels that are read as one
    rows: int  # of the filter
    columns: int
    down: int  # elements from one row of the filter to the next
    unit: int  # elements of a column: all steps across are multiples of it
    step: int  # columns from one output to the next
    spread: int  # columns between neighbouring taps

    @classmethod
    def of(cls, g: Geometry, block: int) -> "Steps":
        """Of a layer for blocks of so many channels; the filter has no taps where they form no grid."""
        rows, columns, down, across = grid(g.offsets) or (0, 0, 0, 1)
        dense = g.in_column == g.out_column == g.channels < block
        repeats = block // g.channels if dense and block % g.channels == 0 else 1
        unit = gcd(g.in_column, across)
        return cls(repeats, rows, columns, down, unit, repeats * g.in_column // unit, across // unit)

    def fit(self, g: Geometry, block: int) -> bool:
        """Whether a kernel for blocks of so many channels can compute the layer."""
        return (
            0 < self.rows * self.columns <= LARGEST_FILTER
            and g.channels * self.repeats >= block
            and g.columns >= self.repeats
        )

    def repeated(self, values: np.ndarray) -> np.ndarray:
        """What belongs to channels, for all pixels that are read as one."""
        return np.concatenate([values] * self.repeats)

    def filters(self, weight: np.ndarray) -> np.ndarray:
        """(channels, taps, 1) -> (channels of all pixels that are read as one, rows, columns)."""
        return self.repeated(weight.reshape(len(weight), self.rows, self.columns))

    def values(self, g: Geometry) -> dict[int, int]:
        """The parameters of `finish`."""
        return finish_values(g) | {finish.CHANNELS: g.channels * self.repeats}

    def blocks(self, g: Geometry, block: int) -> int:
        """Blocks of channels."""
        return -(-g.channels * self.repeats // block)


def _arrange(block: int, g: Geometry, values: np.ndarray) -> np.ndarray:
    steps = Steps.of(g, block)
    order = x86_depthwise.channel_order(g.channels * steps.repeats, block)
    arranged: np.ndarray = steps.repeated(values)[order].reshape(-1)
    return arranged


def sweep_row(lanes: int) -> Kernel:
    """AVX-512, column by column, in blocks of four times `lanes` channels."""
    machine = Machine(lanes, True)
    block = machine.size

    def sweep(g: Geometry) -> x86_columns.Sweep:
        steps = Steps.of(g, block)
        return x86_columns.Sweep(machine, steps.rows, steps.columns, steps.step, steps.spread)

    def extras(g: Geometry) -> tuple[Extra, ...]:
        p, steps = x86_columns.Parameter, Steps.of(g, block)
        width = g.columns // steps.repeats
        band = max(1, min(g.rows, BAND_BYTES // max(1, g.in_row)))
        values = steps.values(g) | {
            p.ROWS: g.rows,
            p.BANDS: -(-g.rows // band),
            p.BAND: band,
            p.PASSES: 1 if g.columns % steps.repeats == 0 else 2,
            p.LAST: g.columns - width * steps.repeats,
            p.WIDTH: width,
            p.BLOCKS: steps.blocks(g, block),
            p.IN_ROW: g.in_row,
            p.IN_COLUMN: g.in_column,
            p.OUT_ROW: g.out_row,
            p.OUT_COLUMN: g.out_column,
            p.OUT_STEP: g.out_column * steps.repeats,
            p.UNIT: steps.unit,
            p.DOWN: steps.down,
        }
        return (parameters(values, (), p.COUNT),)

    return Kernel(
        name=f"depthwise/avx512-vnni/{block}",
        isa="avx512-vnni",
        kind="depthwise",
        weight_bits=WEIGHT_BITS,
        act_bits=ACT_BITS,
        block=block,
        overread_bytes=0,
        act_offset=0,
        accepts=lambda g: Steps.of(g, block).fit(g, block) and sweep(g).registers <= MOST_SUMS,
        pack=lambda g, weight: x86_columns.packed(Steps.of(g, block).filters(weight), sweep(g)),
        finishes=(Finish.UINT8, Finish.FLOAT32),
        function=lambda g, finish: x86_columns.kernel(sweep(g), finish, Narrowing.of_layer(g)),
        symbol=lambda g, finish: x86_columns.symbol(sweep(g), finish, Narrowing.of_layer(g)),
        extras=extras,
        cost=lambda g: sweep(g).cost * Steps.of(g, block).blocks(g, block) / Steps.of(g, block).repeats,
        arrange=lambda g, values: _arrange(block, g, values),
    )


def general_row(lanes: int) -> Kernel:
    """AVX-512, filters of any size and step."""
    machine = Machine(lanes, True)
    block = machine.size
    group = x86_columns.GROUP

    def blocks(g: Geometry) -> int:
        return -(-g.channels // block)

    def cost(g: Geometry) -> float:
        rows, columns, _, _ = grid(g.offsets) or (0, 0, 0, 0)
        whole = columns * -(-rows // group) * (8 + PACKED) + 20
        return whole / (2 if lanes == 16 else 3) * blocks(g)

    def accepts(g: Geometry) -> bool:
        rows, columns, _, _ = grid(g.offsets) or (0, 0, 0, 0)
        # A packed 1-bit weight cannot be the zero that fills a group of rows.
        return rows * columns > 0 and g.channels >= block and (g.weight_bits > 1 or rows % group == 0)

    def pack(g: Geometry, weight: np.ndarray) -> np.ndarray:
        rows, columns, _, _ = grid(g.offsets) or (0, 0, 0, 0)
        return x86_depthwise.pack(weight.reshape(len(weight), rows, columns), block, group)

    def extras(g: Geometry) -> tuple[Extra, ...]:
        p = x86_general_depthwise.Parameter
        rows, columns, down, across = grid(g.offsets) or (0, 0, 0, 0)
        values = finish_values(g) | {
            p.ROWS: g.rows,
            p.COLUMNS: g.columns,
            p.BLOCKS: blocks(g),
            p.IN_ROW: g.in_row,
            p.IN_COLUMN: g.in_column,
            p.OUT_ROW: g.out_row,
            p.OUT_COLUMN: g.out_column,
            p.TAPS: columns,
            p.ACROSS: across,
            p.GROUPS: -(-rows // group),
            p.LAST: rows - 1,
            p.DOWN: down,
        }
        return (parameters(values, (), p.COUNT),)

    return Kernel(
        name=f"depthwise-general/avx512-vnni/{block}",
        isa="avx512-vnni",
        kind="depthwise",
        weight_bits=WEIGHT_BITS,
        act_bits=ACT_BITS,
        block=block,
        overread_bytes=0,
        act_offset=0,
        accepts=accepts,
        pack=pack,
        finishes=(Finish.UINT8, Finish.FLOAT32),
        function=lambda g, finish: x86_general_depthwise.kernel(machine, finish, Narrowing.of_layer(g)),
        symbol=lambda g, finish: x86_general_depthwise.symbol(machine, finish, Narrowing.of_layer(g)),
        extras=extras,
        cost=cost,
        arrange=lambda g, values: values[x86_depthwise.channel_order(g.channels, block)].reshape(-1),
        is_general=True,
    )


def tile_row(machine: Machine) -> Kernel:
    """In tiles of pixels, in blocks of as many channels as a vector has bytes."""
    block = machine.size
    isa = "avx512-vnni" if machine.has_avx512 else "avx2"

    def shape(g: Geometry) -> x86_depthwise.Filter:
        steps = Steps.of(g, block)
        pixels = min(TILE_PIXELS, g.columns // steps.repeats)
        return x86_depthwise.Filter(machine, steps.rows, steps.columns, steps.step, steps.spread, pixels)

    def extras(g: Geometry) -> tuple[Extra, ...]:
        p, steps = x86_depthwise.Parameter, Steps.of(g, block)
        advance = shape(g).pixels * steps.repeats
        values = steps.values(g) | {
            p.ROWS: g.rows,
            p.TILES: -(-g.columns // advance),
            p.ADVANCE: advance,
            p.LAST: g.columns - advance,
            p.BLOCKS: steps.blocks(g, block),
            p.IN_ROW: g.in_row,
            p.IN_COLUMN: g.in_column,
            p.OUT_ROW: g.out_row,
            p.OUT_COLUMN: g.out_column,
            p.OUT_STEP: g.out_column * steps.repeats,
            p.UNIT: steps.unit,
            p.DOWN: steps.down,
        }
        return (parameters(values, (), p.COUNT),)

    return Kernel(
        name=f"depthwise-tiles/{isa}/{block}",
        isa=isa,
        kind="depthwise",
        weight_bits=WEIGHT_BITS,
        act_bits=ACT_BITS,
        block=block,
        overread_bytes=0,
        act_offset=0,
        accepts=lambda g: Steps.of(g, block).fit(g, block),
        pack=lambda g, weight: x86_depthwise.pack(Steps.of(g, block).filters(weight), block, shape(g).group),
        finishes=(Finish.UINT8, Finish.FLOAT32),
        function=lambda g, finish: x86_depthwise.kernel(shape(g), finish, Narrowing.of_layer(g)),
        symbol=lambda g, finish: x86_depthwise.symbol(shape(g), finish, Narrowing.of_layer(g)),
        extras=extras,
        cost=lambda g: shape(g).cost * Steps.of(g, block).blocks(g, block) / Steps.of(g, block).repeats,
        arrange=lambda g, values: _arrange(block, g, values),
    )
