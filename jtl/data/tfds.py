"""TensorFlow Datasets without TensorFlow, through `tfds.data_source`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jtl.data.error_notes import noted
from jtl.data.pipeline import Dataset


def tfds(
    name: str,
    split: str,
    data_dir: str | Path | None = None,
    *,
    batch_size: int,
    download: bool = False,
    transform: Callable[[Any, np.random.Generator], Any] | None = None,
    seed: int = 0,
    shuffle: bool = True,
    drop_last: bool = False,
    process_index: int | None = None,
    process_count: int | None = None,
) -> Dataset:
    """Makes a data set from TensorFlow Datasets, prepared in the array_record format.

    Args:
      name: the name, such as "mnist" or "mnist:3.0.1".
      split: the split, such as "train", a part of one, "train[:10%]", or several, "train+test".
      data_dir: the folder of prepared data sets; None for TFDS's default.
      batch_size: the number of rows of the global batch.
      download: whether to prepare the data set if it is missing; for images TFDS itself needs TensorFlow for that. If
        False, nothing touches the network.
      transform: `(x, rng) -> array`, all of one shape; the generator depends only on seed, epoch and row.
      seed: the seed of the order and the transform.
      shuffle: whether to use another order in each epoch; False for evaluation.
      drop_last: leave out the last partial batch instead of padding it.
      process_index: see `Dataset`.
      process_count: see `Dataset`.

    Returns:
      A `Dataset` of {"x", "y", "mask"}: the two features that TFDS names as supervised.

    Raises:
      ImportError: if TFDS cannot prepare the data set without TensorFlow.
      FileNotFoundError: if the data set is not prepared in `data_dir`; lists those that are.
      ValueError: for a missing split (lists those that exist), or a data set without an (input, label) pair.
      TypeError: at reading, for inputs or labels that are not numbers, such as texts without a transform.

    Example:
      >>> import jtl
      >>> data = jtl.data.tfds("mnist", "train[:10%]", batch_size=64, download=True)  # doctest: +SKIP
    """
    import tensorflow_datasets
    from tensorflow_datasets.core import constants, read_only_builder

    if download:
        builder: Any = tensorflow_datasets.builder(name, data_dir=data_dir, file_format="array_record")
        try:
            builder.download_and_prepare()
        except ImportError as error:
            raise ImportError(
                f"TFDS prepares {name!r} with TensorFlow, as it does all images and videos: install it for this once; "
                f"what is prepared is read without"
            ) from error
    else:
        # only data on disk: the plain builder would fall back on its code and start to download
        try:
            found = read_only_builder.builder_from_files(
                name.partition(":")[0], data_dir=data_dir, version=name.partition(":")[2] or None
            )
        except tensorflow_datasets.core.DatasetNotFoundError as error:
            place = Path(data_dir or constants.DATA_DIR).expanduser()
            there = sorted(entry.name for entry in place.iterdir() if entry.is_dir()) if place.is_dir() else []
            raise FileNotFoundError(
                f"no prepared data set {name!r} in {str(place)!r}; there are {there}; pass download=True to get it"
            ) from error
        builder = found
    info: Any = builder.info
    bases = {part.strip().partition("[")[0] for part in split.split("+")}
    if not bases <= {*info.splits, "all"}:
        raise ValueError(f"data set {name!r} has no split {split!r}; there are {sorted(info.splits)}")
    if info.supervised_keys is None or len(info.supervised_keys) != 2:
        raise ValueError(f"data set {name!r} names no (input, label) pair; its features are {list(info.features)}")
    x, y = info.supervised_keys
    records: Any = builder.as_data_source(split)
    classes = tuple(getattr(info.features[y], "names", None) or ()) or None
    source = _Records(records, x, y, transform, len(records), classes, f"{info.full_name} {split}")
    return Dataset(source, batch_size, seed, shuffle, drop_last, process_index, process_count)


@dataclass(frozen=True)
class _Records:
    records: Any
    x: str
    y: str
    transform: Callable[[Any, np.random.Generator], Any] | None
    size: int
    classes: tuple[str, ...] | None
    content: str

    def read(self, index: np.ndarray, draws: Sequence[tuple[int, ...]]) -> dict[str, Any]:
        rows = self.records.__getitems__([int(i) for i in index])  # one call: records are read in one go
        x = [row[self.x] for row in rows]
        if self.transform is not None:
            x = [self._changed(*row) for row in zip(x, draws, index.tolist(), strict=True)]
        if len({np.shape(one) for one in x}) > 1:
            raise ValueError(f"feature {self.x!r} differs in shape between examples; give a transform to one shape")
        y = np.asarray([row[self.y] for row in rows])
        x = np.stack(x)
        for name, values, way in ((self.x, x, "a transform that makes some"), (self.y, y, "a data set with labels")):
            if values.dtype.kind in "OSU":
                raise TypeError(f"feature {name!r} has dtype {values.dtype}, no numbers: give {way}")
        return {"x": x, "y": y.astype(np.int32 if y.dtype.kind in "iu" else np.float32)}

    def _changed(self, x: Any, draw: tuple[int, ...], example: int) -> Any:
        assert self.transform is not None
        with noted(f"example {example} was transformed"):
            return self.transform(x, np.random.default_rng(draw))
