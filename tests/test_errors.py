"""The tree of errors: what each class is, for prefloop's callers and for Python's."""

from __future__ import annotations

import pickle

import pytest

from prefloop import errors
from prefloop.errors import PrefloopError, UserError

CLASSES = [getattr(errors, name) for name in errors.__all__]
STANDARD = {
    "ConfigError": ValueError,
    "DataError": ValueError,
    "ModelError": ValueError,
    "NotFoundError": LookupError,
    "UnavailableError": ConnectionError,
    "StateError": RuntimeError,
    "FullError": RuntimeError,
    "GateError": RuntimeError,
    "TrainingError": ArithmeticError,
}
USERS = {"ConfigError", "DataError", "ModelError", "NotFoundError", "UnavailableError"}


def test_all_errors_are_exported() -> None:
    defined = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert defined == set(errors.__all__)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_each_has_its_place(cls: type[Exception]) -> None:
    assert issubclass(cls, PrefloopError)
    assert issubclass(cls, UserError) == (cls.__name__ in USERS | {"UserError"})
    assert issubclass(cls, STANDARD.get(cls.__name__, Exception))


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_message_survives_another_process(cls: type[Exception]) -> None:
    again = pickle.loads(pickle.dumps(cls("seed = -1 is below 0; give a positive one.")))
    assert type(again) is cls
    assert str(again) == "seed = -1 is below 0; give a positive one."
