"""What the house asks of every file, and no linter checks."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 60  # lines of a function, its docstring included

# What reads as a list from top to bottom: no part of it would be understood better by a name.
LISTS = {
    "dmphn_jax/commands/benchmark.py: _parser": "a call for each flag",
    "dmphn_jax/commands/deblur_flags.py: parser": "a call for each flag",
    "dmphn_jax/commands/evaluate.py: _parser": "a call for each flag",
    "dmphn_jax/serving/openapi.py: _paths": "one literal, the addresses of the API",
}


def long_functions(folder: Path, root: Path) -> dict[str, int]:
    """`file: function` -> lines, of those that are longer than the house allows."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if lines > LONGEST:
                    found[f"{path.relative_to(root)}: {node.name}"] = lines
    return found


def test_functions_are_short():
    found = {}
    for package in ("dmphn_jax", "tfds_gopro"):
        found |= long_functions(ROOT / package, ROOT)
    assert {name: n for name, n in found.items() if name not in LISTS} == {}
    assert LISTS.keys() <= found.keys()  # one that became short is no exception any more


def test_a_long_function_is_found(tmp_path):
    body = ["    pass"] * (LONGEST - 1)
    (tmp_path / "a.py").write_text("\n".join(["def f():", *body, "async def g():", *body]))
    assert long_functions(tmp_path, tmp_path) == {}
    (tmp_path / "a.py").write_text(
        "\n".join(["class A:", " async def g(self):", *body, "    pass"])
    )
    assert long_functions(tmp_path, tmp_path) == {"a.py: g": LONGEST + 1}
