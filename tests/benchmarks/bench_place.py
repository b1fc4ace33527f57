r"""Placing rows on a fitted map against umap-learn's own `transform`, on one core.

    python tests/benchmarks/bench_place.py

The map is fitted on 20,000 rows of 1,024 features; rows that it has not seen are placed
from all their features, by 15 neighbours and 30 epochs. umap-learn is given their 64
principal components, so that it need not project them, and the same numbers. Both run in
turns on one thread; printed are medians and the median of the ratios, turn by turn.
"""

import argparse
import os
import statistics
import time
import warnings

if __name__ == "__main__":  # before numpy and numba are imported
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"

import numpy as np

WIDTH = 1024
NEIGHBORS = 15
EPOCHS = 30


def activations(n, seed, classes=24, rank=48):
    """Rows of some classes, in a space of lower rank, as activations are: after ReLU."""
    fixed = np.random.default_rng(7)
    centers = fixed.normal(size=(classes, rank)) * 2
    basis = fixed.normal(size=(rank, WIDTH)) / np.sqrt(rank)
    random = np.random.default_rng(seed)
    latent = centers[random.integers(classes, size=n)] + random.normal(size=(n, rank))
    noise = 0.2 * random.normal(size=(n, WIDTH))
    return np.maximum(latent @ basis + noise, 0).astype(np.float32)


def fit(n_sample):
    """Our map, and umap-learn fitted on the same principal components."""
    import umap

    from raylatent.mapping.fit import fit_map
    from raylatent.mapping.umap_learn import MapParameters

    rows = activations(n_sample, 0)
    params = MapParameters.of(n_neighbors=NEIGHBORS, seed=0)
    ours = fit_map(rows, params)
    theirs = umap.UMAP(
        n_neighbors=NEIGHBORS, n_epochs=3 * EPOCHS, random_state=0, n_jobs=1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parts of the graph need not connect
        theirs.fit(reduced(ours, rows))
    return ours, theirs


def reduced(fitted, rows):
    """Principal components float32 of rows."""
    arrays = fitted.arrays
    return (rows @ arrays["components"] - arrays["offset"]).astype(np.float32)


def seconds(call, *args):
    """CPU seconds of one call."""
    started = time.process_time()
    call(*args)
    return time.process_time() - started


def main(argv=None):
    """Measure and print; the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args(argv)
    ours, theirs = fit(options.sample)
    epochs = ours.info["placement"]["epochs"]
    print(
        f"sample {options.sample:,}, {WIDTH} features, {NEIGHBORS} neighbours, "
        f"{epochs} epochs here, {theirs.n_epochs // 3} there"
    )
    ours.place(activations(64, 1))  # compiled from here on
    theirs.transform(reduced(ours, activations(64, 1)))
    rates, ratios = {"raylatent": [], "umap-learn": []}, []
    for turn in range(options.turns):
        rows = activations(options.rows, 2 + turn)
        own = seconds(ours.place, rows)
        other = seconds(theirs.transform, reduced(ours, rows))
        rates["raylatent"].append(options.rows / own)
        rates["umap-learn"].append(options.rows / other)
        ratios.append(other / own)
    for who, found in rates.items():
        print(
            f"{who:<12}{statistics.median(found):>10,.0f} rows a CPU second "
            f"({min(found):,.0f} to {max(found):,.0f})"
        )
    ratio = statistics.median(ratios)
    print(f"ratio       {ratio:>10.2f}")
    return ratio


if __name__ == "__main__":
    main()
