"""The tiny model, linked for this machine."""

import pytest

from haqnas.codegen.link import link_archive
from tests.codegen.tiny_build import Build, build
from tests.runtime.tiny import threaded_program


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Build:
    made = build(tmp_path_factory.mktemp("host"))
    made.executable()
    link_archive(made.linker, "tiny", made.kernels, made.folder, made.folder / "lib" / "libtiny.a")
    return made


@pytest.fixture(scope="module")
def threaded(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The model for several threads."""
    made = build(tmp_path_factory.mktemp("threaded"), program=threaded_program())
    made.executable()
    archive = made.folder / "lib" / "libtiny.a"
    link_archive(made.linker, "tiny", made.kernels, made.folder, archive, is_threaded=True)
    return made
