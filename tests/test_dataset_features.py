"""DatasetFeatures: a handle on a run, whatever the slides are called."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import raylatent as sf
from raylatent.errors import (
    ConfigError,
    IncompleteError,
    LayerError,
    MapError,
    ModelError,
    RunError,
    SourceError,
)
from raylatent.source.filebytes import read_records
from raylatent.source.index import index_tfrecord
from raylatent.source.record import TileRecord, parse_example
from raylatent.source.write import write_tfrecord

pytestmark = pytest.mark.ray

ODD = ["007", "a b=1%:✓", "ünï"]
BAD = {"007": [0], "ünï": [5, 6]}
PX = 96


def records_of(file):
    index = index_tfrecord(str(file))
    payloads = read_records(str(file), index.offsets, index.lengths)
    return [parse_example(payload) for payload in payloads]


@pytest.fixture(scope="module")
def odd_tfrecords(small_tfrecords, tmp_path_factory):
    """g01's seven tiles under odd names, some of them broken."""
    folder = tmp_path_factory.mktemp("odd")
    tiles = records_of(small_tfrecords / "g01.tfrecords")
    for slide in ODD:
        records = [
            TileRecord(
                b"broken" if i in BAD.get(slide, []) else tile.image_raw,
                slide,
                tile.loc_x,
                tile.loc_y,
            )
            for i, tile in enumerate(tiles)
        ]
        write_tfrecord(folder / f"{slide}.tfrecords", records)
    return folder


@pytest.fixture(scope="module")
def odd(ray_session, odd_tfrecords, small_model, tmp_path_factory):
    """A layer of maps and predictions of them."""
    return sf.DatasetFeatures(
        small_model,
        odd_tfrecords,
        layers="layer2",
        outdir=tmp_path_factory.mktemp("run") / "ä run",
        actors=1,
        max_bad_fraction=1.0,
    )


@pytest.fixture(scope="module")
def plain(small_model, small_tfrecords):
    """The seven tiles through the network, by the plain loop."""
    from raylatent.tiles.tile import decode_image

    ftrs = sf.model.Features(small_model, layers="layer2", include_preds=True)
    tiles = records_of(small_tfrecords / "g01.tfrecords")
    pixels = np.stack([decode_image(tile.image_raw) for tile in tiles])
    return (*ftrs(pixels), np.array([(tile.loc_x, tile.loc_y) for tile in tiles]))


def test_maps_come_back_in_their_shape(odd, plain):
    assert odd.slides == ODD
    acts = odd.activations["a b=1%:✓"]
    assert acts.shape == (7, 64, 6, 6)
    np.testing.assert_allclose(acts, plain[0], atol=1e-5)
    assert odd.num_features == 64 * 36


@pytest.mark.parametrize("slide", ODD)
def test_bad_tiles_are_missing_in_all_arrays_alike(odd, plain, slide):
    kept = [i for i in range(7) if i not in BAD.get(slide, [])]
    np.testing.assert_allclose(odd.activations[slide], plain[0][kept], atol=1e-5)
    np.testing.assert_allclose(odd.predictions[slide], plain[1][kept], atol=1e-5)
    np.testing.assert_array_equal(odd.locations[slide], plain[2][kept])
    frame = odd.to_df().loc[slide]
    assert frame["tfr_index"].tolist() == kept
    assert frame["activations"].iloc[0].shape == (64, 6, 6)


def test_bags_are_flat_and_named_as_the_slides(odd, tmp_path):
    odd.to_torch(tmp_path, slides=["a b=1%:✓", "007"])
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == [
        "007.pt",
        "a b=1%:✓.pt",
    ]
    assert torch.load(tmp_path / "007.pt", weights_only=True).shape == (6, 64 * 36)
    with np.load(tmp_path / "007.index.npz") as index:
        np.testing.assert_array_equal(index["arr_0"], odd.locations["007"])
    with pytest.raises(RunError, match="'g9'"):
        odd.to_torch(tmp_path / "none", slides=["007", "g9"])
    assert not (tmp_path / "none").exists()


def test_side_by_side_only_tiles_that_both_have(odd, small_model, tmp_path):
    """`007` lacks its first tile here, and its last one there."""
    folder = tmp_path / "t"
    folder.mkdir()
    source = Path(odd.run.sources()["uri"][0].as_py())
    records = records_of(source)
    tiles = [TileRecord(records[1].image_raw, "007", i, i) for i in range(6)]
    write_tfrecord(
        folder / "007.tfrecords", [*tiles, TileRecord(b"broken", "007", 6, 6)]
    )
    other = sf.DatasetFeatures(
        small_model, [folder], outdir=tmp_path / "run", max_bad_fraction=1, actors=1
    )
    both = sf.DatasetFeatures.concat([odd, other])
    assert both.slides == ["007"]
    assert both.activations["007"].shape == (5, 64 * 36 + 64)
    np.testing.assert_array_equal(
        both.activations["007"][:, : 64 * 36],
        odd.activations["007"][:5].reshape(5, -1),
    )
    np.testing.assert_array_equal(both.locations["007"], odd.locations["007"][:5])
    assert both.to_df()["tfr_index"].tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(MapError, match="side by side"):
        both.map_activations()
    with pytest.raises(RunError, match="side by side"):
        both.run  # noqa: B018


def test_a_slide_that_fails_is_named_and_the_rest_is_kept(
    ray_session, odd_tfrecords, small_model, tmp_path
):
    folder = tmp_path / "t"
    shutil.copytree(odd_tfrecords, folder)
    for slide in ("007", "ünï"):
        (folder / f"{slide}.tfrecords").unlink()
    write_tfrecord(folder / "x.y.tfrecords", [TileRecord(b"broken", "x.y", 1, 1)] * 7)
    with pytest.raises(
        IncompleteError, match=r"1 of 2 slides failed, as 'x\.y'"
    ) as error:
        sf.DatasetFeatures(small_model, folder, outdir=tmp_path / "run", actors=1)
    assert str(tmp_path / "run") in str(error.value)
    dts = sf.DatasetFeatures.open(tmp_path / "run")
    assert dts.activations["a b=1%:✓"].shape == (7, 64)
    assert len(dts.activations["x.y"]) == 0


def test_a_module_from_python(ray_session, small_tfrecords, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 9, 9), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.train()
    dts = sf.DatasetFeatures(
        net, small_tfrecords / "g02.tfrecords", outdir=tmp_path / "run", actors=1
    )
    assert net.training
    assert dts.activations["g02"].shape == (33, 4)
    assert dict(dts.predictions) == {}
    assert dts.run.settings()["fields"]["tile_px"] == PX  # of the tiles themselves


def test_float16(ray_session, small_tfrecords, small_model, small_dts, tmp_path):
    dts = sf.DatasetFeatures(
        small_model,
        str(small_tfrecords / "g02.tfrecords"),
        outdir=str(tmp_path / "run"),
        dtype="float16",
        include_preds=False,
        actors="1",
    )
    acts = dts.activations["g02"]
    assert acts.dtype == np.float16
    np.testing.assert_allclose(acts, small_dts.activations["g02"], atol=0.01)


def test_a_run_at_a_uri(ray_session, small_dts):
    uri = f"file://{small_dts.run.uri}"
    dts = sf.DatasetFeatures.open(uri)
    np.testing.assert_array_equal(dts.activations["g01"], small_dts.activations["g01"])


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"outdir": None}, ConfigError, "outdir= is missing"),
        ({"colour": 1}, TypeError, "unexpected keyword argument 'colour'"),
        ({"out": "x"}, TypeError, "unexpected keyword argument 'out'"),
        ({"tfrecords": "x"}, TypeError, "unexpected keyword argument 'tfrecords'"),
        ({"actors": 0}, ConfigError, "--actors is '0'"),
        ({"layers": "stem", "layer": "stem"}, ConfigError, "not both"),
        ({"layers": "stme"}, LayerError, "stem"),
        ({"pooling": "median"}, ConfigError, "median"),
        ({"model": "gone"}, ModelError, "no such model: gone"),
        ({"mean": "x"}, ModelError, "3 numbers"),
        ({"dataset": "gone"}, SourceError, "gone"),
        ({"dataset": []}, SourceError, "no tiles were given"),
    ],
)
def test_arguments_that_make_no_sense(
    small_model, small_tfrecords, tmp_path, options, error, said
):
    given = {
        "model": small_model,
        "dataset": small_tfrecords,
        "outdir": tmp_path / "run",
        **options,
    }
    with pytest.raises(error, match=said):
        sf.DatasetFeatures(**given)
    assert not (tmp_path / "run").exists()


def test_no_run(tmp_path):
    with pytest.raises(RunError, match="no run directory"):
        sf.DatasetFeatures.open(tmp_path)
