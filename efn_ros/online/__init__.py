# SPDX-License-Identifier: MIT
"""Learning at work: candidates trained on the newest rollouts, and accepted in shadow."""
