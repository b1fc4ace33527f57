"""Scripts of an explorer: what the page will read out of them is what was put in."""

import base64
import gzip
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylatent.errors import MapError
from raylatent.explorer.scripts import TYPES, as_json, block_script, meta_script


def read_block(script):
    """Name and columns of a block, as the page reads them."""
    name, about, text = re.fullmatch(
        r'raylatent\.block\((".*?"),(\{.*?\}),"([A-Za-z0-9+/=]*)"\);\n', script.decode()
    ).groups()
    raw, at, columns = gzip.decompress(base64.b64decode(text)), 0, {}
    about = json.loads(about)
    for column, kind in about["columns"]:
        dtype = np.dtype(TYPES[kind])
        size = about["n"] * dtype.itemsize
        planes = np.frombuffer(raw[at : at + size], np.uint8)
        planes = planes.reshape(dtype.itemsize, about["n"])
        columns[column] = np.ascontiguousarray(planes.T).view(dtype).reshape(-1)
        at += size
    assert at == len(raw)
    return json.loads(name), columns


@given(
    st.lists(st.integers(0, 2**32 - 1), min_size=1),
    st.sampled_from(sorted(TYPES)),
    st.text(),
)
def test_columns_come_back(values, kind, name):
    array = np.array(values, np.uint32).astype(np.dtype(TYPES[kind]))
    other = np.arange(len(values)).astype("<f4")
    script = block_script(name, {"a b": (kind, array), "f": ("f4", other)})
    found, columns = read_block(script)
    assert found == name
    np.testing.assert_array_equal(columns["a b"], array)
    np.testing.assert_array_equal(columns["f"], other)


def test_a_block_is_the_same_bytes_each_time():
    columns = {"n": ("u4", np.arange(1000))}
    assert block_script("x", columns) == block_script("x", columns)


@pytest.mark.parametrize(
    "text", ["</script>", "<!--", "a'b<script>\"&=%20 ü", "\u2028"]
)
def test_no_text_ends_a_script(text):
    script = meta_script({"name": text})
    assert script.isascii()
    assert b"<" not in script
    assert json.loads(as_json(text)) == text


def test_numbers_that_are_none_are_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        meta_script({"n": float("nan")})


@pytest.mark.parametrize(("kind", "value"), [("u1", 256), ("u4", 2**32), ("u2", -1)])
def test_numbers_that_do_not_fit_are_refused(kind, value):
    with pytest.raises(MapError, match=f"all numbers of n .*as {kind}"):
        block_script("a", {"n": (kind, np.array([0, value]))})
