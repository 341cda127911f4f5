"""Model files for the tests of the command line: one that compiles in seconds, and each way to get it wrong."""

GOOD = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return self.linear(torch.relu(self.conv(x)).mean((2, 3)))

def build_model():
    torch.manual_seed(0)
    return Net()

def example_inputs():
    return (torch.zeros(1, 1, 6, 6),)
"""

WITH_DATA = (
    GOOD
    + """
from torch.utils.data import TensorDataset

def _data(seed):
    rng = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.rand(40, 1, 6, 6, generator=rng), torch.randint(0, 3, (40,), generator=rng))

def calibration_data():
    return _data(1)

def val_data():
    return _data(2)
"""
)

SLOW = GOOD.replace(
    "def build_model():",
    "import time\n\ndef val_data():\n    open('started', 'w').close()\n    time.sleep(60)\n\ndef build_model():",
)

DYNAMIC = GOOD.replace(
    "        return self.linear", "        if x.sum() > 0:\n            x = -x\n        return self.linear"
)

BAD = {
    # name: (text of the model file, exit code, words of the message)
    "raising": ("import nothing_of_the_kind\n", 2, "nothing_of_the_kind"),
    "raising_builder": (
        GOOD.replace("    return Net()", "    raise RuntimeError('no weights')"),
        2,
        "no weights",
    ),
    "syntax": ("def build_model(:\n", 2, "SyntaxError"),
    "no_builder": (GOOD.replace("build_model", "make"), 2, "build_model"),
    "no_inputs": (GOOD.replace("example_inputs", "inputs"), 2, "example_inputs"),
    "wrong_builder": (GOOD.replace("    return Net()", "    return 5"), 2, "torch.nn.Module"),
    "wrong_shape": (GOOD.replace("1, 1, 6, 6", "1, 2, 6, 6"), 2, "example_inputs"),
    "batch_of_two": (GOOD.replace("1, 1, 6, 6", "2, 1, 6, 6"), 2, "batch"),
    "nan_weights": (
        GOOD.replace(
            "    return Net()", "    net = Net()\n    net.conv.weight.data[0] = float('nan')\n    return net"
        ),
        6,
        "conv.weight",
    ),
    "dynamic": (DYNAMIC, 6, "if x.sum() > 0"),
    "float64": (GOOD.replace("return Net()", "return Net().double()"), 6, "float64"),
    "integer_input": (
        GOOD.replace("torch.zeros(1, 1, 6, 6)", "torch.zeros(1, 1, 6, 6, dtype=torch.int64)"),
        6,
        "int64",
    ),
    "bad_data": (WITH_DATA.replace("rand(40, 1, 6, 6", "rand(40, 1, 5, 5"), 2, "calibration_data["),
    "raising_data": (GOOD + "\ndef val_data():\n    raise OSError('no such data')\n", 2, "no such data"),
    "unsized_data": (GOOD + "\ndef val_data():\n    return iter([])\n", 2, "val_data"),
    "empty_data": (GOOD + "\ndef calibration_data():\n    return []\n", 2, "empty"),
    "nan_data": (WITH_DATA.replace("torch.rand(40", "torch.nan * torch.rand(40"), 6, "NaN"),
}
