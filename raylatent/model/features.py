"""Features: a model's activations at named layers, for a batch of tiles."""

import logging
from collections.abc import Callable, Sequence
from functools import partial, reduce
from operator import mul
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raylatent.config import MIN_BATCH, POOLINGS
from raylatent.config.options import at_least, one_of
from raylatent.errors import ConfigError, ModelError
from raylatent.model.forward_pass import (
    Output,
    layer_shapes,
    row_shape,
)
from raylatent.model.identity import Copy, Identification, Identity
from raylatent.model.layers import (
    CompiledCapture,
    LayerCapture,
    by_own_names,
    layer_names,
)
from raylatent.model.load import complete_spec, load_model
from raylatent.model.postconv import POSTCONV, find_targets
from raylatent.model.sample_tiles import (
    PREDICTIONS,
    refuse_other_rows,
    summary,
    two_batches,
)
from raylatent.model.slide_grid import GridOptions, feature_grid
from raylatent.model.spec import ModelSpec, model_spec, with_overrides
from raylatent.source.wsi import WSI
from raylatent.tiles.preprocess import Standardizer, standardize

logger = logging.getLogger(__name__)

_DEFAULT_TILE_PX = 224
# How far the sum of probabilities may be from 1: bfloat16 has 8 bits.
_SUM_TOLERANCE = 0.02

Triple = tuple[float, float, float]
Found = tuple[dict[str, Tensor], Tensor | None]
Activations = NDArray[np.float32]


def as_batch(batch: Any) -> Tensor:  # noqa: ANN401  (whatever numpy or torch takes)
    """A batch checked: uint8 (n, h, w, 3), or standardized floats (n, 3, h, w).

    Raises:
        ModelError: It has another shape or type.
    """
    tensor = batch if isinstance(batch, Tensor) else _from_array(batch)
    if tensor.ndim != 4 or 3 not in {tensor.shape[1], tensor.shape[-1]}:
        message = (
            f"a batch of shape {tuple(tensor.shape)} is not (n, h, w, 3) or "
            "(n, 3, h, w)"
        )
        raise ModelError(message)
    if tensor.dtype == torch.uint8:
        if tensor.shape[1] == 3:
            tensor = tensor.permute(0, 2, 3, 1)
        return tensor.contiguous()  # one layout in memory, so the same bits
    if not tensor.is_floating_point() or tensor.shape[1] != 3:
        message = (
            f"a {tensor.dtype} batch of shape {tuple(tensor.shape)} is neither uint8 "
            "nor standardized floats of shape (n, 3, h, w)"
        )
        raise ModelError(message)
    return tensor


def _from_array(batch: object) -> Tensor:
    try:
        array = np.asarray(batch)
    except ValueError as error:
        message = "the tiles of a batch must all have one size"
        raise ModelError(message) from error
    if array.dtype.kind not in "uif":
        message = f"a batch of {array.dtype} is no batch of pictures"
        raise ModelError(message)
    return torch.from_numpy(np.array(array))


class MicroBatch:
    """Runs passes, in pieces once the device's memory did not suffice for a whole one.

    Pieces have one size, the last one padded. On a GPU that changes rows within the
    tolerance for GPUs; CPUs never raise what is answered here.

    Attributes:
        size: Tiles in one pass now, at first those that are asked for.

    >>> def run(batch):
    ...     if len(batch) > 2:
    ...         raise torch.OutOfMemoryError("CUDA out of memory")
    ...     return {"x": batch * 2}, None
    >>> passes = MicroBatch(8)
    >>> found, _ = passes(run, torch.arange(5))
    >>> found["x"].tolist(), passes.size
    ([0, 2, 4, 6, 8], 2)
    """

    def __init__(self, size: int) -> None:
        """See the class."""
        self.size = size

    def __call__(self, run: Callable[[Tensor], Found], batch: Tensor) -> Found:
        """What `run`, one pass, gives of a batch (n, ...): n rows by layer, and output.

        Raises:
            ModelError: There is no room for a single tile.
        """
        while True:
            try:
                if len(batch) <= self.size:
                    return run(batch)
                return self._in_pieces(run, batch)
            except torch.OutOfMemoryError as error:
                self._halve(min(self.size, len(batch)), error)

    def _halve(self, size: int, error: torch.OutOfMemoryError) -> None:
        if size == 1:
            message = (
                "the device's memory does not suffice for one tile: take a smaller "
                "model or tiles, or fewer actors for each GPU (--num-gpus)"
            )
            raise ModelError(message) from error
        self.size = size // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _in_pieces(self, run: Callable[[Tensor], Found], batch: Tensor) -> Found:
        layers: dict[str, list[Tensor]] = {}
        outputs: list[Tensor] = []
        for first in range(0, len(batch), self.size):
            piece = batch[first : first + self.size]
            n = len(piece)
            piece = _filled_up(piece, self.size)
            found, output = run(piece)
            # Off the device: where one pass had no room, all rows may have none.
            for name, value in found.items():
                layers.setdefault(name, []).append(value[:n].cpu())
            if output is not None:
                outputs.append(output[:n].cpu())
        joined = {name: torch.cat(values) for name, values in layers.items()}
        return joined, torch.cat(outputs) if outputs else None


def _filled_up(batch: Tensor, size: int) -> Tensor:
    """A batch (n, ...) with zeros up to a size: bits depend on how many tiles pass."""
    if len(batch) >= size:
        return batch
    zeros = batch.new_zeros((size - len(batch), *batch.shape[1:]))
    return torch.cat([batch, zeros])


class Features:
    """Activations of a model at one or more layers.

    Args:
        path: A model folder, `timm:NAME`, `hf-hub:REPO@REVISION`, an nn.Module, or a
            ModelSpec.
        layers: A name or names in `named_modules()`, or `postconv`, the layer before
            the classifier, or `output`, the model's own output.
        include_preds: Also return predictions.
        pooling: `avg`, `max` or `cls`, of maps (n, c, h, w) or (n, h, w, c) over h and
            w, and of tokens (n, tokens, c): the mean or largest of the patches, without
            class and register tokens, or the class token.
        layer: The same as `layers`.
        tile_px: Side of the tiles, where the model does not say.
        mean: Of each channel, pixels scaled to 0..1; Slideflow's 0.5 where not known.
        std: Of each channel, in the same scale.
        classes: Names or number of the classes, where the model does not say.
        batch_size: Tiles in one pass, at least 16; the last pass is padded.
        device: Default: where a module from Python is, else a GPU if there is one.
        mixed_precision: bfloat16 autocast: faster on GPUs, less exact.
        apply_softmax: Of predictions; default if the model has classes. Of one class
            it is a sigmoid: give False if the model ends in one by itself.
        allow_pickle: Allow a pickled module, which runs code from its file.
        output: Which tensor is the model's output, where it returns several: index, key
            or attribute; `a.b` for nested ones.
        check_rows: Refuse a model whose rows depend on the other tiles of a batch, or
            on chance; workers leave it out, since the driver has done it.

    Attributes:
        notes: What a user should know of how layers and output were chosen; logged
            where rows are checked.

    A module from Python is left as it is: it runs in evaluation mode, and what was
    training goes on training.

    Raises:
        ConfigError: An argument is out of range.
        ModelError: The model cannot be loaded, which tensor is its output is not clear,
            or its rows are no function of one tile.
        LayerError: There is no such layer, or which one is meant cannot be told.

    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> features = Features(net, layers="0", pooling="avg", tile_px=8)
    >>> features(np.zeros((5, 8, 8, 3), np.uint8)).shape
    (5, 4)
    """

    def __init__(  # noqa: PLR0913  (Slideflow's signature, and what a module lacks)
        self,
        path: object,
        layers: str | Sequence[str] | None = None,
        include_preds: bool = False,  # noqa: FBT001, FBT002
        pooling: str | None = None,
        *,
        layer: str | Sequence[str] | None = None,
        tile_px: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        classes: Sequence[str] | int | None = None,
        batch_size: int = 32,
        device: str | torch.device | None = None,
        mixed_precision: bool = False,
        apply_softmax: bool | None = None,
        allow_pickle: bool = False,
        output: str | int | None = None,
        check_rows: bool = True,
    ) -> None:
        """See the class."""
        self.layers = layer_names(layers, layer)
        self.include_preds = include_preds
        self.pooling = None if pooling == "none" else pooling
        if pooling is not None:
            one_of("pooling", pooling, POOLINGS)
        at_least("batch_size", batch_size, MIN_BATCH)
        self.batch_size = batch_size
        self._passes = MicroBatch(batch_size)
        given = model_spec(path, allow_pickle=allow_pickle)
        self.device = torch.device(device) if device else default_device(given)
        self.mixed_precision = mixed_precision
        if self.device.type == "cuda" and not mixed_precision:
            keep_float32()
        own = {"mean": mean, "std": std, "classes": classes}
        spec = with_overrides(given, tile_px=tile_px, output=output, **own)
        self._identification = Identification(spec, self.device)
        self.model = self._identification.model
        self.spec: ModelSpec = complete_spec(spec, self.model)
        self.standardized = Standardizer(self.spec.mean, self.spec.std)
        self.tile_px = self.spec.tile_px or _DEFAULT_TILE_PX
        self.softmax = (
            self.spec.classes is not None if apply_softmax is None else apply_softmax
        )
        self._identification.tried(partial(self._probe, check_rows=check_rows))

    def _probe(self, *, check_rows: bool) -> None:
        """Find the layers and their shapes by running two tiles."""
        classes = self.spec.classes
        chosen = Output(
            self.spec.name, self.spec.output, None if classes is None else len(classes)
        )
        one, other = two_batches(self.tile_px)
        sample, headless = self._standard(one), self.spec.hub is not None
        targets = find_targets(
            self.model, self.layers, sample, headless=headless, output=chosen
        )
        targets = by_own_names(self.model, targets, sample)
        self._capture: LayerCapture = LayerCapture(
            self.model, targets, self.pooling, output=chosen
        )
        self._capture.find_layouts(sample)
        predicts = classes is not None or self.include_preds
        found, output = self._run(sample, with_output=predicts)
        self.shapes = {name: tuple(value.shape[1:]) for name, value in found.items()}
        self.num_classes = self._check_output(output)
        # GPUs add up in other orders: theirs are compared with nothing.
        self.sample_outputs = (
            summary(found, output) if self.device.type == "cpu" else {}
        )
        if output is not None and (self.num_classes or 0) > 1 and self.softmax:
            # A model that ends in a softmax by itself is not softmaxed again.
            scores = output.flatten(1)
            off = float((scores.sum(1) - 1).abs().max())
            self.softmax = not (off <= _SUM_TOLERANCE and float(scores.min()) >= 0)
        self.notes = [target.note for target in targets if target.note]
        self.notes += self._capture.notes
        if chosen.several:
            self.notes.append(f"the model's output is {chosen.several}")
        if check_rows:
            self._identification.between_passes()
            self._check_rows(sample, (found, output), self._standard(other))
            for note in self.notes:
                logger.info("%s: %s", self.spec.name, note)

    def _check_rows(
        self, one: Tensor, first: tuple[dict[str, Tensor], Tensor | None], other: Tensor
    ) -> None:
        # Without autocast, whose rounding would hide what is looked for.
        run = partial(self._capture, with_output=self.include_preds)
        if self.mixed_precision:
            first = self._passes(run, one)
        rows, again = (
            {**found, PREDICTIONS: output}
            if output is not None and self.include_preds
            else found
            for found, output in (first, self._passes(run, other))
        )
        bits = self._capture.bits
        refuse_other_rows(self.model, self.spec.name, rows, again, bits=bits)

    def _standard(self, tiles: Tensor) -> Tensor:
        return self.standardized(tiles.to(self.device))

    def _check_output(self, output: Tensor | None) -> int | None:
        """Number of predictions a tile, None where the model makes none."""
        classes = self.spec.classes
        shape = () if output is None else row_shape(output)
        n = shape[0] if len(shape) == 1 else None
        if classes is not None and n != len(classes):
            message = (
                f"{self.spec.name} has {len(classes)} classes but its output is "
                f"{None if output is None else tuple(output.shape[1:])} a tile"
            )
            raise ModelError(message)
        if self.include_preds and n is None:
            message = f"{self.spec.name} makes no predictions: its output is no vector"
            raise ModelError(message)
        return n if classes is not None or self.include_preds else None

    @property
    def num_features(self) -> int:
        """Features of one tile, all layers together, flattened."""
        return sum(self.sizes.values())

    @property
    def sizes(self) -> dict[str, int]:
        """Features of one tile for each layer, flattened."""
        return {name: reduce(mul, s, 1) for name, s in self.shapes.items()}

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes, if the model classifies."""
        return self.spec.classes

    @property
    def passed_at_once(self) -> int:
        """Tiles in one pass: `batch_size`, or fewer where a GPU had no room for them."""
        return self._passes.size

    def identity(self) -> Identity:
        """What tells this model from another: tensors, attributes, code and files."""
        return self._identification.identity()

    def copy(self) -> Copy:
        """What another process compares with its own copy of the model."""
        return self._identification.copy()

    def __call__(self, batch: Any, **options: Unpack[GridOptions]) -> Any:  # noqa: ANN401  (as `batch` is)
        """Activations of a batch or a slide, and predictions with `include_preds`.

        Args:
            batch: uint8, (n, h, w, 3) or (n, 3, h, w): standardized here. Float,
                (n, 3, h, w): taken as standardized already. Array or tensor. Or a WSI.
            options: Of a WSI only, see `feature_grid`: dtype, and the filters' numbers.

        Returns:
            (n, features) float32, layers concatenated; one layer alone that is not
            pooled keeps its shape. With `include_preds` a pair, the second (n,
            classes). Tensors for a tensor, arrays for an array. Of a WSI the masked
            array (rows, cols, features) of `feature_grid`.

        Raises:
            ModelError: The batch has another shape or type, or the model fails on it.
            ConfigError: Options are given with a batch.
        """
        if isinstance(batch, WSI):
            return feature_grid(self, batch, **options)
        if options:
            message = f"{', '.join(options)}: for a WSI only, this is a batch of tiles"
            raise ConfigError(message)
        tiles = as_batch(batch)
        rows, scores = [], []
        for first in range(0, len(tiles), self.batch_size):
            found, output = self._padded(tiles[first : first + self.batch_size])
            values = list(found.values())
            if len(values) > 1:
                values = [torch.cat([value.flatten(1) for value in values], 1)]
            rows += values
            scores += [] if output is None else [output]
        if not rows:
            shapes = list(self.shapes.values())
            shape = shapes[0] if len(shapes) == 1 else (self.num_features,)
            rows = [torch.empty((0, *shape), device=self.device)]
        scores = scores or [torch.empty((0, self.num_classes or 0), device=self.device)]
        given: list[Any] = [torch.cat(rows), torch.cat(scores)]
        if not isinstance(batch, Tensor):
            given = [tensor.cpu().numpy() for tensor in given]
        return tuple(given) if self.include_preds else given[0]

    def compile(self) -> None:
        """Compile passes from here on, each for its shape; the model keeps hooks."""
        self._capture = CompiledCapture(self._capture)
        if self.device.type == "cuda":  # three passes over the pixels in one
            self.standardized.compile()

    def forward(
        self, tiles: NDArray[np.uint8], *, with_preds: bool
    ) -> tuple[dict[str, Activations], Activations | None]:
        """Activations by layer, flattened, and predictions, of one full micro-batch.

        Tiles are (batch_size, tile_px, tile_px, 3) uint8.
        """
        pixels = torch.from_numpy(tiles).to(self.device)
        found, output = self.run(self.standardized(pixels), with_preds=with_preds)
        arrays = {name: value.flatten(1).cpu().numpy() for name, value in found.items()}
        return arrays, None if output is None else output.cpu().numpy()

    def run(
        self, batch: Tensor, *, with_preds: bool
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """One pass over a full, standardized micro-batch (batch_size, 3, h, w).

        Activations by layer are (batch_size, ...) float32, and predictions come if
        asked for; on a GPU they may still be under way.
        """
        found, output = self._run(batch, with_output=with_preds)
        if output is None or not with_preds:
            return found, None
        return found, self._predictions(output)

    def _padded(self, tiles: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
        """One pass over at most `batch_size` tiles, padded as those that are stored."""
        n = len(tiles)
        batch = _filled_up(tiles, self.batch_size).to(self.device)
        if batch.dtype == torch.uint8:
            batch = standardize(batch, self.spec.mean, self.spec.std)
        else:  # in memory as `standardize` has them: one layout, so the same bits
            batch = batch.to(torch.float32).contiguous(
                memory_format=torch.channels_last
            )
        found, output = self.run(batch, with_preds=self.include_preds)
        cut = {name: value[:n].to(self.device) for name, value in found.items()}
        return cut, None if output is None else output[:n].to(self.device)

    def _run(
        self, batch: Tensor, *, with_output: bool
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.mixed_precision
        ):
            return self._passes(partial(self._capture, with_output=with_output), batch)

    def _predictions(self, output: Tensor) -> Tensor:
        output = output.to(torch.float32).reshape(len(output), -1)
        if not self.softmax:
            return output
        # A softmax over one output would be 1 for every tile.
        return output.sigmoid() if output.shape[1] == 1 else output.softmax(1)


def model_layers(
    path: object, *, allow_pickle: bool = False
) -> tuple[list[tuple[str, str, str]], str]:
    """Every module of a model that runs, and what its `postconv` is.

    Returns:
        Name, class and output shape of each, in order of execution; and the shape of
        `postconv`, or why it cannot be told.

    Raises:
        ModelError: The model cannot be loaded, or fails.
    """
    cpu = torch.device("cpu")
    spec = model_spec(path, allow_pickle=allow_pickle)
    try:
        features = Features(spec, device=cpu)
    except ModelError as error:
        model, postconv = load_model(spec, cpu), str(error)
        spec = complete_spec(spec, model)
    else:
        model, postconv = features.model, str(features.shapes[POSTCONV])
        spec = features.spec
    tiles, _ = two_batches(spec.tile_px or _DEFAULT_TILE_PX)
    return layer_shapes(model, Standardizer(spec.mean, spec.std)(tiles)), postconv


def keep_float32() -> None:
    """Let GPUs of this process multiply float32 in float32, not in TF32.

    With TF32 in convolutions, reckoned on a CPU, rows of an EfficientNet-Lite0 have a
    cosine of 0.99989 and more: less than what is promised.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def default_device(spec: ModelSpec) -> torch.device:
    """Where the user's module is, else a GPU if there is one."""
    if spec.module is not None:
        tensor = next(iter(spec.module.state_dict().values()), None)
        if tensor is not None:
            return torch.device(tensor.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
