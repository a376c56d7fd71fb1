"""Everything accord raises on purpose.

    AccordError
    ├── RequestError          the request was wrong: exit code 2
    │   ├── SettingsError     an unknown key, a wrong type, an impossible combination
    │   ├── DataError         a file, row or column that can't be used
    │   ├── ModelError        a model folder that can't be used
    │   ├── RewardError       a reward source that gives no score for a response
    │   ├── LockedError       a folder that another run is writing to
    │   └── ConflictError     an answer to an item that is no longer this annotator's to judge
    └── WorkError             the request was right, the work failed: exit code 1
        ├── TrainingError     a diverged run
        │   └── NotFiniteError   a loss or gradient that is NaN or infinite
        └── StorageError      a disk that is full, a checkpoint that can't be written or read

A message is one paragraph: what happened, where (file, line or row, key), and the remedy.
"""

from __future__ import annotations


class AccordError(Exception):
    """The root of the tree; `exit_code` is what the command line ends with."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        # A message may quote what was read. Half a character could not be printed.
        super().__init__(message.encode("utf-8", "backslashreplace").decode("utf-8"))


class RequestError(AccordError):
    exit_code = 2


class SettingsError(RequestError):
    pass


class DataError(RequestError):
    pass


class ModelError(RequestError):
    pass


class RewardError(RequestError):
    pass


class LockedError(RequestError):
    pass


class ConflictError(RequestError):
    pass


class WorkError(AccordError):
    pass


class TrainingError(WorkError):
    pass


class NotFiniteError(TrainingError):
    pass


class StorageError(WorkError):
    pass
