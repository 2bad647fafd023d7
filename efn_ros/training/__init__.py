# SPDX-License-Identifier: MIT
"""Training of networks: the loop, the datasets and the recipes."""
