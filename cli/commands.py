"""The group of commands, and `compile`. Commands read options, call the library, and print: no logic of their own."""

from pathlib import Path
from typing import Any

import click

from haqnas.cli.progress import show_progress
from haqnas.cli.render import print_compared, print_json, print_lines, summarise, summary_document
from haqnas.cli.results import print_results, result_document

EXIT_MISSED = 3  # done, but a constraint is missed


def read_share(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    """`1%` or `0.01`."""
    if text is None:
        return None
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no share; write 1% or 0.01") from None


def _read_duration(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    """Seconds of `90`, `90s`, `10m` or `1.5h`."""
    if text is None:
        return None
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    try:
        return float(text.rstrip("smh")) * units.get(text[-1:], 1.0)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no time; write 90s, 10m or 1.5h") from None


json_option = click.option("--json", "is_json", is_flag=True, help="Print one JSON object.")
device_option = click.option(
    "--device",
    metavar="URI",
    help="local, qemu:CPU, ssh://user@host or tvm-rpc://host:port/key (docs/devices.md); default: what can run it.",
)


def split_list(text: str) -> tuple[str, ...]:
    """The parts of a list that was written with commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def refuse_together(**options: object) -> None:
    """Raise a usage error where more than one of `options` is given (is not None)."""
    given = [f"--{name}" for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} do not go together; give one of them")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="haqnas")
def group() -> None:
    """Quantize and compile PyTorch models for a target's hardware."""


@group.command("compile")
@click.argument("model", metavar="MODEL[:BUILDER]")
@click.option(
    "--target",
    "targets",
    multiple=True,
    default=("host",),
    show_default=True,
    help="A name from `haqnas targets`, or a profile.toml; several times: an artefact for each, in DIR/TARGET.",
)
@click.option("-o", "--output", required=True, metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--bits",
    metavar="auto|8|wXaY|FILE",
    help="Chosen by a search, uniform, or a policy.json; default: auto where a budget is given, else 8.",
)
@click.option(
    "--latency-budget", metavar="5ms|60%", help="At most so long; a share is of the uniform int8 build."
)
@click.option(
    "--size-budget", metavar="300KiB|50%", help="At most so many bytes of packed weights; a share as above."
)
@click.option(
    "--max-drop", type=float, metavar="DROP", help="Of accuracy against the float model: 0.01 is a point."
)
@click.option("--pin", multiple=True, metavar="GLOB=BITS", help="These layers get exactly these bits.")
@click.option("--include", multiple=True, metavar="GLOB", help="Only these layers get other bits than 8.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="These layers stay at 8 bits.")
@click.option(
    "--strategy",
    metavar="NAME",
    help="Of the search for bits: ilp (default), marl, ... (docs/search.md).",
)
@click.option(
    "--architecture",
    metavar="auto",
    help="Search widths, depths, kernel sizes and operators with the bits (docs/architecture-space.md).",
)
@click.option(
    "--supernet-epochs",
    type=float,
    metavar="N",
    help="Train weights that architectures share for N epochs of train_data, before they are tried.",
)
@click.option(
    "--supernet-time",
    "supernet_time_s",
    metavar="TIME",
    callback=_read_duration,
    help="Train them no longer than this.",
)
@click.option("--trials", type=int, metavar="N", help="Policies that a strategy other than ilp tries; 100.")
@click.option(
    "--time-budget",
    "time_budget_s",
    metavar="TIME",
    callback=_read_duration,
    help="Try policies no longer than this: 90s, 10m, 1.5h. The best so far is compiled.",
)
@click.option("--workers", default=1, show_default=True, metavar="N", help="Processes that share the trials.")
@click.option(
    "--study", metavar="URL", help="Keep the trials in this Optuna database instead of a file in DIR."
)
@click.option(
    "--compare",
    "compare_strategies",
    default="",
    metavar="NAME,NAME",
    callback=lambda _context, _option, text: split_list(text),
    help="Search by each of these, at equal trials; the bits of the first are compiled.",
)
@click.option(
    "--sensitivity",
    default="gradient",
    show_default=True,
    metavar="METHOD",
    help="How the search predicts losses: gradient, pairwise (also between layers), or kl (thorough, slow).",
)
@click.option(
    "--format",
    "formats",
    default="exe,a",
    show_default=True,
    metavar="LIST",
    callback=lambda _context, _option, text: split_list(text),
    help="Of exe,a,so,tvm,layers.",
)
@click.option("--cc", metavar="COMMAND", help="A C compiler for the target instead of zig's.")
@click.option(
    "--threads", default=1, show_default=True, metavar="N", help="The binary runs on up to N threads."
)
@click.option(
    "--tune-time",
    "tune_time_s",
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="Choose kernels by measurement on the device.",
)
@click.option(
    "--ptq",
    default="corrected",
    show_default=True,
    metavar="METHOD",
    help="How weights are rounded: plain, corrected, equalized, gptq, matched.",
)
@click.option("--qat-epochs", type=float, metavar="N", help="Fine-tune on train_data for N epochs.")
@click.option(
    "--qat-time",
    "qat_time_s",
    metavar="TIME",
    callback=_read_duration,
    help="Fine-tune no longer than this: 90s, 10m, 1.5h.",
)
@click.option("--qat-lr", "qat_learning_rate", type=float, metavar="RATE", help="Peak of the learning rate.")
@click.option("--qat-batch-size", type=int, metavar="N")
@click.option("--qat-optimizer", metavar="NAME", help="sgd or adamw.")
@click.option(
    "--qat-distillation",
    type=float,
    metavar="SHARE",
    help="Of the loss, that compares with the float model's outputs; the rest is the labels'.",
)
@click.option("--qat-weight-decay", type=float, metavar="SHARE", help="Of weights; 0.0001, adamw 0.01.")
@click.option(
    "--qat-label-smoothing",
    type=float,
    metavar="SHARE",
    help="Of each label, that is spread over all classes.",
)
@click.option(
    "--qat-augment",
    metavar="LIST",
    callback=lambda _context, _option, text: None if text is None else split_list(text),
    help="Of flip,crop,cutout: change training images at random.",
)
@click.option(
    "--qat-randaugment",
    type=float,
    metavar="STRENGTH",
    help="Move, turn, shear, brighten training images at random: 0 to 1.",
)
@click.option(
    "--qat-mixup",
    type=float,
    metavar="ALPHA",
    help="Mix pairs of training samples by shares from Beta(ALPHA, ALPHA).",
)
@click.option(
    "--qat-recipe",
    metavar="auto",
    help="Search what of fine-tuning is not given, by short trainings (docs/training.md).",
)
@click.option("--qat-trials", type=int, metavar="N", help="Short trainings that it tries; 16.")
@click.option(
    "--qat-trial-epochs",
    type=float,
    metavar="N",
    help="Length of each; a quarter of --qat-epochs, or 1.",
)
@device_option
@click.option(
    "--val-samples",
    default=1000,
    show_default=True,
    type=click.IntRange(0),
    callback=lambda _context, _option, number: number or None,
    help="Samples of val_data that top-1 is read on; 0: all.",
)
@click.option(
    "--no-compare",
    "compare",
    flag_value=False,
    default=True,
    help="Ship bits that haqnas chose even where they do not win against the uniform int8 build.",
)
@click.option(
    "--strict-bits",
    is_flag=True,
    help="Fail (exit code 5) where the binary differs in anything from the bits that were requested.",
)
@click.option("--seed", default=0, show_default=True, help="Of every random choice.")
@click.option("--fresh", is_flag=True, help="Do not go on from an earlier run in DIR.")
@json_option
@click.option("--quiet", is_flag=True, help="No progress.")
def compile_command(
    model: str, output: Path, targets: tuple[str, ...], is_json: bool, quiet: bool, **options: Any
) -> int:
    """Compile MODEL, a Python file with build_model() and example_inputs(), into DIR.

    The same command again goes on where it stopped. Exit code 3: the artefact is there, but misses a budget.
    """
    if len(targets) > 1:
        return _compile_for_targets(model, output, targets, is_json, quiet, **options)
    from haqnas.api import compile_file

    with show_progress(quiet) as progress:  # the options have the names of haqnas.settings
        artifact = compile_file(model, output=output, target=targets[0], progress=progress, **options)
    missed = artifact.manifest.missed
    if is_json:
        print_json({**summary_document(artifact), "ok": not missed})
    else:
        print_lines(summarise(artifact))
        print_compared(artifact.manifest.search)
    return EXIT_MISSED if missed else 0


def _compile_for_targets(
    model: str, output: Path, targets: tuple[str, ...], is_json: bool, quiet: bool, **options: Any
) -> int:
    """The exit code of the first target that failed, else 3 where one misses a budget."""
    from haqnas.api import compile_file_for_targets

    with show_progress(quiet) as progress:
        results = compile_file_for_targets(
            model, output=output, targets=targets, progress=progress, **options
        )
    if is_json:
        documents = [result_document(result) for result in results]
        print_json({"targets": documents, "ok": all(document["ok"] for document in documents)})
    else:
        print_results(results)
    errors = [(result.target, result.error) for result in results if result.error is not None]
    for target, error in errors:
        click.echo(f"haqnas: error: {target}: {error}", err=True)
    if errors:
        return errors[0][1].exit_code
    is_missed = any(result.artifact is not None and result.artifact.manifest.missed for result in results)
    return EXIT_MISSED if is_missed else 0
