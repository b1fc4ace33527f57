"""What Ray raises, as errors of ours: in one sentence, with Ray's reason in it."""

import re
from collections.abc import Iterator

import ray

from raylatent.errors import IncompleteError, RaylatentError

_RAISED = re.compile(r"[\w.]*(Error|Exception|Exit|Interrupt)(\(\w+\))?: ")
_MOST_CHARACTERS = 400  # of Ray's own text

# What Ray's text has in it, and what that means; the first that fits is said.
_MEANINGS = (
    (
        re.compile(r"class_name: (\w+\.)*SlideQueue\b"),
        "the node on which this program runs was lost, and with it the list of what is "
        "left to do",
    ),
    (
        re.compile(r"low on memory|OutOfMemoryError|OOM"),
        "a node ran out of memory: try fewer --actors or a smaller --batch-size",
    ),
    (
        re.compile(r"node (has died|was terminated|is dead|died)|[Rr]aylet.* died"),
        "a node of the cluster was lost",
    ),
    (
        re.compile(r"owner has (died|exited)|OwnerDiedError"),
        "the process that had its inputs was lost",
    ),
    (
        re.compile(r"worker process has died|worker died|Worker (exits|unexpectedly)"),
        "its process was killed, perhaps for want of memory",
    ),
)


class CarriedError(Exception):
    """Carries an error from an actor: to the text of others Ray Data adds its own."""

    @property
    def cause(self) -> BaseException:
        """The error."""
        return self.args[0]  # type: ignore[no-any-return]


def as_ours(error: BaseException) -> RaylatentError:
    """Our error inside one of Ray's, else an IncompleteError in one sentence.

    >>> str(as_ours(ValueError("odd")))[:34]
    'a worker failed (ValueError: odd):'
    """
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, RaylatentError):
            return cause
    # Ray Data raises its internal errors from an empty one.
    last = [cause for cause in causes if str(cause).strip()][-1:] or causes[-1:]
    message = (
        f"a worker failed ({_what_happened(last[0])}): what is written is kept, and the "
        "same command again goes on from here"
    )
    return IncompleteError(message)


def _what_happened(error: BaseException) -> str:
    kind, text = type(error).__name__, str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not isinstance(error, ray.exceptions.RayError):
        return f"{kind}: {lines[0]}" if lines else kind
    # A text that holds a stack trace says in its last such line what happened.
    raised = [line for line in lines if _RAISED.match(line)]
    if raised:
        said = raised[-1]
    else:  # lines with tabs have the ids of the actor
        told = [line for line in text.splitlines() if not line.startswith("\t")]
        said = f"{kind}: {' '.join(' '.join(told).split())}" if lines else kind
    said = f"{said[:_MOST_CHARACTERS]}..." if len(said) > _MOST_CHARACTERS else said
    meaning = next((words for sign, words in _MEANINGS if sign.search(text)), None)
    return said if meaning is None else f"{meaning}; Ray says {said}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from, Ray's error of both classes left out.

    For an error of a task Ray makes one that is of both classes, its text a trace.
    """
    current: BaseException | None = error
    while current is not None:
        inner = getattr(current, "cause", None)
        inner = inner if isinstance(inner, BaseException) else current.__cause__
        if inner is None or not isinstance(current, ray.exceptions.RayTaskError):
            yield current
        current = inner
