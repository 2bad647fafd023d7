# SPDX-License-Identifier: MIT
"""Methods that have shown no gain so far, kept out of the product's path; docs/experiments says what was measured.

A node whose parameter `experiment` names one of these packages gets the package's part in place of its own. A package
defines what it replaces: `make_inference(parameters)`, `make_retriever(parameters, source)` or
`make_residual(parameters)`; its module `command`, where it has one, is a subcommand of `./efn experiment`.
"""
