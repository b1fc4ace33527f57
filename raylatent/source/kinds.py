"""All kinds of sources: a new one is a module, and its line here."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from raylatent.errors import ConfigError, IncompleteError, SourceError, StorageError
from raylatent.parts import escape_partition
from raylatent.source.names import match
from raylatent.source.pictures import PictureFolders
from raylatent.source.protocol import Config, Kind, Request, Source
from raylatent.source.tfrecords import TFRecords
from raylatent.source.whole_slides import WholeSlides
from raylatent.storage import list_files

KINDS: Mapping[str, Kind] = {
    kind.name: kind for kind in (TFRecords(), WholeSlides(), PictureFolders())
}


def kind_of(source: Source | Request) -> Kind:
    """What kind a source is.

    Raises:
        SourceError: Another version of raylatent knew it.
    """
    kind = KINDS.get(source.kind)
    if kind is None:
        message = (
            f"{source.uri} is a source of kind {source.kind!r}: this version of raylatent "
            f"knows {', '.join(KINDS)}"
        )
        raise SourceError(message)
    return kind


def named(config: Config) -> dict[str, Sequence[str]]:
    """The paths that a configuration names, by the option that names them."""
    found = {f"--{name}": tuple(getattr(config, name, ())) for name in KINDS}
    return {option: paths for option, paths in found.items() if paths}


def sorted_paths(paths: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Paths of any kind by the option that they would be given with.

    What no kind knows is taken for the first one, which says what is wrong with it.

    Raises:
        StorageError: A folder cannot be searched.
    """
    found: dict[str, tuple[str, ...]] = {}
    for path in paths:
        files = list_files(path) or []
        known = (name for name, kind in KINDS.items() if kind.holds(files))
        name = next(known, next(iter(KINDS)))
        found[name] = (*found.get(name, ()), path)
    return found


def fields_of(config: Config, tile_px: int) -> dict[str, Any]:
    """What of the sources' options changes a number, for the fingerprint."""
    found: dict[str, Any] = {}
    for kind in KINDS.values():
        found |= kind.fields(config, tile_px)
    return found


def find_sources(config: Config) -> dict[str, Request]:
    """All sources that a configuration names, by slide, sorted.

    Args:
        config: Its options `--tfrecords`, `--slides` and so on.

    Raises:
        SourceError: One is not there, a slide is named twice, or its name cannot be that
            of a folder.
    """
    found: dict[str, Request] = {}
    options = named(config)
    if not options:
        words = " or ".join(f"--{name} PATH..." for name in KINDS)
        message = f"no tiles were given: {words}"
        raise SourceError(message)
    for kind in KINDS.values():
        if f"--{kind.name}" not in options:
            continue
        requests = kind.find(config)
        both = sorted(found.keys() & requests.keys())
        if both:
            other = kind_of(found[both[0]])
            message = (
                f"slide {both[0]!r} is among --{other.name} and among --{kind.name}"
                f"{f' (as {len(both) - 1} more)' if len(both) > 1 else ''}: give it once"
            )
            raise SourceError(message)
        found |= requests
    for slide in found:
        escape_partition(slide)
    return dict(sorted(found.items()))


def first_tile_px(requests: Mapping[str, Request]) -> int:
    """Side of the first tile that can be opened, for a model that does not say.

    Raises:
        ConfigError: No source has tiles of its own.
        IncompleteError: No tile can be opened.
    """
    problem = None
    for request in requests.values():
        try:
            tile_px = kind_of(request).tile_px(request)
        except (SourceError, StorageError) as error:
            problem = str(error)
        else:
            if tile_px is not None:
                return tile_px
    if problem is not None:
        message = f"no tile can be read: {problem}"
        raise IncompleteError(message)
    message = "the model does not say how large its tiles are: give --tile-px"
    raise ConfigError(message)


@lru_cache(maxsize=1)
def look_again(token: str) -> None:  # noqa: ARG001  (it is remembered)
    """Forget what was listed of folders, so that they are looked at as they are now.

    Args:
        token: Of an invocation: a process that does several of its tasks forgets once.
    """
    for kind in KINDS.values():
        kind.look_again()


def moved_sources(roots: Sequence[str], sources: Sequence[Source]) -> dict[str, str]:
    """Where sources are below other folders, by slide; those not found are lacking.

    Raises:
        SourceError: A root is not there, or holds two sources of one name.
    """
    found: dict[str, str] = {}
    for name, kind in KINDS.items():
        own = {source.slide: source for source in sources if source.kind == name}
        there = kind.moved(roots, own) if own else {}
        # Copied by way of a Mac, names may be composed of other characters.
        named = match(((slide, slide) for slide in own), there)
        found |= {slide: there[name] for name, slide in named.items()}
    return found
