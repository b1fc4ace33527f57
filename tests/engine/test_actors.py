"""What an actor does before its first unit."""

from types import SimpleNamespace

import pytest

from raylatent.engine import actors
from raylatent.engine.actors import ActivationsActor
from raylatent.model.rows import RowOptions


@pytest.mark.parametrize("compiled", [False, True])
def test_compiling_is_no_part_of_the_first_unit(monkeypatch, compiled):
    passes = []
    lane = SimpleNamespace(warm_up=lambda **options: passes.append(options))
    monkeypatch.setattr(actors, "ray", SimpleNamespace(get=lambda reference: reference))
    monkeypatch.setattr(actors, "load_features", lambda *_: None)
    monkeypatch.setattr(actors, "lane_of", lambda _: lane)
    monkeypatch.setattr(actors, "set_threads", lambda _: None)
    actor = object.__new__(ActivationsActor)
    actor._spec = SimpleNamespace(unpack=lambda: None)
    actor._threads = SimpleNamespace(count=1)
    actor._options = SimpleNamespace(
        compiled=compiled,
        num_gpus=0,
        reader=None,
        rows=RowOptions(with_preds=True),
    )
    actor.prepare()
    assert passes == [{"with_preds": True}] * compiled
