"""Text of functions of machine code: instructions on vectors, loops, tables that are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["Text"]


class Text:
    """Lines of LLVM's, as they are written; an instruction gives its result's name."""

    def __init__(self, char: str, lanes: int) -> None:
        self.lanes = lanes
        self.number = "float" if char == "f" else "double"
        self.size = np.dtype(char).itemsize
        self.vector, self.mask = f"<{lanes} x {self.number}>", f"<{lanes} x i1>"
        self.suffix = f"v{lanes}f{8 * self.size}"
        self.lines: list[str] = []
        self._names = 0

    def say(self, *lines: str) -> None:
        self.lines += lines

    def new(self, text: str) -> str:
        self._names += 1
        self.say(f"%v{self._names} = {text}")
        return f"%v{self._names}"

    def read(self, arrays: Sequence[str], numbers: Sequence[str]) -> None:
        """Names for what stands in the two tables, of addresses and of whole numbers."""
        for k, name in enumerate(arrays):
            self.say(f"{name}p = getelementptr ptr, ptr %p, i64 {k}", f"{name} = load ptr, ptr {name}p, align 8")
        for k, name in enumerate(numbers):
            self.say(f"{name}p = getelementptr i64, ptr %s, i64 {k}", f"{name} = load i64, ptr {name}p, align 8")

    def splat(self, kind: str, value: str) -> str:
        """One number in every place."""
        whole = f"<{self.lanes} x {kind}>"
        one = self.new(f"insertelement {whole} poison, {kind} {value}, i32 0")
        return self.new(f"shufflevector {whole} {one}, {whole} poison, <{self.lanes} x i32> zeroinitializer")

    def plus(self, address: str, offset: str | int) -> str:
        return self.new(f"getelementptr i8, ptr {address}, i64 {offset}") if offset else address

    def moved(self, address: str, index: str, stride: str) -> str:
        return self.plus(address, self.new(f"mul i64 {index}, {stride}"))

    def least(self, a: str, b: str) -> str:
        fits = self.new(f"icmp slt i64 {a}, {b}")
        return self.new(f"select i1 {fits}, i64 {a}, i64 {b}")

    def loop(
        self,
        name: str,
        size: str,
        step: int,
        body: Callable[[str, Sequence[str]], Sequence[str]],
        starts: Sequence[str] = (),
    ) -> list[str]:
        """A loop, of which `body` takes the index and the vectors gathered so far, and gives what they are then."""
        self.say(f"br label %{name}p", f"{name}p:", f"br label %{name}h", f"{name}h:")
        self.say(f"%{name} = phi i64 [0, %{name}p], [%{name}n, %{name}l]")
        gathered = [f"%{name}a{k}" for k in range(len(starts))]
        for k, start in enumerate(starts):
            self.say(f"%{name}a{k} = phi {self.vector} [{start}, %{name}p], [%{name}b{k}, %{name}l]")
        self.say(f"%{name}c = icmp slt i64 %{name}, {size}", f"br i1 %{name}c, label %{name}i, label %{name}e")
        self.say(f"{name}i:")
        for k, result in enumerate(body(f"%{name}", gathered)):
            self.say(f"%{name}b{k} = select i1 true, {self.vector} {result}, {self.vector} {result}")
        self.say(f"br label %{name}l", f"{name}l:")
        self.say(f"%{name}n = add i64 %{name}, {step}", f"br label %{name}h", f"{name}e:")
        return gathered
