import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylatent.mapping import place

LANES = 32


def power(base, exponent):
    found = np.empty(len(base))
    place.powers(base, exponent, found, np.empty((3, len(base))))
    return found


@given(
    st.lists(st.floats(1e-200, 1e200), min_size=1, max_size=40), st.floats(0.05, 1.4)
)
def test_powers_are_those_of_the_system(base, exponent):
    base = np.array(base)
    np.testing.assert_allclose(power(base, exponent), base**exponent, rtol=1e-12)


def test_powers_of_one_and_two_are_whole():
    assert power(np.ones(3), 0.9).tolist() == [1.0, 1.0, 1.0]
    assert power(np.full(3, 16.0), 0.5).tolist() == [4.0, 4.0, 4.0]


def test_a_power_of_zero_is_nothing():
    assert (power(np.zeros(5), 0.9) < 1e-200).all()


def layout(xy, **values):
    usual = {
        "stream": np.array([10_007, 20_011, 30_011], dtype=np.int64),
        "a": 1.577,
        "b": 0.895,
        "learning_rate": 0.25,
        "repulsion": 1.0,
        "negative_rate": 5.0,
        "epochs": 30,
        "local_connectivity": 0.0,
        "mean_distance": 0.1,
        "halved": True,
        "n_neighbors": 5,
    }
    return place.Layout(xy=xy, **{**usual, **values})


def plain_loop(start, index, weights, about, drawn):
    """One row's descent, written out."""
    x, y = start
    periods = [1 / w if w * about.epochs >= 1 else np.inf for w in weights]
    visit, used, rate = list(periods), 0, about.learning_rate
    pauses = [p / about.negative_rate if about.negative_rate else 0 for p in periods]
    repel = list(pauses)

    def step(other, towards):
        nonlocal x, y
        dx, dy = x - about.xy[other, 0], y - about.xy[other, 1]
        square = dx * dx + dy * dy
        if square <= 0:
            return
        curve = about.a * square**about.b + 1
        if towards:
            force = -2 * about.a * about.b * square ** (about.b - 1) / curve
        else:
            force = 2 * about.repulsion * about.b / ((0.001 + square) * curve)
        x += np.clip(force * dx, -4, 4) * rate
        y += np.clip(force * dy, -4, 4) * rate

    for epoch in range(about.epochs):
        for j, other in enumerate(index):
            if visit[j] > epoch:
                continue
            visit[j] += periods[j]
            step(other, towards=True)
            if about.negative_rate:
                draws = int((epoch - repel[j]) / pauses[j])
                for _ in range(draws):
                    step(drawn[used], towards=False)
                    used += 1
                repel[j] += draws * pauses[j]
        rate = about.learning_rate * (1 - epoch / about.epochs)
    return x, y


@pytest.mark.parametrize("count", [1, LANES, LANES + 3])
@pytest.mark.parametrize("negative_rate", [0.0, 2.5, 5.0])
def test_a_descent_is_that_of_a_plain_loop(count, negative_rate):
    rng = np.random.default_rng(count)
    about = layout(rng.normal(size=(80, 2)) * 5, negative_rate=negative_rate, epochs=12)
    index = np.stack([rng.choice(80, 5, replace=False) for _ in range(count)])
    weights = rng.random((count, 5))
    weights[0] = 0.0  # takes no step
    start = about.xy[index[:, 0]].copy()  # on a neighbor: no direction
    start[1:] += rng.normal(size=(count - 1, 2)) * 0.1
    drawn = place.drawn_rows(about)
    found = start.copy()
    place.descend(found, index, weights, about, drawn)
    expected = [
        plain_loop(row, others, own, about, drawn)
        for row, others, own in zip(start, index, weights, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert found[0].tolist() == start[0].tolist()
    if count > 1:
        assert (found[1:] != start[1:]).any()


def test_rows_in_other_lanes_change_nothing():
    rng = np.random.default_rng(0)
    about = layout(rng.normal(size=(80, 2)) * 5)
    index = np.stack([rng.choice(80, 5, replace=False) for _ in range(70)])
    weights = rng.random((70, 5))
    start = rng.normal(size=(70, 2))
    drawn = place.drawn_rows(about)
    together = start.copy()
    place.descend(together, index, weights, about, drawn)
    for i in range(70):
        alone = start[i : i + 1].copy()
        place.descend(alone, index[i : i + 1], weights[i : i + 1], about, drawn)
        assert alone.tobytes() == together[i : i + 1].tobytes()
