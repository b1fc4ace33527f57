r"""How truly rows are placed, against umap-learn's own `transform` on the same map.

    python tests/benchmarks/bench_quality.py

For each seed a map is fitted on a sample; rows that it has not seen are placed on it by
raylatent and by umap-learn, which is given their principal components and the map's own
places of the sample. Printed are trustworthiness@15 of both, the mean of the paired
differences, and the rows of which all true neighbors in the sample were missed, which
with an exact search are none. `--features FILE.npy` takes activations (n, d) of your
own: held-out rows are drawn from them.
"""

import argparse
import statistics
import warnings

import numpy as np

from raylatent.mapping.fit import fit_map
from raylatent.mapping.fitted_map import normalize
from raylatent.mapping.sample_index import project
from raylatent.mapping.statistics import quality
from raylatent.mapping.umap_learn import MapParameters

NEIGHBORS = 15
EPOCHS = 30


def activations(n, seed, width=256, classes=24, rank=48):
    """Rows of some classes, in a space of lower rank, after ReLU."""
    fixed = np.random.default_rng(7)
    centers = fixed.normal(size=(classes, rank)) * 2
    basis = fixed.normal(size=(rank, width)) / np.sqrt(rank)
    random = np.random.default_rng(seed)
    latent = centers[random.integers(classes, size=n)] + random.normal(size=(n, rank))
    noise = 0.2 * random.normal(size=(n, width))
    return np.maximum(latent @ basis + noise, 0).astype(np.float32)


def by_umap(fitted, sample, rows, seed):
    """Places of rows by umap-learn's transform on the fitted map."""
    import umap

    model = umap.UMAP(
        n_neighbors=NEIGHBORS, n_epochs=0, init="random", random_state=seed, n_jobs=1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parts of the graph need not connect
        model.fit(sample)
    model.embedding_ = fitted.embedding.copy()
    model.n_epochs = 3 * EPOCHS
    return model.transform(rows)


def missed_all(fitted, normalized, reduced):
    """Rows none of whose true nearest sample rows the search has found."""
    from raylatent.mapping.neighbors import nearest

    projection, sample, screen, _ = fitted._model
    own = np.full(len(normalized), -1)
    found = nearest(normalized, own, projection, sample, screen, NEIGHBORS)[0]
    missed = 0
    for row, index in zip(reduced, found, strict=True):
        squares = ((sample.reduced - row[:, None]) ** 2).sum(axis=0)
        missed += not np.isin(np.argsort(squares)[:NEIGHBORS], index).any()
    return missed


def one_seed(rows, n_sample, seed):
    """Trustworthiness of ours and theirs, and rows whose neighbors were missed."""
    order = np.random.default_rng(seed).permutation(len(rows))
    sample, held = rows[order[:n_sample]], rows[order[n_sample:]]
    fitted = fit_map(sample, MapParameters.of(n_neighbors=NEIGHBORS, seed=seed))
    inside, outside = (normalize(part, "cosine") for part in (sample, held))
    projection = fitted._model[0]
    reduced = [project(part, projection)[0] for part in (inside, outside)]
    theirs = by_umap(fitted, *(part.astype(np.float32) for part in reduced), seed)
    scores = [
        quality(outside, xy, inside, fitted.embedding, NEIGHBORS).trustworthiness
        for xy in (fitted.place(held)[0], theirs)
    ]
    return *scores, missed_all(fitted, outside, reduced[1])


def main(argv=None):
    """Measure and print; the mean of the differences, and rows missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=5_000)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--features", metavar="FILE.npy")
    options = parser.parse_args(argv)
    differences, missed = [], 0
    for seed in range(options.seeds):
        if options.features:
            rows = np.load(options.features, allow_pickle=False)
        else:
            rows = activations(options.sample + options.rows, seed)
        n_sample = min(options.sample, len(rows) * 3 // 4)
        ours, theirs, lost = one_seed(rows, n_sample, seed)
        print(f"seed {seed}    raylatent {ours:.4f}    umap-learn {theirs:.4f}")
        differences.append(ours - theirs)
        missed += lost
    mean = statistics.mean(differences)
    print(f"mean difference {mean:+.4f}, rows without a true neighbor: {missed}")
    return mean, missed


if __name__ == "__main__":
    main()
