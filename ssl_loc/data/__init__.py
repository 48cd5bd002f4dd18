"""From records on disk to batches of views."""

from ssl_loc.data import datasets as _datasets  # noqa: F401  (registers the built-in datasets)
from ssl_loc.data.catalog import Dataset, get_dataset, register_dataset
from ssl_loc.data.records import Record

__all__ = ["Dataset", "Record", "get_dataset", "register_dataset"]
