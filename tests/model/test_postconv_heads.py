"""What postconv is before heads of many kinds, and of networks as people write them."""

import importlib.util
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from raylatent.errors import LayerError
from raylatent.model.features import Features
from raylatent.model.forward_pass import Output
from raylatent.model.layers import LayerCapture
from raylatent.model.postconv import find_postconv

N, PX, WIDTH, N_CLASSES = 2, 16, 6, 3


AFTER = {
    "squeezed": lambda y: y.squeeze(1),
    "viewed": lambda y: y.view(-1),
    "as a map": lambda y: y[:, :, None, None],
    "in the middle": lambda y: y[:, None],
    "softmax": lambda y: y.softmax(1),
    "logs, squeezed": lambda y: y.log_softmax(1)[:, :, None].squeeze(-1),
    "tanh": lambda y: y.tanh(),
    "of length 1": functional.normalize,
    "scaled": lambda y: 16 * y + 1,
    "one of the classes": lambda y: y.softmax(1)[:, 1],
    "rounded": lambda y: y.round(),
}

NAMES = {  # file of weights, side, mean and std of pixels scaled to 0..1
    "EfficientNetLite0": ("efficientnet-lite0-57934424.pth", 96, 127 / 255, 128 / 255),
    "ARACNN": ("ara_cnn_lublung_torch.pth", 128, 0.0, 1.0),
}


def sample(n=N):
    return torch.rand(n, 3, PX, PX, generator=torch.Generator().manual_seed(3))


class Net(nn.Module):
    """Maps, a vector of WIDTH numbers, and a head."""

    def __init__(self, head=None, after=None):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn = nn.Conv2d(3, WIDTH, 3, 2), nn.BatchNorm2d(WIDTH)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = head or nn.Linear(WIDTH, N_CLASSES)
        self.after = after or (lambda scores: scores)

    def maps(self, x):
        return functional.relu(self.bn(self.conv(x)))

    def features(self, x):
        return self.pool(self.maps(x)).flatten(1)

    def forward(self, x):
        return self.after(self.fc(self.features(x)))


class Cosine(nn.Module):
    """As ArcFace's: weights of its own, no linear layer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(N_CLASSES, WIDTH))

    def forward(self, x):
        one, other = functional.normalize(x), functional.normalize(self.weight)
        return 30 * functional.linear(one, other)


class Prototypes(Cosine):
    """Distances from a prototype of each class."""

    def forward(self, x):
        return -((x[:, None] - self.weight) ** 2).sum(-1)


class LowRank(nn.Module):
    """As LoRA: the layer and a correction of low rank."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(WIDTH, N_CLASSES)
        self.down, self.up = nn.Linear(WIDTH, 2), nn.Linear(2, N_CLASSES)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


class Pair(nn.Bilinear):
    """Bilinear in the features."""

    def forward(self, x):
        return super().forward(x, x)


def postconv(model, n=N, classes=None, name="the model"):
    """What is taken of n tiles."""
    model = model.eval()
    target = find_postconv(model, sample(), Output(name, classes=classes))
    found, _ = LayerCapture(model, [target], None)(sample(n), with_output=True)
    return found["postconv"]


def features(model, n=N):
    with torch.inference_mode():
        return model.features(sample(n))


@pytest.mark.parametrize("classes", [1, N_CLASSES])
@pytest.mark.parametrize("after", AFTER)
def test_whatever_the_model_makes_of_its_scores(after, classes):
    if (after, classes) in {("one of the classes", 1), ("viewed", N_CLASSES)}:
        pytest.skip("it makes no row a tile")
    model = Net(nn.Linear(WIDTH, classes), AFTER[after])
    torch.testing.assert_close(postconv(model), features(model))


def heads():
    torch.manual_seed(1)
    linear = nn.Linear(WIDTH, N_CLASSES)
    return {
        "cosine": Cosine(),
        "prototypes": Prototypes(),
        "low rank": LowRank(),
        "weight norm": nn.utils.parametrizations.weight_norm(linear),
        "bilinear": Pair(WIDTH, WIDTH, N_CLASSES),
        "in a wrapper": nn.Sequential(nn.Sequential(nn.Linear(WIDTH, N_CLASSES))),
    }


@pytest.mark.parametrize("classes", [None, N_CLASSES])
@pytest.mark.parametrize("head", heads())
def test_heads_of_every_make(head, classes):
    model = Net(heads()[head])
    torch.testing.assert_close(postconv(model, classes=classes), features(model))


class Pieces(Net):
    """The head gets the batch two tiles at a time."""

    def forward(self, x):
        return torch.cat([self.fc(piece) for piece in self.features(x).split(2)])


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pieces_of_the_batch_are_joined(n):
    model = Pieces()
    torch.testing.assert_close(postconv(model, n), features(model, n))


def test_of_flips_the_mean_over_the_calls():
    class Flips(Net):
        def forward(self, x):
            return (super().forward(x) + super().forward(x.flip(-1))) / 2

    model = Flips()
    found = postconv(model)
    with torch.inference_mode():
        other = model.features(sample().flip(-1))
    torch.testing.assert_close(found, (features(model) + other) / 2)


def test_not_a_later_call_for_something_else():
    class Twice(Net):
        def forward(self, x):
            scores = super().forward(x)
            self.fc(torch.zeros(len(x), WIDTH))
            return scores

    model = Twice()
    torch.testing.assert_close(postconv(model), features(model))


class Own(Net):
    """The head is a parameter of the model itself."""

    def __init__(self):
        super().__init__()
        self.fc = None
        self.weight = nn.Parameter(torch.randn(N_CLASSES, WIDTH))

    def forward(self, x):
        return torch.einsum("nc,kc->nk", self.features(x), self.weight)


def test_the_output_of_the_layer_before_a_head_that_is_none():
    model = Own()
    torch.testing.assert_close(postconv(model), features(model))


class OwnAfterFunctions(Own):
    """Nor is what goes in the output of a layer."""

    def forward(self, x):
        return self.maps(x).mean((2, 3)) @ self.weight.T


class OneNumber(Own):
    """A weighted sum, written as such."""

    def forward(self, x):
        return (self.maps(x).mean((2, 3)) * self.weight[0]).sum(1)


class TwoHeads(Net):
    """The sum of two heads' scores."""

    def __init__(self):
        super().__init__()
        self.second = nn.Linear(WIDTH, N_CLASSES)

    def forward(self, x):
        x = self.features(x)
        return self.fc(x) + self.second(2 * x)


class Doubled(Net):
    """The head gets each tile twice."""

    def forward(self, x):
        scores = super().forward(torch.cat([x, x.flip(-1)]))
        return scores.reshape(2, len(x), -1).mean(0)


class Unseen(Net):
    """The scores go through NumPy."""

    def forward(self, x):
        return torch.from_numpy(super().forward(x).numpy().copy())


@pytest.mark.parametrize("classes", [None, N_CLASSES])
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (OwnAfterFunctions, r"the model's own forward \(matmul\)"),
        (TwoHeads, r"several layers together \(fc, second\)"),
        (Doubled, "'fc' gets 4 rows for 2 tiles"),
        (Unseen, "cannot be followed"),
    ],
)
def test_what_cannot_be_told_is_a_question(kind, why, classes):
    with pytest.raises(LayerError, match=rf"Mine: .*since .*{why}.*--layers") as error:
        postconv(kind(), classes=classes, name="Mine")
    assert "'output' for the model's own output" in str(error.value)
    if kind is not Doubled:
        assert f"conv ({WIDTH}, 7, 7)" in str(error.value)


def test_one_number_a_tile_is_never_features():
    with pytest.raises(LayerError, match=r"own forward \(mul\)"):
        postconv(OneNumber())


@pytest.mark.parametrize("head", [nn.BatchNorm1d(WIDTH), nn.LayerNorm(WIDTH)])
def test_features_by_themselves_are_said(head):
    model = Net(nn.Sequential(nn.Linear(WIDTH, WIDTH), head)).eval()
    target = find_postconv(model, sample())
    assert target.module == ""
    assert f"own output ({WIDTH} numbers a tile), since a normalization" in target.note


def test_with_classes_a_norm_after_the_head_changes_nothing():
    linear = nn.Linear(WIDTH, N_CLASSES)
    model = Net(nn.Sequential(linear, nn.BatchNorm1d(N_CLASSES)))
    torch.testing.assert_close(postconv(model, classes=N_CLASSES), features(model))


@pytest.mark.parametrize("classes", [None, N_CLASSES])
@pytest.mark.parametrize("reduction", ["avg", "cls"])
def test_a_head_that_scores_tokens(classes, reduction):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.cut, self.norm = nn.Conv2d(3, WIDTH, 8, 8), nn.LayerNorm(WIDTH)
            self.head = nn.Linear(WIDTH, N_CLASSES)

        def features(self, x):
            return self.pooled(self.norm(self.cut(x).flatten(2).transpose(1, 2)))

        def pooled(self, x):
            return x.mean(1) if reduction == "avg" else x[:, 0]

        def forward(self, x):
            x = self.norm(self.cut(x).flatten(2).transpose(1, 2))
            return self.pooled(self.head(x))

    model = Tokens()
    torch.testing.assert_close(postconv(model, classes=classes), features(model))


def test_a_head_of_two_names():
    class Named(Net):
        def __init__(self):
            super().__init__()
            self.head = self.fc

        def forward(self, x):
            return self.head(self.features(x)) + self.fc(self.features(x.flip(-1)))

    model = Named().eval()
    with torch.inference_mode():
        other = model.features(sample().flip(-1))
    found = Features(model, tile_px=PX, mean=0, std=1)(sample())
    torch.testing.assert_close(found, (features(model) + other) / 2)


def test_the_compiler_is_not_imported_for_a_plain_model():
    program = (
        "import sys, torch; from raylatent.model.features import Features; "
        "Features(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten(), "
        "torch.nn.Linear(72, 2)), tile_px=8); print('torch._dynamo' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(  # noqa: S603  (our own interpreter)
        command, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_a_compiled_model_has_the_head_that_it_was_written_with():
    net = Net()
    net.fc = torch.compile(net.fc, backend="eager")
    target = find_postconv(net.eval(), sample())
    assert (target.module, target.before) == ("fc._orig_mod", True)
    whole = torch.compile(Net().eval(), backend="eager")
    assert find_postconv(whole, sample()).module == "_orig_mod.fc"


@pytest.fixture(scope="module")
def weights(test_data):
    return test_data / "data" / "weights"


@pytest.fixture(scope="module")
def reference(weights):
    path = weights / "nets_reference.py"
    spec = importlib.util.spec_from_file_location("nets_reference_by_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folders(weights, tmp_path_factory):
    """A model folder of each network."""
    made = {}
    for name, (file, px, mean, std) in NAMES.items():
        folder = tmp_path_factory.mktemp(name)
        shutil.copy(weights / "nets_reference.py", folder)
        shutil.copy(weights / file, folder)
        content = {
            "factory": f"nets_reference:{name}",
            "weights": file,
            "tile_px": px,
            "mean": mean,
            "std": std,
            "classes": 1000 if name == "EfficientNetLite0" else 9,
        }
        (folder / "model.json").write_text(json.dumps(content))
        made[name] = folder
    yield made
    sys.modules.pop("nets_reference", None)


@pytest.fixture(scope="module")
def tissue(test_data):
    """20 H&E tiles of 224 px."""
    files = sorted((test_data / "data/tiles/crc-val-he-7k_70").rglob("*.jpg"))[::4]
    if not files:
        files = sorted((test_data / "data/tiles/crc-val-he-7k_70").rglob("*.*"))[::4]
    return [Image.open(file).convert("RGB") for file in files]


def tiles_of(tissue, px):
    return np.stack([np.asarray(tile.resize((px, px))) for tile in tissue])


def by_reference(reference, name, weights, tiles):
    """All layers as the reference itself returns them."""
    net = getattr(reference, name)()
    net.load_state_dict(torch.load(weights / NAMES[name][0], weights_only=True))
    net.eval()
    batch = net.preprocess(torch.from_numpy(tiles)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        return {k: v.numpy() for k, v in net(batch, return_layers=True).items()}


@pytest.mark.parametrize("name", NAMES)
def test_postconv_and_predictions(reference, folders, weights, tissue, name):
    tiles = tiles_of(tissue, NAMES[name][1])
    expected = by_reference(reference, name, weights, tiles)
    acts, preds = Features(folders[name], include_preds=True)(tiles)
    before = "features" if name == "EfficientNetLite0" else "penultimate"
    np.testing.assert_allclose(acts, expected[before], atol=1e-4)
    logits = torch.from_numpy(expected["logits"])
    np.testing.assert_allclose(preds, logits.softmax(1).numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "layer", "key"),
    [
        ("EfficientNetLite0", "_blocks.4", "block4"),
        ("EfficientNetLite0", "_blocks.15", "block15"),
        ("EfficientNetLite0", "_fc", "logits"),
        ("ARACNN", "main_output", "logits"),
        ("ARACNN", "aux_output", "aux_logits"),
    ],
)
def test_layers_by_name(reference, folders, weights, tissue, name, layer, key):
    tiles = tiles_of(tissue[:4], NAMES[name][1])
    expected = by_reference(reference, name, weights, tiles)[key]
    found = Features(folders[name], layers=layer)(tiles)
    assert found.shape == expected.shape
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=1e-4 * max(1.0, scale))


@pytest.mark.parametrize("name", NAMES)
def test_threads_and_neighbors_do_not_change_bits(folders, tissue, name):
    px = NAMES[name][1]
    features = Features(folders[name], include_preds=True, batch_size=16)
    tiles = tiles_of(tissue[:16], px)
    shuffled = np.random.default_rng(0).permutation(16)
    others = tiles.copy()
    others[1:] = 255 - others[1:]
    before = torch.get_num_threads()
    found = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(features.forward(tiles, with_preds=True))
            again = features.forward(tiles[shuffled], with_preds=True)
            for value, row in zip(
                (again[0]["postconv"], again[1]),
                (found[-1][0]["postconv"], found[-1][1]),
                strict=True,
            ):
                np.testing.assert_array_equal(value, row[shuffled])
            alone = features.forward(others, with_preds=False)[0]["postconv"][0]
            np.testing.assert_array_equal(alone, found[-1][0]["postconv"][0])
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0][0]["postconv"], found[1][0]["postconv"])
    np.testing.assert_array_equal(found[0][1], found[1][1])


def test_the_goldens_network_by_threads(goldens):
    path = goldens / "golden_net.py"
    spec = importlib.util.spec_from_file_location("golden_net_by_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    features = Features(module.build(), tile_px=96, layers=["layer1", "postconv"])
    tiles = np.random.default_rng(0).integers(0, 256, (32, 96, 96, 3), np.uint8)
    before = torch.get_num_threads()
    found = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(features.forward(tiles, with_preds=False)[0])
    finally:
        torch.set_num_threads(before)
    for name in ("layer1", "postconv"):
        np.testing.assert_array_equal(found[0][name], found[1][name])
