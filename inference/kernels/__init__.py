"""The few hot loops: each in NumPy, the reference and the fallback, in numba, and in JAX."""
