"""The whole way against what Slideflow 3.0.2 gave for the same tiles and network."""

import shutil

import numpy as np
import pytest

import raylatent as sf
from raylatent.source.filebytes import read_records
from raylatent.source.index import index_tfrecord
from raylatent.source.record import TileRecord, parse_example
from raylatent.source.write import write_tfrecord

SLIDES = ["g00", "g01", "g02", "g03", "g04"]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def golden_dts(ray_session, golden_model, golden_tfrecords, tmp_path_factory):
    """The goldens' `postconv` and predictions."""
    out = tmp_path_factory.mktemp("goldens") / "run"
    return sf.DatasetFeatures(golden_model, golden_tfrecords, outdir=out, actors=1)


@pytest.fixture(scope="module")
def layers_dts(ray_session, golden_tfrecords, golden_model, tmp_path_factory):
    """Two layers, pooled, without predictions."""
    return sf.DatasetFeatures(
        golden_model,
        golden_tfrecords,
        layers=["layer1", "postconv"],
        pooling="avg",
        include_preds=False,
        outdir=tmp_path_factory.mktemp("layers") / "run",
        actors=1,
    )


@pytest.fixture(scope="module")
def postconv(goldens):
    with np.load(goldens / "dts_postconv_jpg.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def two_layers(goldens):
    with np.load(goldens / "dts_layer1_postconv_avg.npz") as archive:
        return dict(archive)


def records_of(file):
    index = index_tfrecord(str(file))
    payloads = read_records(str(file), index.offsets, index.lengths)
    return [parse_example(payload) for payload in payloads]


@pytest.fixture
def rewritten(golden_tfrecords, tmp_path):
    """The goldens' tiles with other locations: rewritten(location of i) -> folder."""

    def rewrite(location):
        for file in golden_tfrecords.glob("*.tfrecords"):
            records = [
                TileRecord(record.image_raw, record.slide, *location(i))
                for i, record in enumerate(records_of(file))
            ]
            write_tfrecord(tmp_path / "tfrecords" / file.name, records)
        return tmp_path / "tfrecords"

    return rewrite


def assert_is_golden(dts, golden, *, locations=True):
    assert dts.slides == SLIDES
    for slide in SLIDES:
        wanted = golden[f"act/{slide}"]
        np.testing.assert_allclose(
            dts.activations[slide], wanted, atol=TOLERANCE, rtol=0
        )
        # Tiles differ by more than the tolerance: none has another's place.
        if len(wanted) > 1:
            assert np.abs(wanted[1:] - wanted[:-1]).max(axis=1).min() > 10 * TOLERANCE
        if locations:
            np.testing.assert_array_equal(dts.locations[slide], golden[f"loc/{slide}"])


@pytest.mark.ray
def test_activations_predictions_and_locations(golden_dts, postconv):
    assert_is_golden(golden_dts, postconv)
    for slide in SLIDES:
        np.testing.assert_allclose(
            golden_dts.predictions[slide], postconv[f"pred/{slide}"], atol=TOLERANCE
        )


@pytest.mark.ray
def test_two_layers_pooled(layers_dts, two_layers):
    assert_is_golden(layers_dts, two_layers)


@pytest.mark.ray
def test_concatenation_of_sets(golden_dts, layers_dts, postconv, two_layers, goldens):
    """concat.npz joins `postconv` with features of a network that is not there.

    So its known half is compared with it, and our own sets with numpy.
    """
    both = sf.DatasetFeatures.concat([golden_dts, layers_dts])
    assert both.slides == SLIDES
    assert both.num_features == 64 + 96
    with np.load(goldens / "concat.npz") as archive:
        halves = {slide: archive[slide][:, :64] for slide in archive.files}
    for slide in SLIDES:
        np.testing.assert_array_equal(
            both.activations[slide],
            np.concatenate(
                [golden_dts.activations[slide], layers_dts.activations[slide]], axis=1
            ),
        )
        np.testing.assert_allclose(
            both.activations[slide][:, :64], halves[slide], atol=TOLERANCE
        )
        np.testing.assert_array_equal(both.locations[slide], postconv[f"loc/{slide}"])
        np.testing.assert_array_equal(
            both.predictions[slide], golden_dts.predictions[slide]
        )


@pytest.mark.ray
def test_without_annotations_the_order_is_the_files(
    ray_session, golden_tfrecords, golden_model, postconv, tmp_path
):
    """Slideflow permutes the rows without a word here."""
    shutil.copytree(golden_tfrecords, tmp_path / "project" / "96px_96um")
    project = sf.Project(tmp_path / "project")
    dts = project.generate_features(golden_model, actors=1, unit_tiles=16)
    assert_is_golden(dts, postconv)


@pytest.mark.ray
def test_all_locations_at_the_origin(
    ray_session, rewritten, golden_model, postconv, tmp_path
):
    """Slideflow stops with an empty AssertionError here."""
    folder = rewritten(lambda i: (0, 0))
    dts = sf.DatasetFeatures(golden_model, folder, outdir=tmp_path / "run", actors=1)
    assert_is_golden(dts, postconv, locations=False)
    assert all(not dts.locations[slide].any() for slide in SLIDES)
    assert len(dts.locations["g03"]) == 64


@pytest.mark.ray
def test_no_locations_at_all(ray_session, rewritten, golden_model, postconv, tmp_path):
    folder = rewritten(lambda i: (None, None))
    dts = sf.DatasetFeatures(golden_model, folder, outdir=tmp_path / "run", actors=1)
    assert_is_golden(dts, postconv, locations=False)
    assert np.isnan(dts.locations["g03"]).all()
    assert dts.locations["g03"].shape == (64, 2)


@pytest.mark.parametrize("nx", [10, 50])
def test_the_mosaic_of_a_map_on_slideflows_grid(goldens, nx):
    with np.load(goldens / "mosaic_grids.npz") as archive:
        golden = dict(archive)
    slide_map = sf.SlideMap.from_xy(
        golden["x"], golden["y"], golden["slide"].tolist(), golden["tfr_index"]
    )
    cells = sf.Mosaic(slide_map, num_tiles_x=nx, grid="slideflow").cells.to_pydict()
    found = set(zip(cells["slide"], cells["tile_index"], strict=True))
    chosen = golden[f"{nx}_nearest/selected"]
    wanted = zip(golden["slide"][chosen], golden["tfr_index"][chosen], strict=True)
    assert found == {(str(slide), int(index)) for slide, index in wanted}
