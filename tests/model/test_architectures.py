"""Where `postconv` is in published architectures, built by their packages, weights random.

Right is Slideflow's choice for those that it knows, else what goes into the classifier,
which the package itself names.
"""

import pytest
import torch

from raylatent.errors import LayerError
from raylatent.model.layers import LayerCapture
from raylatent.model.load import declare_missing_operators
from raylatent.model.postconv import find_postconv

declare_missing_operators()

# Side of the tiles, the module whose output Slideflow takes, and the shape.
SLIDEFLOW = {
    "alexnet": (64, "classifier.0", 9216),
    "densenet121": (64, "features.norm5", 1024),
    "googlenet": (64, "avgpool", 1024),
    "inception_v3": (96, "avgpool", 2048),
    "mnasnet0_5": (64, "classifier.0", 1280),
    "mobilenet_v2": (64, "classifier.0", 1280),
    "mobilenet_v3_small": (64, "classifier.0", 1024),
    "resnet18": (64, "avgpool", 512),
    "shufflenet_v2_x0_5": (64, "conv5.1", 1024),
    "squeezenet1_1": (64, "classifier.0", 512),
}
# Side, and the classifier.
TORCHVISION = {
    "convnext_tiny": (64, "classifier.2"),
    "efficientnet_b0": (64, "classifier.1"),
    "regnet_y_400mf": (64, "fc"),
    "swin_t": (64, "head"),
}
TIMM = {
    "convnext_atto": 64,
    "dla34": 64,
    "fastvit_t8": 64,
    "ghostnet_050": 64,
    "mobilenetv3_small_050": 64,
    "pvt_v2_b0": 64,
    "repvgg_a0": 64,
    "resnet18": 64,
    "starnet_s1": 64,
    "vit_tiny_patch16_224": 224,
}
OF_TWO_HEADS = {"efficientformer_l1": 224, "deit_tiny_distilled_patch16_224": 224}
N_CLASSES = 7


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads that wait for each other on busy cores take ten times as long."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def from_torchvision(name):
    torch.manual_seed(0)
    more = (
        {"init_weights": False, "aux_logits": False}
        if name in {"googlenet", "inception_v3"}
        else {}
    )
    build = getattr(pytest.importorskip("torchvision.models"), name)
    return build(weights=None, num_classes=N_CLASSES, **more).eval()


def from_timm(name):
    torch.manual_seed(0)
    timm = pytest.importorskip("timm")
    return timm.create_model(name, num_classes=N_CLASSES).eval()


def sample(px):
    return torch.rand(2, 3, px, px, generator=torch.Generator().manual_seed(1))


def taken(model, px):
    target = find_postconv(model, sample(px))
    return LayerCapture(model, [target], None)(sample(px), with_output=True)[0][
        "postconv"
    ]


def seen(model, module, px, *, before):
    """What goes into a module, or comes out."""
    kept = []
    handle = module.register_forward_hook(
        lambda _module, args, output: kept.append(
            (args[0] if before else output).clone()
        )
    )
    with torch.inference_mode():
        model(sample(px))
    handle.remove()
    return kept[-1]


@pytest.mark.parametrize("name", SLIDEFLOW)
def test_slideflows_choice(name):
    px, layer, width = SLIDEFLOW[name]
    model = from_torchvision(name)
    expected = seen(model, model.get_submodule(layer), px, before=False)
    expected = expected.mean((2, 3)) if expected.ndim == 4 else expected
    found = taken(model, px)
    assert found.shape == (2, width)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", TORCHVISION)
def test_what_goes_into_the_classifier(name):
    px, layer = TORCHVISION[name]
    model = from_torchvision(name)
    expected = seen(model, model.get_submodule(layer), px, before=True)
    torch.testing.assert_close(taken(model, px), expected)


@pytest.mark.parametrize("name", TIMM)
def test_what_goes_into_timms_classifier(name):
    px = TIMM[name]
    model = from_timm(name)
    expected = seen(model, model.get_classifier(), px, before=True)
    torch.testing.assert_close(taken(model, px), expected.flatten(1))


@pytest.mark.parametrize("name", OF_TWO_HEADS)
def test_two_heads_are_a_question(name):
    with pytest.raises(
        LayerError, match=r"several layers together \(head, head_dist\)"
    ):
        taken(from_timm(name), OF_TWO_HEADS[name])
