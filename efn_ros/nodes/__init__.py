"""The nodes: thin shells over the parts, one file each."""

import os

# Before NumPy is imported: for matrices this small more threads cost milliseconds, and they take cores from the others.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
