"""The emulated device with the stand-in's arrays: what compiled functions run on where there is no GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import standin
from emulated import Device as Emulated


class OnStandIn(Emulated):
    """The emulated device with the stand-in's arrays."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def device(self) -> Any:
        return standin.Device(self.number)

    def empty(self, shape: Any, dtype: Any) -> Any:
        return standin.made(super().empty(shape, dtype))

    def address(self, array: Any) -> int:
        return super().address(_host(array))

    def array(self, block: Any, offset: int, shape: Any, strides: Any, dtype: Any) -> Any:
        return standin.made(super().array(_host(block), offset, shape, strides, dtype))

    def upload(self, array: Any) -> Any:
        return array if isinstance(array, standin.ndarray) else standin.made(super().upload(array))

    def as_array(self, value: Any) -> Any:
        return value if isinstance(value, standin.ndarray) else standin.made(np.asarray(value))


def _host(array: Any) -> Any:
    return getattr(array, "_host", array)
