"""The queue of slides' units: each once, and workers stay with their slide."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylatent.engine.cluster import SlideQueue
from raylatent.source.protocol import Source, UnitPlan
from raylatent.storage import FileStat


def plans_of(sizes):
    """Units of slides "0", "1"...: sizes[i] has the tiles of each."""
    plans = []
    for i, counts in enumerate(sizes):
        source = Source(
            source=i,
            slide=str(i),
            kind="slides",
            uri=f"/slides/{i}.svs",
            stat=FileStat(size=1, mtime_ns=1),
            n_indexed=sum(counts),
            window_px=224,
        )
        first = 0
        for unit, count in enumerate(counts):
            plans.append(UnitPlan(source=source, unit=unit, first=first, count=count))
            first += count
    return plans


def ticket_of(plan):
    return plan.source.slide, plan.unit


SIZES = st.lists(
    st.lists(st.integers(1, 40), min_size=1, max_size=5), min_size=1, max_size=5
)


@given(st.data(), SIZES)
def test_each_unit_is_given_once_whoever_asks_in_whatever_order(data, sizes):
    """Also if some ask twice with the same ticket, as Ray's retries do."""
    plans = plans_of(sizes)
    slides = sorted({plan.source.slide for plan in plans})
    copies = data.draw(st.dictionaries(st.sampled_from(slides), st.sampled_from("xyz")))
    queue = SlideQueue(plans, copies)
    n_workers = data.draw(st.integers(1, 5))
    node_of = [data.draw(st.sampled_from("xyz")) for _ in range(n_workers)]
    given = {}
    for ticket in data.draw(st.permutations([ticket_of(plan) for plan in plans])):
        if given and data.draw(st.booleans()):
            before = data.draw(st.sampled_from(sorted(given)))
            other = data.draw(st.integers(0, n_workers - 1))
            assert queue.take(before, str(other), node_of[other]) is given[before]
        worker = data.draw(st.integers(0, n_workers - 1))
        given[ticket] = queue.take(ticket, str(worker), node_of[worker])
    assert sorted(map(ticket_of, given.values())) == sorted(map(ticket_of, plans))
    with pytest.raises(ValueError, match="empty"):
        queue.take(("more", 0), "0", "x")


@given(st.data(), SIZES)
def test_a_worker_stays_with_its_slide_while_it_has_units(data, sizes):
    plans = plans_of(sizes)
    queue = SlideQueue(plans)
    left = {str(i): len(counts) for i, counts in enumerate(sizes)}
    held = {}
    units = {slide: [] for slide in left}
    for plan in plans:
        worker = data.draw(st.sampled_from("abc"))
        taken = queue.take(ticket_of(plan), worker, "node")
        slide = taken.source.slide
        if worker in held and left[held[worker]]:
            assert slide == held[worker]
        held[worker] = slide
        left[slide] -= 1
        units[slide].append(taken.unit)
    # In the order of the slide, so that neighboring regions are read one after another.
    assert all(numbers == sorted(numbers) for numbers in units.values())


def take(queue, ticket, worker, node):
    return queue.take((ticket, 0), worker, node).source.slide


def test_the_longest_slide_begins_first_and_nodes_prefer_what_nobody_holds():
    queue = SlideQueue(plans_of([[5, 5], [9, 9], [7, 7]]))
    assert take(queue, "1st", "a", "x") == "1"
    assert take(queue, "2nd", "b", "y") == "2"
    assert take(queue, "3rd", "c", "z") == "0"
    # All are held: who has none of its own helps where most is left.
    assert take(queue, "4th", "d", "w") == "1"
    assert take(queue, "5th", "e", "w") in {"0", "2"}  # 1 has no unit any more


def test_a_second_worker_helps_with_the_slide_that_its_node_holds():
    """A copy of a remote slide is made once a node."""
    queue = SlideQueue(plans_of([[9, 9, 9, 9], [30, 30]]))
    assert take(queue, "1st", "a", "x") == "1"
    assert take(queue, "2nd", "b", "y") == "0"
    assert take(queue, "3rd", "c", "y") == "0"
    assert take(queue, "4th", "d", "x") == "1"
    # Its own slide is done: it goes where its node has no copy rather than rest.
    assert take(queue, "5th", "a", "x") == "0"


def test_a_slide_begins_on_the_node_that_has_a_copy_already():
    copies = {"0": "y", "1": "x", "2": "x"}
    queue = SlideQueue(plans_of([[5], [6], [90], [4]]), copies)
    assert take(queue, "1st", "a", "y") == "0"
    assert take(queue, "2nd", "b", "x") == "2"
    assert take(queue, "3rd", "c", "x") == "1"
    assert take(queue, "4th", "d", "x") == "3"


def test_it_travels_to_an_actor():
    plans = plans_of([[1, 2]])
    assert pickle.loads(pickle.dumps(plans)) == plans  # noqa: S301  (ours)
