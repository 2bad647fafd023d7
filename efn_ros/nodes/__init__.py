# SPDX-License-Identifier: MIT
"""Lifecycle nodes, one a module: thin shells that connect topics and services to plain Python."""

import os

# Before NumPy is imported: for matrices this small more threads cost milliseconds, and take cores from other nodes.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
