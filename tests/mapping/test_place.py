"""Places of rows, and the descent to them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylatent.mapping import neighbors, place, sample_index
from raylatent.mapping.fit import projected_sample
from raylatent.mapping.fitted_map import normalize

LANES = 32


def split(fitted, rows, size):
    placed = [fitted.place(rows[i : i + size]) for i in range(0, len(rows), size)]
    return [np.concatenate(values) for values in zip(*placed, strict=True)]


def same_bits(left, right):
    return all(a.tobytes() == b.tobytes() for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("size", [1, 7, 333, 1000])
def test_no_bit_depends_on_the_batch(fitted, new_rows, size):
    together = fitted.place(new_rows[0])
    assert same_bits(split(fitted, new_rows[0], size), together)


@given(st.randoms(use_true_random=False), st.integers(1, 60))
@settings(max_examples=20)
def test_no_bit_depends_on_the_order(fitted, new_rows, random, n):
    rows = new_rows[0][:60]
    order = random.sample(range(60), n)
    xy, distance = fitted.place(rows)
    assert same_bits(fitted.place(rows[order]), (xy[order], distance[order]))


def test_threads_change_nothing(fitted, new_rows):
    from concurrent.futures import ThreadPoolExecutor

    rows = new_rows[0]
    with ThreadPoolExecutor(4) as pool:
        placed = list(pool.map(fitted.place, np.array_split(rows, 9)))
    joined = [np.concatenate(values) for values in zip(*placed, strict=True)]
    assert same_bits(joined, fitted.place(rows))


def test_sample_rows_keep_their_places(fitted, fit_rows):
    xy, distance = fitted.place(fit_rows[0])
    np.testing.assert_array_equal(xy, fitted.embedding)
    assert not distance.any()


def test_equal_sample_rows_send_a_row_to_the_first(blobs):
    from raylatent.mapping.fit import fit_map
    from raylatent.mapping.umap_learn import MapParameters

    rows = blobs(40)[0]
    rows[[9, 21, 33]] = rows[4]
    fitted = fit_map(rows, MapParameters(n_neighbors=5))
    xy, distance = fitted.place(rows)
    for i in (4, 9, 21, 33):
        np.testing.assert_array_equal(xy[i], fitted.embedding[4])
    assert not distance.any()


def small_sample(n=300, d=90, seed=0):
    rng = np.random.default_rng(seed)
    rows = normalize(rng.normal(size=(n, d)) * np.linspace(3, 0.2, d), "cosine")
    return projected_sample(rows)


@pytest.mark.parametrize("own", [False, True])
def test_neighbors_and_the_nearest_in_all_features_are_exact(own):
    projection, sample = small_sample()
    rng = np.random.default_rng(5)
    if own:
        rows, passed = sample.rows[:50], np.arange(50)
    else:
        rows = normalize(rng.normal(size=(50, 90)), "cosine")
        passed = np.full(50, -1)
    screened = sample_index.screen_of(sample, projection)
    index, square, whole, equal = neighbors.nearest(
        rows, passed, projection, sample, screened, 12
    )
    reduced = sample_index.project(rows, projection)[0]
    squares = ((reduced[:, None] - sample.reduced.T[None]) ** 2).sum(axis=2)
    full = rows[:, None].astype(np.float64) - sample.rows[None]
    full = (full**2).sum(axis=2)
    if own:
        squares[np.arange(50), np.arange(50)] = np.inf
        full[np.arange(50), np.arange(50)] = np.inf
    np.testing.assert_array_equal(index, np.argsort(squares, axis=1)[:, :12])
    np.testing.assert_allclose(square, np.sort(squares, axis=1)[:, :12], rtol=1e-9)
    np.testing.assert_allclose(whole, full.min(axis=1), rtol=1e-9)
    assert (equal == -1).all()


def test_ties_go_to_the_lower_index():
    rows = np.repeat(np.eye(4, dtype=np.float32), 3, axis=0)
    projection, sample = projected_sample(rows)
    screened = sample_index.screen_of(sample, projection)
    passed = np.full(12, -1)
    index, _, _, equal = neighbors.nearest(
        rows, passed, projection, sample, screened, 3
    )
    first = np.arange(12) // 3 * 3
    np.testing.assert_array_equal(index, first[:, None] + np.arange(3))
    np.testing.assert_array_equal(equal, first)


@pytest.mark.parametrize("local_connectivity", [0.0, 1.0, 1.5])
def test_weights_are_umap_learns(local_connectivity):
    from umap.umap_ import compute_membership_strengths, smooth_knn_dist

    rng = np.random.default_rng(0)
    distance = np.sort(rng.random((200, 15)), axis=1).astype(np.float32)
    distance[:20, 0] = 0.0
    distance[20:30, :4] = distance[20:30, 4:5]
    sigma, rho = smooth_knn_dist(distance, 15.0, local_connectivity=local_connectivity)
    index = np.tile(np.arange(15, dtype=np.int32), (200, 1))
    expected = compute_membership_strengths(
        index, distance, sigma, rho, bipartite=True
    )[2].reshape(200, 15)
    mean = float(distance.mean())
    found = [
        place.weights_of(row.astype(np.float64), local_connectivity, mean)
        for row in distance
    ]
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_descent_is_umap_learns_from_the_same_start():
    """Our float64 against umap-learn's float32 with fast-math, the stream alike.

    From one start and with one random stream at least 99 % of rows end within 1e-3.
    """
    from umap.layouts import optimize_layout_euclidean

    rng = np.random.default_rng(0)
    n, k, epochs = 500, 15, 30
    xy = rng.normal(size=(n, 2)).astype(np.float32) * 6
    stream = np.array([10_007, 20_011, 30_011], dtype=np.int64)
    layout = place.Layout(
        xy.astype(np.float64), stream, 1.577, 0.895, 0.25, 1.0, 5.0, epochs, 0.0, 0.1,
        True, k,
    )  # fmt: skip
    index = np.stack([rng.choice(n, k, replace=False) for _ in range(200)])
    weights = np.sort(rng.random((200, k)), axis=1)[:, ::-1].copy()
    weights[:, 0] = 1.0
    weights[:, -1] = 0.01  # less than 1 / epochs: never visited
    start = (xy[index[:, 0]] + rng.normal(size=(200, 2))).astype(np.float32)
    shift = np.empty(200)
    found = start.astype(np.float64)
    place.descend(found, index, weights, layout, place.drawn_rows(layout))
    for i in range(200):
        kept = weights[i] >= 1 / epochs
        bits = start[i, :1].astype(np.float64).view(np.int64)
        expected = optimize_layout_euclidean(
            start[i : i + 1].copy(), xy.copy(), np.zeros(kept.sum(), np.int32),
            index[i][kept].astype(np.int32), epochs, n, 1.0 / weights[i][kept],
            1.577, 0.895, stream - bits, 1.0, 0.25, 5,
        )  # fmt: skip
        shift[i] = np.abs(expected[0] - found[i]).max()
    assert (shift < 1e-3).mean() >= 0.99


def test_rows_without_weight_start_at_the_nearest():
    xy = np.array([[1.0, 2.0], [3.0, 4.0]])
    index = np.array([1, 0])
    assert place.start_of(index, np.zeros(2), xy) == (3.0, 4.0)
    assert place.start_of(index, np.array([0.5, 0.5]), xy) == (2.0, 3.0)
    assert place.start_of(index, np.array([0.5, 1.0]), xy) == (1.0, 2.0)


@pytest.mark.slow
def test_placed_as_trustworthily_as_by_umap_learn(fitted, fit_rows, new_rows):
    import warnings

    import umap

    from raylatent.mapping.statistics import quality

    rows = new_rows[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = umap.UMAP(
            n_neighbors=15, metric="cosine", random_state=42, n_epochs=90
        ).fit(fit_rows[0])
        theirs = model.transform(rows)
    unit, sample = (normalize(r, "cosine") for r in (rows, fit_rows[0]))
    ours = quality(
        unit, fitted.place(rows)[0], sample, fitted.embedding
    ).trustworthiness
    reference = quality(unit, theirs, sample, model.embedding_).trustworthiness
    assert ours > reference - 0.01
    assert ours > 0.9


def test_unlike_rows_are_told_by_their_distance(fitted, new_rows):
    rng = np.random.default_rng(0)
    usual = fitted.place(new_rows[0])[1]
    strange = fitted.place(rng.random((50, 90)) ** 8)[1]
    assert (usual > fitted.knn_threshold).mean() < 0.05
    assert (strange > fitted.knn_threshold).all()


def test_novelty_outside_the_components_counts():
    """Rows that differ only where the sample does not vary are far, not near."""
    from raylatent.mapping.fit import fit_map
    from raylatent.mapping.umap_learn import MapParameters

    rng = np.random.default_rng(0)
    rows = np.zeros((60, 8), np.float32)
    rows[:, :3] = rng.normal(size=(60, 3))
    fitted = fit_map(rows, MapParameters(n_neighbors=5, metric="euclidean"))
    moved = rows.copy()
    moved[:, 7] = 100.0
    assert (fitted.place(moved)[1] >= 100.0).all()


@pytest.mark.slow
def test_a_large_sample_of_equal_rows_is_looked_at_by_few():
    """Where all are as near, all are candidates: their number is bounded."""
    from raylatent.mapping import neighbors as module

    n = module._MOST_FOUND // 20
    rows = np.zeros((n, 1), np.float32)
    projection = sample_index.Projection(np.zeros(1), np.ones((1, 1)), np.zeros(1))
    sample = sample_index.Sample(rows, np.zeros((1, n)), np.zeros(n), np.zeros(n))
    screened = sample_index.screen_of(sample, projection)
    index, square, _, equal = neighbors.nearest(
        np.zeros((40, 1), np.float32), np.full(40, -1), projection, sample, screened, 3
    )
    np.testing.assert_array_equal(index, np.tile([0, 1, 2], (40, 1)))
    assert not square.any()
    assert not equal.any()


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
