"""Jobs whose run directory, TFRecords and model are in an object store."""

import signal
import time

import pytest

from tests.faults.bad_weather import BadWeather
from tests.faults.death import ACTOR, DRIVER, S3_SEEDS
from tests.faults.jobs import OPTIONS, S3Run, assert_clean, parts_of, wait_until
from tests.faults.processes import kill

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

KINDS = {
    DRIVER: "storage: driver killed, run on S3",
    ACTOR: "storage: actor killed, run on S3",
}


@pytest.fixture
def arguments(s3, bucket, slow_source, slow_model):
    """Of a job over slow_source and slow_model, both in the bucket."""
    for folder, files in (("tfrecords", slow_source), ("model", slow_model)):
        for file in files.iterdir():
            if file.is_file():
                s3.put(bucket, f"{folder}/{file.name}", file.read_bytes())
    inputs = ("--tfrecords", f"s3://{bucket}/tfrecords")
    return ("activations", *inputs, "--model", f"s3://{bucket}/model", *OPTIONS)


@pytest.fixture
def weather(s3, bucket, campaign):
    """Bad weather by seed; its faults are counted."""
    made = []

    def begin(seed, **options):
        s3.before = BadWeather(seed, **options)
        made.append(s3.before)
        return s3.before

    yield begin
    s3.before = s3.nothing
    for one in made:
        for kind, n in one.faults.items():
            campaign.fault(kind, n)


@pytest.mark.campaign
def test_a_driver_killed_in_bad_weather(disturb, s3, bucket, weather):
    weather("quick", often=0.05)
    disturb("s3 quick", DRIVER, run=S3Run(s3, bucket), kinds=KINDS)


@pytest.mark.campaign
@pytest.mark.parametrize("seed", S3_SEEDS)
def test_killed_at_a_moment_drawn_from_a_seed(disturb, s3, bucket, weather, seed):
    if seed % 2:
        weather(seed, often=0.05)
    kind = (DRIVER, ACTOR)[seed // 2 % 2]
    disturb(f"s3 {seed}", kind, run=S3Run(s3, bucket), kinds=KINDS)


@pytest.fixture
def start(cluster, arguments, campaign):
    """Start a job on the object store."""

    def begin(run, *more):
        cluster.command("heal")
        campaign.run()
        return cluster.start(*arguments, "--out", run.uri, *more)

    return begin


def said(process):
    out, complaints = process.communicate(timeout=400)
    return f"{process.returncode}\n{out}\n{complaints}"


@pytest.mark.campaign
def test_a_store_that_stops_for_a_minute(
    s3, bucket, start, weather, campaign, expected_rows
):
    run = S3Run(s3, bucket)
    stops = weather(0, often=0)
    process = start(run)
    assert wait_until(lambda: len(parts_of(run)) >= 3, process)
    stops.stop(65)
    campaign.fault("storage: stops for a minute")
    assert said(process).startswith("0\n")
    campaign.audit(run.uri, expected_rows)
    assert_clean(run)


@pytest.mark.campaign
def test_of_two_drivers_one_is_refused(s3, bucket, start, campaign, expected_rows):
    run = S3Run(s3, bucket)
    first = start(run)
    assert wait_until(lambda: len(parts_of(run)) >= 1, first)
    campaign.fault("death: two drivers at once")
    kill(first.pid, number=signal.SIGSTOP)  # or it may be done before the other begins
    second = said(start(run))
    kill(first.pid, number=signal.SIGCONT)
    assert second.startswith("2\n"), second
    assert "is being worked on by pid" in second
    assert said(first).startswith("0\n")
    campaign.audit(run.uri, expected_rows)


@pytest.mark.campaign
def test_drivers_that_start_at_the_same_moment(
    s3, bucket, start, campaign, expected_rows
):
    run = S3Run(s3, bucket)
    campaign.fault("death: two drivers at once")
    found = [said(process) for process in [start(run), start(run)]]
    codes = sorted(text.split("\n")[0] for text in found)
    assert codes in (["0", "2"], ["0", "0"]), found  # one after the other, if slow
    campaign.audit(run.uri, expected_rows)
    assert_clean(run)


@pytest.mark.campaign
def test_what_dead_drivers_left_is_cleaned_up(
    s3, bucket, start, campaign, expected_rows
):
    run = S3Run(s3, bucket)
    process = start(run)
    assert wait_until(lambda: len(parts_of(run)) >= 2, process)
    kill(process.pid)
    process.wait()
    left = f"run/activations/slide=a/.{'0' * 12}-{'0' * 32}.aside"
    s3.put(bucket, left, b"half a part")
    campaign.fault("storage: aside files left")
    time.sleep(1)
    assert said(start(run)).startswith("0\n")
    campaign.audit(run.uri, expected_rows)
    assert_clean(run)


@pytest.mark.campaign
def test_the_whole_atlas_in_a_bucket(s3, bucket, cluster, start, weather):
    run = S3Run(s3, bucket)
    weather("atlas", often=0.03)
    assert said(start(run)).startswith("0\n")
    for verb, *options in (
        ("map", "--n-neighbors", 10),
        ("mosaic", "--num-tiles-x", 8),
        ("verify",),
    ):
        answer = said(cluster.start(verb, "--out", run.uri, *options))
        assert answer.startswith("0\n"), answer
    files = run.files()
    assert {"maps/default/umap.png", "mosaics/default/mosaic.png"} <= files.keys()
    assert_clean(run)
