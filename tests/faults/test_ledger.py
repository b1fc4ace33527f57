"""The audit itself sees what is lost, doubled and different."""

import numpy as np
import pyarrow as pa
import pytest

from raylatent import schema
from tests.faults.ledger import Audit, compare


def rows(indices, value=0.0):
    n = len(indices)
    vectors = np.full((n, 2), value, np.float32)
    return pa.table(
        {
            schema.TILE_INDEX: pa.array(indices, pa.int64()),
            "layer": pa.FixedSizeListArray.from_arrays(
                pa.array(vectors.reshape(-1)), 2
            ),
        }
    )


WANT = {"a": (rows([0, 1, 2]), rows([3])), "b": (rows([0]), None)}


@pytest.mark.parametrize(
    ("found", "audit"),
    [
        (WANT, Audit(5, 0, 0, 0)),
        ({"a": WANT["a"]}, Audit(5, 1, 0, 0)),
        ({**WANT, "b": (rows([0, 0]), None)}, Audit(5, 0, 1, 0)),
        ({**WANT, "b": (rows([0]), rows([0]))}, Audit(5, 0, 1, 1)),
        ({**WANT, "b": (rows([0], value=-0.0), None)}, Audit(5, 0, 0, 1)),
        ({**WANT, "b": (None, rows([0]))}, Audit(5, 0, 0, 1)),
        ({**WANT, "c": (rows([0]), None)}, Audit(5, 0, 1, 0)),
    ],
)
def test_what_differs_is_counted(found, audit):
    assert compare(found, WANT) == audit
