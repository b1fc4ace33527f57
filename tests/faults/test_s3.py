"""Runs on an object store, over the protocol of S3."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from raylatent.claim import CLAIM, Claim, new_token, refuse_taken
from raylatent.errors import ClaimError, StorageError
from raylatent.storage import Store, list_files
from tests.faults.s3_server import error


@pytest.fixture
def store(bucket):
    return Store(f"s3://{bucket}/run")


@pytest.fixture
def asked(s3):
    """Requests since the test began: (method, key)."""
    found = []

    def note(handler, key):
        found.append((handler.command, key))

    s3.before = note
    return found


@pytest.mark.campaign
def test_a_listing_of_many_pages_is_whole(s3, bucket, store):
    names = [f"activations/slide={i % 7} ü+&/{i:06d}.parquet" for i in range(1200)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: s3.put(bucket, f"run/{name}", b"x"), names))
    s3.put(bucket, "run/activations/.writer-0.aside", b"x")
    assert store.list() == sorted(names)
    assert store.list("activations/slide=3 ü+&") == [n for n in names if "=3" in n]
    assert store.asides() == ["activations/.writer-0.aside"]
    assert len(list_files(f"s3://{bucket}/run")) == 1201


def test_a_small_object_is_one_request_and_a_large_one_shows_whole(
    s3, bucket, store, asked
):
    store.write("a", bytes(3 << 20))
    assert [method for method, _ in asked if method != "HEAD"] == ["PUT"]
    large = bytes(range(256)) * (25 << 12)
    store.write("large", large)
    assert store.read("large") == large
    with store.writing("streamed") as append:
        append(large[:-1])
        append(b"x")
    assert store.read("streamed") == large[:-1] + b"x"
    assert not s3.uploads


def test_nothing_shows_of_an_upload_that_fails(s3, bucket, store, impatient):
    def refuse(handler, key):
        if "partNumber=2" in handler.path:
            raise error(400, "EntityTooSmall")

    s3.before = refuse
    with pytest.raises(StorageError, match=r"cannot write s3://.*/large"):
        store.write("large", bytes(25 << 20))
    s3.before = s3.nothing
    assert not store.exists("large")


def test_what_is_not_there(store, bucket):
    assert not store.exists("none")
    assert store.size("none") is None
    assert store.list("none") == []
    assert list_files(f"s3://{bucket}/none") is None
    for action in (store.read, store.open):
        with pytest.raises(StorageError, match="none") as caught:
            action("none")
        assert isinstance(caught.value.__cause__, FileNotFoundError)
    store.delete("none")
    store.delete_folder("none")
    with pytest.raises(StorageError, match="NO_SUCH_BUCKET"):
        Store("s3://no-such-bucket/run").write("a", b"x")


def test_empty_folders_are_not_listed(s3, bucket, store):
    for name in ("a/b/1", "a/b/2", "a/c/3", "4"):
        store.write(name, b"x")
    store.move("a/b/1", "removed/a/b/1")
    store.delete("a/b/2")
    store.delete_folder("a/c")
    assert store.list() == ["4", "removed/a/b/1"]
    assert store.root_files() == ["4"]
    assert store.list("a") == []
    store.delete_folder("removed")
    assert store.list() == ["4"]


def test_an_answer_that_is_lost_is_not_taken_for_a_failure(s3, store):
    """The store did what was asked, and is asked again."""
    for name in ("moved", "deleted"):
        store.write(name, b"x")
    lost = set()

    def lose(handler, key):
        handler.lose_answer = handler.command == "DELETE" and key not in lost
        lost.add(key)

    s3.before = lose
    store.move("moved", "there")
    store.delete("deleted")
    assert store.list() == ["there"]


def test_of_many_drivers_exactly_one_has_the_claim(store):
    barrier, done = threading.Barrier(4), threading.Barrier(4)
    won, refused = [], []

    def drive():
        token = new_token()
        other = Store(store.uri)
        barrier.wait()
        try:
            with Claim(other, token) as held:
                won.append(token)
                done.wait(30)
                held.check()
        except ClaimError as error:
            refused.append(str(error))
            done.wait(30)

    threads = [threading.Thread(target=drive) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 3)
    assert store.list() == []


def test_a_claim_written_again_while_it_is_read_is_read_whole(
    s3, bucket, store, monkeypatch
):
    """The client asks for the size first; the heartbeat's text has no fixed length."""
    writer = Store(store.uri, writer=new_token())
    moments = []

    def write_again(handler, key):
        if (handler.command, key) == ("GET", f"run/{CLAIM}") and moments:
            clock = SimpleNamespace(time=moments.pop)
            monkeypatch.setattr("raylatent.claim.time", clock)
            s3.put(bucket, key, claim._content())

    with Claim(writer, writer.writer) as claim:
        s3.before = write_again
        for moment in (1_764_455_001.5, 1_764_455_001.123456, 1_764_455_001.0):
            moments.append(moment)
            refuse_taken(writer)
            assert not moments
        s3.before = s3.nothing
