import sys
from pathlib import Path

import pytest
import torch

from haqnas.errors import ConfigurationError, HaqnasError, UnsupportedModelError
from haqnas.graph.load import load_model

GOOD = """
import torch
from torch import nn

def build_model():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

def example_inputs():
    return (torch.zeros(1, 3, 8, 8),)
"""


def write(folder: Path, text: str, name: str = "model.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_model_file_is_loaded_in_eval_mode(tmp_path):
    loaded = load_model(write(tmp_path, GOOD))
    assert not loaded.model.training
    assert loaded.example_inputs[0].shape == (1, 3, 8, 8)
    assert (loaded.train_data, loaded.val_data, loaded.calibration_data, loaded.evaluate) == (None,) * 4


def test_random_weights_are_the_same_each_time_and_the_global_generator_is_left_alone(tmp_path):
    path = write(tmp_path, GOOD)
    state = torch.get_rng_state()
    first, second = load_model(path).model, load_model(path).model
    assert torch.equal(torch.get_rng_state(), state)
    assert first is not second
    assert torch.equal(first[0].weight, second[0].weight)


def test_other_builder_replaces_build_model(tmp_path):
    path = write(tmp_path, GOOD + "\ndef small():\n    return nn.Conv2d(3, 1, 1)\n")
    assert isinstance(load_model(path, "small").model, torch.nn.Conv2d)


def test_file_imports_its_neighbours_then_and_later_and_sys_path_stays(tmp_path):
    write(tmp_path, "SIZE = 5\n", "neighbour_now.py")
    write(tmp_path, "DATA = [(1, 2)]\n", "neighbour_later.py")
    text = (
        "import neighbour_now\n"
        + GOOD
        + "\ndef val_data():\n    from neighbour_later import DATA\n    return DATA\n"
    )
    before = list(sys.path)
    loaded = load_model(write(tmp_path, text))
    assert sys.path == before
    assert loaded.val_data is not None
    assert loaded.val_data() == [(1, 2)]
    assert sys.path == before


def test_two_files_of_one_name_do_not_mix(tmp_path):
    for index in (1, 2):
        (tmp_path / str(index)).mkdir()
        write(
            tmp_path / str(index),
            GOOD.replace("Conv2d(3, 4", f"Conv2d(3, {index}").replace("Norm2d(4", f"Norm2d({index}"),
        )
    first, second = (load_model(tmp_path / str(index) / "model.py") for index in (1, 2))
    assert (first.model[0].out_channels, second.model[0].out_channels) == (1, 2)


def test_prints_of_the_model_file_stay_off_stdout(tmp_path, capsys):
    load_model(write(tmp_path, "print('hello')\n" + GOOD))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello" in captured.err


BAD_FILES = {
    "raises at import": ("import torch\nx = 1 / 0\n", ["ZeroDivisionError", "model.py:2: x = 1 / 0"]),
    "does not parse": ("def build_model(:\n", ["SyntaxError", "model.py:1"]),
    "imports what is not installed": ("import not_there\n", ["not_there", "model.py:1"]),
    "exits": ("import sys\nsys.exit(1)\n", ["SystemExit", "__main__"]),
    "has no builder": (GOOD.replace("build_model", "make"), ["build_model()", "def build_model"]),
    "has no inputs": (GOOD.replace("example_inputs", "inputs"), ["example_inputs()", "torch.randn"]),
    "has a builder that is no function": (
        "build_model = 3\ndef example_inputs(): pass\n",
        ["must be a function", "int"],
    ),
    "has a builder that raises": (
        GOOD.replace("return nn", "raise KeyError('weights')\n    return nn"),
        ["build_model()", "KeyError", "model.py:6"],
    ),
    "has a builder of no module": (GOOD.replace("return nn", "return 3, nn"), ["torch.nn.Module", "tuple"]),
    "gives a tensor": (GOOD.replace("8, 8),)", "8, 8))"), ["add a comma"]),
    "gives a list": (
        GOOD.replace("(torch.zeros(1, 3, 8, 8),)", "[torch.zeros(1, 3, 8, 8)]"),
        ["tuple", "list"],
    ),
    "gives no input": (GOOD.replace("(torch.zeros(1, 3, 8, 8),)", "()"), ["empty tuple"]),
    "gives a number": (GOOD.replace("torch.zeros(1, 3, 8, 8)", "3"), ["input 0", "int"]),
    "gives two images": (GOOD.replace("zeros(1", "zeros(2"), ["batch size", "(2, 3, 8, 8)", "x[:1]"]),
    "gives NaN": (
        GOOD.replace("torch.zeros(1, 3, 8, 8)", "torch.full((1, 3, 8, 8), float('nan'))"),
        ["finite"],
    ),
    "gives a wrong shape": (GOOD.replace("zeros(1, 3", "zeros(1, 5"), ["(1, 5, 8, 8)", "example_inputs()"]),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_wrong_model_file_is_a_configuration_error(tmp_path, name):
    text, expected = BAD_FILES[name]
    path = write(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        load_model(path)
    for part in (*expected, str(path)):
        assert part in str(caught.value)


UNSUPPORTED = {
    "float64 weights": (
        GOOD.replace("BatchNorm2d(4))", "BatchNorm2d(4)).double()"),
        ["0.weight", "float64", "model.float()"],
    ),
    "float16 weights": (GOOD.replace("BatchNorm2d(4))", "BatchNorm2d(4)).half()"), ["0.weight", "float16"]),
    "complex weights": (
        GOOD.replace(
            "return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))",
            "return nn.Linear(3, 4, dtype=torch.complex64)",
        ),
        ["weight", "complex64"],
    ),
    "float64 inputs": (GOOD.replace("8, 8),", "8, 8).double(),"), ["input 0", "float64", ".float()"]),
    "integer inputs": (GOOD.replace("8, 8),", "8, 8).long(),"), ["input 0", "int64"]),
    "NaN weights": (
        GOOD + "\ndef bad():\n    m = build_model()\n"
        "    m[0].weight.data[0, 0, 0, 0] = float('nan')\n    return m\n",
        ["0.weight", "1 NaN or infinite values of 108"],
    ),
    "infinite statistics": (
        GOOD + "\ndef bad():\n    m = build_model()\n    m[1].running_var[:] = float('inf')\n    return m\n",
        ["1.running_var", "4 NaN or infinite values of 4"],
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_dtypes_and_weights_name_the_tensor(tmp_path, name):
    text, expected = UNSUPPORTED[name]
    with pytest.raises(UnsupportedModelError) as caught:
        load_model(write(tmp_path, text), "bad" if "def bad" in text else None)
    for part in expected:
        assert part in str(caught.value)


def test_error_in_forward_names_the_users_line(tmp_path):
    text = (
        GOOD
        + """
class Broken(nn.Module):
    def forward(self, x):
        return x.reshape(7, 7)  # too few numbers

def broken():
    return Broken()
"""
    )
    path = write(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        load_model(path, "broken")
    line = text.splitlines().index("        return x.reshape(7, 7)  # too few numbers") + 1
    assert f"{path}:{line}: return x.reshape(7, 7)" in str(caught.value)


@pytest.mark.parametrize("name", ["missing.py", "folder", "model.txt"])
def test_path_that_is_no_python_file(tmp_path, name):
    (tmp_path / "folder").mkdir()
    write(tmp_path, "", "model.txt")
    with pytest.raises(ConfigurationError, match="must be a Python file"):
        load_model(tmp_path / name)


def test_failing_data_function_names_function_and_line(tmp_path):
    text = GOOD + "\ndef train_data():\n    raise OSError('disk gone')\n"
    loaded = load_model(write(tmp_path, text))
    assert loaded.train_data is not None
    with pytest.raises(HaqnasError, match=r"train_data\(\).*disk gone") as caught:
        loaded.train_data()
    assert "model.py:12" in str(caught.value)
