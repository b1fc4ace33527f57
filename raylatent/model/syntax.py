"""What a function does, as a digest: its syntax tree, without what changes nothing."""

import ast
import hashlib
import linecache
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType

_SHORT = 8  # bytes of a digest
# Parts of a syntax tree that say how it was written, not what it does.
_WRITING = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
_Key = tuple[str, int]
_Parsed = tuple[dict[_Key, list[CodeType]], dict[_Key, list[ast.AST]]]
_ASSIGNED = ("Assign", 0)  # under this key all that a module assigns


def short_digest(content: bytes) -> str:
    """A digest of 16 hexadecimal digits.

    >>> short_digest(b"")
    'e4a6a0577479b2b4'
    """
    return hashlib.blake2b(content, digest_size=_SHORT).hexdigest()


def syntax_digest(code: CodeType) -> str:
    """A digest of a function's syntax tree, without comments, docstrings and positions.

    The source is used only where it is what runs: a file that was edited after it was
    imported is not. Where there is no such source (exec, a console) it is the digest of
    the code object, which another minor version of Python changes.
    """
    found = _of_source(code)
    return found if found is not None else bytecode_digest(code)


def assignment_digest(module: ModuleType, name: str) -> str | None:
    """A digest of how a module assigns a name; None where its source does not."""
    _, nodes = _source(module.__file__ or "")
    found = [
        node
        for node in nodes.get(_ASSIGNED, ())
        if any(
            isinstance(part, ast.Name) and part.id == name for part in _targets(node)
        )
    ]
    text = "\n".join(map(_tree, found))
    return short_digest(text.encode()) if found else None


def _targets(node: ast.AST) -> Iterator[ast.AST]:
    for target in getattr(node, "targets", None) or [getattr(node, "target", None)]:
        yield from ast.walk(target)


def _source(path: str) -> _Parsed:
    """What is in a file."""
    if Path(path).exists():  # else a notebook's cell, or a copy that is gone
        linecache.checkcache(path)
    lines = linecache.getlines(path)
    known = _files.get(path)
    if known is None or known[0] is not lines:
        known = _files[path] = (lines, _parsed("".join(lines)))
    return known[1]


def _of_source(code: CodeType) -> str | None:
    codes, nodes = _source(code.co_filename)
    key = (code.co_name, code.co_firstlineno)
    if code not in codes.get(key, ()) or key not in nodes:
        return None
    text = "\n".join(_tree(node) for node in nodes[key])
    if len(nodes[key]) > 1:  # lambdas of one line: which of them it is
        text += bytecode_digest(code)
    return short_digest(text.encode())


# Files that were parsed: their lines, as linecache holds them, and what is in them.
_files: dict[str, tuple[list[str], _Parsed]] = {}


def _parsed(source: str) -> _Parsed:
    """The functions of a file by name and first line: code objects and syntax trees."""
    codes: dict[_Key, list[CodeType]] = defaultdict(list)
    nodes: dict[_Key, list[ast.AST]] = defaultdict(list)
    try:
        tree = ast.parse(source)
        top = compile(tree, "", "exec", dont_inherit=True)
    except (
        SyntaxError,
        ValueError,
        RecursionError,
    ):  # cells of notebooks may have magic
        return {}, {}
    for code in _nested(top):
        codes[code.co_name, code.co_firstlineno].append(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            nodes[node.name, first].append(node)
        elif isinstance(node, ast.Lambda):
            nodes["<lambda>", node.lineno].append(node)
    nodes[_ASSIGNED] = list(_assignments(tree))
    return dict(codes), dict(nodes)


def _assignments(node: ast.AST) -> Iterator[ast.AST]:
    """Those of a module, not of its functions and classes."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.Assign | ast.AnnAssign | ast.AugAssign):
            yield inner
        elif not isinstance(
            inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        ):
            yield from _assignments(inner)


def _nested(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _nested(constant)


def _tree(node: object) -> str:
    """A syntax tree as text that is the same for every version of Python.

    >>> _tree(ast.parse("def f(x): 'Says.'; return (x)").body[0])
    '(FunctionDef name:f args:(arguments args:[(arg arg:x)]) body:[(Return value:(Name id:x))])'
    """
    if isinstance(node, list):
        return f"[{' '.join(_tree(item) for item in node)}]"
    if isinstance(node, ast.Constant):
        return f"(Constant {type(node.value).__name__} {_constant(node.value)})"
    if not isinstance(node, ast.AST):
        return str(node)
    parts = [type(node).__name__]
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(value, list):
            value = value[_has_docstring(node) :]  # noqa: PLW2901
        if name not in _WRITING and value is not None and value != []:
            parts.append(f"{name}:{_tree(value)}")
    return f"({' '.join(parts)})"


def _has_docstring(node: ast.AST) -> bool:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None


def bytecode_digest(code: CodeType) -> str:
    """A digest of a code object, without docstrings and positions.

    The same for processes that run the same version of Python.
    """
    return short_digest(repr(_bytecode(code)).encode())


def _bytecode(code: CodeType) -> tuple[object, ...]:
    # The first constant of a function is its docstring, if that is a text.
    start = int(bool(code.co_consts) and isinstance(code.co_consts[0], str))
    return (
        code.co_name,
        (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount),
        code.co_code,
        (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars),
        tuple(_constant(constant) for constant in code.co_consts[start:]),
    )


def _constant(value: object) -> str:
    if isinstance(value, CodeType):
        return repr(_bytecode(value))
    if isinstance(value, tuple):
        return f"({', '.join(_constant(item) for item in value)})"
    if isinstance(value, frozenset):  # its order is another in every process
        return f"{{{', '.join(sorted(_constant(item) for item in value))}}}"
    return repr(value)
