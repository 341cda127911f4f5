"""Where quantizers go: which nodes are computed in integers, which values share a scale, how many bits each has.

Pure analysis of a canonical graph; `quantize.py` carries it out. The rules are those of docs/design.md.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch.fx import GraphModule, Node

from haqnas.rewrite.kinds import CARRIERS, REQUANTIZING, Kind, clamp_bounds, is_layer, kind_of, tensor_inputs
from haqnas.space.policy import Policy

STORED_BITS = 8  # of a value that not only layers read


@dataclass(frozen=True, slots=True)
class Point:
    """Quantize the value of `node`; points of one `group` share scale, zero point and bits.

    `readers` are the nodes that must read the quantized value.
    """

    node: Node
    group: str
    bits: int
    readers: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Points in graph order; `narrowed`: (layer node, bits) of layers that read fewer bits than are stored."""

    points: tuple[Point, ...]
    narrowed: tuple[tuple[Node, int], ...]


def plan_quantizers(graph: GraphModule, policy: Policy) -> Plan:
    """Decide all quantizers of a canonical graph."""
    kinds = integer_kinds(graph)
    roots = tuple(node for node in kinds if _is_point(kinds, node))
    groups = _shared_scales(kinds, roots)
    bits = {group: _stored_bits(graph, kinds, policy, members) for group, members in _members(groups).items()}
    points = tuple(
        Point(node, groups[node].name, bits[groups[node]], _readers(kinds, node)) for node in roots
    ) + tuple(
        Point(node, groups[node].name, bits[groups[node]], tuple(node.users))
        for node in groups
        if kinds[node] is Kind.RESAMPLE
    )
    narrowed = tuple(
        (reader, policy.spec_of(str(reader.target)).act_bits)
        for node, group in groups.items()
        for reader in node.users
        if is_layer(graph, reader) and policy.spec_of(str(reader.target)).act_bits < bits[group]
    )
    order = {node: index for index, node in enumerate(graph.graph.nodes)}
    return Plan(tuple(sorted(points, key=lambda point: order[point.node])), narrowed)


def integer_kinds(graph: GraphModule) -> Mapping[Node, Kind]:
    """Kinds of all nodes after demoting to FLOAT what does not lie between integer operators.

    Layers are always integer. Any other operator is when all its inputs can be had as integers and something
    that is computed in integers, or the network's output, reads it: so a residual stream that only float
    operators (layer norm) read stays float.
    """
    kinds = {node: kind_of(graph, node) for node in graph.graph.nodes}
    kinds |= {node: Kind.CLAMP for node in kinds if _is_folded_clamp(kinds, node)}
    bare = _outputs_better_in_float(kinds)
    changed = True
    while changed:
        demoted = [node for node in kinds if not _stays_integer(kinds, bare, node)]
        kinds |= dict.fromkeys(demoted, Kind.FLOAT)
        changed = bool(demoted)
    return kinds


def _is_folded_clamp(kinds: Mapping[Node, Kind], node: Node) -> bool:
    if kinds[node] is not Kind.TABLE or clamp_bounds(node) is None:
        return False
    before = tensor_inputs(node)[0]
    return kinds[before] in REQUANTIZING and len(before.users) == 1


def _outputs_better_in_float(kinds: Mapping[Node, Kind]) -> frozenset[Node]:
    """Layers, inputs, and what only moves their values: as outputs of the network they are not rounded to 8 bits."""
    bare: set[Node] = set()
    for node, kind in kinds.items():
        moves_bare = kind in CARRIERS and any(read in bare for read in tensor_inputs(node))
        if kind in {Kind.LAYER, Kind.INPUT} or moves_bare:
            bare.add(node)
    return frozenset(bare)


def _stays_integer(kinds: Mapping[Node, Kind], bare: frozenset[Node], node: Node) -> bool:
    if kinds[node] in {Kind.LAYER, Kind.FLOAT, Kind.OUTPUT}:
        return True  # not to be demoted
    if any(kinds[read] is Kind.FLOAT for read in tensor_inputs(node)):
        return False
    return any(
        kinds[user] is not Kind.FLOAT if kinds[user] is not Kind.OUTPUT else node not in bare
        for user in node.users
    )


def _is_point(kinds: Mapping[Node, Kind], node: Node) -> bool:
    """Whether the node's value is stored as integers (values that carriers pass on are not stored anew)."""
    kind = kinds[node]
    if kind is Kind.OUTPUT or kind in CARRIERS:
        return False
    readers = _readers(kinds, node)
    if kind in REQUANTIZING and any(kinds[user] is Kind.CLAMP for user in readers):
        return False
    reaches_output = any(kinds[user] is Kind.OUTPUT for user in node.users)
    return bool(readers) or (reaches_output and kind not in {Kind.LAYER, Kind.INPUT, Kind.FLOAT})


def _readers(kinds: Mapping[Node, Kind], node: Node) -> tuple[Node, ...]:
    """Users that read the quantized value: all users of an integer operator that has an integer one."""
    integer = tuple(user for user in node.users if kinds[user] not in {Kind.FLOAT, Kind.OUTPUT})
    if kinds[node] in {Kind.FLOAT, Kind.INPUT}:
        return integer  # the float value exists anyway, float readers keep it
    outputs = any(kinds[user] is Kind.OUTPUT for user in node.users) and kinds[node] is not Kind.LAYER
    return tuple(node.users) if integer or outputs else ()


def _shared_scales(kinds: Mapping[Node, Kind], roots: Iterable[Node]) -> Mapping[Node, Node]:
    """Node -> first node of its group, for roots and the carriers that pass their values on."""
    first = {node: node for node in roots}
    for node, kind in kinds.items():
        if kind in CARRIERS:
            merged = {first[read] for read in tensor_inputs(node)}
            target = min(merged, key=lambda member: member.name)
            first = {key: target if value in merged else value for key, value in first.items()}
            first[node] = target
    return first


def _members(groups: Mapping[Node, Node]) -> Mapping[Node, tuple[Node, ...]]:
    members: dict[Node, tuple[Node, ...]] = {}
    for node, group in groups.items():
        members[group] = (*members.get(group, ()), node)
    return members


def _stored_bits(
    graph: GraphModule, kinds: Mapping[Node, Kind], policy: Policy, members: Iterable[Node]
) -> int:
    """The bits that all readers, seen through carriers, agree on when they are layers; else 8."""
    wanted = {
        policy.spec_of(str(reader.target)).act_bits if is_layer(graph, reader) else STORED_BITS
        for node in members
        for reader in (node.users if kinds[node] in CARRIERS else _readers(kinds, node))
        if kinds[reader] not in CARRIERS
    }
    return wanted.pop() if len(wanted) == 1 else STORED_BITS
