"""What a function does, as a digest: its syntax tree, without what changes nothing."""

import ast
import hashlib
import linecache
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

_SHORT = 8  # bytes of a digest
# Parts of a syntax tree that say how it was written, not what it does.
_WRITING = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
_Key = tuple[str, int]
_Parsed = tuple[dict[_Key, list[CodeType]], dict[_Key, list[ast.AST]]]


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


def _of_source(code: CodeType) -> str | None:
    if Path(
        code.co_filename
    ).exists():  # else a notebook's cell, or a copy that is gone
        linecache.checkcache(code.co_filename)
    lines = linecache.getlines(code.co_filename)
    if not lines:
        return None
    known = _files.get(code.co_filename)
    if known is None or known[0] is not lines:
        known = _files[code.co_filename] = (lines, _parsed("".join(lines)))
    codes, nodes = known[1]
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
    return dict(codes), dict(nodes)


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
