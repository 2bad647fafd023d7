# SPDX-License-Identifier: MIT
"""PocketVLA: the small vision-language-action policy that this project trains."""
