"""A model's weights in what a program saved: under a key, a prefix, or other names."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from raylatent.model.weight_files import NumpyValue, Placeholder, printable

_DEPTH = 3  # of mappings in mappings: {"state_dict": {"teacher": {...}}}
_SHOWN = 3
_TRIED = 200  # prefixes
_LEFT_OVER = " (take this out of the file, or make the model with it)"
# Older weights lack this counter, which evaluation never reads.
_COUNTER = "num_batches_tracked"
_EXTRA = "_extra_state"
# What wrappers of modules put into names: DataParallel, compile, FSDP, checkpointing.
_WRAPPERS = frozenset(
    {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
)
# Names that torch.nn.utils gives a weight, by what is found in their place since 2.0.
_WEIGHT_NORM = {"weight_g": "original0", "weight_v": "original1"}
_SPECTRAL_NORM = {"weight_orig": "original", "weight_u": "0._u", "weight_v": "0._v"}


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Weights that have just a model's names and shapes.

    Attributes:
        state: By the model's own names.
        key: Where in the file, such as `state_dict.teacher`; empty for all of it.
        taken: What was done to the names, for people; empty where nothing was.
        unused: Tensors beside them, under other prefixes.
    """

    state: dict[str, Any]
    key: str
    taken: str
    unused: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A mapping of the file, read with a prefix off its names.

    Attributes:
        path: Keys that lead to the mapping.
        prefix: Taken off the file's names.
        lacked: Prefix of all of the model's names that the file lacks.
        values: By name as spelled, with the prefix.
        own: The model's tensors, by name as spelled, without what the file lacks.
        names: The model's own names, by the same.
        spelled: Whether wrappers and norms are spelled in one way.
        n_known: How many names of the model the file has.
    """

    path: tuple[str, ...]
    prefix: str
    lacked: str
    values: Mapping[str, Any]
    own: Mapping[str, Any]
    names: Mapping[str, str]
    spelled: bool
    n_known: int

    @property
    def key(self) -> str:
        return ".".join((*self.path, self.prefix.rstrip("."))).strip(".")

    @property
    def taken(self) -> str:
        done = [f"taken from {'.'.join(self.path)!r}"] * bool(self.path)
        done += [f"{self.prefix!r} taken off their names"] * bool(self.prefix)
        done += [f"{self.lacked!r} put before their names"] * bool(self.lacked)
        done += ["wrappers and norms in names as in the model"] * self.spelled
        return ", ".join(done)

    def fit(self, tied: Mapping[str, Sequence[str]]) -> Fit:
        found = {name: self.values.get(self.prefix + name) for name in self.own}
        state = {
            self.names[name]: _shaped(value, self.own[name])
            for name, value in found.items()
            if value is not None
        }
        for name in tied.keys() - state.keys():
            same = [state[other] for other in tied[name] if other in state]
            if same:
                state[name] = same[0]
        beside = [name for name in self.values if not name.startswith(self.prefix)]
        return Fit(state=state, key=self.key, taken=self.taken, unused=tuple(beside))


def find_weights(
    own: Mapping[str, Any], saved: object, key: str | None = None
) -> Fit | str:
    """The weights of a model in what a training program saved.

    A mapping in mappings, one prefix of names, a prefix that the file lacks, and the
    names of wrappers and of weight norms are tried, and taken only where all names and
    shapes then fit.

    Args:
        own: The model's `state_dict(keep_vars=True)`.
        saved: What the file holds.
        key: Where in it, where more than one place fits.

    Returns:
        The weights, or why there are none, as the end of a sentence on "weights".

    >>> own = torch.nn.Linear(2, 1).state_dict()
    >>> found = find_weights(own, {"model": {f"module.{k}": own[k] for k in own}})
    >>> found.key, found.taken, sorted(found.state)
    ('model.module', "taken from 'model', 'module.' taken off their names", ['bias', 'weight'])
    >>> find_weights(own, {"weight": own["weight"]})
    'do not fit the model: they lack bias'
    """
    tied = _tied(own)
    candidates = list(_candidates(own, saved))
    if key is not None:
        places = sorted({one.key for one in candidates} - {""})
        candidates = [one for one in candidates if one.key == key.strip(".")]
        if not candidates:
            there = listed(places, 8) or "none"
            return f"have no weights_key {key!r}: there are {there}"
    if not candidates:
        return (
            f"are no state dict but {_described(saved)}, without tensors by name: "
            "torch.save(model.state_dict(), path) where the model is at hand"
        )
    problems = [_complaints(one, tied) for one in candidates]
    fits = [
        one.fit(tied)
        for one, wrong in zip(candidates, problems, strict=True)
        if not wrong
    ]
    if not fits:
        n_known = [one.n_known for one in candidates]
        best = n_known.index(max(n_known))
        taken = candidates[best].taken
        tried = f" (tried: {taken})" if taken else ""
        return f"do not fit the model{tried}: {'; '.join(problems[best])}"
    differing: list[Fit] = []
    for fit in fits:
        if not any(_same(fit.state, one.state) for one in differing):
            differing.append(fit)
    if len(differing) > 1:
        where = [repr(one.key) if one.key else "the whole" for one in differing]
        return (
            f"fit the model in {len(where)} places that differ, {' and '.join(where)}: "
            f'choose by "weights_key": "{differing[1].key}" or another in model.json'
        )
    return differing[0]


def _candidates(own: Mapping[str, Any], saved: object) -> Iterator[_Candidate]:
    for path, mapping in _mappings(saved):
        values = _tensors(mapping)
        if not values and (own or path):
            continue
        for spelled in (False, True):
            names, theirs = (
                _spelled(one) if spelled else {name: name for name in one}
                for one in (own, values)
            )
            if spelled and (list(names), list(theirs)) == (list(own), list(values)):
                continue
            if len(names) < len(own) or len(theirs) < len(values):
                continue  # two names became one
            found = {name: values[name_there] for name, name_there in theirs.items()}
            for lacked in _common_prefixes(names):
                cut = {name[len(lacked) :]: key for name, key in names.items()}
                counts = _prefixes(found, cut)
                for prefix, _ in [("", 0)] if lacked else counts.most_common(_TRIED):
                    yield _Candidate(
                        path=path,
                        prefix=prefix,
                        lacked=lacked,
                        values=found,
                        own={name: own[key] for name, key in cut.items()},
                        names=cut,
                        spelled=spelled,
                        n_known=counts[prefix],
                    )


def _mappings(
    saved: object, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Mappings in mappings, the outer ones first, with the keys that lead to them."""
    if not isinstance(saved, Mapping):
        return
    yield path, saved
    if len(path) < _DEPTH:
        for key, value in saved.items():
            if isinstance(key, str):
                yield from _mappings(value, (*path, key))


def _tensors(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    """What of a mapping is a tensor with a name, or a module's extra state."""
    found: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, NumpyValue):
            if value.array is not None:
                found[str(key)] = torch.from_numpy(value.array)
        elif isinstance(key, str) and (
            isinstance(value, Tensor) or key.endswith(_EXTRA)
        ):
            found[key] = value
    return found


def _prefixes(theirs: Mapping[str, Any], own: Mapping[str, Any]) -> Counter[str]:
    """Prefixes of the file's names, with how many of the model's names follow them."""
    counts = Counter({"": sum(name in own for name in theirs)})
    for name in theirs:
        parts = name.split(".")
        for i in range(1, len(parts)):
            if ".".join(parts[i:]) in own:
                counts[".".join(parts[:i]) + "."] += 1
    return counts


def _common_prefixes(names: Mapping[str, str]) -> list[str]:
    """Nothing, then `model.`, `model.net.` ... that all names begin with."""
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)
    parts = [level[0] for level in takewhile(lambda x: len(set(x)) == 1, levels)]
    return [""] + [".".join(parts[: i + 1]) + "." for i in range(len(parts))]


def _spelled(names: Mapping[str, Any]) -> dict[str, str]:
    """Names by how they are spelled without wrappers, and with norms as torch has them."""
    found: dict[str, str] = {}
    for name in names:
        parts = name.split(".")
        module, last = ".".join(parts[:-1]), parts[-1]
        start = f"{module}." if module else ""
        norm = _SPECTRAL_NORM if f"{start}weight_orig" in names else _WEIGHT_NORM
        known = last in norm and (
            norm is _SPECTRAL_NORM or {f"{start}{part}" for part in norm} <= set(names)
        )
        if known:
            parts[-1:] = ["parametrizations", "weight", *norm[last].split(".")]
        found[".".join(part for part in parts if part not in _WRAPPERS)] = name
    return found


def _complaints(one: _Candidate, tied: Mapping[str, Sequence[str]]) -> list[str]:
    """Why a candidate does not fit; nothing where it does."""
    found = {name: one.values.get(one.prefix + name) for name in one.own}
    spelled = {key: name for name, key in one.names.items()}
    missing, shapes, kinds = [], [], []
    for name, value in found.items():
        mine = one.own[name]
        if value is None:
            same = [spelled[other] for other in tied.get(one.names[name], ())]
            optional = name.endswith((_COUNTER, _EXTRA))
            if not optional and all(found.get(other) is None for other in same):
                missing.append(name)
        elif isinstance(value, Tensor) and isinstance(mine, Tensor):
            if not _same_shape(value, mine):
                shape = "not set yet" if is_lazy(mine) else tuple(mine.shape)
                shapes.append(f"{name} is {tuple(value.shape)}, the model has {shape}")
            elif kind := _other_kind(value, mine):
                kinds.append(f"{name} {kind}")
    unexpected = [
        name
        for name in one.values
        if name.startswith(one.prefix) and name[len(one.prefix) :] not in one.own
    ]
    return [
        f"{text} {listed(keys)}{advice}"
        for text, keys, advice in (
            ("they lack", missing, ""),
            ("they have, and the model has not,", sorted(unexpected), _LEFT_OVER),
            ("shapes differ:", shapes, ""),
            ("values cannot be taken:", kinds or _torn(found, spelled, tied), ""),
        )
        if keys
    ]


def _described(saved: object) -> str:
    """What a checkpoint without weights is."""
    if isinstance(saved, Placeholder):
        return f"a pickled {printable(saved.name)}"
    if isinstance(saved, type):
        return "a pickled class or function"
    if not isinstance(saved, Mapping):
        return f"a {type(saved).__name__}"
    pickled = [
        f"a pickled {printable(value.name)} as {key!r}"
        for key, value in saved.items()
        if isinstance(value, Placeholder)
    ]
    names = pickled or [repr(key) for key in saved]
    return f"a mapping with {listed(names)}" if names else "an empty mapping"


def listed(names: Sequence[str], shown: int = _SHOWN) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(printable, names[:shown])) + more


def _same_shape(value: Tensor, mine: Tensor) -> bool:
    """One number may have the shape () or (1,); a lazy layer takes any."""
    if is_lazy(mine) or value.shape == mine.shape:
        return True
    return {tuple(value.shape), tuple(mine.shape)} == {(), (1,)}


def _other_kind(value: Tensor, mine: Tensor) -> str | None:
    """Why a tensor's values are none for the model's, None where they are."""
    types = f"is {value.dtype}, the model has {mine.dtype}"
    narrow = not value.is_floating_point() or value.element_size() == 1
    to_whole = not mine.is_floating_point() and value.is_floating_point()
    reasons = {
        "is quantized: save the model's weights in floating point": value.is_quantized,
        "has no values, it was saved from the meta device": value.is_meta,
        f"is {value.layout}, not dense": value.layout != torch.strided,
        f"{types}: complex": value.is_complex() and not mine.is_complex(),
        f"{types}: are they quantized?": narrow and mine.is_floating_point(),
    }
    found = [why for why, is_so in reasons.items() if is_so]
    if not found and to_whole and not bool((value == value.round()).all()):
        found = [types]
    return found[0] if found else None


def _tied(own: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names of tensors that are one in memory, by each of them."""
    groups: dict[object, list[str]] = {}
    for name, tensor in own.items():
        if isinstance(tensor, Tensor):
            groups.setdefault(_identity(tensor), []).append(name)
    return {name: group for group in groups.values() for name in group if group[1:]}


def _identity(tensor: Tensor) -> object:
    if is_lazy(tensor) or tensor.is_meta or not tensor.numel():
        return id(tensor)
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def _torn(
    found: Mapping[str, Any],
    spelled: Mapping[str, str],
    tied: Mapping[str, Sequence[str]],
) -> list[str]:
    """Tensors that are one in the model and two in the file."""
    torn = []
    for first, *rest in {tuple(group) for group in tied.values()}:
        value = found.get(spelled[first])
        others = [found.get(spelled[name]) for name in rest]
        torn += [
            f"{first} and {name} are one tensor in the model, and differ"
            for name, other in zip(rest, others, strict=True)
            if value is not None and other is not None and not value.equal(other)
        ]
    return sorted(torn)


def _shaped(value: Any, mine: Any) -> Any:  # noqa: ANN401  (or a module's extra state)
    if not isinstance(value, Tensor) or not isinstance(mine, Tensor) or is_lazy(mine):
        return value
    return value if value.shape == mine.shape else value.reshape(mine.shape)


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        one is b[name]
        or (one.equal(b[name]) if isinstance(one, Tensor) else one == b[name])
        for name, one in a.items()
    )
