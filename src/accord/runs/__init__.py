"""A run on disk: atomic files and folders, digests, the metrics log and the manifest."""

from accord.runs.atomic import atomic_folder, remove_folder, write_json_atomic
from accord.runs.digests import digest_json, digest_path
from accord.runs.lock import lock_folder, remove_stale_lock
from accord.runs.manifest import machine, read_manifest, record_run, versions
from accord.runs.metrics import MetricsLog, read_metrics
from accord.runs.storage import storage_errors

__all__ = [
    "MetricsLog",
    "atomic_folder",
    "digest_json",
    "digest_path",
    "lock_folder",
    "machine",
    "read_manifest",
    "read_metrics",
    "record_run",
    "remove_folder",
    "remove_stale_lock",
    "storage_errors",
    "versions",
    "write_json_atomic",
]
