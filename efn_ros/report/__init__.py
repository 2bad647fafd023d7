# SPDX-License-Identifier: MIT
"""Results for readers: tables, figures, videos and model cards."""
