"""What is installed from a built wheel has the explorer's page in it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "raylatent/explorer/page"
WRITE = """
import sys
from pathlib import Path
from raylatent.explorer import folder
assert folder.__file__.startswith(sys.argv[2])
for name, data in folder.page_files():
    (Path(sys.argv[1]) / name).write_bytes(data)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The path of a wheel of this package."""
    folder = tmp_path_factory.mktemp("wheel")
    argv = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", folder, ROOT]
    built = subprocess.run(argv, capture_output=True, text=True, check=False)  # noqa: S603
    if built.returncode != 0:
        missing = f"no wheel could be built here: {built.stderr[-400:]}"
        assert not os.environ.get("CI"), missing
        pytest.skip(missing)
    return next(folder.glob("raylatent-*.whl"))


def test_an_installed_wheel_writes_the_page(wheel, tmp_path):
    installed, out = tmp_path / "installed", tmp_path / "out"
    out.mkdir()
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(installed)
    argv = [sys.executable, "-c", WRITE, str(out), str(installed)]
    env = {**os.environ, "PYTHONPATH": str(installed)}
    subprocess.run(argv, check=True, cwd=tmp_path, env=env)  # noqa: S603
    page = {file.name: file.read_bytes() for file in PAGE.iterdir() if file.is_file()}
    written = {file.name: file.read_bytes() for file in out.iterdir()}
    assert written.pop("server.js")
    assert written == page
    assert len(page) > 10
