"""Values as texts that are the same in every process."""

import copy
import enum
import math

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raylatent.model.digests import MAX_DEPTH, Values

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(alphabet="abcdefg .-7", max_size=80),
    st.binary(max_size=8),
)
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=4),
        st.frozensets(st.integers(), max_size=4),
    ),
)


def text(value):
    return Values({}).text(value)


def typed(value):
    """Equality that tells 1 from 1.0 and from True, 0.0 from -0.0, lists from tuples."""
    if isinstance(value, list | tuple):
        return type(value), tuple(typed(item) for item in value)
    if isinstance(value, dict):
        return dict, frozenset((key, typed(item)) for key, item in value.items())
    if isinstance(value, float):
        return float, value, math.copysign(1, value)
    return type(value), value


@given(NESTED, NESTED)
def test_texts_are_equal_where_values_are(one, other):
    assert text(one) == text(copy.deepcopy(one))
    assert (text(one) == text(other)) == (typed(one) == typed(other))
    assert len(text(one)) <= 60


@given(npst.arrays(npst.scalar_dtypes(), npst.array_shapes(max_dims=2, max_side=3)))
def test_arrays(array):
    assert text(array) == text(array.copy(order="F"))
    assert text(array) != text(array.reshape(1, *array.shape))
    other = array.copy()
    flat = other.reshape(-1).view(np.uint8)
    flat[0] ^= 1
    assert text(other) != text(array)


def per_tensor(scale):
    return torch.quantize_per_tensor(torch.zeros(3), scale, 0, torch.qint8)


def per_channel(scale):
    scales, zeros = torch.ones(3) * scale, torch.zeros(3, dtype=torch.int64)
    return torch.quantize_per_channel(torch.zeros(3, 2), scales, zeros, 0, torch.qint8)


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation")
def test_tensors():
    """Each differs from each other in one thing; none holds another number than 0."""
    tensors = [
        torch.zeros(3),
        torch.zeros(3, dtype=torch.float64),
        torch.zeros(3, dtype=torch.int32),
        torch.zeros(3, 1),
        torch.zeros(3, dtype=torch.bool),
        torch.zeros(3, dtype=torch.bfloat16),
        torch.zeros(3, dtype=torch.complex64),
        torch.zeros(3).to_sparse(),
        torch.zeros(3, device="meta", dtype=torch.float16),
        -torch.zeros(3),
        torch.zeros(()),
        torch.zeros(0, 3),
        per_tensor(0.1),
        per_tensor(0.2),
        per_channel(1.0),
        per_channel(2.0),
    ]
    texts = [text(tensor) for tensor in tensors]
    assert len(set(texts)) == len(tensors)
    assert texts == [text(tensor.clone()) for tensor in tensors]
    transposed = torch.arange(6.0).reshape(2, 3).T
    assert text(transposed) == text(transposed.contiguous())


def test_what_lies_elsewhere_is_the_same():
    assert text(torch.device("cpu")) == text(torch.device("cuda:1"))
    assert text("cuda:0") == text("cpu") != text("cpus")
    of_copy = "/tmp/raylatent-ab12cd3_/a.json"  # noqa: S108
    assert text(of_copy) == Values({}, ["/models/one"]).text("/models/one/a.json")


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Odd:
    """A `__getattr__` that answers anything."""

    def __getattr__(self, name):
        return 7


def test_objects():
    assert text(Color.RED) != text(Color.BLUE)
    assert text(object()) == text(object())
    assert text(Odd()) == text(Odd())
    cycle: list = [1]
    cycle.append(cycle)
    again: list = [1]
    again.append(again)
    assert text(cycle) == text(again)


def test_what_lies_too_deep_is_not_seen():
    def nested(leaf, depth):
        return leaf if depth == 0 else [nested(leaf, depth - 1)]

    assert text(nested(1, MAX_DEPTH)) != text(nested(2, MAX_DEPTH))
    deep = MAX_DEPTH + 1
    assert text(nested([1], deep)) == text(nested([2], deep))


def test_paths_are_taken_as_seen_from_the_folders_of_the_code():
    def seen(value, folder):
        return Values({}, [folder]).text(value)

    here, there = "/home/one/lab/nets", "/data/two/lab/nets"
    for inside in ("", "/a.json", "/b/c"):
        assert seen(here + inside, here) == seen(there + inside, there)
    assert seen("/home/one/lab", here) == seen("/data/two/lab", there)
    assert seen("/home/one/lab", here) != seen("/home/one", here)
    assert seen("/home/one/other", here) != seen("/data/two/other", there)
