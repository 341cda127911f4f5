"""Budgets of size: short functions and files keep the code readable."""

import ast
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = tuple(
    path
    for folder in ("haqnas", "cli", "kernels", "hw_profiles")
    for path in (REPOSITORY / folder).rglob("*.py")
)
MAX_FILE_LINES = 400
# haqnas/graph/ops.py is the specification of all operators, which belongs in one place.
LONG_FILES = {"haqnas/graph/ops.py"}
MAX_FUNCTION_LINES = 80
USUAL_FUNCTION_LINES = 40
USUAL_SHARE = 0.9


Function = ast.FunctionDef | ast.AsyncFunctionDef


def length(node: Function) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def inner_functions(node: ast.AST) -> list[Function]:
    """Functions defined right inside another, not those inside of them."""
    found: list[Function] = []
    for child in ast.iter_child_nodes(node):
        found += [child] if isinstance(child, Function) else inner_functions(child)
    return found


def function_lines() -> list[tuple[int, str]]:
    """A kernel is built by functions inside one function, which share its buffers: each counts its own lines."""
    return [
        (
            length(node) - sum(map(length, inner_functions(node))),
            f"{path.relative_to(REPOSITORY)}:{node.lineno} {node.name}",
        )
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, Function)
    ]


def test_files_are_short():
    lines = {str(p.relative_to(REPOSITORY)): len(p.read_text().splitlines()) for p in SOURCES}
    too_long = {
        name: count for name, count in lines.items() if count > MAX_FILE_LINES and name not in LONG_FILES
    }
    assert not too_long
    assert {name for name, count in lines.items() if count > MAX_FILE_LINES} >= LONG_FILES, (
        "drop it from LONG_FILES"
    )


def test_functions_are_short():
    functions = sorted(function_lines(), reverse=True)
    assert not [entry for entry in functions if entry[0] > MAX_FUNCTION_LINES]
    usual = [entry for entry in functions if entry[0] <= USUAL_FUNCTION_LINES]
    assert len(usual) >= USUAL_SHARE * len(functions), functions[:10]


def test_no_drawers():
    drawers = {"utils", "common", "helpers", "manager", "managers", "misc"}
    assert not [path for path in SOURCES if drawers & set(path.relative_to(REPOSITORY).with_suffix("").parts)]
