"""Modules for models that are to be searched: `Choice` marks a block that may be one of several operators.

Light to import: torch alone.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from haqnas.errors import ConfigurationError

SKIP = "skip"
SEPARATOR = "|"  # between names of branches where they are one text

KERNELS = (3, 5, 7)  # of ProxylessNAS' candidates
EXPANSIONS = (3, 6)


class Choice(nn.Module):
    """A block with alternatives: it computes the first of its branches, and so it trains and exports as that one.

    `haqnas compile --architecture auto` searches which branch the network gets; nothing is left of the others. All
    branches read the same inputs and give one tensor of the same shape; `nn.Identity()` is a skip. `names` tell the
    branches apart in reports, and must differ; without any they are named after their modules.
    """

    def __init__(self, *branches: nn.Module, names: Sequence[str] | None = None) -> None:
        super().__init__()
        for branch in branches:
            if not isinstance(branch, nn.Module):
                raise ConfigurationError(
                    f"the branches of a haqnas.nn.Choice are modules, but one is a {type(branch).__name__}; write "
                    "haqnas.nn.Choice(nn.Conv2d(...), nn.Identity())"
                )
        if len(branches) < 2:
            raise ConfigurationError(
                f"a haqnas.nn.Choice has at least 2 branches, but got {len(branches)}; nn.Identity() is a skip"
            )
        self.branches = nn.ModuleList(branches)
        self.names = _default_names(branches) if names is None else tuple(names)
        is_plain = all(name and SEPARATOR not in name for name in self.names)
        if len(self.names) != len(branches) or len({*self.names}) != len(branches) or not is_plain:
            raise ConfigurationError(
                f"the names of a haqnas.nn.Choice are one for each of its {len(branches)} branches, all different, not "
                f"empty and without {SEPARATOR!r}, but got {self.names}"
            )

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the first branch computes."""
        return self.branches[0](*inputs, **named)


def _default_names(branches: Sequence[nn.Module]) -> tuple[str, ...]:
    names: list[str] = []
    for branch in branches:
        name = _described(branch)
        number = 1 + sum(other == name or other.startswith(f"{name} #") for other in names)
        names.append(name if number == 1 else f"{name} #{number}")
    return tuple(names)


def _described(branch: nn.Module) -> str:
    if isinstance(branch, nn.Identity):
        return SKIP
    name = type(branch).__name__
    if isinstance(branch, nn.Conv1d | nn.Conv2d):
        return f"{name} {'x'.join(map(str, branch.kernel_size))}"
    return name


class MBConv(nn.Module):
    """Mobile inverted bottleneck (MobileNetV2), images (n, c_in, h, w): expand, depthwise, project; plus its input.

    The input is added where the shape stays.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, expansion: int, stride: int = 1) -> None:
        super().__init__()
        inner = c_in * expansion
        self.expand = nn.Sequential(nn.Conv2d(c_in, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(inner, inner, kernel, stride, kernel // 2, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
        )
        self.project = nn.Sequential(nn.Conv2d(inner, c_out, 1, bias=False), nn.BatchNorm2d(c_out))
        self.adds_input = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + made if self.adds_input else made


def mbconv_choice(c_in: int, c_out: int, stride: int = 1) -> Choice:
    """The candidates of ProxylessNAS: MBConv of kernels 3, 5, 7 and expansions 3, 6; a skip where the shape stays."""
    sizes = [(kernel, expansion) for expansion in EXPANSIONS for kernel in KERNELS]
    branches: list[nn.Module] = [
        MBConv(c_in, c_out, kernel, expansion, stride) for kernel, expansion in sizes
    ]
    names = [f"k{kernel} e{expansion}" for kernel, expansion in sizes]
    if stride == 1 and c_in == c_out:
        branches.append(nn.Identity())
        names.append(SKIP)
    return Choice(*branches, names=names)
