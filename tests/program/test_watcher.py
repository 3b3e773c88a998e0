"""Names are looked at in each call by one expression, which agrees with reading them one by one."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minijac.program.held import held, watcher


@pytest.mark.parametrize("many", [0, 300])
def test_the_quick_look_sees_each_name_that_stands_for_another(many: int) -> None:
    """Whatever the names are called, and however many there are: it agrees with reading them one by one."""
    inner = SimpleNamespace(**{"plain": np.ones(3), "class": np.ones(3), "ﬁx": np.ones(3), "two words": np.ones(3)})
    table: dict[Any, Any] = {"a": [np.ones(3), (np.ones(3), 2.5)], 3: np.ones(3), "inner": inner, "few": {1, 2}}
    table |= {f"more{k}": np.ones(1) for k in range(many)}

    def f(x: Any) -> Any:
        return x * table["a"][0] + table["a"][1][0] * table[3] + inner.plain, table["few"]

    found = held(f)
    fresh = watcher(found)
    changes: list[tuple[Any, Any]] = [
        *((partial(setattr, inner, name), getattr(inner, name)) for name in vars(inner)),
        (partial(table.__setitem__, 3), table[3]),
        (partial(table["a"].__setitem__, 0), table["a"][0]),
        (partial(table.__setitem__, "few"), table["few"]),
    ]
    for change, value in changes:
        assert fresh()
        change(np.zeros(3))
        assert not fresh() and not all(each.read() is each.value for each in found)
        change(value)
    table["a"].append(1)
    assert not fresh()
    table["a"].pop()
    assert fresh()
    del table["a"]
    with pytest.raises(KeyError):
        fresh()
