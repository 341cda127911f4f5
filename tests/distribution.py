"""A distribution with one module and one entry point, as pip leaves it behind."""

from pathlib import Path


def install(folder: Path, name: str, group: str, value: str, source: str) -> None:
    """`name` is that of the distribution and of its module, whose text is `source`."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{value}\n")
    (folder / f"{name}.py").write_text(source)
