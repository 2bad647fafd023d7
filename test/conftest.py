# SPDX-License-Identifier: MIT
"""Settings of all tests, for machines that are shared."""

import signal

from hypothesis import settings

# A script ignores Ctrl-C in its background jobs, and processes that tests start and interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
