"""ResNet-20 with published weights: the binary's accuracy, and equal outputs on all kinds of CPU. Needs HAQNAS_DATA."""

from pathlib import Path

import numpy as np
import pytest

import haqnas
from haqnas.graph.load import load_model

MODEL = Path(__file__).resolve().parents[2] / "examples" / "cifar10_resnet.py"
FIRST = 500

pytestmark = [pytest.mark.data, pytest.mark.slow]


@pytest.fixture(scope="module")
def images_and_labels() -> tuple[np.ndarray, np.ndarray]:
    pairs = load_model(MODEL).val_data()
    images = np.stack([pairs[i][0].numpy() for i in range(len(pairs))])
    return images, np.array([int(pairs[i][1]) for i in range(len(pairs))])


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """target -> artefact; compiled without scoring, as the tests below score the binary."""
    folder = tmp_path_factory.mktemp("resnet20")
    model = load_model(MODEL)
    done: dict[str, haqnas.Artifact] = {}

    def compile_for(target: str) -> haqnas.Artifact:
        if target not in done:
            done[target] = haqnas.compile(
                model.model,
                model.example_inputs,
                target=target,
                bits="8",
                calibration_data=model.calibration_data(),
                output=folder / target,
                name="resnet20",
                formats=("exe",),
            )
        return done[target]

    return compile_for


def test_host_binary_keeps_the_accuracy(compiled, images_and_labels):
    images, labels = images_and_labels
    (logits,) = compiled("host").run(images)
    assert len(labels) == 10_000
    assert np.mean(logits.argmax(axis=1) == labels) >= 0.914


@pytest.mark.arm
@pytest.mark.riscv
@pytest.mark.parametrize("target", ["arm-cpu", "cortex-a76", "riscv64"])
def test_outputs_are_the_same_on_other_cpus(target, compiled, images_and_labels):
    images = images_and_labels[0][:FIRST]
    (on_host,) = compiled("host").run(images)
    (elsewhere,) = compiled(target).run(images)
    assert np.array_equal(on_host.view(np.uint32), elsewhere.view(np.uint32))
