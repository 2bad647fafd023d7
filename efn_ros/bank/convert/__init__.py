# SPDX-License-Identifier: MIT
"""Conversion of banks to and from other formats."""
