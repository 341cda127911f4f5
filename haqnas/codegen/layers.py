"""Lowering of layers with weights: convolution, transposed convolution, linear."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, prod

import numpy as np

from haqnas.codegen.draft import Draft, Reference, RowsWritten, Value
from haqnas.codegen.first_layer import Cells, as_planes, is_planar_input
from haqnas.codegen.layout import NO_HALO, Halo, Layout
from haqnas.codegen.program import UNPACKED, LayerInfo, Region
from haqnas.codegen.signature import of_layer
from haqnas.codegen.split import Part, layer_ns, split_layer
from haqnas.codegen.weights import store_weights
from haqnas.kernels.cells import CELL_BYTES
from haqnas.kernels.finish import Finish
from haqnas.kernels.row import Geometry, Kernel, Residual, Scratch
from haqnas.quantspec import act_range


@dataclass(frozen=True, slots=True)
class Weights:
    """Constants of one layer. `weight`: (channels, group inputs, kh, kw) int8; `bias` and `scale` per channel."""

    layer: str
    weight: np.ndarray
    bias: np.ndarray
    scale: np.ndarray
    weight_bits: int
    act_bits: int
    in_zero_point: int


@dataclass(frozen=True, slots=True)
class Sum:
    """An image to add to the requantized output, and the scalars of `haqnas::qadd` with the output as `a`."""

    image: Value
    scalars: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ending:
    """What becomes of an accumulator: uint8 by requantization (and a sum), or float32 (`clamp` is None)."""

    clamp: tuple[int, int, int] | None  # zero point, low, high
    residual: Sum | None = None

    @property
    def finish(self) -> Finish:
        if self.clamp is None:
            return Finish.FLOAT32
        return Finish.UINT8 if self.residual is None else Finish.UINT8_ADD

    @property
    def dtype(self) -> str:
        return self.finish.dtype


@dataclass(frozen=True, slots=True)
class Window:
    """How a convolution moves over its input; (rows, columns) each."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


def halo_of_conv(in_shape: tuple[int, ...], kernel: tuple[int, int], window: Window) -> Halo:
    """The border that a convolution reads beyond its input."""
    after = []
    for axis in (0, 1):
        size, pad = in_shape[2 + axis], window.padding[axis]
        span = window.dilation[axis] * (kernel[axis] - 1)
        last = (size + 2 * pad - span - 1) // window.stride[axis] * window.stride[axis] - pad + span
        after.append(max(0, last - (size - 1)))
    return Halo(window.padding[0], window.padding[1], after[0], after[1])


def as_image(draft: Draft, x: Value, halo: Halo, zero_point: int, layer: str) -> Value:
    """`x` itself where a convolution can read it, else a channels-last copy with its halo."""
    layout = x.layout
    own = draft.buffers[x.buffer].region is Region.WORKSPACE
    unit_channels = layout.strides[1] == 1 or layout.shape[1] == 1
    if own and unit_channels and layout.halo.covers(halo) and layout.strides[3] > 0 and layout.strides[2] > 0:
        return x
    image = draft.new(layout.shape, x.dtype, halo)
    draft.copy(x, image, layer)
    draft.fill_halo(image, zero_point, layer)
    return image


@dataclass(frozen=True, slots=True)
class Reading:
    """How a convolution's taps lie in memory: `weight` is (channels, taps, length), steps are in bytes."""

    source: Callable[[], Reference]  # emits the copies that it needs
    row: int  # from the base of a row of outputs to that of the next
    column: int
    offsets: tuple[int, ...]
    length: int
    weight: np.ndarray


def _of_cells(draft: Draft, x: Value, w: Weights, window: Window, halo: Halo, out: Value) -> Reading | None:
    """Of an input in planes, gathered into cells; None where they cannot hold it."""
    channels, (kh, kw) = w.weight.shape[1], w.weight.shape[2:]
    rows, columns = out.layout.shape[2:]
    plan = Cells.of(channels, (kh, kw), window.stride, (rows, columns))
    if plan is None or w.weight_bits == 1:  # a packed 1-bit weight cannot be the zero of what no filter reads
        return None
    return Reading(
        lambda: plan.gather(draft, x, halo, w.in_zero_point, w.layer),
        plan.row_bytes,
        CELL_BYTES,
        plan.offsets,
        plan.length,
        plan.weights(w.weight),
    )


def _of_planes(draft: Draft, x: Value, w: Weights, window: Window, halo: Halo) -> Reading:
    """Of an input in planes."""
    channels, group_in, kh, kw = w.weight.shape
    planes = as_planes(draft, x, halo, w.in_zero_point, w.layer)
    _, plane, row, _ = planes.layout.strides
    down = window.dilation[0] * row
    base = planes.layout.offset - window.padding[0] * row - window.padding[1]
    return Reading(
        lambda: draft.address(planes, base),
        window.stride[0] * row,
        window.stride[1],
        tuple(c * plane + y * down for c in range(group_in) for y in range(kh)),
        kw,
        w.weight.reshape(channels, group_in * kh, kw),
    )


def _of_pixels(draft: Draft, x: Value, w: Weights, window: Window, halo: Halo) -> Reading:
    """Of an image with its channels last; where a row of taps is contiguous it is one tap."""
    channels, group_in, kh, kw = w.weight.shape
    image = as_image(draft, x, halo, w.in_zero_point, w.layer)
    row, pixel = image.layout.strides[2:]
    down, across = window.dilation[0] * row, window.dilation[1] * pixel
    base = image.layout.offset - window.padding[0] * row - window.padding[1] * pixel
    if window.groups == 1 and across == group_in:
        offsets, length = tuple(y * down for y in range(kh)), kw * group_in
    else:
        offsets = tuple(y * down + c * across for y in range(kh) for c in range(kw))
        length = group_in
    return Reading(
        lambda: draft.address(image, base),
        window.stride[0] * row,
        window.stride[1] * pixel,
        offsets,
        length,
        w.weight.transpose(0, 2, 3, 1).reshape(channels, len(offsets), length),
    )


LONG_STEP = (
    16  # bytes of a tap that a kernel multiplies at once; from here on the short taps of planes waste most
)


def lower_conv2d(draft: Draft, x: Value, w: Weights, window: Window, ending: Ending, out: Value) -> None:
    """Emit `out = ending(conv2d(x))`; `out` is channels last."""
    channels, group_in, kh, kw = w.weight.shape
    halo = halo_of_conv(x.layout.shape, (kh, kw), window)
    summand, residual = ending.residual, None
    if summand is not None:
        image = as_image(draft, summand.image, NO_HALO, 0, w.layer)
        ending = Ending(ending.clamp, Sum(image, summand.scalars))
        row, column = image.layout.strides[2:]
        residual = Residual(row, column, summand.scalars, image.dtype == "int8")
    depthwise = window.groups > 1 and group_in == 1 and channels == window.groups
    kind = "depthwise" if depthwise else "grouped" if window.groups > 1 else "dot"

    def geometry_of(reading: Reading) -> Geometry:
        rows, columns = out.layout.shape[2:]
        out_row, out_column = out.layout.strides[2:]
        steps = reading.row, reading.column, out_row, out_column
        in_one_row = steps[0] == columns * steps[1] and steps[2] == columns * steps[3]
        if in_one_row and (residual is None or residual.row == columns * residual.column):
            rows, columns = 1, rows * columns
        group_out = channels // window.groups
        extents = rows, columns
        return _geometry(
            x, out, kind, extents, steps, reading.offsets, reading.length, w, ending, group_out, residual
        )

    reading = None
    planar = is_planar_input(draft, x) and window.groups == 1 and window.dilation[1] == 1
    if (planar or x.layout.shape[1] == 1) and window.groups == 1 and window.dilation == (1, 1):
        reading = _of_cells(draft, x, w, window, halo, out)
    if reading is None or draft.choose(geometry_of(reading), draft.profile.isas).overread_bytes < LONG_STEP:
        reading = (_of_planes if planar else _of_pixels)(draft, x, w, window, halo)
    macs = prod(out.layout.shape) * group_in * kh * kw
    source = reading.source()
    _emit(draft, geometry_of(reading), source, reading.weight, w, ending, out, ("conv2d", macs))


def lower_linear(draft: Draft, x: Value, w: Weights, ending: Ending, out: Value) -> None:
    """Emit `out = ending(linear(x))` on the last dimension; `out` is dense."""
    channels, length = w.weight.shape[:2]
    rows = prod(x.layout.shape[:-1])
    geometry = _geometry(
        x, out, "dot", (1, rows), (0, length, 0, channels), (0,), length, w, ending, channels
    )
    kernel = draft.choose(geometry, draft.profile.isas)
    overreads = kernel.overread_bytes > 0 and length % (kernel.overread_bytes + 1) != 0
    external = draft.buffers[x.buffer].region is not Region.WORKSPACE
    if not (x.layout.is_dense and not (external and overreads)):
        copied = draft.new_dense(x.layout.shape, x.dtype)
        draft.copy(x, copied, w.layer)
        x = copied
    weight = w.weight.reshape(channels, 1, length)
    _emit(draft, geometry, draft.address(x), weight, w, ending, out, ("linear", rows * channels * length))


def lower_conv_transpose2d(
    draft: Draft, x: Value, w: Weights, window: Window, ending: Ending, out: Value
) -> None:
    """A transposed convolution is a convolution of the input with zeros between its pixels, kernel turned round.

    `w.weight` is (inputs, outputs per group, kh, kw) as torch has it. Exact, and served by every fast kernel; it
    multiplies by stride**2 - 1 zeros per useful product.
    """
    inputs, group_out, kh, kw = w.weight.shape
    groups = window.groups
    turned = w.weight[:, :, ::-1, ::-1].reshape(groups, inputs // groups, group_out, kh, kw)
    turned = turned.transpose(0, 2, 1, 3, 4).reshape(groups * group_out, inputs // groups, kh, kw)
    border = [window.dilation[i] * ((kh, kw)[i] - 1) - window.padding[i] for i in (0, 1)]
    _, channels, height, width = x.layout.shape
    spread_h, spread_w = (height - 1) * window.stride[0] + 1, (width - 1) * window.stride[1] + 1
    # The spread image, its border and the output padding are one canvas of zero points; crops (padding larger
    # than the kernel's reach) start inside it.
    top, left = (max(0, b) for b in border)
    reach = [window.dilation[i] * ((kh, kw)[i] - 1) for i in (0, 1)]
    out_h, out_w = out.layout.shape[2:]
    skip_h, skip_w = max(0, -border[0]), max(0, -border[1])
    canvas_h = max(top + spread_h, skip_h + out_h + reach[0])
    canvas_w = max(left + spread_w, skip_w + out_w + reach[1])
    canvas = draft.new((1, channels, canvas_h, canvas_w), "uint8")
    draft.elementwise("fill", (canvas,), w.layer, (w.in_zero_point,))
    strides = canvas.layout.strides
    spread = Layout(
        x.layout.shape,
        (strides[0], 1, strides[2] * window.stride[0], strides[3] * window.stride[1]),
        top * strides[2] + left * strides[3],
    )
    draft.copy(x, Value(canvas.buffer, spread, "uint8"), w.layer)
    seen = Layout(
        (1, channels, out_h + reach[0], out_w + reach[1]), strides, skip_h * strides[2] + skip_w * strides[3]
    )
    forward = Weights(
        w.layer, np.ascontiguousarray(turned), w.bias, w.scale, w.weight_bits, w.act_bits, w.in_zero_point
    )
    plain = Window((1, 1), (0, 0), window.dilation, groups)
    lower_conv2d(draft, Value(canvas.buffer, seen, "uint8"), forward, plain, ending, out)


def _geometry(
    x: Value,
    out: Value,
    kind: str,
    extents: tuple[int, int],
    steps: tuple[int, int, int, int],
    offsets: tuple[int, ...],
    length: int,
    w: Weights,
    ending: Ending,
    group_out: int,
    residual: Residual | None = None,
) -> Geometry:
    zero_point, low, high = ending.clamp or (0, 0, 255)
    return Geometry(
        kind=kind,
        rows=extents[0],
        columns=extents[1],
        channels=len(w.bias),
        length=length,
        offsets=offsets,
        group_out=group_out,
        in_row=steps[0],
        in_column=steps[1],
        out_row=steps[2],
        out_column=steps[3],
        zero_point=zero_point,
        low=low,
        high=high,
        weight_bits=w.weight_bits,
        act_bits=w.act_bits,
        residual=residual,
        greatest=_greatest(w),
        reads_signed=x.dtype == "int8",
        writes_signed=out.dtype == "int8",
    )


def _greatest(w: Weights) -> float:
    """Upper bound of |accumulator * scale| over all inputs and channels."""
    if len(w.weight) != len(w.bias):
        return inf
    weight = w.weight.reshape(len(w.bias), -1).astype(np.int64)
    rising, falling = np.maximum(weight, 0).sum(axis=1), -np.minimum(weight, 0).sum(axis=1)
    above, below = act_range(w.act_bits)[1] - w.in_zero_point, w.in_zero_point
    most = np.maximum(rising * above + falling * below + w.bias, falling * above + rising * below - w.bias)
    return float((most * w.scale.astype(np.float64)).max(initial=0))


def _emit(
    draft: Draft,
    geometry: Geometry,
    source: Reference,
    weight: np.ndarray,
    w: Weights,
    ending: Ending,
    out: Value,
    facts: tuple[str, int],
) -> None:
    """Pack the constants and append the call (and the unpacking of weights below 8 bits), in parts where they pay."""
    kernel = draft.choose(geometry, draft.profile.isas)
    parts = split_layer(geometry, kernel, ending.finish, draft.cutting)
    packed = store_weights(draft, kernel, parts, weight, w.weight_bits, w.layer)
    bias = _folded_bias(kernel, weight, w)
    if kernel.writes_beside and any(kernel.writes_beside(part.geometry) for part in parts):
        draft.written_beside.add(out.buffer)
    numbers = draft.begin(len(parts), layer_ns(geometry, kernel), _rows_written(parts, out))
    for number, part, pointer in zip(numbers, parts, packed.arguments, strict=True):
        g, channels = part.geometry, slice(part.channel, part.channel + part.geometry.channels)
        image = ending.residual.image if ending.residual else None
        extras = [
            Reference(draft.allocate(extra.size_bytes))
            if isinstance(extra, Scratch)
            else draft.constant(extra)
            for extra in kernel.extras(g)
        ]
        arguments = (
            source.moved(part.source()),
            pointer,
            draft.weight_constant(kernel.per_channel(g, bias[channels])),
            draft.weight_constant(kernel.per_channel(g, w.scale[channels].astype(np.float32))),
            draft.address(out, out.layout.offset + part.target()),
            *([draft.address(image, image.layout.offset + part.residual())] if image else []),
            *extras,
        )
        build: Callable[[], object] = lambda: kernel.function(geometry, ending.finish)  # noqa: E731
        symbol = kernel.symbol(geometry, ending.finish)
        draft.call(symbol, build, arguments, w.layer, of_layer(g), number)
    draft.layers.append(
        LayerInfo(
            name=w.layer,
            kind=facts[0],
            weight_bits=w.weight_bits,
            act_bits=w.act_bits,
            packed_bytes=packed.size_bytes,
            weight_offset_bytes=packed.offset_bytes,
            kernel=kernel.name if w.weight_bits == 8 or kernel.reads_packed else kernel.name + UNPACKED,
            macs=facts[1],
            geometry=geometry,
            packing=packed.packing,
        )
    )


def _rows_written(parts: tuple[Part, ...], out: Value) -> RowsWritten | None:
    """Where the parts are rows of an image."""
    ranges = tuple((part.row, part.row + part.geometry.rows) for part in parts)
    is_image = len(out.layout.shape) == 4 and ranges[-1][1] == out.layout.shape[2]
    return RowsWritten(out.buffer, ranges) if is_image and ranges[-1][0] > 0 else None


def _folded_bias(kernel: Kernel, weight: np.ndarray, w: Weights) -> np.ndarray:
    """bias - zero point * sum of weights: the kernel multiplies x (or x - act_offset), not x - zero point.

    Kernels add modulo 2**32, so a folded bias may wrap: the accumulator, proven to fit, comes out right.
    """
    sums = weight.reshape(len(weight), -1).astype(np.int64).sum(axis=1)
    folded: np.ndarray = w.bias.astype(np.int64) + (kernel.act_offset - w.in_zero_point) * sums
    return folded.astype(np.int32)
