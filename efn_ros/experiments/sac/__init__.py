# SPDX-License-Identifier: MIT
"""Soft actor-critic fine-tuning of the EFN in simulated deployments, equations (8)-(16), (20) and (46)-(58)."""
