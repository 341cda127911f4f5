"""`haqnas profile`."""

from pathlib import Path

import click

from haqnas.cli.commands import device_option, group, json_option, split_list
from haqnas.cli.progress import show_progress
from haqnas.cli.render import print_json, print_lines, profile_document, summarise_profile


@group.command("profile")
@click.option(
    "--target", default="host", show_default=True, help="A name from `haqnas targets`, or a profile.toml."
)
@click.option("-o", "--output", required=True, metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--models", metavar="MODEL[:BUILDER],...", default="", help="Shapes of these models; default: a grid."
)
@click.option("--bits", metavar="wXaY,...", default="", help="What to sweep beside w8a8; default: 18 pairs.")
@click.option("--cc", metavar="COMMAND", help="A C compiler for the target instead of zig's.")
@click.option(
    "--haq",
    "haq_folder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write HAQ's tables there too.",
)
@click.option(
    "--ofa",
    "ofa_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write ProxylessNAS's and OFA's table too.",
)
@device_option
@json_option
@click.option("--quiet", is_flag=True, help="No progress.")
def profile_command(
    target: str,
    output: Path,
    models: str,
    bits: str,
    cc: str | None,
    haq_folder: Path | None,
    ofa_file: Path | None,
    device: str | None,
    is_json: bool,
    quiet: bool,
) -> None:
    """Measure a target's kernels into the profile FILE, which `compile --target FILE` takes.

    The same command again goes on where it stopped, and measures nothing twice.
    """
    from haqnas.profiler import profile

    with show_progress(quiet) as progress:
        made = profile(
            target,
            output=output,
            model_files=split_list(models),
            bits=split_list(bits),
            device=device,
            cc=cc,
            haq_folder=haq_folder,
            ofa_file=ofa_file,
            progress=progress,
        )
    if is_json:
        print_json(profile_document(made))
    else:
        print_lines(summarise_profile(made))
