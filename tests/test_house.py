"""Rules of the house that no linter knows."""

import ast
import re
import types
from pathlib import Path

import raylatent
from raylatent import errors

ROOT = Path(__file__).parents[1]
MAX_LINES = 600
MAX_FUNCTION_LINES = 50
OF_ALL_OPTIONS = {"atlas", "__init__"}  # of DatasetFeatures
# What the package has now: lower them when it shrinks.
FILES, LINES = 159, 43_620


def python_files(*folders):
    return sorted(
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
    )


def text_of(file):
    return (ROOT / file).read_text(encoding="utf-8")


def function_lines(tree):
    """(name, lines without the docstring) of each function in a module.

    Where the options of a verb are the parameters, which tests compare, the signature
    is not counted.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body
            has_docstring = ast.get_docstring(node) is not None
            own = body[1:] if has_docstring else body
            if own and node.name in OF_ALL_OPTIONS and len(node.args.kwonlyargs) > 20:
                n = node.end_lineno - own[0].lineno + 1
            else:
                n = node.end_lineno - node.lineno + 1
                n -= body[0].end_lineno - body[0].lineno + 1 if has_docstring else 0
            yield node.name, n


ALL = python_files("raylatent", "jobs", "tests")
OWN = python_files("raylatent", "jobs")


def test_there_are_files_to_look_at():
    assert "raylatent/errors.py" in OWN
    assert "tests/test_house.py" in ALL


def test_public_names_are_sorted_and_are_what_exists():
    names = list(raylatent.__all__)
    assert names == sorted(names)
    assert len(set(names)) == len(names)
    for name in names:
        assert getattr(raylatent, name) is not None
    assert set(names) <= set(dir(raylatent))
    public = {
        name
        for name, value in vars(raylatent).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public <= set(names)


def test_what_the_layer_activations_page_uses_is_public():
    wanted = {"DatasetFeatures", "Mosaic", "Project", "SlideMap", "errors", "model"}
    assert wanted <= set(raylatent.__all__)


def test_no_file_is_too_long():
    lines = {file: len(text_of(file).splitlines()) for file in ALL}
    assert {file: n for file, n in lines.items() if n > MAX_LINES} == {}


def test_the_package_does_not_grow_unnoticed():
    package = python_files("raylatent")
    n_lines = sum(len(text_of(file).splitlines()) for file in package)
    assert len(package) <= FILES
    assert n_lines <= LINES


def test_functions_are_short():
    long = {
        f"{file}: {name}": n
        for file in OWN
        for name, n in function_lines(ast.parse(text_of(file)))
        if n > MAX_FUNCTION_LINES
    }
    assert long == {}


def test_imports_are_absolute():
    likely = [file for file in ALL if re.search(r"\bfrom[\s\\]*\.", text_of(file))]
    relative = [
        f"{file}:{node.lineno}"
        for file in likely
        for node in ast.walk(ast.parse(text_of(file)))
        if isinstance(node, ast.ImportFrom) and node.level > 0
    ]
    assert relative == []


def test_no_module_is_called_utils():
    vague = {"util", "utils", "helpers", "common", "misc"}
    assert not [file for file in ALL if Path(file).stem in vague]


def test_errors_have_their_own_tree():
    defined = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and value.__module__ == "raylatent.errors"
    ]
    assert len(defined) > 5
    assert all(issubclass(error, errors.RaylatentError) for error in defined)
    assert all(error.__doc__ for error in defined)
