# SPDX-License-Identifier: MIT
"""The Experience Feedback Network (EFN): from the present step and the recalled steps to a residual."""
