"""The tiny model of the C tests: a Program with hand-written kernels, and its reference.

`python tests/runtime/tiny.py` writes `model/` and `model/threaded/` anew after a change of emit.py;
tests/codegen/test_emit.py fails when they are not what emit.py writes.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from haqnas.codegen.emit import emit_sources
from haqnas.codegen.program import Call, Pointer, Program, Region, TensorInfo
from haqnas.codegen.selftest import SelfTest, make_self_test, self_test_inputs

MODEL = Path(__file__).parent / "model"
THREADED_MODEL = MODEL / "threaded"
THREADS = 4
KERNELS = MODEL / "kernels.c"
SIZE = 8
WEIGHTS = b"ABCDEFGH"  # text, so that constants.bin is a text file


def tiny_program(
    name: str = "tiny", required_cpu_features: tuple[str, ...] = (), is_exact: bool = True
) -> Program:
    """scaled = x * weights / 2 by way of the workspace; signs = (bias > 0)."""
    x, bias = Pointer(Region.INPUT), Pointer(Region.INPUT, index=1)
    copy, weights = Pointer(Region.WORKSPACE, 64), Pointer(Region.CONSTANTS)
    return Program(
        name=name,
        inputs=(
            TensorInfo("x", "uint8", (1, SIZE), 0.05, 3, 100),
            TensorInfo("bias", "float32", (1, SIZE), 1.0, 0, 0),
        ),
        outputs=(
            TensorInfo("scaled", "float32", (1, SIZE), 1.0, 0, 0),
            TensorInfo("signs", "uint8", (1, SIZE), 0.5, 1, 255),
        ),
        calls=(
            Call("tiny_copy", (x, copy, SIZE), ""),
            Call("tiny_scale", (copy, weights, Pointer(Region.OUTPUT), SIZE), "layer1.0"),
            Call("tiny_sign", (bias, Pointer(Region.OUTPUT, index=1), SIZE), "layer2"),
        ),
        functions={"tiny_copy": None, "tiny_scale": None, "tiny_sign": None},
        constants=WEIGHTS,
        packed_weight_bytes=len(WEIGHTS),
        workspace_bytes=128,
        layers=(),
        required_cpu_features=required_cpu_features,
        is_exact=is_exact,
    )


def threaded_program() -> Program:
    """The same in sections of parts: two that copy, four that scale; one thread looks at the signs."""
    whole = tiny_program()
    copy, scale, sign = whole.calls

    def part(call: Call, step: int, section: int, number: int, sizes: tuple[int, ...]) -> Call:
        """Elements from number * step on; `sizes`: bytes of an element of each pointer."""
        pointers = [p.moved(number * step * size) for p, size in zip(call.arguments, sizes, strict=False)]  # type: ignore[union-attr]
        return Call(call.symbol, (*pointers, step), call.layer, section, number)

    calls = (
        *(part(copy, SIZE // 2, 0, k, (1, 1)) for k in range(2)),
        *(part(scale, SIZE // 4, 1, k, (1, 1, 4)) for k in range(4)),
        replace(sign, section=2),
    )
    return replace(whole, calls=calls, threads=THREADS)


def tiny_reference(x: NDArray[np.generic], bias: NDArray[np.generic]) -> list[NDArray[np.generic]]:
    """What the model computes, for any number of records."""
    weights = np.frombuffer(WEIGHTS, np.int8).astype(np.int32)
    return [
        (x.astype(np.int32) * weights).astype(np.float32) * np.float32(0.5),
        (bias.astype(np.float32) > 0).astype(np.uint8),
    ]


def tiny_self_test(program: Program) -> SelfTest:
    x, bias = self_test_inputs(program)
    return make_self_test(tiny_reference(x, bias), program.is_exact, (0.25, 0.5))


def write_tiny(folder: Path) -> tuple[Path, ...]:
    """The exact model `tiny`, and the description of `tiny` with samples as `sampled_model.c`."""
    program, sampled = tiny_program(), tiny_program(is_exact=False)
    paths = emit_sources(program, folder, tiny_self_test(program))
    text = (folder / "tiny_model.c").read_text()
    emit_sources(sampled, folder, tiny_self_test(sampled))
    (folder / "tiny_model.c").rename(folder / "sampled_model.c")
    (folder / "tiny_model.c").write_text(text)
    return (*paths, folder / "sampled_model.c")


def write_threaded(folder: Path) -> tuple[Path, ...]:
    """The model `tiny` for several threads."""
    program = threaded_program()
    return emit_sources(program, folder, tiny_self_test(program))


if __name__ == "__main__":
    write_tiny(MODEL)
    write_threaded(THREADED_MODEL)
