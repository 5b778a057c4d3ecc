"""What pictures look like: signatures and their comparison, and local features. Pure functions of arrays.

Not public: docs/design.md lists what is.
"""
