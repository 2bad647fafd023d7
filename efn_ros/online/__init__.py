# SPDX-License-Identifier: MIT
"""Online learning: candidates trained on the newest rollouts, and accepted in shadow."""
