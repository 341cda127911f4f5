"""torch.compile(model, backend="haqnas") gives what haqnas.compile gives, and leaves the rest to PyTorch."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import haqnas
from haqnas.passes import EagerWarning, backend
from tests.passes.networks import Pairs, images, joined, joined_inputs, small


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_small_network_matches_haqnas_compile_bit_for_bit(cache: Path, tmp_path: Path) -> None:
    model, x = small(), images(5, 1, 6, 6)
    artifact = haqnas.compile(model, (x[:1],), output=tmp_path / "out")
    (expected,) = artifact.run(x.numpy())
    compiled = torch.compile(model, backend="haqnas", options={"cache_folder": cache})  # by its entry point
    with torch.no_grad():
        given = compiled(x)
    assert given.numpy().tobytes() == expected.tobytes()
    assert not torch.equal(given, model(x))  # it is the quantized network that ran


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_network_of_two_inputs_matches_bit_for_bit(mode: type, cache: Path, tmp_path: Path) -> None:
    model, inputs, data = joined(), joined_inputs(4), Pairs(32)
    example = tuple(part[:1] for part in inputs)
    artifact = haqnas.compile(
        model, example, output=tmp_path / "out", bits="w4a8", calibration_data=data, compare=False
    )
    expected = artifact.run(*(part.numpy() for part in inputs))
    options = {"bits": "w4a8", "calibration_data": data, "cache_folder": cache}
    compiled = torch.compile(model, backend=backend, options=options)
    with mode():
        given = compiled(*inputs)
    assert [part.numpy().tobytes() for part in given] == [part.tobytes() for part in expected]


def test_every_batch_size_runs_record_by_record(cache: Path) -> None:
    model, x = small(), images(6, 1, 6, 6)
    compiled = torch.compile(model, backend=backend, options={"cache_folder": cache})
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = compiled(x)
        for start, count in ((0, 1), (1, 3), (2, 4), (5, 1)):
            assert torch.equal(compiled(x[start : start + count]), whole[start : start + count])


def test_same_network_is_found_in_the_cache(cache: Path) -> None:
    model, x = small(), images(1, 1, 6, 6)
    torch.no_grad()(torch.compile(model, backend=backend, options={"cache_folder": cache}))(x)
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.so")}
    torch._dynamo.reset()
    torch.no_grad()(torch.compile(small(), backend=backend, options={"cache_folder": cache}))(x)
    assert before == {path: path.stat().st_mtime_ns for path in cache.rglob("*.so")}


def test_changed_weights_are_compiled_anew(cache: Path) -> None:
    model, x = small(), images(2, 1, 6, 6)
    compiled = torch.compile(model, backend=backend, options={"cache_folder": cache})
    with torch.no_grad():
        before = compiled(x)
        model.linear.bias += 1
        torch.testing.assert_close(compiled(x), before + 1, rtol=0, atol=0.05)


# What is left to PyTorch


class Transformed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return torch.fft.rfft(self.linear(x)).abs()


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return self.linear(x - x.mean(0))


class Halved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return self.linear(nn.functional.dropout(x, 0.5, self.training))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Transformed().eval(), ["torch.fft.rfft(self.linear(x)).abs()", "test_torch_compile.py:"]),
        (Mixed().eval(), ["records of a batch one by one", "self.linear(x - x.mean(0))"]),
        (Halved().train(), ["trains", "nn.functional.dropout(x, 0.5", "model.eval()"]),
        (nn.Softmax(1), ["no weights"]),
    ],
    ids=["operator", "batch", "training", "nothing"],
)
def test_unsupported_graph_runs_eagerly_and_says_where_and_why(
    model: nn.Module, words: list[str], cache: Path
) -> None:
    x = images(3, 8)
    compiled = torch.compile(model, backend=backend, options={"cache_folder": cache})
    torch.manual_seed(0)
    with torch.no_grad(), pytest.warns(EagerWarning) as told:
        given = compiled(x)
    torch.manual_seed(0)
    torch.testing.assert_close(given, model(x), rtol=0, atol=0)
    (message,) = [str(warning.message) for warning in told]
    for word in words:
        assert word in message
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled(x)  # told once


def test_gradients_flow_and_a_warning_says_that_haqnas_is_not_used(cache: Path) -> None:
    model, x = small(), images(2, 1, 6, 6)
    compiled = torch.compile(model, backend=backend, options={"cache_folder": cache})
    with pytest.warns(EagerWarning, match="no_grad"):
        loss = compiled(x).square().sum()
    loss.backward()
    assert model.linear.weight.grad.abs().sum() > 0


def test_batch_norm_in_training_mode_runs_eagerly(cache: Path) -> None:
    model, x = small().train(), images(4, 1, 6, 6)
    compiled = torch.compile(model, backend=backend, options={"cache_folder": cache})
    before = model.stem[1].running_mean.clone()
    with torch.no_grad(), pytest.warns(EagerWarning, match=r"trains[\s\S]*model\.eval"):
        compiled(x)
    assert not torch.equal(before, model.stem[1].running_mean)


def test_image_of_another_size_is_refused_where_sizes_are_symbolic(cache: Path) -> None:
    model, x = small(), images(2, 1, 6, 7)
    compiled = torch.compile(model, backend=backend, dynamic=True, options={"cache_folder": cache})
    with torch.no_grad(), pytest.warns(EagerWarning, match="dynamic=False"):
        given = compiled(x)
    torch.testing.assert_close(given, model(x).detach())


# Mistakes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bitz": "8"}, "bitz"),
        ({"bits": "w9a9"}, "weight bits must be 1 to 8"),
        ({"target": "riscv64"}, "cannot run the target 'riscv64'"),
        ({"formats": ("exe",)}, "formats"),
    ],
)
def test_wrong_options_are_errors(options: dict, words: str, cache: Path) -> None:
    compiled = torch.compile(small(), backend=backend, options={"cache_folder": cache, **options})
    with torch.no_grad(), pytest.raises(Exception, match=words) as caught:
        compiled(images(1, 1, 6, 6))
    assert "ConfigurationError" in repr(caught.value) + str(caught.value)
