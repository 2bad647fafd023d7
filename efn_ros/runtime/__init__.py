# SPDX-License-Identifier: MIT
"""The loop in one process: graphs, parts from parameters, the agent and its episodes."""
