# SPDX-License-Identifier: MIT
"""Experience feedback for robots: a frozen policy, a memory of its rollouts, and a network that corrects from them."""

import os
from pkgutil import extend_path

__version__ = "0.1.0"

# In a checkout the generated messages (efn_ros.msg, efn_ros.srv) lie in the installed copy of this package; with this
# they are found whichever of the two comes first on the path.
__path__ = extend_path(__path__, __name__)

# On some processors MKL's matrix products depend on where in memory the factors happen to lie; no action may.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
