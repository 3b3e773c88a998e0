"""What carries out commands: a function that takes tiles as they come, and BLAS's products of matrices.

A command is a function and two tables, of addresses and of whole numbers. Where a tile's part of an array stands is
written into the tables before its commands run. Python is not needed: its lock is let go of until no tile is left.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache
from typing import Any

from .llvm import Function, address_of, compiled

__all__ = ["awaited", "gemm", "work"]

_WORK = """
define i64 @work(ptr %counter, ptr %s) nounwind {
entry:
  %count = load i64, ptr %s, align 8
  %firstp = getelementptr i64, ptr %s, i64 1
  %first = load i64, ptr %firstp, align 8
  %basesp = getelementptr i64, ptr %s, i64 2
  %bases = load ptr, ptr %basesp, align 8
  %mainp = getelementptr i64, ptr %s, i64 3
  %main = load ptr, ptr %mainp, align 8
  %restp = getelementptr i64, ptr %s, i64 4
  %rest = load ptr, ptr %restp, align 8
  %again = icmp sge i64 %first, 0
  br i1 %again, label %tile, label %next
next:
  %taken = atomicrmw add ptr %counter, i64 1 monotonic
  %some = icmp slt i64 %taken, %count
  br i1 %some, label %tile, label %end
end:
  ret i64 -1
tile:
  %t = phi i64 [%first, %entry], [%taken, %next]
  %after = add i64 %t, 1
  %last = icmp eq i64 %after, %count
  %has = icmp ne ptr %rest, null
  %short = and i1 %last, %has
  %own = select i1 %short, ptr %rest, ptr %main
  %commandsp = getelementptr i64, ptr %own, i64 0
  %commands = load i64, ptr %commandsp, align 8
  %patchesp = getelementptr i64, ptr %own, i64 1
  %patches = load i64, ptr %patchesp, align 8
  br label %patch
patch:
  %k = phi i64 [0, %tile], [%k1, %patched]
  %more = icmp slt i64 %k, %patches
  br i1 %more, label %patched, label %carried
patched:
  %k4 = mul i64 %k, 4
  %k4o = add i64 %k4, 2
  %cellp = getelementptr i64, ptr %own, i64 %k4o
  %cell = load ptr, ptr %cellp, align 8
  %slotp = getelementptr i64, ptr %cellp, i64 1
  %slot = load i64, ptr %slotp, align 8
  %offsetp = getelementptr i64, ptr %cellp, i64 2
  %offset = load i64, ptr %offsetp, align 8
  %stepp = getelementptr i64, ptr %cellp, i64 3
  %step = load i64, ptr %stepp, align 8
  %basep = getelementptr i64, ptr %bases, i64 %slot
  %base = load i64, ptr %basep, align 8
  %moved = mul i64 %t, %step
  %sum = add i64 %base, %moved
  %address = add i64 %sum, %offset
  store i64 %address, ptr %cell, align 8
  %k1 = add i64 %k, 1
  br label %patch
carried:
  %p4 = mul i64 %patches, 4
  %p4o = add i64 %p4, 2
  %firstcommand = getelementptr i64, ptr %own, i64 %p4o
  br label %command
command:
  %c = phi i64 [0, %carried], [%c1, %done]
  %left = icmp slt i64 %c, %commands
  br i1 %left, label %run, label %whole
whole:
  %donep = getelementptr i64, ptr %counter, i64 1
  %counted = atomicrmw add ptr %donep, i64 1 seq_cst
  br label %next
run:
  %c4 = mul i64 %c, 4
  %fp = getelementptr i64, ptr %firstcommand, i64 %c4
  %f = load ptr, ptr %fp, align 8
  %pp = getelementptr i64, ptr %fp, i64 1
  %p = load ptr, ptr %pp, align 8
  %qp = getelementptr i64, ptr %fp, i64 2
  %q = load ptr, ptr %qp, align 8
  %rc = call i32 %f(ptr %p, ptr %q)
  %beyond = icmp ne i32 %rc, 0
  br i1 %beyond, label %exactly, label %done
exactly:
  %ep = getelementptr i64, ptr %fp, i64 3
  %e = load ptr, ptr %ep, align 8
  %none = icmp eq ptr %e, null
  br i1 %none, label %missing, label %called
called:
  %ignored = call i32 %e(ptr %p, ptr %q)
  br label %done
missing:
  ret i64 %t
done:
  %c1 = add i64 %c, 1
  br label %command
}
"""

_AWAIT = """
define i32 @await(ptr %counter, ptr %s) nounwind {
entry:
  %count = load i64, ptr %s, align 8
  %looksp = getelementptr i64, ptr %s, i64 1
  %looks = load i64, ptr %looksp, align 8
  %donep = getelementptr i64, ptr %counter, i64 1
  br label %head
head:
  %k = phi i64 [0, %entry], [%k1, %again]
  %done = load atomic i64, ptr %donep acquire, align 8
  %all = icmp sge i64 %done, %count
  br i1 %all, label %yes, label %again
again:
  %k1 = add i64 %k, 1
  %more = icmp slt i64 %k1, %looks
  br i1 %more, label %head, label %no
yes:
  ret i32 1
no:
  ret i32 0
}
"""

_GEMM = """
define i32 @gemm(ptr %p, ptr %s) nounwind {{
entry:
  %ap = getelementptr ptr, ptr %p, i64 0
  %a0 = load ptr, ptr %ap, align 8
  %bp = getelementptr ptr, ptr %p, i64 1
  %b0 = load ptr, ptr %bp, align 8
  %cp = getelementptr ptr, ptr %p, i64 2
  %c0 = load ptr, ptr %cp, align 8
{loads}
  %ta = trunc i64 %s0 to i32
  %tb = trunc i64 %s1 to i32
{shortened}
  br label %head
head:
  %i = phi i64 [0, %entry], [%i1, %body]
  %more = icmp slt i64 %i, %s8
  br i1 %more, label %body, label %exit
body:
  %ao = mul i64 %i, %s9
  %a = getelementptr i8, ptr %a0, i64 %ao
  %bo = mul i64 %i, %s10
  %b = getelementptr i8, ptr %b0, i64 %bo
  %co = mul i64 %i, %s11
  %c = getelementptr i8, ptr %c0, i64 %co
  call void inttoptr (i64 {function} to ptr)(
    i32 101, i32 %ta, i32 %tb, {whole} %m2, {whole} %m3, {whole} %m4,
    {number} 1.0, ptr %a, {whole} %m5, ptr %b, {whole} %m6, {number} 0.0, ptr %c, {whole} %m7)
  %i1 = add i64 %i, 1
  br label %head
exit:
  ret i32 0
}}
"""
NAMES = (
    ("scipy_cblas_{}gemm64_", 64), ("cblas_{}gemm64_", 64), ("cblas_{}gemm_64", 64), ("scipy_cblas_{}gemm", 32),
    ("cblas_{}gemm", 32),
)  # fmt: skip
"""How libraries name their product of matrices, and the bits of the sizes that it takes."""


@cache
def work() -> Function:
    """Carry out tiles until none is left, which gives -1; or to one that needs an exact form: the tile's number.

    Of the counter, the first number is how many tiles are taken, the second how many are done.
    """
    return compiled(_WORK, "work", 2, ctypes.c_int64)


@cache
def awaited() -> Function:
    """Whether all tiles are done within so many looks at the counter: 1 or 0."""
    return compiled(_AWAIT, "await", 2)


@cache
def gemm(libraries: tuple[Any, ...], char: str) -> Function | None:
    """The product of a stack of matrices by NumPy's BLAS, for float32 (f) or float64 (d)."""
    letter = "s" if char == "f" else "d"
    for library in libraries:
        for name, bits in NAMES:
            with suppress(AttributeError):
                function = getattr(library, name.format(letter))
                address = address_of(function)
                loads = "\n".join(
                    f"  %q{k} = getelementptr i64, ptr %s, i64 {k}\n  %s{k} = load i64, ptr %q{k}, align 8"
                    for k in range(12)
                )
                change = "add i64 0, %s{0}" if bits == 64 else "trunc i64 %s{0} to i32"
                shortened = "\n".join(f"  %m{k} = {change.format(k)}" for k in range(2, 8))
                number = "float" if char == "f" else "double"
                text = _GEMM.format(loads=loads, shortened=shortened, function=address, whole=f"i{bits}", number=number)
                return compiled(text, "gemm", 2)
    return None
