"""What postconv is before heads of many kinds, and of networks as people write them."""

import subprocess
import sys
from itertools import product

import pytest
import torch
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


@pytest.mark.parametrize(
    ("after", "classes"),
    [
        case
        for case in product(AFTER, [1, N_CLASSES])
        if case not in {("one of the classes", 1), ("viewed", N_CLASSES)}  # no rows
    ],
)
def test_whatever_the_model_makes_of_its_scores(after, classes):
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
