"""What is said before a map is fitted."""

import logging

import numpy as np
import pytest

from raylatent.engine.map_building import say_fit
from raylatent.mapping.parameters import MapParameters


@pytest.mark.parametrize(
    ("changed", "said"), [(0.0, ["the same in all 30 sampled rows"]), (1e-3, [])]
)
def test_rows_that_are_all_the_same_are_said(caplog, changed, said):
    features = np.full((30, 4), 0.25, np.float32)
    features[-1, -1] += changed
    with caplog.at_level(logging.WARNING):
        say_fit(features, "postconv", MapParameters(n_neighbors=29))
    assert len(caplog.messages) == len(said)
    for message, words in zip(caplog.messages, said, strict=True):
        assert message.startswith("layer 'postconv' is")
        assert words in message


def test_more_neighbors_than_there_are_is_said(caplog):
    features = np.arange(90, dtype=np.float32).reshape(30, 3)
    with caplog.at_level(logging.WARNING):
        say_fit(features, "postconv", MapParameters(n_neighbors=29))
        say_fit(features, "postconv", MapParameters(n_neighbors=30))
    (said,) = caplog.messages
    assert said.startswith("n_neighbors is 30, of 30 sampled rows it can be 29")
