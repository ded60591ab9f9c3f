"""How the kernels are compiled: without the interpreter's lock, once for all processes."""

import functools

import numba

kernel = functools.partial(numba.njit, nogil=True, cache=True, error_model="numpy", no_cfunc_wrapper=True)
# Sums in any order, fused products; nothing that assumes finite numbers: NaN of a network out of range comes through.
fast_kernel = functools.partial(kernel, fastmath={"reassoc", "contract", "nsz", "arcp"})
