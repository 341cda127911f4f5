"""Settings: one declaration of each option, and what of them makes a request another one."""

import typing
from dataclasses import fields
from pathlib import Path

from haqnas.cli.commands import compile_command
from haqnas.settings import CompileOptions, Settings, hashed_settings


def test_keywords_of_compile_are_the_fields_of_settings() -> None:
    keywords = typing.get_type_hints(CompileOptions)
    assert keywords == typing.get_type_hints(Settings)


def test_what_changes_a_result_is_hashed() -> None:
    hashed = hashed_settings(Settings(seed=3, threads=2))
    assert (hashed["seed"], hashed["threads"]) == (3, 2)
    assert not {"fresh", "progress", "cache_folder"} & hashed.keys()


def test_options_of_the_command_are_settings() -> None:
    """The command passes them on by name; those that it has for itself stand apart."""
    given = {option.name for option in compile_command.params} - {
        *("model", "output", "targets", "is_json", "quiet")
    }
    assert given <= {entry.name for entry in fields(Settings)}


def test_defaults_of_the_command_are_those_of_python(tmp_path: Path) -> None:
    context = compile_command.make_context("compile", ["model.py", "-o", str(tmp_path)])
    defaults = Settings()
    for option in compile_command.params:
        if option.name in CompileOptions.__annotations__:
            assert context.params[option.name] == getattr(defaults, option.name), option.name
