"""Draft: a program while it is being lowered: buffers without addresses, calls in order, constants, functions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from haqnas.codegen.borders import Border, plan_with_borders
from haqnas.codegen.layout import NO_HALO, Halo, Layout, dense, extent, loop_nest, natural
from haqnas.codegen.plan import Lifetime
from haqnas.codegen.program import Call, LayerInfo, Pointer, Program, Region, TensorInfo
from haqnas.codegen.signature import of_loops, of_numbers
from haqnas.codegen.split import Balance, Cutting, elementwise_ns, split_elementwise
from haqnas.hardware import HardwareProfile
from haqnas.kernels import elementwise, elementwise_table
from haqnas.kernels.pieces import Nest, Work, lanes_of
from haqnas.kernels.row import Geometry, Kernel
from haqnas.kernels.tir import PrimFunc

Choose = Callable[[Geometry, Sequence[str]], Kernel]

SLACK_BYTES = 64  # after each workspace buffer: kernels may read, never use, bytes behind their input
ITEM_BYTES = {"uint8": 1, "int8": 1, "float32": 4, "int32": 4, "int64": 8, "bool": 1}

# Up to so much workspace, buffers of a program for several threads share no memory: rows then stay in the cache of the
# core that writes them in every run. MobileNetV1-0.25 took 58 us on two threads instead of 63.
_SMALL_BYTES = 512 << 10


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the graph: a buffer seen through a layout. The dtype int8 holds x - 128 (see `storage.py`)."""

    buffer: int
    layout: Layout
    dtype: str


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory that a program uses: in the workspace, an input or output of the caller, or a constant."""

    size_bytes: int
    region: Region = Region.WORKSPACE
    index: int = 0
    base_bytes: int = 0  # where it starts in its region, outside the workspace


@dataclass(frozen=True, slots=True)
class Reference:
    """A byte in a buffer."""

    buffer: int
    offset_bytes: int = 0

    def moved(self, count_bytes: int) -> "Reference":
        """So many bytes further."""
        return Reference(self.buffer, self.offset_bytes + count_bytes)


Argument = Reference | Pointer | int


@dataclass(frozen=True, slots=True)
class Step:
    """A call whose buffers have no addresses yet."""

    symbol: str
    arguments: tuple[Argument, ...]
    layer: str
    signature: str
    section: int
    part: int | None  # None: in a section that one thread runs
    border: int | None = None  # the image whose border it fills


@dataclass(frozen=True, slots=True)
class RowsWritten:
    """An image of which part i of the open section writes rows first to end - 1."""

    buffer: int
    ranges: tuple[tuple[int, int], ...]


@dataclass
class Draft:
    """Grows while the graph is walked; `finish` makes the frozen Program."""

    name: str
    profile: HardwareProfile
    choose: Choose
    cutting: Cutting = field(default_factory=Cutting)
    buffers: list[Buffer] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    constants: bytearray = field(default_factory=bytearray)
    functions: dict[str, PrimFunc] = field(default_factory=dict)
    layers: list[LayerInfo] = field(default_factory=list)
    weight_bytes: int = 0
    is_exact: bool = True
    borders: dict[int, Border] = field(default_factory=dict)  # of images, by buffer
    written_beside: set[int] = field(default_factory=set)  # images whose kernels write into the border
    _constant_offsets: dict[bytes, int] = field(default_factory=dict)
    balance: Balance = field(default_factory=Balance)
    _section: int = 0
    _rows_written: RowsWritten | None = None

    def allocate(self, size_bytes: int) -> int:
        self.buffers.append(Buffer(size_bytes + SLACK_BYTES))
        return len(self.buffers) - 1

    def external(self, region: Region, index: int, size_bytes: int) -> int:
        self.buffers.append(Buffer(size_bytes, region, index))
        return len(self.buffers) - 1

    def constant(self, array: np.ndarray, alignment: int = 8) -> Pointer:
        """Store an array once. Weights are aligned to cache lines; parameters are not worth the gaps."""
        data = array.dtype.str.encode() + array.tobytes()
        if data not in self._constant_offsets:
            self.constants.extend(bytes(-len(self.constants) % alignment))
            self._constant_offsets[data] = len(self.constants)
            self.constants.extend(array.tobytes())
        return Pointer(Region.CONSTANTS, self._constant_offsets[data])

    def constant_value(self, array: np.ndarray) -> Value:
        """A tensor constant, read like any other tensor."""
        pointer = self.constant(array)
        self.buffers.append(Buffer(array.nbytes, Region.CONSTANTS, 0, pointer.offset_bytes))
        return Value(len(self.buffers) - 1, dense(array.shape), array.dtype.name)

    def weight_constant(self, array: np.ndarray) -> Pointer:
        """A constant that belongs to a layer: weights, biases, scales."""
        before = len(self.constants)
        pointer = self.constant(array, alignment=64)
        self.weight_bytes += len(self.constants) - before
        return pointer

    def call(
        self,
        symbol: str,
        function: Callable[[], PrimFunc],
        arguments: Sequence[Argument],
        layer: str,
        signature: str,
        part: int | None = None,
        border: int | None = None,
    ) -> None:
        """Append a call; the function is built at the first use of its symbol. `signature`: see `signature.py`.

        `border`: the image whose border it fills.
        Calls with a `part` belong to what `begin` began last, all others are for one thread.
        Symbols start with the program's name, so that two artefacts can be linked into one executable.
        """
        full = f"{self.name}_{symbol}"
        if full not in self.functions:
            self.functions[full] = function().with_attr("global_symbol", full)
        section = self.steps[-1].section if self.steps else 0
        if part is None and self.steps and self.steps[-1].part is not None:
            section += 1
        if part is not None:
            section = self._section
        self.steps.append(Step(full, tuple(arguments), layer, signature, section, part, border))

    def begin(self, count: int, work_ns: float, written: RowsWritten | None = None) -> tuple[int | None, ...]:
        """Begin work of about `work_ns` in `count` parts; gives the `part` of the calls of each.

        Several parts run at once: none may read or write what another writes.
        """
        self.balance = self.balance.after(work_ns, count)
        if count == 1:
            return (None,)
        self._section = self.steps[-1].section + 1 if self.steps else 0
        self._rows_written = written
        return tuple(range(count))

    def address(self, value: Value, element: int | None = None) -> Reference:
        """Where a value (or one element of its buffer) starts."""
        index = value.layout.offset if element is None else element
        return Reference(value.buffer, index * ITEM_BYTES[value.dtype])

    def new(self, shape: Sequence[int], dtype: str, halo: Halo = NO_HALO) -> Value:
        """A workspace tensor in its natural layout; its halo is not filled."""
        layout = natural(shape, halo)
        return Value(self.allocate(extent(layout) * ITEM_BYTES[dtype]), layout, dtype)

    def new_dense(self, shape: Sequence[int], dtype: str) -> Value:
        layout = dense(shape)
        return Value(self.allocate(extent(layout) * ITEM_BYTES[dtype]), layout, dtype)

    def fill_halo(self, value: Value, zero_point: int, layer: str) -> None:
        """Write the zero point around an image that owns its buffer: each part around the rows that it wrote.

        `finish` leaves out what an image before it in the same place has written.
        """
        halo, (_, channels, height, width) = value.layout.halo, value.layout.shape
        if halo == NO_HALO:
            return
        row = (halo.left + width + halo.right) * channels
        top = halo.top * row + halo.left * channels
        gap = (halo.left + halo.right) * channels
        bottom = halo.bottom * row + halo.right * channels
        byte = zero_point ^ 0x80 if value.dtype == "int8" else zero_point
        self.borders[value.buffer] = Border(value.layout.shape, halo, byte)
        for part, (first, end) in self._writers(value, height):
            is_last = end == height
            before = 0 if first else top
            after = bottom if is_last else 0
            gaps = end - first - is_last
            stretches = [size for size in (before, gap if gaps else 0, after) if size]
            if stretches:
                lanes = lanes_of(min(stretches), self.profile.isas)
                start = Reference(value.buffer, top + first * row if first else 0)
                numbers = np.array([before, gaps, gap, row, after, byte], np.int32)
                arguments = (start, self.constant(numbers))
                build = partial(elementwise.halo_kernel, lanes)
                loops = of_numbers(before=before, gaps=gaps, gap=gap, row=row, after=after)
                self.call(elementwise.halo_symbol(lanes), build, arguments, layer, loops, part, value.buffer)

    def _writers(self, image: Value, height: int) -> list[tuple[int | None, tuple[int, int]]]:
        """Parts and their rows, where the latest work wrote the image in parts; else one for all rows."""
        written = self._rows_written
        if self.steps and self.steps[-1].part is not None and written and written.buffer == image.buffer:
            return list(enumerate(written.ranges))
        return [(None, (0, height))]

    def elementwise(
        self,
        kind: str,
        values: Sequence[Value],
        layer: str,
        scalars: Sequence[int] = (),
        tables: Sequence[np.ndarray] = (),
    ) -> None:
        """Call the best kernel of `kernels/elementwise_table.py`; the first value is written; all have one shape."""
        extents, strides = loop_nest([v.layout for v in values], elementwise.RANKS)
        nest = Nest(tuple(extents), tuple(map(tuple, strides)))
        if self._may_run_over(nest, values):
            nest = replace(nest, extents=(*extents[:-1], SLACK_BYTES))
        work = Work(kind, nest, tuple(scalars), tuple(tables), values[0].dtype)
        row = elementwise_table.select(work, self.profile.isas)
        work = row.arrange(work)
        axis, shares = split_elementwise(work, row, self.cutting)
        parts = self.begin(len(shares), elementwise_ns(work), _rows_of(values[0], axis, shares))
        constants = [self.constant(table) for table in work.constants]
        for part, (first, share) in zip(parts, shares, strict=True):
            steps = (step for tensor in share.nest.strides for step in tensor)
            parameters = np.array([*share.nest.extents, *steps, *share.scalars], np.int32)
            pointers = [
                self.address(value, value.layout.offset + first * steps[axis])
                for value, steps in zip(values, work.nest.strides, strict=True)
            ]
            arguments: tuple[Argument, ...] = (*pointers, *constants, self.constant(parameters))
            loops = of_loops(share.nest)
            self.call(row.symbol(work), lambda: row.function(work), arguments, layer, loops, part)

    def _may_run_over(self, nest: Nest, values: Sequence[Value]) -> bool:
        """Whether all is one short piece that ends its buffer: then a whole register may be written, into the slack.

        So the short vectors of squeeze-and-excite need no kernels for parts of registers: 2 kB in MobileNetV3.
        """
        ends = (
            values[0].layout.offset + nest.extents[-1] + SLACK_BYTES
            == self.buffers[values[0].buffer].size_bytes
        )
        inside = all(v.dtype == "uint8" and self.buffers[v.buffer].region is Region.WORKSPACE for v in values)
        is_one = set(nest.extents[:-1]) == {1} and 0 < nest.piece < SLACK_BYTES
        return ends and inside and is_one

    def copy(self, source: Value, target: Value, layer: str) -> None:
        """Elements of `source` to their places in `target`."""
        self.elementwise("copy", (target, source), layer)

    def dense_copy(self, value: Value, layer: str) -> Value:
        """The value itself where it is row-major from the start of its buffer, else a copy that is."""
        if value.layout.is_dense and value.layout.offset == 0:
            return value
        copied = self.new_dense(value.layout.shape, value.dtype)
        self.copy(value, copied, layer)
        return copied

    def finish(self, inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...]) -> Program:
        """Give every workspace buffer its place and freeze."""
        lifetimes: dict[int, Lifetime] = {}
        for position, step in zip(_positions(self.steps), self.steps, strict=True):
            for argument in step.arguments:
                if (
                    isinstance(argument, Reference)
                    and self.buffers[argument.buffer].region is Region.WORKSPACE
                ):
                    known = lifetimes.get(argument.buffer)
                    size = self.buffers[argument.buffer].size_bytes
                    lifetimes[argument.buffer] = Lifetime(size, known.first if known else position, position)
        if self.cutting.threads > 1 and sum(life.size_bytes for life in lifetimes.values()) <= _SMALL_BYTES:
            end = len(self.steps)
            lifetimes = {buffer: Lifetime(life.size_bytes, 0, end) for buffer, life in lifetimes.items()}
        places = plan_with_borders(lifetimes, self.borders, self.written_beside)

        def resolve(argument: Argument) -> Pointer | int:
            if not isinstance(argument, Reference):
                return argument
            buffer = self.buffers[argument.buffer]
            base = places.offsets[argument.buffer] if buffer.region is Region.WORKSPACE else buffer.base_bytes
            return Pointer(buffer.region, base + argument.offset_bytes, buffer.index)

        calls = tuple(
            Call(
                step.symbol,
                tuple(map(resolve, step.arguments)),
                step.layer,
                step.section,
                step.part or 0,
                step.signature,
            )
            for step in self.steps
            if step.border not in places.kept
        )
        return Program(
            name=self.name,
            inputs=inputs,
            outputs=outputs,
            calls=calls,
            functions=self.functions,
            constants=bytes(self.constants) + bytes(SLACK_BYTES),
            packed_weight_bytes=self.weight_bytes,
            workspace_bytes=places.total_bytes,
            layers=tuple(self.layers),
            required_cpu_features=self.profile.cpu_features,
            is_exact=self.is_exact,
            threads=self.cutting.threads,
        )


def _rows_of(value: Value, axis: int, shares: Sequence[tuple[int, Work]]) -> RowsWritten | None:
    """Where the parts are rows of an image."""
    nest, layout = shares[0][1].nest, value.layout
    ranges = tuple((first, first + part.nest.extents[axis]) for first, part in shares)
    is_row = len(layout.shape) == 4 and nest.strides[0][axis] == layout.strides[2]
    return RowsWritten(value.buffer, ranges) if is_row and ranges[-1][1] == layout.shape[2] else None


def _positions(steps: Sequence[Step]) -> list[int]:
    """When each step runs: in the order of the list, but all of a section with parts at one time."""
    positions: list[int] = []
    for index, step in enumerate(steps):
        is_together = index > 0 and step.part is not None and steps[index - 1].section == step.section
        positions.append(positions[-1] if is_together else index)
    return positions
