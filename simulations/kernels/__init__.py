"""Compiled loops of the weight-free engine: no checks, no I/O. Callers check the inputs and lay out the memory.

A row of n units on a batch of B is stored flat, in blocks of `block_units(B)` units that stay in the processor's cache;
a block of m units is a C-ordered (B, m) matrix. Every row carries one logarithmic scale beside its values.
With NUMBA_DISABLE_JIT=1 everything runs as plain Python.
"""
