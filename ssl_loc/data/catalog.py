"""The dataset catalog: a name or a path form -> records and what is known about them.

A **path form** is ``SCHEME:ARGUMENT:...`` and needs no registration of the data, e.g. ``folder:/data/photos``,
``coco:/data/coco:train2017``, ``voc:/data/VOCdevkit:2007:trainval``. Built-in **names** are path forms under
``$SSL_LOC_DATASETS``. A new kind of data is one line::

    register_scheme("scenes", load_scenes, arguments=("DIR", "SPLIT"))
    register_path_form("scenes_train", "scenes:{root}/scenes:train")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ssl_loc.data.records import Record, RecordTable
from ssl_loc.utils.errors import DataError, did_you_mean
from ssl_loc.utils.registry import Registry

ROOT_VARIABLE = "SSL_LOC_DATASETS"
DEFAULT_ROOT = "datasets"

DATASET_REGISTRY = Registry("DATASET")
DATASET_REGISTRY.__doc__ = """
Named datasets: ``function() -> Iterable[Record] | Dataset``. Promises: sorted and stable order; no pixels are read.
"""

SCHEME_REGISTRY = Registry("DATASET_SCHEME")
SCHEME_REGISTRY.__doc__ = """
Path forms: ``function(*arguments: str, annotations: bool) -> Dataset``. ``annotations=True`` asks for boxes and
segments; without it a loader must not open annotation files (pretraining does not need them).
"""

_PATH_FORMS: dict[str, str] = {}
_METADATA: dict[str, dict[str, Any]] = {}
_ARGUMENTS: dict[str, tuple[str, ...]] = {}


@dataclass
class Dataset:
    """Records plus metadata.

    ``metadata`` has at least "kind" ("folder", "coco", "voc", "scenes", ...) and "classes" (list of names, empty where
    unknown) for everything loaded from a path form.
    """

    name: str
    records: RecordTable
    metadata: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.records)


def dataset_root() -> Path:
    """Folder that named datasets live in: ``$SSL_LOC_DATASETS``, else ./datasets."""
    return Path(os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT)


def register_dataset(name: str, function: Callable[[], Iterable[Record] | Dataset], **metadata: Any) -> None:
    """Register a dataset that a function makes; ``metadata`` is merged over what the function returns."""
    DATASET_REGISTRY.register(function, name)
    _METADATA[name] = metadata


def register_scheme(name: str, function: Callable[..., Dataset], arguments: Sequence[str]) -> None:
    """Register a path form ``name:ARGUMENT:...`` (argument names are used in messages, e.g. ("DIR", "SPLIT"))."""
    SCHEME_REGISTRY.register(function, name)
    _ARGUMENTS[name] = tuple(arguments)


def register_path_form(name: str, form: str) -> None:
    """Give a path form a name; ``{root}`` in it stands for :func:`dataset_root` at the time of use."""

    def load() -> Dataset:
        return get_dataset(name)

    DATASET_REGISTRY.register(load, name)
    _PATH_FORMS[name] = form


def resolve_path_form(spec: str) -> str:
    """The path form behind a name ("coco_2017_train" -> "coco:<root>/coco:train2017"); other specs come back as is."""
    form = _PATH_FORMS.get(spec)
    return spec if form is None else form.format(root=dataset_root())


def split_path_form(spec: str) -> tuple[str, list[str]] | None:
    """``(scheme, arguments)`` of a path form or of a name that stands for one; None for anything else.

    The first argument may contain ":"; the others may not.
    """
    scheme, colon, rest = resolve_path_form(spec).partition(":")
    if not colon or scheme not in _ARGUMENTS:
        return None
    names = _ARGUMENTS[scheme]
    arguments = rest.rsplit(":", len(names) - 1)
    if len(arguments) != len(names) or not all(arguments):
        raise DataError(f"dataset '{spec}' does not have the form {path_form_usage(scheme)}; give every part")
    return scheme, arguments


def path_form_usage(scheme: str) -> str:
    """E.g. "coco:DIR:SPLIT"."""
    return ":".join([scheme, *_ARGUMENTS[scheme]])


def get_dataset(spec: str, *, annotations: bool = False) -> Dataset:
    """Load the records of a registered name or path form.

    Args:
        spec: e.g. "coco_2017_train" or "folder:/data/photos".
        annotations: also read boxes and segments where the dataset has them.

    Raises:
        DataError: nothing is registered under that name, or the data is not where it is looked for.
    """
    form = split_path_form(spec)
    if form is not None:
        scheme, arguments = form
        dataset = SCHEME_REGISTRY.get(scheme)(*arguments, annotations=annotations)
        return replace(dataset, name=spec)
    if spec not in DATASET_REGISTRY:
        raise DataError(_unknown(spec))
    made = DATASET_REGISTRY.get(spec)()
    dataset = made if isinstance(made, Dataset) else Dataset(spec, RecordTable.pack(made))
    metadata = {"kind": "custom", "classes": [], **dataset.metadata, **_METADATA.get(spec, {})}
    return Dataset(spec, RecordTable.pack(dataset.records), metadata)


def _unknown(spec: str) -> str:
    forms = ", ".join(path_form_usage(scheme) for scheme in sorted(_ARGUMENTS))
    near = did_you_mean(spec, DATASET_REGISTRY.names())
    if Path(spec).is_dir():
        near = f"; it is a folder, so write folder:{spec}"
    names = ", ".join(DATASET_REGISTRY.names())
    return f"no dataset is called '{spec}'{near or '.'} Known names: {names}. Path forms: {forms}"


def missing(what: str, path: str | os.PathLike, layout: str) -> DataError:
    """The one sentence for data that is not there: what was looked for, the layout expected, what to set."""
    return DataError(
        f"no {what} at {Path(path).absolute()}; expected layout: {layout}. Give a path form that points to your "
        f"data (DATA.TRAIN; in a detection recipe DATASETS.TRAIN, DATASETS.TEST), or set ${ROOT_VARIABLE} to the "
        f"folder that holds named datasets (now {dataset_root().absolute()})"
    )
