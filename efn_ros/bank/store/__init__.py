# SPDX-License-Identifier: MIT
"""Reading, writing and maintaining a bank."""
