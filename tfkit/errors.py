"""Define the exceptions, as one tree.

    TfkitError              exit code 1: the base of all of them
    ├── StackError          a package is missing, too old, or fights another (python -m tfkit doctor)
    ├── UsageError          exit code 2: what was asked cannot be done
    │   ├── ConfigError     a flag, a key of a config file, or a combination of them
    │   ├── DataError       the images, texts or tables
    │   ├── HubError        a model handle: not found, not reachable, not what the job needs
    │   ├── PrivacyError    a model or setting for which no epsilon would hold
    │   └── RunError        a run folder: in use, made by another config, damaged
    ├── WorkerError         a process of a distributed job failed, and no restart could mend it
    └── CheckError          a result did not pass its own check (export, conversion, features)

Every message says what was found, why it cannot work, and the call or command that would.
"""


class TfkitError(Exception):
    """The base of every error that tfkit raises on purpose."""

    exit_code = 1


class StackError(TfkitError):
    """A package is missing, of the wrong version, or was set up before tfkit could do it."""


class UsageError(TfkitError):
    """Say that what was asked cannot be done; asking differently can."""

    exit_code = 2


class ConfigError(UsageError):
    """A flag or a key of a config file is unknown, out of range, or contradicts another."""


class DataError(UsageError):
    """The data cannot be read, or cannot serve for what was asked."""


class HubError(UsageError):
    """A model handle does not resolve, or resolves to a model that does not fit."""


class PrivacyError(UsageError):
    """No epsilon would hold for what was asked, or none below the target can be reached."""


class RunError(UsageError):
    """A run folder is in use, belongs to another config, or is damaged."""


class WorkerError(TfkitError):
    """A process of a distributed job failed, and no restart could mend it."""


class CheckError(TfkitError):
    """Something was made and measured, and is not what it must be."""
