"""Methods that have shown no gain yet, out of the product's path; docs/experiments says what was measured of each.

A part of the graph that names one in its parameter `experiment` is built by that experiment instead. Each is a package
here, whose own module offers what it replaces: `make_inference(parameters)`, `make_retriever(parameters, source)` or
`make_residual(parameters)`; and what can be done with it on the command line, as `command` (see `./efn experiment`).
"""
