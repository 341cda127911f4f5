"""Blocks with alternatives (`haqnas.nn.Choice`) in graphs: all branches are there, and `haqnas::choose` joins them.

Only graphs that architectures are cut out of hold such nodes; the graph of one network has none (`take_branches`).
`choose(branches, block, names)` is the value of one of `branches`, the first of them where nobody chose; `block` is the
path of the Choice in the user's model, `names` are those of its branches.
"""

import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, library, nn

from haqnas.errors import ConfigurationError, UnsupportedModelError
from haqnas.graph.edit import copy_graph, emit, finish, inherited_meta, is_call, replace
from haqnas.nn import SEPARATOR, Choice

aten = torch.ops.aten


@library.custom_op("haqnas::choose", mutates_args=())
def _choose(branches: Sequence[Tensor], block: str, names: str) -> Tensor:
    return branches[0].clone()


@_choose.register_fake
def _(branches, block, names):  # type: ignore[no-untyped-def]
    if any(branch.shape != branches[0].shape for branch in branches):
        raise RuntimeError(f"the branches of {block} have different shapes")
    return torch.empty_like(branches[0])


CHOOSE = torch.ops.haqnas.choose.default


def describe_choices(model: nn.Module) -> str:
    """A note for a compilation that takes the first branch of every Choice of a model; empty where there is none."""
    count = sum(isinstance(module, Choice) for module in model.modules())
    blocks = (
        "1 haqnas.nn.Choice gets its first branch"
        if count == 1
        else f"{count} haqnas.nn.Choice get their first branches"
    )
    return f"{blocks}; --architecture auto searches all of them" if count else ""


@contextmanager
def all_branches(model: nn.Module) -> Iterator[None]:
    """Let every Choice of a model compute all its branches, joined by `haqnas::choose`, to be traced."""
    choices = {name: module for name, module in model.named_modules() if isinstance(module, Choice)}
    for name, choice in choices.items():
        choice.forward = partial(_join, choice, name or "model")  # type: ignore[method-assign]
    try:
        yield
    finally:
        for choice in choices.values():
            del choice.forward


def _join(choice: Choice, path: str, *inputs: Any, **named: Any) -> Tensor:
    """All branches, each on its own copy of the inputs: one that works in place must not change those of the others."""
    made = []
    for branch in choice.branches:
        own = [value.clone() if isinstance(value, Tensor) else value for value in inputs]
        made.append(branch(*own, **named))
    kinds = [_kind(value) for value in made]
    if len({*kinds}) > 1 or not isinstance(made[0], Tensor):
        listed = "\n".join(
            f"  {number} {name!r}: {kind}"
            for number, (name, kind) in enumerate(zip(choice.names, kinds, strict=True))
        )
        raise UnsupportedModelError(
            "the branches of a haqnas.nn.Choice must give one tensor each, all of one shape and type, but those of "
            f"{path!r} give\n{listed}\n"
            "  Give convolutions the padding, stride and channels of the first branch; nn.Identity() fits only where "
            "the block keeps the shape of its input."
        )
    return CHOOSE(made, path, SEPARATOR.join(choice.names))  # type: ignore[no-any-return]


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


@dataclass(frozen=True, slots=True)
class ChoiceBlock:
    """A Choice of a graph: its path, the names of its branches, and by branch the nodes that nothing else reads."""

    path: str
    names: tuple[str, ...]
    inside: tuple[frozenset[fx.Node], ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Those of all branches, in graph order within a branch."""
        found = (
            str(node.target) for branch in self.inside for node in sorted(branch) if node.op == "call_module"
        )
        return tuple(dict.fromkeys(found))


def find_choices(gm: fx.GraphModule) -> tuple[ChoiceBlock, ...]:
    """The blocks of a graph in the order of their first calls; calls of one module are one block."""
    calls: dict[str, list[fx.Node]] = {}
    for node in choose_nodes(gm):
        calls.setdefault(str(node.args[1]), []).append(node)
    return tuple(_block(gm, path, nodes) for path, nodes in calls.items())


def _block(gm: fx.GraphModule, path: str, calls: Sequence[fx.Node]) -> ChoiceBlock:
    names = tuple(str(calls[0].args[2]).split(SEPARATOR))
    return ChoiceBlock(path, names, tuple(_inside(gm, calls, index) for index in range(len(names))))


def _inside(gm: fx.GraphModule, calls: Sequence[fx.Node], index: int) -> frozenset[fx.Node]:
    """The nodes that only one branch of a block needs."""
    found: set[fx.Node] = set()

    def serves(node: fx.Node, user: fx.Node) -> bool:
        return user in found or (
            user in calls and branches_of(user).count(node) == 1 and branches_of(user)[index] is node
        )

    for node in reversed(gm.graph.nodes):
        if (
            node.op not in ("placeholder", "output")
            and node.users
            and all(serves(node, user) for user in node.users)
        ):
            found.add(node)
    return frozenset(found)


def choose_nodes(gm: fx.GraphModule) -> tuple[fx.Node, ...]:
    """All calls of `haqnas::choose`, in graph order."""
    return tuple(node for node in gm.graph.nodes if is_call(node, CHOOSE))


def branches_of(node: fx.Node) -> tuple[fx.Node, ...]:
    """The values that a call of `haqnas::choose` joins."""
    return tuple(node.args[0])  # type: ignore[arg-type]


FIRST: Mapping[str, int] = MappingProxyType({})


def take_branches(gm: fx.GraphModule, chosen: Mapping[str, int] = FIRST) -> fx.GraphModule:
    """The graph of one network: each block, by its path, becomes its branch of that number, else its first one.

    `gm` is unchanged, and given back where it has no such block.
    """
    paths = [str(node.args[1]) for node in choose_nodes(gm)]
    return settle(gm, {**dict.fromkeys(paths, 0), **chosen})


def settle(gm: fx.GraphModule, chosen: Mapping[str, int]) -> fx.GraphModule:
    """The graph in which these blocks, by their paths, have become their branches of that number; `gm` is unchanged."""
    if not any(str(node.args[1]) in chosen for node in choose_nodes(gm)):
        return gm
    taken = copy_graph(gm)
    for node in choose_nodes(taken):
        if str(node.args[1]) in chosen:
            replace(node, branches_of(node)[chosen[str(node.args[1])]])
    return finish(taken)


def require_no_choices(gm: fx.GraphModule) -> None:
    """Raise ConfigurationError where it is still open what a block of the graph computes."""
    blocks = find_choices(gm)
    if blocks:
        raise ConfigurationError(
            f"a network that is quantized has one operator in each block, but {blocks[0].path!r} is a haqnas.nn.Choice "
            f"of {', '.join(blocks[0].names)}; trace without `branches`, or cut an architecture out by `specialise`"
        )


def norm_branches(gm: fx.GraphModule) -> fx.GraphModule:
    """Pass: a batch norm of what a block gives becomes one in each branch, where it can be folded."""
    gm = copy_graph(gm)
    waiting = [
        node for node in gm.graph.nodes if is_call(node, aten._native_batch_norm_legit_no_training.default)
    ]
    while waiting:
        norm = waiting.pop()
        block, *constants = norm.all_input_nodes
        is_plain = all(is_call(user, operator.getitem) and user.args[1] == 0 for user in norm.users)
        is_foldable = is_plain and all(constant.op == "get_attr" for constant in constants)
        if not is_foldable or not is_call(block, CHOOSE) or len(block.users) > 1:
            continue
        for constant in constants:
            next(iter(gm.graph.nodes)).prepend(constant)
        norms = [_follow(branch, norm) for branch in branches_of(block)]
        joined = emit(norm, CHOOSE, [made for _, made in norms], *block.args[1:])
        for user in list(norm.users):
            replace(user, joined)
        gm.graph.erase_node(norm)
        gm.graph.erase_node(block)
        waiting += [own for own, _ in norms]
    return finish(gm)


def _follow(branch: fx.Node, norm: fx.Node) -> tuple[fx.Node, fx.Node]:
    """A call of the norm right behind a branch, so that layers keep their order, and its first result."""
    own = emit(branch.next, norm.target, branch, *norm.args[1:])  # type: ignore[arg-type]
    made = emit(own.next, operator.getitem, own, 0)
    for node in (own, made):
        node.meta.update(inherited_meta(norm))
    return own, made
