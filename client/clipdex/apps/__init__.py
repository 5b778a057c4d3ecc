"""The use cases, one per module or package, as the command line and other front ends call them.

Not public, except `bench` and `doctor`: docs/design.md lists what is.
"""
