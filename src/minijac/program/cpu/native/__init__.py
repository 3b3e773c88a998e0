"""Loops as machine code, written by LLVM."""
