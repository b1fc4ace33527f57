"""Fitting maps: components, frames, samples of all kinds."""

import json
import pickle
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cdist

from raylatent.errors import MapError
from raylatent.mapping.fit import fit_map, principal_components
from raylatent.mapping.fitted_map import fit_frame, normalize
from raylatent.mapping.umap_learn import MapParameters
from raylatent.storage import Store
from raylatent.stored.maps import load_map, save_map

ROWS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 20), st.integers(1, 12)),
    elements=st.floats(-1e6, 1e6, width=32),
)


def test_fit_repeats_whatever_the_blas_threads(fitted, fit_rows):
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        again = fit_map(fit_rows[0], fitted.parameters)
    assert again.info == fitted.info
    for name, values in fitted.arrays.items():
        assert values.tobytes() == again.arrays[name].tobytes()


@pytest.mark.slow
def test_classes_are_apart_on_the_map(fitted, fit_rows, new_rows):
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(5).fit(fitted.embedding, fit_rows[1])
    assert model.score(fitted.place(new_rows[0])[0], new_rows[1]) > 0.95


def test_map_json_says_what_was_done(fitted):
    info = json.loads(json.dumps(fitted.info))
    assert info["format_version"] == 1
    assert info["versions"]["umap-learn"]
    assert info["parameters"]["n_neighbors"] == 15
    assert info["sample"]["rows"] == 400
    assert info["placement"]["engine"] == "raylatent-rows"
    assert info["placement"]["epochs"] == 30
    assert info["placement"]["fit_epochs"] == 500
    assert info["placement"]["a"] == pytest.approx(1.577, abs=1e-3)
    assert 0 < info["knn"]["threshold"] < 1
    scaled = fitted.frame.apply(fitted.embedding)
    assert scaled.min() >= 0
    assert scaled.max() <= 1


def test_a_map_travels_to_workers(fitted, new_rows):
    copy = pickle.loads(pickle.dumps(fitted))  # noqa: S301  (as Ray does)
    np.testing.assert_array_equal(
        copy.place(new_rows[0][:9])[0], fitted.place(new_rows[0][:9])[0]
    )


@pytest.mark.parametrize(
    ("metric", "n"),
    [
        *product(["cosine", "euclidean", "correlation"], [1, 2, 3, 5, 9]),
        *product(["manhattan"], [1, 2, 3, 5]),  # of more umap-learn's own engine
    ],
)
def test_few_rows_work(n, metric, blobs):
    rows = blobs(n)[0]
    fitted = fit_map(rows, MapParameters(metric=metric))
    xy, distance = fitted.place(rows)
    np.testing.assert_array_equal(xy, fitted.embedding)
    assert not distance.any()
    more, away = fitted.place(blobs(7, seed=3)[0])
    assert np.isfinite(more).all()
    assert (away > 0).all()
    assert fitted.info["placement"]["n_neighbors"] == max(1, n - 1)


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "manhattan"])
@pytest.mark.filterwarnings("ignore")
def test_a_row_of_the_sample_is_as_novel_as_without_itself(metric, blobs):
    """Whatever the order of rows; one that is twice in the sample is not novel."""
    rows = blobs(80)[0].astype(np.float32)
    rows[7] = rows[3]
    keys = np.arange(10, 90, dtype=np.uint64)
    fitted = fit_map(rows, MapParameters(metric=metric), keys)
    whole = cdist(
        rows.astype(np.float64), rows, {"manhattan": "cityblock"}.get(metric, metric)
    )
    np.fill_diagonal(whole, np.inf)
    order = np.random.default_rng(0).permutation(80)
    places, distance = fitted.place(rows[order], keys[order])
    np.testing.assert_allclose(distance, whole.min(axis=1)[order], atol=2e-5)
    assert distance[order == 3] == distance[order == 7] == 0
    plain, without = fitted.place(rows[order])
    np.testing.assert_array_equal(places, plain)
    assert not without.any()
    # Another tile with the same activations is as novel as they are: not at all.
    assert fitted.place(rows[:1], np.array([1], np.uint64))[1] == 0


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "correlation"])
def test_equal_rows_share_a_place(metric):
    rows = np.full((30, 4), 2.0, np.float32)
    fitted = fit_map(rows, MapParameters(metric=metric))
    assert len(np.unique(fitted.embedding, axis=0)) == 1
    xy, distance = fitted.place(np.array([[2.0, 2, 2, 2], [-2, 1, 0, 1e30]]))
    np.testing.assert_array_equal(xy[0], fitted.embedding[0])
    assert np.isfinite(xy).all()
    assert distance[0] == 0
    assert distance[1] > 0


def test_islands_that_do_not_connect_work():
    rng = np.random.default_rng(0)
    islands = np.repeat(np.eye(3) * 1e4, 20, axis=0) + rng.normal(size=(60, 3))
    fitted = fit_map(islands, MapParameters(n_neighbors=5, metric="euclidean"))
    assert np.isfinite(fitted.embedding).all()


@pytest.mark.slow
def test_other_metrics_are_placed_by_umap_learn(tmp_path, manhattan, new_rows):
    import umap

    rows, _ = new_rows
    assert manhattan.info["placement"]["engine"] == "umap-learn"
    store = Store(str(tmp_path))
    save_map(store, manhattan)
    xy, distance = load_map(store).place(rows)
    for size in (7, 333):
        parts = [manhattan.place(rows[i : i + size])[0] for i in range(0, 999, size)]
        shift = np.abs(np.concatenate(parts) - xy).max(axis=1)
        assert (shift == 0).mean() > 0.99
    sample = manhattan.arrays["rows"]
    away = np.abs(rows[:20, None].astype(float) - sample[None]).sum(axis=2).min(axis=1)
    np.testing.assert_allclose(distance[:20], away, rtol=1e-5)
    placed, zero = manhattan.place(sample)
    np.testing.assert_array_equal(placed, manhattan.embedding)
    assert not zero.any()

    # The estimator made anew transforms as the one that was fitted.
    model = umap.UMAP(
        n_neighbors=15, metric="manhattan", n_epochs=500, random_state=42,
        transform_seed=42, n_jobs=1,
    ).fit(sample)  # fmt: skip
    np.testing.assert_array_equal(model.embedding_, manhattan.embedding)
    model.n_epochs = 90
    theirs = model.transform(np.concatenate([sample[:1], rows]))[1:]
    np.testing.assert_array_equal(theirs, xy)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"n_components": 3}, "n_components=3 is refused"),
        ({"densmap": True}, "densmap=True is refused"),
        ({"target_metric": "l2"}, "target_metric='l2' is refused"),
        ({"target_weight": 0.1}, "target_weight=0.1 is refused"),
        ({"output_metric": "haversine"}, "output_metric='haversine' is refused"),
        ({"n_neighbours": 3}, "'n_neighbours' is no UMAP argument"),
        ({"metric": "precomputed"}, "metric='precomputed' is not one of"),
        ({"n_neighbors": 1}, "n_neighbors=1 is out of range"),
        ({"n_neighbors": 2.5}, "n_neighbors=2.5 is not a whole number"),
        ({"min_dist": 1.5}, "min_dist=1.5 is out of range"),
        ({"min_dist": "x"}, "min_dist='x' is not a number"),
        ({"spread": -1.0}, "spread=-1.0 is out of range"),
        ({"init": "magic"}, "init='magic' is not one of"),
        ({"n_epochs": 0}, "n_epochs=0 is out of range"),
        ({"sample": 0}, "sample=0 is out of range"),
        ({"seed": -1}, "seed=-1 is out of range"),
        ({"learning_rate": float("nan")}, "learning_rate=nan is out of range"),
    ],
)
def test_arguments_are_refused_by_name(keywords, words):
    with pytest.raises(MapError, match=words):
        MapParameters.of(**keywords)


def test_arguments_of_umap_learn_are_taken():
    params = MapParameters.of(
        n_components=2, densmap=False, random_state=np.int64(7), verbose=True,
        n_neighbors=np.int32(9), min_dist=0.5, spread=2.0, metric="l2", init="pca",
    )  # fmt: skip
    assert params == MapParameters(
        n_neighbors=9, min_dist=0.5, seed=7, metric="euclidean",
        other=(("init", "pca"), ("spread", 2.0)),
    )  # fmt: skip
    assert MapParameters.from_json(json.loads(json.dumps(params.as_json()))) == params


def test_rows_that_do_not_fit_are_refused(fitted):
    with pytest.raises(MapError, match="89 features do not fit a map of 90"):
        fitted.place(np.zeros((2, 89)))
    with pytest.raises(MapError, match="row 1 are not finite"):
        fitted.place(np.array([[0.0] * 90, [np.inf] * 90]))
    with pytest.raises(MapError, match="there are 0"):
        fit_map(np.zeros((0, 3)), MapParameters())
    assert fitted.place(np.zeros((0, 90)))[0].shape == (0, 2)


def test_a_sample_too_large_is_cut_and_told(monkeypatch, blobs):
    from raylatent.mapping import fit

    monkeypatch.setattr(fit, "MAX_SAMPLE_BYTES", 4 * 90 * 5)
    assert fit_map(blobs(9)[0], MapParameters()).info["sample"] == {
        "rows": 5, "rows_given": 9, "seed": 42,
    }  # fmt: skip


@pytest.mark.slow
def test_a_metric_that_gives_nan_is_refused(monkeypatch):
    rows = np.random.default_rng(0).random((40, 8), np.float32)
    # umap-learn's mahalanobis takes what is in memory for the covariance.
    with pytest.raises(MapError, match="metric='mahalanobis'"):
        fit_map(rows, MapParameters(metric="mahalanobis"))
    monkeypatch.setattr(
        "raylatent.mapping.fit.metric_distances",
        lambda _model, some, others: np.full((len(some), len(others)), np.nan),
    )
    with pytest.raises(MapError, match=r"metric='chebyshev' gives dist.* 40 rows"):
        fit_map(rows, MapParameters(metric="chebyshev", n_neighbors=5))


def test_nan_is_no_argument_of_a_metric():
    with pytest.raises(MapError, match="metric_kwds"):
        MapParameters.of(metric="minkowski", metric_kwds={"p": float("nan")})


@pytest.mark.slow
def test_umap_learns_own_transform_is_an_option(fit_rows, new_rows):
    params = MapParameters.of(n_neighbors=15, placement="umap-learn")
    fitted = fit_map(fit_rows[0], params)
    assert fitted.info["placement"]["engine"] == "umap-learn"
    assert fitted.info["placement"]["metric"] == "cosine"
    assert fitted.info["parameters"]["placement"] == "umap-learn"
    xy, distance = fitted.place(fit_rows[0][:20])
    np.testing.assert_array_equal(xy, fitted.embedding[:20])
    assert not distance.any()
    assert (fitted.place(new_rows[0][:20])[1] > 0).all()


def test_a_sample_in_many_parts_gives_the_same_map_again():
    """The start of parts that no neighbor connects takes ARPACK several tries."""
    random = np.random.default_rng(0)
    centers = np.repeat(100 * random.normal(size=(7, 8)), 40, axis=0)
    rows = (centers + random.normal(size=centers.shape)).astype(np.float32)
    params = MapParameters(n_neighbors=10, metric="euclidean")
    first, again = (fit_map(rows, params).arrays["embedding"] for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_other_placements_are_refused():
    with pytest.raises(MapError, match="placement='rowwise' is not rows or umap-learn"):
        MapParameters(placement="rowwise")


@given(ROWS, st.sampled_from(["euclidean", "cosine", "correlation"]))
def test_a_row_is_normalized_by_itself(rows, metric):
    together = normalize(rows, metric)
    alone = np.concatenate([normalize(row[None], metric) for row in rows])
    assert together.tobytes() == alone.tobytes()
    assert np.isfinite(together).all()
    length = np.linalg.norm(together.astype(np.float64), axis=1)
    if metric != "euclidean":
        assert (np.isclose(length, 1, atol=1e-6) | (length == 0)).all()


def test_half_the_square_is_the_metric():
    from scipy.spatial.distance import pdist

    rows = np.random.default_rng(0).normal(size=(30, 17)) + 3
    for metric in ("cosine", "correlation"):
        squares = pdist(normalize(rows, metric).astype(np.float64), "sqeuclidean")
        np.testing.assert_allclose(squares / 2, pdist(rows, metric), atol=1e-6)


def test_constant_and_zero_rows_stay_finite():
    rows = np.array([[0.0, 0, 0], [7, 7, 7], [0.1, 0.1, 0.1]], np.float32)
    assert not normalize(rows, "correlation").any()
    assert not normalize(rows, "cosine")[0].any()
    huge = np.array([[3e38, 3e38]], np.float32)
    np.testing.assert_allclose(normalize(huge, "cosine"), [[0.70710678] * 2], rtol=1e-6)


@pytest.mark.parametrize(("n", "d"), [(300, 40), (30, 200), (90, 90)])
def test_components_are_those_of_scikit_learn(n, d):
    from sklearn.decomposition import PCA

    scale = np.linspace(5, 0.5, d)
    rows = (np.random.default_rng(n).normal(size=(n, d)) * scale + 9).astype(np.float32)
    mean, found = principal_components(rows)
    k = min(64, d, n - 1)
    expected = PCA(k, svd_solver="full").fit(rows.astype(np.float64))
    assert found.shape == (d, k)
    cosine = np.abs((found * expected.components_.T).sum(axis=0))
    np.testing.assert_allclose(cosine, 1, atol=1e-6)
    variance = ((rows - mean) @ found).var(axis=0, ddof=1)
    np.testing.assert_allclose(variance, expected.explained_variance_, rtol=1e-6)
    np.testing.assert_allclose(found.T @ found, np.eye(k), atol=1e-9)
    largest = np.abs(found).argmax(axis=0)
    assert (found[largest, np.arange(k)] > 0).all()


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_few_equal_and_constant_rows_work(n):
    rng = np.random.default_rng(0)
    assert principal_components(np.full((n, 4), 3, np.float32))[1].shape[1] == 1
    rows = np.repeat(rng.normal(size=(1, 6)), n, axis=0).astype(np.float32)
    assert principal_components(rows)[1].shape == (6, 1)
    rows = rng.normal(size=(n, 6)).astype(np.float32)
    _, found = principal_components(rows)
    assert found.shape == (6, max(1, n - 1))
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("rows", "metric", "words"),
    [
        (np.zeros(3), "cosine", r"shape \(3,\)"),
        (np.zeros((3, 0)), "cosine", r"shape \(3, 0\)"),
        (np.array([[0.0], [np.nan]]), "cosine", "row 1 are not finite"),
        (np.zeros((2, 2)), "manhattan", "'manhattan' has no row-wise form"),
    ],
)
def test_nonsense_is_refused(rows, metric, words):
    with pytest.raises(MapError, match=words):
        normalize(rows, metric)


def test_frame_is_slideflows(goldens):
    golden = np.load(goldens / "normalize_layout.npz")
    frame = fit_frame(golden["layout"])
    np.testing.assert_array_equal(np.stack([frame.lower, frame.upper]), golden["range"])
    np.testing.assert_array_equal(frame.apply(golden["layout"]), golden["normalized"])
    np.testing.assert_array_equal(frame.apply(golden["new"]), golden["new_normalized"])


def test_flat_axis_becomes_zero():
    layout = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    scaled = fit_frame(layout).apply(layout)
    assert (scaled[:, 1] == 0).all()
    assert (np.diff(scaled[:, 0]) > 0).all()


def test_no_point_is_refused():
    with pytest.raises(MapError, match="has 0"):
        fit_frame(np.zeros((0, 2)))


@pytest.mark.parametrize("metric", ["cosine", "correlation"])
def test_rows_of_one_direction_are_no_cloud(metric):
    rows = np.outer(np.arange(1, 61), [1.0, 2.0, 4.0]).astype(np.float32)
    rows = rows * 2.0 ** np.arange(60)[:, None] / np.arange(1, 61)[:, None]
    fitted = fit_map(rows, MapParameters(metric=metric, n_neighbors=5))
    assert fitted.info["layout"] == "pca"
    assert np.ptp(fitted.embedding, axis=0).max() == 0.0


def test_few_distinct_rows_keep_their_metric(caplog):
    rows = np.eye(4, dtype=np.float32)
    fitted = fit_map(rows, MapParameters(metric="cosine", placement="umap-learn"))
    assert fitted.info["placement"]["metric"] == "cosine"
    assert "distinct" in caplog.text


def test_the_farthest_distance_is_finite():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 8)).astype(np.float32)
    fitted = fit_map(rows, MapParameters(metric="euclidean", n_neighbors=5))
    far = np.full((1, 8), 3e38, np.float32)
    assert fitted.place(far)[1][0] == np.finfo(np.float32).max
