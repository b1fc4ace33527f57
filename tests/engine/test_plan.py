"""What a plan without work says."""

import pytest

from raylatent.engine.plan import Plan, refuse_nothing
from raylatent.errors import IncompleteError
from raylatent.source.protocol import Source
from raylatent.storage import NOT_SEEN


def plan_of(*errors):
    sources = [
        Source(
            source=i,
            slide=f"s{i}",
            kind="slides",
            uri=f"s{i}.svs",
            stat=NOT_SEEN,
            n_indexed=0,
            error=error,
        )
        for i, error in enumerate(errors)
    ]
    return Plan(sources=sources, units=[], n_done=0, removed=[])


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ([None, None], "no slide has any$"),
        (
            ["slide s0 is torn", "slide s1 is empty"],
            "slide s0 is torn; slide s1 is empty$",
        ),
        (
            [f"slide s{i} is torn" for i in range(7)],
            "s4 is torn; and 2 more slides, see",
        ),
    ],
)
def test_without_a_tile_the_first_slides_are_named_with_what_is_wrong(errors, said):
    with pytest.raises(IncompleteError, match=said):
        refuse_nothing(plan_of(*errors))
