"""Errors travel between processes whole."""

import pickle

from raylatent import errors


def test_errors_pickle_with_their_message():
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.RaylatentError):
            extra = {"stage": "read"} if kind is errors.ContentError else {}
            error = kind("one sentence", **extra)
            again = pickle.loads(pickle.dumps(error))  # noqa: S301
            assert type(again) is kind
            assert str(again) == "one sentence"
            assert vars(again) == vars(error)


def test_exit_codes():
    assert errors.ConfigError("x").exit_code == 2
    assert errors.ClaimError("x").exit_code == 2
    assert errors.StorageError("x").exit_code == 1
    assert errors.IncompleteError("x").exit_code == 1
