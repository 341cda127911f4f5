"""Exchange: prices as the latency tables that other searches read, HAQ's `.npy` and the YAML of ProxylessNAS and OFA.

None of these formats has a place for a unit, a device or an entry that is missing; docs/exchange.md says what becomes
of them, and what their readers do.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import yaml
from numpy.typing import NDArray
from torch import nn
from torch.fx import GraphModule

from haqnas.errors import ConfigurationError
from haqnas.graph.layers import list_layers
from haqnas.graph.mobile import Block, Mobile, Piece, find_mobile
from haqnas.pricing import Cost, LayerPrices, NetworkModel
from haqnas.quantspec import ACT_BITS, WEIGHT_BITS, QuantSpec
from haqnas.space.policy import Policy

HAQ_BITS = 8  # of weights and of activations: entry [layer, weight bits - 1, activation bits - 1]
WIDEST = QuantSpec(8, 8)
NS_PER_S, MS_PER_S = 1e9, 1e3

Unit: TypeAlias = Literal[
    "ns", "instructions"
]  # of prices: times (kept in seconds), or counts of an emulator


@dataclass(frozen=True, slots=True)
class HaqTable:
    """HAQ's table of a network, and what it does not say.

    `latencies`: int64 (layers, 8, 8), nanoseconds or instructions, at [layer, weight bits - 1, activation bits - 1].
    `is_filled`: bool, same shape: entries of bits that were not measured, which hold the price of wider ones.
    `left_out`: layers with a price that are not in the table. `share`: of the network's price at 8 bits that is.
    """

    latencies: NDArray[np.int64]
    is_filled: NDArray[np.bool_]
    left_out: tuple[str, ...]
    share: float


@dataclass(frozen=True, slots=True)
class BlockTable:
    """Latencies of a network's blocks, and of what else it has a key for, with all layers at `spec`.

    `means`, by key, are over `counts` blocks of the network; `unknown`, by layer or node, has no key. Means times
    counts and all of `unknown` add up to the network's price.
    """

    spec: QuantSpec
    unit: Literal["ms", "instructions"]
    means: Mapping[str, float]
    counts: Mapping[str, int]
    unknown: Mapping[str, float]


def module_order(model: nn.Module, prices: LayerPrices) -> tuple[str, ...]:
    """The priced layers in the order in which `model.modules()` gives them, which is HAQ's."""
    return tuple(name for name, _ in model.named_modules() if name in prices.layers)


def to_haq(prices: LayerPrices, model: NetworkModel, order: Sequence[str], unit: Unit) -> HaqTable:
    """HAQ's table, a row for each layer of `order`.

    Bits that were not measured get the least price of those that are as wide or wider in both: a kernel for these
    computes the same, so that is what would be run. Raises ConfigurationError for a layer without a price at 8 bits,
    or with a price that is no number.
    """
    _check_order(order, prices)
    scale = NS_PER_S if unit == "ns" else 1.0
    amounts = np.zeros((len(order), HAQ_BITS, HAQ_BITS))
    is_filled = np.zeros(amounts.shape, np.bool_)
    for row, name in enumerate(order):
        measured = {spec: model.total(cost) * scale for spec, cost in prices.layers[name].items()}
        if WIDEST not in measured:
            raise ConfigurationError(
                f"HAQ's table needs a price of every layer at {WIDEST}, but {name} has none"
            )
        for weight_bits, act_bits in np.ndindex(HAQ_BITS, HAQ_BITS):
            place = row, weight_bits, act_bits
            amounts[place], is_filled[place] = _entry(measured, weight_bits + 1, act_bits + 1)
    _check_amounts(np.where(is_filled, 0.0, amounts), order)
    whole = prices.price(Policy(WIDEST), model) * scale
    return HaqTable(
        np.rint(amounts).astype(np.int64),
        is_filled,
        tuple(name for name in prices.layers if name not in order),
        share=float(amounts[:, -1, -1].sum()) / whole if whole else 1.0,
    )


def _entry(measured: Mapping[QuantSpec, float], weight_bits: int, act_bits: int) -> tuple[float, bool]:
    """The price at these bits, and whether it is that of others."""
    for spec, amount in measured.items():
        if (spec.weight_bits, spec.act_bits) == (weight_bits, act_bits):
            return amount, False
    wider = [
        amount
        for spec, amount in measured.items()
        if spec.weight_bits >= weight_bits and spec.act_bits >= act_bits
    ]
    return min(wider), True


def _check_order(order: Sequence[str], prices: LayerPrices) -> None:
    _check_names(order)
    unknown = [name for name in order if name not in prices.layers]
    if unknown:
        raise ConfigurationError(
            f"there is no price of the layers {', '.join(unknown)}; there is of {', '.join(prices.layers)}"
        )


def _check_names(names: Sequence[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigurationError(
            f"a row of HAQ's table is one layer, but {', '.join(repeated)} is named twice"
        )


def _check_amounts(amounts: NDArray[np.float64], names: Sequence[str]) -> None:
    """Raise ConfigurationError at the first entry that is not a number from 0 to what 64 bits hold."""
    with np.errstate(invalid="ignore"):
        wrong = np.argwhere(~((amounts >= 0) & (amounts < 2.0**63)))
    if len(wrong):
        row, weight_bits, act_bits = map(int, wrong[0])
        raise ConfigurationError(
            f"a latency is a number from 0 to 2**63, but that of layer {row} ({names[row]}) at {weight_bits + 1} "
            f"weight bits and {act_bits + 1} activation bits is {amounts[row, weight_bits, act_bits]}"
        )


def read_haq(path: Path) -> NDArray[np.generic]:
    """The array of a `.npy` file, whatever its shape; raises ConfigurationError for anything else, or for pickles."""
    try:
        # Mapped, not loaded: the header of a short file may claim any size.
        return np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise ConfigurationError(f"the table {path} cannot be read: {error.strerror or error}") from None
    except (
        Exception
    ) as error:  # a header is Python text to numpy, and a broken one ends in any error of its parser
        raise ConfigurationError(
            f"{path} is not a table of HAQ: that is a .npy file of numbers, without Python objects ({error}); write it "
            "with numpy.save(path, table, allow_pickle=False)"
        ) from None


def from_haq(table: NDArray[np.generic], names: Sequence[str], worth: float) -> LayerPrices:
    """Prices of the layers `names`, in the table's order, from (layers, 8, 8) numbers.

    `worth` is what 1 stands for: 1e-9 (seconds) in a table that `to_haq` made of times, 1 in one of instructions or of
    no known unit, whose ratios hold all the same. 1-bit activations, which no kernel here has, are left out; HAQ knows
    nothing of what belongs to no layer. Raises ConfigurationError for anything but such a table.
    """
    _check_names(names)
    if table.dtype.kind not in "iuf":
        raise ConfigurationError(f"a table of HAQ holds integers or floats, but this one holds {table.dtype}")
    if table.ndim != 3 or table.shape[1:] != (HAQ_BITS, HAQ_BITS):
        raise ConfigurationError(
            "a table of HAQ has the shape (layers, 8, 8), for weight bits and activation bits 1 to 8, "
            f"but this one has {table.shape}"
        )
    if len(table) != len(names):
        raise ConfigurationError(
            f"the table has {len(table)} layers and the network {len(names)}: HAQ goes by position, so a table serves "
            "the network alone that it was made for"
        )
    if not 0 < worth < np.inf:
        raise ConfigurationError(f"a table's 1 is worth a number above 0, but got {worth}")
    amounts = table.astype(np.float64)
    _check_amounts(amounts, names)
    specs = [QuantSpec(weight_bits, act_bits) for weight_bits in WEIGHT_BITS for act_bits in ACT_BITS]
    layers = {
        name: {spec: Cost(float(row[spec.weight_bits - 1, spec.act_bits - 1]) * worth, 1) for spec in specs}
        for name, row in zip(names, amounts, strict=True)
    }
    return LayerPrices(layers, (), {})


def to_ofa(
    canonical: GraphModule,
    prices: LayerPrices,
    model: NetworkModel,
    spec: QuantSpec,
    unit: Unit,
    accepts_instructions: bool = False,
) -> BlockTable:
    """The table of the network's blocks with all layers at `spec`, for the readers of ProxylessNAS and OFA.

    They take the numbers for milliseconds, so instructions are refused unless `accepts_instructions`; then every entry
    of the file names them. Raises ConfigurationError.
    """
    if unit == "instructions" and not accepts_instructions:
        raise ConfigurationError(
            "the tables of ProxylessNAS and OFA hold milliseconds, but these prices are instructions of an emulator; "
            "measure on a device, or ask for instructions explicitly: searches then compare instructions"
        )
    scale = MS_PER_S if unit == "ns" else 1.0
    left = {name: model.total(cost) * scale for name, cost in _costs_at(canonical, prices, spec).items()}
    found: dict[str, list[float]] = {}
    for key, members in _keys(find_mobile(canonical)):
        found.setdefault(key, []).append(sum(left.pop(name, 0.0) for name in members))
    return BlockTable(
        spec,
        "ms" if unit == "ns" else "instructions",
        {key: sum(amounts) / len(amounts) for key, amounts in found.items()},
        {key: len(amounts) for key, amounts in found.items()},
        left,
    )


def ofa_text(tables: Sequence[BlockTable]) -> str:
    """The YAML of one table, or of those of several networks in one; what has no key is told in comments.

    Raises ConfigurationError for tables of different bits or units.
    """
    kinds = {(table.spec, table.unit) for table in tables}
    if len(kinds) != 1:
        told = ", ".join(sorted(f"{unit} at {spec}" for spec, unit in kinds)) or "nothing"
        raise ConfigurationError(f"one file holds one unit at one choice of bits, but got {told}")
    ((spec, unit),) = kinds
    lines = [f"# {unit} of blocks at {spec}; count: blocks of the networks that the mean is of"]
    for table in tables:
        if table.unknown:
            amount = sum(table.unknown.values())
            lines.append(
                f"# not in this table, for want of a key ({len(table.unknown)}, {amount:.6g} {unit}):"
            )
            lines += [f"#   {json.dumps(name)}: {amount:.6g}" for name, amount in table.unknown.items()]
    entries = {}
    for key in dict.fromkeys(key for table in tables for key in table.means):
        having = [table for table in tables if key in table.means]
        count = sum(table.counts[key] for table in having)
        total = sum(table.means[key] * table.counts[key] for table in having)
        entries[key] = {"mean": total / count, "count": count, "unit": unit}
    return "\n".join([*lines, yaml.safe_dump(entries, sort_keys=False)])


def _costs_at(canonical: GraphModule, prices: LayerPrices, spec: QuantSpec) -> dict[str, Cost]:
    """By layer or other node, in the order of the layers; a conversion is the cost of the first layer that reads it."""
    names = [layer.name for layer in list_layers(canonical)]
    costs: dict[str, Cost] = {}
    for name in names:
        by_spec = prices.layers.get(name, {})
        if spec not in by_spec:
            known = ", ".join(map(str, by_spec)) or "none at all"
            raise ConfigurationError(f"there is no price of layer {name} at {spec}; there is at {known}")
        costs[name] = by_spec[spec]
    for conversion in prices.conversions:
        if conversion.act_bits == spec.act_bits:
            reader = min(conversion.readers, key=names.index)
            costs[reader] += conversion.cost
    return costs | dict(prices.glue)


def _keys(mobile: Mobile) -> Iterable[tuple[str, frozenset[str]]]:
    """Key and members of each piece; OFA's form of keys where the network is like MobileNetV3, else ProxylessNAS's."""
    is_v3 = mobile.mix is not None or any(block.excites or block.is_hardswish for block in mobile.blocks)
    if mobile.stem is not None:
        yield _key("Conv", mobile.stem.in_shape, mobile.stem.out_shape), mobile.stem.members
    for block in mobile.blocks:
        key = _key_v3(block) if is_v3 else _key_proxyless(block)
        if key is not None:
            yield key, block.piece.members
    if mobile.last is not None:
        yield _key("Conv_1", mobile.last.in_shape, mobile.last.out_shape), mobile.last.members
    if mobile.pool is not None and mobile.classifier is not None:
        yield from (
            _head_v3(mobile.pool, mobile.mix, mobile.classifier)
            if is_v3
            else [
                (
                    _key("Logits", mobile.pool.in_shape, mobile.classifier.out_shape),
                    mobile.pool.members | mobile.classifier.members,
                )
            ]
        )


def _head_v3(pool: Piece, mix: Piece | None, classifier: Piece) -> Iterable[tuple[str, frozenset[str]]]:
    channels = pool.in_shape[0]
    yield _key("AvgPool2D", pool.in_shape, (channels, 1, 1)), pool.members
    if mix is not None:
        yield _key("Conv_2", (channels, 1, 1), (mix.out_shape[0], 1, 1)), mix.members
    features = mix.out_shape[0] if mix is not None else channels
    yield _key("Logits", (features, 1, 1), classifier.out_shape), classifier.members


def _key(kind: str, in_shape: Sequence[int], out_shape: Sequence[int]) -> str:
    return f"{kind}-input:{_size(in_shape)}-output:{_size(out_shape)}"


def _size(shape: Sequence[int]) -> str:
    """Height, width, channels, from channels first."""
    return "x".join(map(str, (*shape[1:], shape[0])))


def _block_key(block: Block, expand: int) -> str:
    return (
        f"{_key('expanded_conv', block.piece.in_shape, block.piece.out_shape)}-expand:{expand}-kernel:{block.kernel}"
        f"-stride:{block.stride}-idskip:{int(block.has_shortcut)}"
    )


def _key_proxyless(block: Block) -> str | None:
    """`expand` is a ratio; none where it is not whole, which no key can say."""
    expand, rest = divmod(block.hidden, block.piece.in_shape[0])
    return None if rest else _block_key(block, expand)


def _key_v3(block: Block) -> str:
    """`expand` is the number of channels inside."""
    return f"{_block_key(block, block.hidden)}-se:{int(block.excites)}-hs:{int(block.is_hardswish)}"
