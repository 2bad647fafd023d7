# SPDX-License-Identifier: MIT
"""The command line: each module here is one subcommand of ./efn.

A subcommand has a docstring whose first line is its help, `add_arguments(parser)` and `run(args) -> exit code`. With
`PASSES_ON = True` unknown arguments are not refused, but passed on as the list `args.rest`.
"""
