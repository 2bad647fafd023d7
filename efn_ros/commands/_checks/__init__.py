# SPDX-License-Identifier: MIT
"""What `./efn doctor` checks."""
