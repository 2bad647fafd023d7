# SPDX-License-Identifier: MIT
"""Format of a bank on disk: catalogue, payloads, validation and errors."""
