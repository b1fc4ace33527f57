"""Where `postconv` is, by Slideflow's rules and by structure."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from raylatent.errors import LayerError, ModelError
from raylatent.model.features import Features
from raylatent.model.forward_pass import Output
from raylatent.model.layers import LayerCapture
from raylatent.model.pooling import Layout
from raylatent.model.postconv import Target, find_postconv, find_targets

N, PX, WIDTH, N_CLASSES = 2, 16, 6, 4


def sample():
    return torch.rand(N, 3, PX, PX, generator=torch.Generator().manual_seed(3))


def named(kind, *, forward=None, **children):
    """A model whose class is called `kind`: its children one after the other."""

    def in_order(self, x):
        for child in self.children():
            x = child(x)
        return x

    torch.manual_seed(0)
    cls = type(kind, (nn.Module,), {"forward": forward or in_order})
    model = cls()
    for name, child in children.items():
        model.add_module(name, child)
    return model.eval()


def conv(out=WIDTH, inp=3):
    return nn.Sequential(nn.Conv2d(inp, out, 3, 2, 1), nn.BatchNorm2d(out), nn.ReLU())


def mlp(*sizes):
    """A classifier as VGG's: Linear, ReLU in place, Dropout, Linear."""
    layers = []
    for inp, out in pairwise(sizes[:-1]):
        layers += [nn.Linear(inp, out), nn.ReLU(inplace=True), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


def pooled_and_flat():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def taken(model):
    """The target, and what it gives."""
    target = find_postconv(model, sample())
    found, _ = LayerCapture(model, [target], None)(sample(), with_output=True)
    return target, found["postconv"]


@pytest.mark.parametrize("kind", ["ResNet", "Inception3", "GoogLeNet"])
def test_average_pool_of_residual_and_inception_networks(kind):
    model = named(
        kind,
        features=conv(),
        avgpool=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(),
        fc=nn.Linear(WIDTH, N_CLASSES),
    )
    target, found = taken(model)
    assert target == Target(layer="postconv", module="avgpool")
    expected = model.features(sample()).mean((2, 3))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["VGG", "MobileNetV3"])
def test_first_of_the_classifier_before_its_activation_in_place(kind):
    model = named(
        kind, features=conv(), pool=pooled_and_flat(), classifier=mlp(WIDTH, 8, 8, 4)
    )
    target, found = taken(model)
    assert target.module == "classifier.0"
    assert found.shape == (N, 8)
    assert (found < 0).any()  # not yet what the ReLU wrote over it


@pytest.mark.parametrize("kind", ["AlexNet", "MobileNetV2", "MNASNet"])
def test_first_of_a_classifier_that_begins_with_dropout(kind):
    classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(WIDTH, N_CLASSES))
    model = named(kind, features=conv(), pool=pooled_and_flat(), classifier=classifier)
    target, found = taken(model)
    assert target.module == "classifier.0"
    torch.testing.assert_close(found, model.pool(model.features(sample())))


def test_a_classifier_taken_off_is_the_features():
    model = named(
        "VGG", features=conv(), pool=pooled_and_flat(), classifier=nn.Identity()
    )
    target, found = taken(model)
    assert target.module == "classifier"
    assert found.shape == (N, WIDTH)


@pytest.mark.parametrize(
    "alone", [nn.Linear(WIDTH, 4), nn.Sequential(nn.Linear(WIDTH, 4))]
)
def test_a_classifier_that_is_one_linear_layer_is_not_itself_the_features(alone):
    model = named(
        "MobileNetV2", features=conv(), pool=pooled_and_flat(), classifier=alone
    )
    target, found = taken(model)
    assert target.before
    assert found.shape == (N, WIDTH)


def test_squeezenets_maps_are_averaged():
    classifier = nn.Sequential(
        nn.Dropout(0.5), nn.Conv2d(WIDTH, N_CLASSES, 1), nn.ReLU(), pooled_and_flat()
    )
    model = named("SqueezeNet", features=conv(), classifier=classifier)
    target, found = taken(model)
    assert target == Target(
        layer="postconv",
        module="classifier.0",
        pooling="avg",
        layout=Layout(axes=(2, 3)),
    )
    torch.testing.assert_close(found, model.features(sample()).mean((2, 3)))


@pytest.mark.parametrize(
    ("kind", "name"),
    [("DenseNet", "features.norm5"), ("ShuffleNetV2", "conv5.1"), ("Xception", "bn4")],
)
def test_maps_before_the_last_pool_are_averaged(kind, name):
    parent, _, child = name.rpartition(".")
    block = nn.Sequential()
    block.add_module("0", nn.Conv2d(3, WIDTH, 3))
    block.add_module(child or name, nn.BatchNorm2d(WIDTH))
    rest = nn.Sequential(pooled_and_flat(), nn.Linear(WIDTH, N_CLASSES))
    children = {parent: block} if parent else dict(block.named_children())
    model = named(kind, **children, rest=rest)
    target, found = taken(model)
    assert target == Target(
        layer="postconv", module=name, pooling="avg", layout=Layout(axes=(2, 3))
    )
    assert found.shape == (N, WIDTH)


def test_vit_to_latent():
    model = named(
        "ViT",
        features=conv(),
        pool=pooled_and_flat(),
        to_latent=nn.Identity(),
        head=nn.Linear(WIDTH, N_CLASSES),
    )
    target, found = taken(model)
    assert target.module == "to_latent"
    assert found.shape == (N, WIDTH)


def test_a_known_class_of_another_make_is_looked_at_by_structure():
    model = named(
        "ResNet", body=conv(), pool=pooled_and_flat(), out=nn.Linear(WIDTH, 2)
    )
    assert taken(model)[0] == Target(layer="postconv", module="out", before=True)


def body_then(*rest):
    torch.manual_seed(1)
    return nn.Sequential(conv(), pooled_and_flat(), *rest).eval()


@pytest.mark.parametrize(
    "after",
    [
        [],
        [nn.Softmax(1)],
        [nn.LogSoftmax(1)],
        [nn.Sigmoid()],
        [nn.Flatten()],
        [nn.Hardtanh()],
    ],
)
@pytest.mark.parametrize("before", [[], [nn.Dropout(0.5)]])
def test_what_goes_into_a_linear_head(before, after):
    model = body_then(*before, nn.Linear(WIDTH, N_CLASSES), *after)
    target, found = taken(model)
    assert target == Target(layer="postconv", module=str(2 + len(before)), before=True)
    torch.testing.assert_close(found, model[1](model[0](sample())))


def test_the_last_of_several_linear_layers():
    model = body_then(nn.Linear(WIDTH, N_CLASSES), nn.ReLU(), nn.Linear(4, N_CLASSES))
    assert taken(model)[0].module == "4"


class WithAuxiliary(nn.Module):
    """The auxiliary head of the same width runs last."""

    def __init__(self, last):
        super().__init__()
        torch.manual_seed(2)
        self.body = nn.Sequential(conv(), pooled_and_flat())
        self.main, self.aux = nn.Linear(WIDTH, N_CLASSES), nn.Linear(WIDTH, N_CLASSES)
        self.last = last

    def forward(self, x):
        x = self.body(x)
        scores = self.last(self.main(x))
        return scores, self.aux(x * 2)


@pytest.mark.parametrize("last", [nn.Identity(), nn.Softmax(1), nn.LogSoftmax(1)])
def test_not_the_auxiliary_head(last):
    target = find_postconv(WithAuxiliary(last).eval(), sample(), Output(key=0))
    assert target.module == "main"


def test_of_two_outputs_the_user_chooses_the_head():
    model = WithAuxiliary(nn.Identity()).eval()
    with pytest.raises(ModelError, match=r'0 \(4,\), 1 \(4,\).*"output": 0'):
        find_postconv(model, sample())
    assert find_postconv(model, sample(), Output(key=1)).module == "aux"


def test_without_head_the_output():
    target, found = taken(body_then())
    assert target == Target(layer="postconv", module="")
    assert found.shape == (N, WIDTH)


def test_a_linear_layer_in_the_middle_is_no_head():
    """Squeeze and excitation: as wide as the output, but convolutions follow."""

    class Excited(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.gate = conv(), nn.Linear(WIDTH, WIDTH)
            self.second = conv(WIDTH, WIDTH)

        def forward(self, x):
            x = self.first(x)
            weights = self.gate(x.mean((2, 3))).sigmoid()
            return self.second(x * weights[:, :, None, None]).mean((2, 3))

    torch.manual_seed(0)
    assert taken(Excited().eval())[0].module == ""


@pytest.mark.parametrize("after", [[], [nn.ReLU()]])
def test_a_convolution_as_head(after):
    torch.manual_seed(0)
    model = nn.Sequential(
        conv(), nn.Conv2d(WIDTH, N_CLASSES, 1), *after, pooled_and_flat()
    ).eval()
    target, found = taken(model)
    assert target == Target(
        layer="postconv",
        module="1",
        before=True,
        pooling="avg",
        layout=Layout(axes=(2, 3)),
    )
    torch.testing.assert_close(found, model[0](sample()).mean((2, 3)))


def test_maps_or_tokens_without_head_are_the_output():
    assert taken(conv().eval())[1].shape == (N, WIDTH, PX // 2, PX // 2)


def test_a_head_called_by_keyword():
    class ByKeyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = (
                nn.Sequential(conv(), pooled_and_flat()),
                nn.Linear(6, 2),
            )

        def forward(self, x):
            return {"logits": self.head(input=self.body(x)), "more": None}

    target, found = taken(ByKeyword().eval())
    assert target.module == "head"
    assert found.shape == (N, WIDTH)


def test_a_module_called_postconv_is_taken_by_name():
    model = named(
        "Own", postconv=conv(), pool=pooled_and_flat(), fc=nn.Linear(WIDTH, 2)
    )
    assert find_targets(model, ["postconv"], sample()) == [
        Target(layer="postconv", module="postconv")
    ]


def test_a_model_without_classifier_by_contract_is_taken_as_it_is():
    model = body_then(nn.Linear(WIDTH, 8))
    assert find_targets(model, ["postconv"], sample(), headless=True)[0].module == ""


def test_an_unknown_layer_lists_the_near_ones():
    net = nn.Sequential()
    for name in ("stem", "layer1", "layer2", "head"):
        net.add_module(name, nn.Identity())
    with pytest.raises(LayerError, match=r"'layer9'.*layer[12], layer[12]"):
        find_targets(net, ["layer9"], sample())
    with pytest.raises(LayerError, match="stem, layer1, layer2, head"):
        find_targets(net, ["zzzzzzz"], sample())


def test_features_of_a_module_from_python():
    model = body_then(nn.Linear(WIDTH, N_CLASSES))
    features = Features(model, tile_px=PX, include_preds=True)
    acts, preds = features(torch.rand(3, 3, PX, PX))
    assert acts.shape == (3, WIDTH)
    assert preds.shape == (3, N_CLASSES)
