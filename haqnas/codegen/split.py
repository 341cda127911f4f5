"""Split: cut the work of one kernel call into parts that threads run at once.

Each part writes its own rows, pixels or channels of the output, so any number of threads gives the same bytes.
What pays is judged by rough times: they only have to tell a layer of 1 us from one of 10 us.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from haqnas.kernels.finish import Finish
from haqnas.kernels.pieces import Row, Work
from haqnas.kernels.row import Geometry, Kernel

# Measured on the host (2 cores, AMX). A section of two tasks takes 0.27 us longer than half of the work, whatever the
# work is; the kernels of a layer spend 0.1 to 0.3 us more on two parts than on the whole, and what one core wrote and
# the other reads or overwrites moves at 2 to 5 bytes a nanosecond. Convolutions of 2 us took as long on two threads as
# on one, those of 6 us two thirds.
LEAST_PART_NS = 2000.0
SECTION_NS = 600.0
MOVE_NS = 1500.0  # where work on one thread follows work on several, or the reverse
# A program that would gain less of its time runs on one thread: ResNet-8 (28 us) and DS-CNN (19 us) were up to 10 %
# slower on two threads with every layer of 2 us cut.
LEAST_GAIN = 0.1

# Multiply-adds, and outputs, in a nanosecond on one core. On the host most layers of MobileNetV1, MobileNetV2 and
# ResNet-18 take 0.6 to 1.5 times what these say; the other instruction sets are guesses from their widths.
_RATES = {
    "amx-int8": (2000.0, 10.0),
    "avx512-vnni": (180.0, 8.0),
    "avx2": (60.0, 4.0),
    "neon-i8mm": (80.0, 2.0),
    "neon-dotprod": (50.0, 2.0),
    "neon": (15.0, 1.0),
    "rvv": (10.0, 1.0),
}
_PORTABLE_RATES = (3.0, 0.3)
_DEPTHWISE_RATES = (0.5, 2.0)  # times those
_CALL_NS = 300.0
_BYTES_PER_NS = 40.0  # weights that come from the third-level cache or from memory
_RESIDENT_BYTES = 400 << 10  # of weights that stay in a nearer one
COPIED_BYTES_PER_NS = 10.0
LINE_BYTES = 64


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows, columns or channels of a layer: its own geometry, and where it starts."""

    geometry: Geometry
    row: int = 0
    column: int = 0
    channel: int = 0

    def source(self) -> int:
        """Elements from the input of the whole to that of the part."""
        g = self.geometry
        first = self.channel if g.kind == "depthwise" else 0
        return self.row * g.in_row + self.column * g.in_column + first

    def target(self) -> int:
        """The same for the output."""
        g = self.geometry
        return self.row * g.out_row + self.column * g.out_column + self.channel

    def residual(self) -> int:
        """The same for the image that is added."""
        other = self.geometry.residual
        return self.row * other.row + self.column * other.column + self.channel if other else 0


def even_ranges(extent: int, count: int, unit: int = 1) -> tuple[tuple[int, int], ...]:
    """(first, end) of at most `count` neighbouring ranges, as even as whole units allow; none of several is empty."""
    units = -(-extent // unit)
    count = max(1, min(count, units))
    cuts = [units * k // count * unit for k in range(count)] + [extent]
    return tuple(itertools.pairwise(cuts))


@dataclass(frozen=True, slots=True)
class Cutting:
    """Into how many parts work is cut: at most `threads`, none shorter than `least_part_ns`."""

    threads: int = 1
    least_part_ns: float = LEAST_PART_NS

    def count(self, work_ns: float) -> int:
        """Parts of work of so many nanoseconds."""
        return max(1, min(self.threads, int(work_ns / self.least_part_ns)))


ONE_THREAD = Cutting()


def split_layer(geometry: Geometry, kernel: Kernel, finish: Finish, cutting: Cutting) -> tuple[Part, ...]:
    """The layer in parts that `kernel` accepts and computes with the same function; the whole where none pay."""
    count = cutting.count(layer_ns(geometry, kernel))
    whole = (Part(geometry),)

    def slowest_ns(parts: tuple[Part, ...]) -> float:
        return max(layer_ns(part.geometry, kernel) for part in parts)

    found = [parts for parts in cuts(geometry, kernel, count) if fits(geometry, parts, kernel, finish)]
    return min([whole, *found], key=slowest_ns)


def fits(whole: Geometry, parts: tuple[Part, ...], kernel: Kernel, finish: Finish) -> bool:
    """Whether they are several, and the function of the whole computes them all."""
    symbol = kernel.symbol(whole, finish)
    each = (kernel.accepts(p.geometry) and kernel.symbol(p.geometry, finish) == symbol for p in parts)
    return len(parts) > 1 and all(each)


def cuts(g: Geometry, kernel: Kernel, count: int) -> Sequence[tuple[Part, ...]]:
    """At most `count` parts by rows, by columns, by blocks of channels."""
    rows = tuple(Part(replace(g, rows=end - first), row=first) for first, end in even_ranges(g.rows, count))
    columns = tuple(
        Part(replace(g, columns=end - first), column=first) for first, end in even_ranges(g.columns, count)
    )
    if g.kind == "grouped":
        return rows, columns
    # Threads that write into one line of the cache take it from each other all the time.
    unit = kernel.block if g.rows * g.columns == 1 else -(-LINE_BYTES // kernel.block) * kernel.block
    channels = tuple(
        Part(replace(g, channels=end - first), channel=first)
        for first, end in even_ranges(g.channels, count, unit)
    )
    return rows, columns, channels


def layer_ns(g: Geometry, kernel: Kernel) -> float:
    """Rough time of a layer on one core: a call, multiplications, outputs, and weights from afar."""
    macs_per_ns, outputs_per_ns = _RATES.get(kernel.isa, _PORTABLE_RATES)
    channels = -(-g.channels // kernel.block) * kernel.block
    if g.kind != "dot":
        macs_per_ns, outputs_per_ns = macs_per_ns * _DEPTHWISE_RATES[0], outputs_per_ns * _DEPTHWISE_RATES[1]
        channels = g.channels
    outputs = g.rows * g.columns * channels
    taps_bytes = len(g.offsets) * g.length
    weight_bytes = channels * taps_bytes
    computing_ns = outputs * taps_bytes / macs_per_ns + outputs / outputs_per_ns
    far_ns = weight_bytes / _BYTES_PER_NS if weight_bytes > _RESIDENT_BYTES else 0.0
    return _CALL_NS + computing_ns + far_ns


def split_elementwise(work: Work, row: Row, cutting: Cutting) -> tuple[int, tuple[tuple[int, Work], ...]]:
    """The loop that is cut, the outermost that is long enough, and where each part starts in it."""
    nest, count = work.nest, cutting.count(elementwise_ns(work))
    long = [axis for axis, extent in enumerate(nest.extents) if extent >= 2 * count]
    axis = long[0] if long else max(range(nest.rank), key=lambda a: nest.extents[a])
    unit = LINE_BYTES if nest.strides[0][axis] == 1 else 1
    parts = []
    for first, end in even_ranges(nest.extents[axis], count, unit):
        extents = (*nest.extents[:axis], end - first, *nest.extents[axis + 1 :])
        parts.append((first, replace(work, nest=replace(nest, extents=extents))))
    fits = all(row.accepts(part) and row.symbol(part) == row.symbol(work) for _, part in parts)
    return axis, tuple(parts) if fits else ((0, work),)


def elementwise_ns(work: Work) -> float:
    """Rough time of an elementwise operator on one core."""
    return prod(work.nest.extents) / COPIED_BYTES_PER_NS


@dataclass(frozen=True, slots=True)
class Balance:
    """Rough time of a program on one thread, and what its parts save."""

    work_ns: float = 0.0
    saved_ns: float = 0.0
    is_split: bool = False  # what came last

    def after(self, work_ns: float, parts: int) -> "Balance":
        """With more work, done in so many parts."""
        gain = work_ns * (1 - 1 / parts) - SECTION_NS if parts > 1 else 0.0
        moved = MOVE_NS if self.is_split != (parts > 1) else 0.0
        return Balance(self.work_ns + work_ns, self.saved_ns + gain - moved, parts > 1)

    @property
    def pays(self) -> bool:
        """Whether several threads are worth their trouble."""
        return self.saved_ns > LEAST_GAIN * self.work_ns
