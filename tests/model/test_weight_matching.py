"""Weights found in checkpoints as programs write them."""

import argparse

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from raylatent.model.weight_matching import Fit, find_weights

WORD = st.sampled_from(
    ["module", "model", "net", "_orig_mod", "teacher", "backbone", "encoder_q"]
)
KEY = st.sampled_from(["state_dict", "model_state_dict", "model", "ema", "params"])


class Net(nn.Module):
    """A body, a norm with a counter, and a head."""

    def __init__(self, classes=3):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, classes)


def own(model=None):
    return (model or Net()).state_dict(keep_vars=True)


def state(seed=0, model=None):
    torch.manual_seed(seed)
    return (model or Net()).state_dict()


def prefixed(prefix, tensors):
    return {prefix + name: value for name, value in tensors.items()}


def fitted(model, saved, key=None):
    found = find_weights(own(model), saved, key)
    assert isinstance(found, Fit), found
    return found


def refused(saved, model=None, key=None):
    found = find_weights(own(model), saved, key)
    assert isinstance(found, str), found
    assert "\n" not in found
    return found


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value)


@given(keys=st.lists(KEY, max_size=3), words=st.lists(WORD, max_size=3))
def test_any_keys_and_any_prefix_are_taken_off(keys, words):
    saved = prefixed("".join(f"{word}." for word in words), state())
    for key in reversed(keys):
        saved = {"epoch": 3, key: saved, "arch": "net"}
    found = fitted(Net(), saved)
    assert_same(found.state, state())
    assert bool(found.taken) == bool(keys or words)
    for name in (*keys, *words):
        assert name in found.taken or "wrappers" in found.taken


@given(st.lists(WORD, min_size=1, max_size=3))
def test_a_prefix_that_only_the_model_has_is_put_on(words):
    prefix = "".join(f"{word}." for word in words)
    mine = prefixed(prefix, own())
    found = find_weights(mine, state())
    assert isinstance(found, Fit)
    assert_same(found.state, prefixed(prefix, state()))


@pytest.mark.parametrize("inner", ["module", "_orig_mod", "_fsdp_wrapped_module"])
def test_wrappers_within_names(inner):
    there = {name.replace("conv.", f"conv.{inner}."): v for name, v in state().items()}
    assert_same(fitted(Net(), there).state, state())
    # And a model that is wrapped itself takes plain names.
    mine = {name.replace("conv.", f"conv.{inner}."): v for name, v in own().items()}
    found = find_weights(mine, state())
    assert isinstance(found, Fit)
    assert found.state.keys() == mine.keys()


def test_what_lies_under_other_prefixes_is_said():
    saved = prefixed("teacher.backbone.", state())
    saved |= {"teacher.head.weight": torch.ones(5, 5), "queue": torch.ones(9)}
    found = fitted(Net(), saved)
    assert_same(found.state, state())
    assert found.key == "teacher.backbone"
    assert found.unused == ("teacher.head.weight", "queue")


def test_two_places_that_differ_are_a_question():
    saved = {"state_dict": state(0), "state_dict_ema": state(1)}
    said = refused(saved)
    assert "2 places that differ, 'state_dict' and 'state_dict_ema'" in said
    assert '"weights_key": "state_dict_ema"' in said
    for key, seed in (("state_dict", 0), ("state_dict_ema", 1)):
        assert_same(fitted(Net(), saved, key).state, state(seed))
    said = refused(saved, key="ema")
    assert said == "have no weights_key 'ema': there are state_dict, state_dict_ema"


def test_two_prefixes_that_differ_are_a_question():
    saved = prefixed("encoder_q.", state(0)) | prefixed("encoder_k.", state(1))
    assert "'encoder_q' and 'encoder_k'" in refused(saved)
    assert_same(fitted(Net(), saved, "encoder_k").state, state(1))


def test_two_places_with_the_same_values_are_none():
    saved = {"model": state(), "ema": {k: v.clone() for k, v in state().items()}}
    assert fitted(Net(), saved).key == "model"


def test_the_optimizer_is_no_place():
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    model.fc(model.conv(torch.ones(1, 3, 3, 3)).flatten(1)).sum().backward()
    optimizer.step()
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    assert_same(fitted(Net(), saved).state, model.state_dict())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("module.fc.bias"), "they lack fc.bias"),
        (
            lambda s: s.update({"module.fc.weight": torch.ones(1000, 4)}),
            "shapes differ: fc.weight is (1000, 4), the model has (3, 4)",
        ),
        (
            lambda s: s.update({"module.aux.weight": torch.ones(2)}),
            "they have, and the model has not, module.aux.weight (take this out of the "
            "file, or make the model with it)",
        ),
    ],
)
def test_what_does_not_fit_says_with_which_prefix(change, said):
    saved = prefixed("module.", state())
    change(saved)
    assert refused({"state_dict": saved}) == (
        "do not fit the model (tried: taken from 'state_dict', 'module.' taken off "
        f"their names): {said}"
    )


def test_a_head_that_the_model_lacks_is_no_prefix():
    saved = state()
    mine = {name: v for name, v in own().items() if not name.startswith("fc.")}
    assert find_weights(mine, saved) == (
        "do not fit the model: they have, and the model has not, fc.bias, fc.weight "
        "(take this out of the file, or make the model with it)"
    )


@pytest.mark.parametrize("there", ["old", "new"])
@pytest.mark.parametrize("norm", ["weight", "spectral"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_names_of_norms_before_and_after_torch_2(norm, there):
    old, new = (
        getattr(place, f"{norm}_norm") for place in (nn.utils, parametrizations)
    )
    torch.manual_seed(1)
    source = (old if there == "old" else new)(nn.Linear(4, 3)).eval()
    target = (new if there == "old" else old)(nn.Linear(4, 3)).eval()
    found = fitted(target, prefixed("module.", source.state_dict()))
    target.load_state_dict(found.state)
    x = torch.ones(2, 4)
    torch.testing.assert_close(target(x), source(x))


def test_a_tied_tensor_may_have_one_of_its_names():
    model = Net()
    model.head = model.fc
    for absent in ("fc.", "head."):
        there = {
            name: v
            for name, v in model.state_dict().items()
            if not name.startswith(absent)
        }
        assert_same(fitted(model, there).state, model.state_dict())
    there = {
        name: v
        for name, v in model.state_dict().items()
        if "fc." not in name and "head." not in name
    }
    assert "they lack fc.weight, fc.bias, head.weight and 1 more" in refused(
        there, model
    )


def test_a_tied_tensor_with_two_values():
    model = Net()
    model.head = model.fc
    there = {name: value.clone() for name, value in model.state_dict().items()}
    assert_same(fitted(model, there).state, there)
    there["head.bias"] += 1
    assert "fc.bias and head.bias are one tensor in the model, and differ" in refused(
        there, model
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.ones(3, dtype=torch.int8), "is torch.int8, the model has torch.float32"),
        (torch.ones(3, dtype=torch.bool), "are they quantized?"),
        (torch.ones(3).to(torch.float8_e4m3fn), "are they quantized?"),
        (torch.ones(3, dtype=torch.complex64), "complex"),
        (torch.ones(3, device="meta"), "saved from the meta device"),
        (torch.ones(3).to_sparse(), "is torch.sparse_coo, not dense"),
    ],
)
def test_values_that_are_none_for_the_model(value, said):
    text = refused(state() | {"fc.bias": value})
    assert "values cannot be taken: fc.bias" in text
    assert said in text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_point_of_any_width(dtype):
    there = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state().items()}
    assert_same(fitted(Net(), there).state, there)


def test_whole_numbers_saved_as_floats():
    model = nn.Module()
    model.register_buffer("index", torch.arange(3))
    assert fitted(model, {"index": torch.tensor([2.0, 1.0, 0.0])})
    text = refused({"index": torch.tensor([0.5, 1.0, 0.0])}, model)
    assert "index is torch.float32, the model has torch.int64" in text


@pytest.mark.parametrize(("mine", "there"), [((), (1,)), ((1,), ())])
def test_one_number_has_either_shape(mine, there):
    model = nn.Module()
    model.scale = nn.Parameter(torch.zeros(mine))
    found = fitted(model, {"scale": torch.full(there, 4.5)})
    assert torch.equal(found.state["scale"], torch.full(mine, 4.5))


def test_numbers_among_tensors_are_passed_over():
    there = state()
    del there["bn.num_batches_tracked"]
    saved = there | {"epoch": 3, "best": None, "bn.num_batches_tracked": 7}
    assert_same(fitted(Net(), saved).state, there)


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        ([1, 2], "are no state dict but a list"),
        (None, "are no state dict but a NoneType"),
        ({}, "are no state dict but an empty mapping"),
        ({"epoch": 3, "best": 0.5}, "a mapping with 'epoch', 'best'"),
        ({1: torch.ones(2)}, "a mapping with 1"),
        (argparse.Namespace(), "a Namespace"),
        (np.ones(2), "a ndarray"),
    ],
)
def test_what_holds_no_tensors(saved, said):
    text = refused(saved)
    assert said in text
    assert "torch.save(model.state_dict(), path)" in text


def test_a_mapping_that_holds_itself():
    saved = {"model": state()}
    saved["self"] = saved
    assert_same(fitted(Net(), saved).state, state())


def test_a_model_without_tensors():
    assert fitted(nn.ReLU(), {}).state == {}
    assert "the model has not, w" in refused({"w": torch.ones(2)}, nn.ReLU())


def test_names_of_the_file_break_no_line():
    text = refused(state() | {"evil\n\x1b[31mname": torch.ones(2)})
    assert r"'evil\n\x1b[31mname'" in text


def test_a_modules_extra_state_is_given_back():
    class Scaled(nn.Module):
        def get_extra_state(self):
            return {"scale": 2}

        def set_extra_state(self, state):
            self.scale = state["scale"]

    model = Scaled()
    there = {"model": {"module._extra_state": {"scale": 5}, "module.x": torch.ones(1)}}
    model.x = nn.Parameter(torch.zeros(1))
    model.load_state_dict(fitted(model, there).state, strict=False)
    assert model.scale == 5
