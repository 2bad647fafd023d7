# SPDX-License-Identifier: MIT
"""The result of a command, as text for people and as JSON for scripts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Output:
    """What a command prints, and its exit code."""

    data: Any  # ready for JSON
    text: str  # for people, in Markdown
    code: int = 0  # exit code

    def print(self, as_json: bool) -> int:
        """Print the result; return the exit code."""
        print(json.dumps(self.data, indent=1) if as_json else self.text)
        return self.code
