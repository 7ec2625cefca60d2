"""Every error that prefloop raises on purpose. Knows nothing of what raises them.

    PrefloopError
    ├── UserError                 the user can mend it: one sentence, exit code 2
    │   ├── ConfigError           ValueError: a setting or a run file is wrong
    │   ├── DataError             ValueError: a data file or a row of it is wrong
    │   ├── ModelError            ValueError: a model folder, tokenizer or checkpoint cannot be used
    │   ├── NotFoundError         LookupError: the named thing does not exist
    │   └── UnavailableError      ConnectionError: a server, port or database cannot be reached
    ├── StateError                RuntimeError: not allowed in the present state (HTTP 409, exit code 2)
    │   └── FullError             RuntimeError: all places of a study are taken
    ├── GateError                 RuntimeError: a quality or evaluation gate said no (exit code 1)
    └── TrainingError             ArithmeticError: training cannot go on (a NaN loss, say; exit code 2)

A message gives the value, the limit and the next action, in one sentence. A new class goes into this drawing,
inherits the standard error that it replaces, and takes the message as its only argument (so that it pickles).
"""

__all__ = [
    "ConfigError",
    "DataError",
    "FullError",
    "GateError",
    "ModelError",
    "NotFoundError",
    "PrefloopError",
    "StateError",
    "TrainingError",
    "UnavailableError",
    "UserError",
]


class PrefloopError(Exception):
    """Base of all errors raised on purpose."""


class UserError(PrefloopError):
    """Something the user can mend; the command line prints the message alone and exits with 2."""


class ConfigError(UserError, ValueError):
    """A setting, a run file or a `--set` override is wrong."""


class DataError(UserError, ValueError):
    """A data file cannot be read; the message names file, line and field."""


class ModelError(UserError, ValueError):
    """A model folder, a tokenizer or a checkpoint cannot be used."""


class NotFoundError(UserError, LookupError):
    """A named snapshot, study, run or file does not exist."""


class UnavailableError(UserError, ConnectionError):
    """A server, port or database cannot be reached."""


class StateError(PrefloopError, RuntimeError):
    """The request is well formed but not allowed in the present state (HTTP 409)."""


class FullError(StateError):
    """A study takes no further comparison: every place of its target is taken."""


class GateError(PrefloopError, RuntimeError):
    """A gate said no (exit code 1)."""


class TrainingError(PrefloopError, ArithmeticError):
    """Training cannot go on; the last checkpoint is intact."""
