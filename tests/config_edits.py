"""Edits of a config, and what is said to those it cannot have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from segalflow.errors import SegalflowError
from segalflow.study import prepare_study


def put(*keys_and_value: Any) -> Callable[[dict], None]:
    """An edit that sets a key, given with the blocks it is in, to the value that comes last."""
    *keys, last, value = keys_and_value

    def change(config: dict) -> None:
        for key in keys:
            config = config.setdefault(key, {})
        config[last] = value

    return change


def assert_refused(config: dict, schema: dict, words: str) -> None:
    """A config is refused in one sentence that has these words in it."""
    with pytest.raises(SegalflowError) as caught:
        prepare_study(config, schema)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
