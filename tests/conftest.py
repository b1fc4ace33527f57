"""Fixtures that all tests share: test data, one local Ray, hypothesis' profile."""

import gc
import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

# Before torch, numba and matplotlib are imported by any test.
N_THREADS = "2"
for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, N_THREADS)
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# A cluster of the person who runs the tests is neither used nor asked for its token.
os.environ.pop("RAY_ADDRESS", None)
os.environ["RAY_AUTH_MODE"] = "disabled"

import hypothesis  # noqa: E402
import pytest  # noqa: E402

from tests.fitted_maps import (  # noqa: E402, F401  (fixtures)
    blobs,
    fit_rows,
    fitted,
    manhattan,
    new_rows,
)
from tests.small_runs import (  # noqa: E402, F401  (fixtures)
    command_line,
    large_slide,
    layers_dts,
    model_folder,
    project_model,
    small_dts,
    small_map,
    small_model,
    small_points,
    small_project,
    small_tfrecords,
)
from tests.verify_runs import (  # noqa: E402, F401  (fixtures)
    finished_run,
    made,
    verify_here,
)

ROOT = Path(__file__).parents[1]

hypothesis.settings.register_profile("house", deadline=None)
hypothesis.settings.register_profile(
    "ci", deadline=None, derandomize=True, print_blob=True
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "house")


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what is in its background so, and jobs that tests stop inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def test_data():
    """The folder with goldens and real data; tests that need it skip without it."""
    given = os.environ.get("RAYLATENT_TEST_DATA")
    folder = Path(given) if given else ROOT.parent / "shared"
    if not (folder / "goldens").is_dir():
        pytest.skip(f"no test data in {folder} (set RAYLATENT_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def goldens(test_data):
    """What Slideflow itself wrote."""
    return test_data / "goldens"


@pytest.fixture(scope="session")
def golden_tfrecords(goldens):
    """Five small slides g00..g04 as Slideflow wrote them, 96 px tiles."""
    return goldens / "tfrecords_jpg" / "96px_96um"


@pytest.fixture(scope="session")
def golden_model(goldens, tmp_path_factory):
    """A model folder of the network that Slideflow's goldens were made with."""
    folder = tmp_path_factory.mktemp("golden")
    for name in ("golden_net.py", "golden_net.pt"):
        shutil.copy(goldens / name, folder)
    content = {"factory": "golden_net:ResNet", "weights": "golden_net.pt"}
    content |= {"tile_px": 96, "mean": 0.5, "std": 0.5, "classes": 3}
    (folder / "model.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def ray_session():
    """The one local Ray of the test session: 2 CPUs, no dashboard."""
    import ray

    # Unix sockets below it may have 107 bytes: the system's temporary folder can be long.
    scratch = tempfile.mkdtemp(prefix="rl", dir="/tmp")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=512 * 2**20,
        _temp_dir=scratch,
    )
    yield ray
    ray.shutdown()
    shutil.rmtree(scratch, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What tests are made of stays: looking for garbage in it takes seconds in all."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """What uses Ray says so; the long part runs only where `-m` asks for it."""
    for item in items:
        if "ray_session" in item.fixturenames:
            item.add_marker(pytest.mark.ray)
    if "campaign" in config.option.markexpr:
        return
    long = [item for item in items if item.get_closest_marker("campaign")]
    if long:
        items[:] = [item for item in items if item not in long]
        config.hook.pytest_deselected(items=long)
