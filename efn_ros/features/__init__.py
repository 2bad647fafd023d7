# SPDX-License-Identifier: MIT
"""Features of tokens and images that bank and retrieval share."""
