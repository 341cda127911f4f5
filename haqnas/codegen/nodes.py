"""Typed access to fx nodes: torch types a node's arguments as a union of all that an argument may be."""

from typing import Any

from torch import fx


def arguments(node: fx.Node) -> tuple[Any, ...]:
    """The positional arguments of a call, as its operator's schema orders them."""
    return node.args


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's value."""
    return tuple(int(extent) for extent in node.meta["val"].shape)
