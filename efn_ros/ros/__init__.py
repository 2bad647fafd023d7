# SPDX-License-Identifier: MIT
"""ROS 2 side shared by the nodes: conversions, quality of service, diagnostics, base classes, bring-up and a client."""
