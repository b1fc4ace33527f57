"""Other engines read a run's rows as the documents show, and slides keep their names."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

import raylatent
from raylatent import schema
from raylatent.errors import RunError
from raylatent.parts import write_part
from raylatent.run import ACTIVATIONS, RunDirectory

DOCUMENT = Path(__file__).parents[1] / "docs" / "run-directory.md"
SLIDES = [
    "007",
    "2024-01-31",
    "a b",
    "x=1%2F",
    "..",
    "Zürich é ✓",
    "e\u0301 decomposed",
    "🔬 tile",
    "שקף ב",
    "n#1",
    "%41",
    "1e5",
    "true",
    "null",
    "tab\tand\nline",
    "back\\slash",
    "O'Hara",
]
LAYERS = {"layer2.1": 6, "conv": 2}
N_TILES = 3


def rows(slide, dtype="float32", first=0):
    """Rows whose values tell their slide and tile."""
    seed = int.from_bytes(slide.encode()) % 1000
    values = seed + np.arange(N_TILES * 6, dtype=dtype).reshape(N_TILES, 6) / 8

    def vectors(array):
        flat = pa.array(array.reshape(-1).astype(dtype))
        return pa.FixedSizeListArray.from_arrays(flat, array.shape[1])

    wanted = schema.activations_schema(LAYERS, dtype=dtype)
    columns = {
        schema.TILE_INDEX: np.arange(first, first + N_TILES),
        schema.LOC_X: pa.array([seed, None, 3], pa.int32()),
        schema.LOC_Y: pa.array([seed, None, 4], pa.int32()),
        schema.SOURCE: np.full(N_TILES, SLIDES.index(slide), np.int32),
        schema.OFFSET: np.arange(N_TILES) * 100,
        schema.LENGTH: np.full(N_TILES, 100, np.int32),
        schema.NAME: pa.nulls(N_TILES, pa.string()),
        schema.LABEL: pa.nulls(N_TILES, pa.string()),
        "layer2.1": vectors(values).cast(wanted.field("layer2.1").type),
        "conv": vectors(values[:, :2] * 2).cast(wanted.field("conv").type),
    }
    return pa.table([columns[name] for name in wanted.names], schema=wanted)


def footer(slide):
    return {schema.FOOTER_FINGERPRINT: "f", schema.FOOTER_SLIDE: slide}


def make_run(folder, dtype="float32"):
    run = RunDirectory(folder)
    run.begin({"dtype": dtype}, {"layers": {}}, overwrite=False)
    for slide in SLIDES:
        for unit in range(2):
            table = rows(slide, dtype, first=unit * N_TILES)
            write_part(run.store, run.part(slide, unit), table, footer(slide))
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("readers") / "out" / "run")


@pytest.fixture(scope="module")
def float16_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("half") / "run", "float16")


def snippet(language, word):
    """The document's block in a language that has a word, about `out/run`."""
    text = DOCUMENT.read_text(encoding="utf-8")
    blocks = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    found = [block for block in blocks if word in block and "out/run" in block]
    assert len(found) == 1, f"{len(found)} blocks with {word} in {DOCUMENT.name}"
    return found[0]


def expected(dtype="float32"):
    """(slide, tile) -> (loc_x, layer2.1, conv) as plain Python."""
    found = {}
    for slide in SLIDES:
        for first in (0, N_TILES):
            for row in rows(slide, dtype, first).to_pylist():
                key = (slide, row["tile_index"])
                found[key] = (row["loc_x"], row["layer2.1"], row["conv"])
    return found


def as_read(records):
    found = {}
    for row in records:
        loc_x = row["loc_x"]
        loc_x = None if loc_x is None or np.isnan(loc_x) else int(loc_x)
        key = (row["slide"], row["tile_index"])
        assert key not in found
        found[key] = (loc_x, list(row["layer2.1"]), list(row["conv"]))
    return found


def test_nothing_is_outside_the_run_directory(run):
    top = Path(run.uri).parent
    assert [path.name for path in top.iterdir()] == ["run"]
    assert [path.name for path in top.parent.iterdir()] == ["out"]
    names = {path.name for path in Path(run.uri).iterdir()}
    assert names == {"run.json", "activations"}
    assert len(list(Path(run.uri, ACTIVATIONS).iterdir())) == len(SLIDES)


@pytest.mark.parametrize("fixture", ["run", "float16_run"])
def test_raylatent_read(fixture, request):
    run = request.getfixturevalue(fixture)
    table = raylatent.read(run.uri).to_table()
    dtype = "float32" if fixture == "run" else "float16"
    assert table.schema.field("slide").type == pa.string()
    assert as_read(table.to_pylist()) == expected(dtype)


def test_raylatent_read_has_no_part_s_footer(run):
    rows = raylatent.read(Path(run.uri))
    assert rows.schema.metadata is None
    assert rows.to_table().schema.metadata is None
    assert next(iter(rows.to_batches())).schema.metadata is None
    assert run.read_rows("007").schema.metadata is None


def test_raylatent_read_as_in_the_readme(run):
    assert 'sf.read("out/run").to_table(columns=' in snippet("python", "sf.read")
    columns = ["slide", "tile_index", "conv"]
    table = raylatent.read(run.uri).to_table(
        columns=columns, filter=ds.field("slide") == "x=1%2F"
    )
    assert table.column_names == columns
    assert table["slide"].to_pylist() == ["x=1%2F"] * 2 * N_TILES


@pytest.mark.parametrize("fixture", ["run", "float16_run"])
def test_duckdb(fixture, request):
    duckdb = pytest.importorskip("duckdb")
    run = request.getfixturevalue(fixture)
    query = snippet("sql", "count(*)").replace("out/run", run.uri)
    found = dict(duckdb.sql(query).fetchall())
    assert found == dict.fromkeys(SLIDES, 2 * N_TILES)
    source = re.search(r"read_parquet\(.*?\)\n", query, re.DOTALL)[0]
    result = duckdb.sql(f"SELECT * FROM {source}")  # noqa: S608
    records = [dict(zip(result.columns, row, strict=True)) for row in result.fetchall()]
    assert as_read(records) == expected("float32" if fixture == "run" else "float16")


@pytest.mark.parametrize("fixture", ["run", "float16_run"])
def test_polars(fixture, request):
    pytest.importorskip("polars")
    run = request.getfixturevalue(fixture)
    frame = evaluate(snippet("python", "polars"), run)
    dtype = "float32" if fixture == "run" else "float16"
    assert as_read(frame.to_dicts()) == expected(dtype)


@pytest.mark.parametrize("fixture", ["run", "float16_run"])
def test_pyarrow(fixture, request):
    run = request.getfixturevalue(fixture)
    dtype = "float32" if fixture == "run" else "float16"
    code = snippet("python", "pd.read_parquet").split("pd.read_parquet")[0]
    assert as_read(evaluate(code, run).to_pylist()) == expected(dtype)


@pytest.mark.parametrize("fixture", ["run", "float16_run"])
def test_pandas(fixture, request):
    run = request.getfixturevalue(fixture)
    dtype = "float32" if fixture == "run" else "float16"
    code = snippet("python", "pd.read_parquet")
    frame = evaluate(code, run)
    assert set(frame["slide"]) == {"007"}
    assert len(frame) == 2 * N_TILES
    everything = evaluate(re.sub(r", filters=\[.*?\]", "", code), run)
    assert as_read(everything.to_dict("records")) == expected(dtype)


def evaluate(code, run):
    """Run a snippet on our run; the value of its last expression."""
    import ast

    tree = ast.parse(code.replace("out/run", run.uri))
    names = {}
    body = ast.Module(tree.body[:-1], type_ignores=[])
    exec(compile(body, DOCUMENT.name, "exec"), names)  # noqa: S102
    return eval(  # noqa: S307
        compile(ast.Expression(tree.body[-1].value), DOCUMENT.name, "eval"), names
    )


def test_read_of_no_run_or_an_empty_one(tmp_path):
    with pytest.raises(RunError, match=r"is no run directory: it has no run\.json"):
        raylatent.read(tmp_path / "none")
    run = RunDirectory(tmp_path / "begun")
    run.begin({}, {"layers": {}}, overwrite=False)
    with pytest.raises(RunError, match="no rows yet"):
        raylatent.read(run.uri)
