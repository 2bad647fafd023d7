"""The command line: each module here is one subcommand of ./efn.

A subcommand has a docstring whose first line is its help, `add_arguments(parser)` and `run(args) -> exit code`.
With `PASSES_ON = True` words that its parser does not know arrive as the list `args.rest` instead of being refused.
"""
