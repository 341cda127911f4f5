"""The input image as the first convolution reads it: in planes with a border, or in cells of rows and channels."""

from dataclasses import dataclass

import numpy as np

from haqnas.codegen.draft import Draft, Reference, Value
from haqnas.codegen.layout import NO_HALO, Halo, Layout
from haqnas.codegen.program import Region
from haqnas.codegen.signature import of_numbers
from haqnas.codegen.split import COPIED_BYTES_PER_NS, even_ranges
from haqnas.kernels import cells

PLANAR_CHANNELS = 4  # more channels and the taps of planes become too many


def is_planar_input(draft: Draft, x: Value) -> bool:
    """An image of few channels as the caller gives it: one plane after the other."""
    few = 1 < x.layout.shape[1] <= PLANAR_CHANNELS
    return few and x.layout.is_dense and draft.buffers[x.buffer].region is Region.INPUT


def as_planes(draft: Draft, x: Value, halo: Halo, zero_point: int, layer: str) -> Value:
    """A copy with a halo around each plane. Rows are copied whole; interleaving three channels byte by byte took
    5.9 us of a ResNet-20 (32x32) and 147 us at 224x224, longer than the convolution that reads them.
    """
    _, channels, height, width = x.layout.shape
    row = halo.left + width + halo.right
    plane = (halo.top + height + halo.bottom) * row
    whole = draft.new_dense((channels * plane,), "uint8")
    if halo != NO_HALO:
        draft.elementwise("fill", (whole,), layer, (zero_point,))
    layout = Layout(x.layout.shape, (channels * plane, plane, row, 1), halo.top * row + halo.left, halo)
    planes = Value(whole.buffer, layout, "uint8")
    draft.copy(x, planes, layer)
    return planes


@dataclass(frozen=True, slots=True)
class Cells:
    """Cells as wide as the stride and `depth` rows deep: a convolution of stride 1 over an image of cells.

    Depth is a multiple of the vertical stride, or the whole height of the filter. Taps are rows of cells.
    """

    channels: int
    filter: tuple[int, int]  # rows, columns
    stride: tuple[int, int]
    outputs: tuple[int, int]
    depth: int

    @classmethod
    def of(
        cls, channels: int, filter_: tuple[int, int], stride: tuple[int, int], outputs: tuple[int, int]
    ) -> "Cells | None":
        """The deepest cells that hold CELL_BYTES, or None where not even one row fits."""
        rows = cells.CELL_BYTES // (channels * stride[1])
        depth = filter_[0] if filter_[0] <= rows else rows // stride[0] * stride[0]
        if depth == 0 or stride[1] not in (1, 2, 4):
            return None
        return cls(channels, filter_, stride, outputs, depth)

    @property
    def taps(self) -> int:
        return -(-self.filter[0] // self.depth)

    @property
    def across(self) -> int:
        """Cells that a row of the filter covers."""
        return -(-self.filter[1] // self.stride[1])

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        down = (self.taps - 1) * (self.depth // self.stride[0])
        return self.outputs[0] + down, self.outputs[1] - 1 + self.across

    @property
    def source(self) -> tuple[int, int]:
        """Rows and columns of the image, border included, that cells hold."""
        rows, columns = self.size
        return (rows - 1) * self.stride[0] + self.depth, columns * self.stride[1]

    @property
    def row_bytes(self) -> int:
        """From one row of cells to the next."""
        return self.size[1] * cells.CELL_BYTES

    @property
    def length(self) -> int:
        """Bytes of a tap."""
        return self.across * cells.CELL_BYTES

    @property
    def offsets(self) -> tuple[int, ...]:
        """Bytes from a pixel's first cell to those of its taps."""
        return tuple(t * (self.depth // self.stride[0]) * self.row_bytes for t in range(self.taps))

    def weights(self, weight: np.ndarray) -> np.ndarray:
        """(outputs, channels, rows, columns) -> (outputs, taps, length); bytes that no filter reads weigh 0."""
        count, step = len(weight), self.stride[1]
        padded = np.zeros((count, self.channels, self.taps * self.depth, self.across * step), weight.dtype)
        padded[:, :, : self.filter[0], : self.filter[1]] = weight
        split = padded.reshape(count, self.channels, self.taps, self.depth, self.across, step)
        ordered = split.transpose(0, 2, 4, 3, 1, 5).reshape(count, self.taps, self.across, -1)
        out = np.zeros((count, self.taps, self.across, cells.CELL_BYTES), weight.dtype)
        out[..., : ordered.shape[3]] = ordered
        return out.reshape(count, self.taps, self.length)

    def gather(self, draft: Draft, x: Value, halo: Halo, zero_point: int, layer: str) -> Reference:
        """Emit the copy of `x` into cells; returns where the first one lies."""
        _, _, height, width = x.layout.shape
        rows, columns = self.source
        bottom, right = (
            max(halo.bottom, rows - halo.top - height),
            max(halo.right, columns - halo.left - width),
        )
        planes = as_planes(draft, x, Halo(halo.top, halo.left, bottom, right), zero_point, layer)
        _, plane, row, _ = planes.layout.strides
        streams = [d * row + c * plane for d in range(self.depth) for c in range(self.channels)]
        streams += [0] * (cells.CELL_BYTES // self.stride[1] - len(streams))
        p = cells.Parameter
        parameters = np.zeros(p.STREAMS, np.int32)
        parameters[p.TILES] = -(-self.size[1] // cells.TOGETHER)
        parameters[p.LAST] = max(0, self.size[1] - cells.TOGETHER)
        parameters[p.SOURCE_ROW] = self.stride[0] * row
        parameters[p.CELL_ROW] = self.row_bytes
        # Of a row shorter than a tile of cells the surplus is overwritten by the next row; the last needs room for it.
        surplus = max(0, cells.TOGETHER - self.size[1]) * cells.CELL_BYTES
        target = Reference(draft.allocate(self.size[0] * self.row_bytes + surplus))
        width, work_ns = self.stride[1], self.size[0] * self.row_bytes / COPIED_BYTES_PER_NS
        ranges = even_ranges(self.size[0], 1 if surplus else draft.cutting.count(work_ns))
        for part, (first, end) in zip(draft.begin(len(ranges), work_ns), ranges, strict=True):
            parameters[p.ROWS] = end - first
            arguments = (
                target.moved(first * self.row_bytes),
                Reference(planes.buffer, first * int(parameters[p.SOURCE_ROW])),
                draft.constant(np.array([*parameters, *streams], np.int32)),
            )
            work = of_numbers(parameters=[*map(int, parameters), *streams])
            draft.call(cells.symbol(width), lambda: cells.kernel(width), arguments, layer, work, part)
        return target
