"""Ray's errors in one sentence: what happened, and what Ray says of it."""

import pytest
from ray.data.exceptions import SystemException
from ray.exceptions import ActorDiedError, NodeDiedError, RayError

from raylatent.engine.cluster import as_ours
from raylatent.errors import IncompleteError, StorageError

DIED = "The actor died unexpectedly before finishing this task.\n\tclass_name: {}\n"


def died(text):
    error = ActorDiedError()
    error.args = (text,)
    error.error_msg = text
    return error


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        (
            DIED.format("SlideQueue") + "The actor died because its node has died.",
            "the node on which this program runs was lost, and with it the list",
        ),
        (
            DIED.format("MapWorker") + "The actor died because its node has died.",
            "a node of the cluster was lost",
        ),
        (
            DIED.format("MapWorker") + "killed due to the node running low on memory.",
            "a node ran out of memory: try fewer --actors or a smaller --batch-size",
        ),
        (
            DIED.format("MapWorker") + "its owner has died.",
            "the process that had its inputs was lost",
        ),
        (
            DIED.format("MapWorker") + "because the worker process has died.",
            "its process was killed, perhaps for want of memory",
        ),
    ],
)
def test_the_death_of_an_actor_is_explained_and_rays_words_are_kept(text, meaning):
    said = str(as_ours(died(text)))
    assert said.startswith(f"a worker failed ({meaning}")
    assert f"; Ray says ActorDiedError: {text.splitlines()[0]}" in said
    assert text.splitlines()[-1] in said
    assert "class_name" not in said
    assert "\n" not in said
    assert said.endswith("the same command again goes on from here")


def test_an_error_that_says_nothing_hides_none():
    """Ray Data raises an internal error from an empty one."""
    error = NodeDiedError("node 7 is gone")
    error.__cause__ = SystemException()
    assert "node 7 is gone" in str(as_ours(error))
    assert str(as_ours(SystemException())).startswith("a worker failed (SystemExcep")


def test_an_error_of_ours_is_found_wherever_it_is():
    ours, outer = StorageError("disk full"), RuntimeError("outer")
    outer.__cause__ = ours
    assert as_ours(outer) is ours


def test_an_error_with_a_trace_as_its_text_is_cut_to_what_was_raised():
    text = "UDF failed\n  File 'x.py', line 3\nRuntimeError: out of memory\nsee docs"
    assert "(RuntimeError: out of memory)" in str(as_ours(RayError(text)))
    assert isinstance(as_ours(RayError(text)), IncompleteError)
    assert len(str(as_ours(RayError("x" * 5000)))) < 1000
