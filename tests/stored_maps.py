"""Runs with a map, written without a model: random activations, places of them."""

import numpy as np
import pyarrow as pa

from raylatent import schema
from raylatent.mapping.fitted_map import FORMAT_VERSION
from raylatent.parts import part_name, write_part
from raylatent.run import RunDirectory
from raylatent.run.settings import RUN_JSON, settings_text
from raylatent.storage import Store
from raylatent.stored.maps import write_info

LAYER = "postconv"
CLASSES = 3


def write_run(folder, slides, *, width=6, unit=20, seed=0):
    """A run of random activations and predictions; the run, and points by slide.

    Args:
        folder: Of the run.
        slides: Rows of each.
        width: Features.
        unit: Rows of a part.
        seed: Of all.
    """
    run = RunDirectory(str(folder))
    fields = {"dtype": "float16", "predictions": True, "softmax": True}
    about = {"layers": {LAYER: [width]}, "num_classes": CLASSES}
    run.store.write(RUN_JSON, settings_text(fields, about))
    columns = schema.activations_schema({LAYER: width}, dtype="float16", n_classes=3)
    points, rng = {}, np.random.default_rng(seed)
    for slide, n in slides.items():
        # Coarse, so that there are ties.
        features = rng.integers(-4, 5, (n, width)) / 4
        predictions = rng.dirichlet(np.ones(CLASSES), n)
        rows = reference(n)
        for name, values in ((LAYER, features), (schema.PREDICTIONS, predictions)):
            kind = columns.field(name).type
            flat = pa.array(values.astype(kind.value_type.to_pandas_dtype()).ravel())
            rows = rows.append_column(
                columns.field(name), pa.FixedSizeListArray.from_arrays(flat, type=kind)
            )
        places = {
            schema.X: features[:, 0] + features[:, 1],
            schema.Y: features[:, 2] - features[:, 3],
            schema.KNN_DISTANCE: rng.random(n),
        }
        own = reference(n)
        for name, values in places.items():
            own = own.append_column(name, pa.array(values.astype(np.float32)))
        points[slide] = own.cast(schema.POINTS)
        for number, start in enumerate(range(0, n, unit)):
            stop = min(n, start + unit)
            bounds = {schema.FOOTER_FIRST: start, schema.FOOTER_LAST: stop}
            footer = {key: str(value) for key, value in bounds.items()}
            name = part_name(run.rows, slide, number)
            write_part(run.store, name, rows.slice(start, unit), footer)
    return run, points


def reference(n):
    """Columns `schema.REFERENCE` of n tiles."""
    columns = {
        schema.TILE_INDEX: np.arange(n),
        schema.LOC_X: np.arange(n, dtype=np.int32) * 10,
        schema.LOC_Y: np.arange(n, dtype=np.int32) * 20,
        schema.SOURCE: np.zeros(n, np.int32),
        schema.OFFSET: np.arange(n) * 1000,
        schema.LENGTH: np.full(n, 1000, np.int32),
        schema.NAME: pa.nulls(n, pa.string()),
        schema.LABEL: pa.nulls(n, pa.string()),
    }
    return pa.table(columns).cast(schema.REFERENCE)


def write_map(run, points, name="default", *, unit=20, order=None):
    """The points as a map of the run; its folder.

    Args:
        run: As of `write_run`.
        points: Likewise.
        name: Of the map.
        unit: Rows of a part.
        order: A random generator that shuffles rows within each part.
    """
    store = Store(f"{run.uri}/maps/{name}")
    counts = {"rows": sum(table.num_rows for table in points.values())}
    about = {"format_version": FORMAT_VERSION, "layer": LAYER, "points": counts}
    write_info(store, about)
    for slide, table in points.items():
        for number, start in enumerate(range(0, table.num_rows, unit)):
            part = table.slice(start, unit)
            if order is not None:
                part = part.take(order.permutation(part.num_rows))
            write_part(store, part_name("points", slide, number), part, {})
    return store.uri
