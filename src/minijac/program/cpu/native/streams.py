"""Zeros in arrays that no cache holds, written past the caches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .bound import Bound
from .checks import Axes
from .llvm import compiled

__all__ = ["STREAMED", "zeroed"]

STREAMED = 1 << 24
"""Bytes of an array from which on its zeros go past the caches.

An ordinary store reads its line first, and puts another out: 16 MiB with a diagonal take 1.1 ms so and 0.5 past them,
and are read as soon after; 8 MiB take the same either way, and are read sooner from a cache.
"""

_ZEROS = """
define i32 @zeros(ptr %p, ptr %s) nounwind {
entry:
  %array = load ptr, ptr %p, align 8
  %size = load i64, ptr %s, align 8
  %start = ptrtoint ptr %array to i64
  %end = add i64 %start, %size
  %behind = add i64 %start, 63
  %whole = and i64 %behind, -64
  %some = icmp ult i64 %whole, %end
  %first = select i1 %some, i64 %whole, i64 %end
  br label %head
head:
  %i = phi i64 [%start, %entry], [%i1, %single]
  %before = icmp ult i64 %i, %first
  br i1 %before, label %single, label %lines
single:
  %byte = inttoptr i64 %i to ptr
  store i8 0, ptr %byte, align 1
  %i1 = add i64 %i, 1
  br label %head
lines:
  %k = phi i64 [%first, %head], [%k1, %line]
  %k1 = add i64 %k, 64
  %fits = icmp ule i64 %k1, %end
  br i1 %fits, label %line, label %tail
line:
  %place = inttoptr i64 %k to ptr
  store <16 x float> zeroinitializer, ptr %place, align 64, !nontemporal !0
  br label %lines
tail:
  %j = phi i64 [%k, %lines], [%j1, %last]
  %left = icmp ult i64 %j, %end
  br i1 %left, label %last, label %done
last:
  %rest = inttoptr i64 %j to ptr
  store i8 0, ptr %rest, align 1
  %j1 = add i64 %j, 1
  br label %tail
done:
  fence seq_cst
  ret i32 0
}
!0 = !{i32 1}
"""
"""The fence: stores past the caches wait for no others, and another thread may read what they wrote."""


def zeroed(out: Any) -> Bound:
    """Zeros in an array whose entries are side by side."""
    table, addresses = np.array([out.nbytes], np.int64), np.array([out.ctypes.data], np.intp)
    return Bound(compiled(_ZEROS, "zeros", 2), addresses, table, [out], _axes)


def _axes(table: Any) -> Sequence[Axes]:
    return [[(int(table[0]), 1)]]
