import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylatent.errors import MapError
from raylatent.mapping.sample import SAMPLE, finish, merge, sketch
from raylatent.stable_hash import tile_hash

SIZES = st.dictionaries(
    st.sampled_from(["a", "b", "slide 7", "é✓", "z"]), st.integers(1, 60), min_size=1
)


def whole(sizes, *, seed=0, limit=1000):
    parts = [
        sketch(slide, range(n), seed=seed, limit=limit) for slide, n in sizes.items()
    ]
    return merge(*parts)


def pairs(table):
    return list(
        zip(table["slide"].to_pylist(), table["tile_index"].to_pylist(), strict=True)
    )


def by_hand(sizes, n, seed=0):
    """The rule, as the module's text has it, row by row in plain Python."""
    rows = sorted(
        (int(key), slide, tile)
        for slide, size in sizes.items()
        for tile, key in enumerate(tile_hash(seed, slide, range(size)))
    )
    rank, seen = {}, {}
    for row in rows:
        rank[row] = seen[row[1]] = seen.get(row[1], -1) + 1
    orders = [sorted(rows, key=lambda row: (rank[row], row)), list(rows)]
    chosen, given_ = [], [0, 0]
    while len(chosen) < min(n, len(rows)):
        which = int(given_[0] >= len(sizes) and given_[1] < given_[0])
        row = next(row for row in orders[which] if row not in chosen)
        chosen.append(row)
        given_[which] += 1
    return [(slide, tile) for _, slide, tile in sorted(chosen)]


@given(SIZES, st.integers(1, 80), st.integers(0, 2**32 - 1))
def test_sample_is_the_rule_written_by_hand(sizes, n, seed):
    table = finish(whole(sizes, seed=seed), n)
    assert table.schema == SAMPLE
    assert pairs(table) == by_hand(sizes, n, seed)


@given(SIZES, st.integers(1, 40), st.data())
def test_partition_and_order_change_nothing(sizes, limit, data):
    rows = [(slide, tile) for slide, n in sizes.items() for tile in range(n)]
    shuffled = data.draw(st.permutations(rows))
    n_parts = data.draw(st.integers(1, 6))
    sketches = []
    for i in range(n_parts):
        part = {}
        for slide, tile in shuffled[i::n_parts]:
            part.setdefault(slide, []).append(tile)
        sketches += [sketch(s, tiles, seed=3, limit=limit) for s, tiles in part.items()]
    while len(sketches) > 1:  # a tree of merges in any order
        i = data.draw(st.integers(0, len(sketches) - 2))
        sketches[i : i + 2] = [merge(sketches[i + 1], sketches[i])]
    expected = finish(whole(sizes, seed=3), min(limit, 1000))
    assert finish(sketches[0]).equals(expected)
    assert len(sketches[0]) <= 2 * limit


@given(SIZES, st.integers(1, 200))
def test_a_larger_sample_contains_a_smaller(sizes, n):
    tiles = whole(sizes)
    assert set(pairs(finish(tiles, n))) <= set(pairs(finish(tiles, n + 1)))


@given(SIZES, st.integers(5, 200))
def test_no_slide_is_left_out_and_all_rows_are_taken_where_they_fit(sizes, n):
    table = finish(whole(sizes), n)
    assert set(table["slide"].to_pylist()) == set(sizes)
    assert table.num_rows == min(n, sum(sizes.values()))
    keys = table["key"].to_numpy()
    assert (np.diff(keys.astype(object)) >= 0).all()


def test_half_is_uniform_and_half_is_even_over_slides():
    sizes = {"large": 9000, **{f"small{i}": 40 for i in range(20)}}
    table = finish(whole(sizes, limit=1000), 1000)
    counts = {
        c["values"]: c["counts"] for c in table["slide"].value_counts().to_pylist()
    }
    # Uniform half: about 459 of 500 of the large one; even half: 24 of each slide.
    assert 440 < counts["large"] < 540
    assert min(counts[f"small{i}"] for i in range(20)) >= 23


def test_a_tile_given_twice_counts_once():
    one = sketch("a", range(10), seed=0, limit=20)
    assert finish(merge(one, one)).equals(finish(one))


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (lambda: sketch("a", [0], seed=0, limit=0), "sample of 0 rows"),
        (merge, "no sketch"),
        (
            lambda: merge(
                sketch("a", [0], seed=0, limit=5), sketch("a", [1], seed=1, limit=5)
            ),
            "seed 0, limit 5 and of seed 1",
        ),
        (lambda: finish(sketch("a", [0], seed=0, limit=5), 6), "sample of 6 rows"),
    ],
)
def test_nonsense_is_refused(action, words):
    with pytest.raises(MapError, match=words):
        action()
