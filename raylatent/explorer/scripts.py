"""Data as scripts: a page that is opened from a disk can load nothing else.

`raylatent.meta({...})` tells the page what there is; `raylatent.block(name, {...},
"...")` has columns of numbers: base64 of gzip of one column after another, each of them
with all first bytes of its values first, then all second ones, and so on (little
endian), which shrinks to less.
"""

import base64
import gzip
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylatent.errors import MapError

TYPES = {"u1": "<u1", "u2": "<u2", "u4": "<u4", "i4": "<i4", "f4": "<f4"}
NO_U1, NO_U2, NO_U4, NO_I4 = 255, 0xFFFF, 0xFFFFFFFF, -(1 << 31)
NULLS = {"u1": NO_U1, "u2": NO_U2, "u4": NO_U4, "i4": NO_I4}
"""What stands for null in columns of these types; in f4 it is NaN."""
MOST_CLASSES = 64
"""Whose predictions a page has; see `pyramid.with_few_classes`."""
_LEVEL = 6  # of gzip

Column = tuple[str, NDArray[Any]]
"""The type and the values (n,)."""
Columns = Mapping[str, Column]


def meta_script(values: Mapping[str, Any]) -> bytes:
    """The script that tells the page what there is."""
    return f"raylatent.meta({as_json(values)});\n".encode()


def block_script(name: str, columns: Columns) -> bytes:
    """The script of some rows, by the name by which the page asks for it.

    Raises:
        MapError: A number does not fit its type.

    >>> block_script("a", {"n": ("u1", np.arange(2))})[:52]
    b'raylatent.block("a",{"n":2,"columns":[["n","u1"]]},"'
    """
    arrays = []
    for column, (kind, values) in columns.items():
        arrays.append(np.ascontiguousarray(values, TYPES[kind]))
        if kind != "f4" and not np.array_equal(arrays[-1], values):
            message = f"a page cannot hold all numbers of {column} ({name}): as {kind}"
            raise MapError(message)
    packed = gzip.compress(b"".join(map(shuffled, arrays)), _LEVEL, mtime=0)
    kinds = [[column, kind] for column, (kind, _) in columns.items()]
    about = {"n": len(arrays[0]), "columns": kinds}
    text = base64.b64encode(packed).decode()
    return f'raylatent.block({as_json(name)},{as_json(about)},"{text}");\n'.encode()


def shuffled(array: NDArray[Any]) -> bytes:
    r"""The bytes of an array (n,): all first ones of its values, then all second ones.

    >>> shuffled(np.array([1, 258], "<u2"))
    b'\x01\x02\x00\x01'
    """
    return array.view(np.uint8).reshape(len(array), array.itemsize).T.tobytes()


def as_json(value: object) -> str:
    r"""JSON that may stand in a script, in a page, as it is; NaN is refused.

    >>> as_json("</script>")
    '"\\u003c/script>"'
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")
