"""`--compile`: part of the fingerprint, since it changes digits."""

import json

import pytest

from raylatent.errors import RunError
from raylatent.model import layers

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("in_process")]


def test_compiled_rows_do_not_mix_with_others(
    tmp_path, tiles, write_slide, compute, monkeypatch
):
    monkeypatch.setattr(layers, "_BACKEND", "eager")
    source = tmp_path / "tfrecords"
    source.mkdir()
    write_slide(source, "a", tiles[:40])
    out = tmp_path / "run"
    report = compute(out, [source], compile=True)
    assert report.n_rows == 40
    assert json.loads((out / "run.json").read_text())["fields"]["compiled"] is True
    with pytest.raises(RunError, match="compiled"):
        compute(out, [source])
    plain = tmp_path / "plain"
    compute(plain, [source])
    assert json.loads((plain / "run.json").read_text())["fields"]["compiled"] is False
    with pytest.raises(RunError, match="compiled"):
        compute(plain, [source], compile=True)
