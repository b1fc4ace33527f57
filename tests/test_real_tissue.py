"""Real H&E through a real network: the map knows the tissue's classes.

Untrained weights of the same network are the measure: what colors and textures alone
tell. (Pretrained on photographs, not on tissue: no more is claimed of it.)
"""

import importlib.util
import io
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from PIL import Image

import raylatent as sf
from raylatent.mapping.umap_learn import MapParameters
from raylatent.source.record import TileRecord
from raylatent.source.write import write_tfrecord

pytestmark = [pytest.mark.ray, pytest.mark.slow]

N_SLIDES = 5
N_ORAL = 60
TILE_PX = 128
SEEDS = range(5)
N_NEAREST = 5
MEAN, STD = 127 / 255, 128 / 255  # as EfficientNet-Lite was trained


def jpeg(path):
    buffer = io.BytesIO()
    picture = Image.open(path).convert("RGB")
    picture.resize((TILE_PX, TILE_PX)).save(buffer, format="JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def tissue(test_data, tmp_path_factory):
    """TFRecords of several slides, each with all classes; class of (slide, index)."""
    tiles = test_data / "data" / "tiles"
    files = [("crc", p) for p in sorted((tiles / "crc-val-he-7k_70").rglob("*.jpg"))]
    files += [("kather", p) for p in sorted((tiles / "kather2016_24").rglob("*.tif"))]
    oral = sorted((tiles / "oral-oscc_1224").rglob("*.jpg"))
    files += [("oral", path) for path in oral[:: len(oral) // N_ORAL]]
    folder = tmp_path_factory.mktemp("tissue")
    slides = defaultdict(list)
    for i, (kind, path) in enumerate(files):
        slides[f"slide {i % N_SLIDES}"].append((kind, path))
    classes = {}
    for slide, pictures in slides.items():
        records = []
        for i, (kind, path) in enumerate(pictures):
            classes[slide, i] = f"{kind} {path.parent.name}"
            records.append(TileRecord(jpeg(path), slide, 64 + 128 * i, 64))
        write_tfrecord(folder / f"{slide}.tfrecords", records)
    return folder, classes


def network(weights, *, trained):
    path = weights / "nets_reference.py"
    spec = importlib.util.spec_from_file_location("nets_of_tissue", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    net = module.EfficientNetLite0()
    if trained:
        file = weights / "efficientnet-lite0-57934424.pth"
        net.load_state_dict(torch.load(file, weights_only=True))
        return net
    # Batch statistics of its own, or untrained activations would fade away.
    net.train()
    with torch.no_grad():
        for _ in range(20):
            net(torch.randn(8, 3, TILE_PX, TILE_PX))
    return net


@pytest.fixture(scope="module")
def model(test_data, tmp_path_factory):
    """model(trained) is a model folder."""
    weights = test_data / "data" / "weights"

    def make(*, trained):
        folder = tmp_path_factory.mktemp("trained" if trained else "untrained")
        net = network(weights, trained=trained)
        torch.save(net.state_dict(), folder / "weights.pt")
        source = (weights / "nets_reference.py").read_text(encoding="utf-8")
        (folder / "nets_reference.py").write_text(source, encoding="utf-8")
        (folder / "model.json").write_text(
            '{"factory": "nets_reference:EfficientNetLite0", "weights": "weights.pt",'
            f' "tile_px": {TILE_PX}, "mean": {MEAN}, "std": {STD}}}'
        )
        return folder

    return make


@pytest.fixture(scope="module")
def runs(ray_session, tissue, model, tmp_path_factory):
    """Activations with trained and with untrained weights."""
    return {
        trained: sf.DatasetFeatures(
            model(trained=trained),
            tissue[0],
            outdir=tmp_path_factory.mktemp("runs") / str(trained),
            actors=1,
        )
        for trained in (True, False)
    }


def knows_classes(xy, labels):
    """Balanced accuracy of the nearest neighbors' vote, each tile left out itself."""
    apart = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    nearest = np.argsort(apart, axis=1, kind="stable")[:, :N_NEAREST]
    right = defaultdict(list)
    for row, label in zip(nearest, labels, strict=True):
        vote = Counter(labels[i] for i in row).most_common(1)[0][0]
        right[label].append(vote == label)
    return float(np.mean([np.mean(hits) for hits in right.values()]))


def scores(dts, classes, *, print_as):
    """How well maps of several seeds know the CRC tiles' classes."""
    from raylatent.mapping.fit import fit_map

    keys = [(s, i) for s in dts.slides for i in range(len(dts.activations[s]))]
    labels = np.array([classes[key] for key in keys])
    crc = np.char.startswith(labels, "crc")
    rows = np.concatenate([dts.activations[slide] for slide in dts.slides])
    found = []
    for seed in SEEDS:
        fitted = fit_map(rows, MapParameters(seed=seed))
        places, _ = fitted.place(rows)
        found.append(knows_classes(places[crc], labels[crc]))
    print(print_as, np.round(found, 3), "mean", round(float(np.mean(found)), 3))  # noqa: T201
    return found


def test_trained_weights_know_the_tissue_and_untrained_do_less(runs, tissue):
    trained = scores(runs[True], tissue[1], print_as="trained")
    untrained = scores(runs[False], tissue[1], print_as="untrained")
    assert np.mean(trained) > 0.5  # chance is 1/7
    assert np.mean(trained) > np.mean(untrained) + 0.08


def test_a_mosaic_of_the_run(runs, tissue, tmp_path):
    slide_map = runs[True].map_activations()
    keys = zip(slide_map.data["slide"], slide_map.data["tile_index"], strict=True)
    slide_map.data["label"] = [tissue[1][key] for key in keys]
    mosaic = slide_map.generate_mosaic(num_tiles_x=16, cell_px=64)
    mosaic.save(tmp_path / "mosaic.png")
    slide_map.save(tmp_path / "umap.png")
    assert mosaic.failed == {}
    assert len(mosaic.cells) > 40
    with Image.open(tmp_path / "mosaic.png") as picture:
        pixels = np.asarray(picture.convert("RGB"), float)
    # Tissue is pink and purple: redder and bluer than green.
    redness = pixels[..., 0] - pixels[..., 1]
    assert (redness > 30).mean() > 0.1
