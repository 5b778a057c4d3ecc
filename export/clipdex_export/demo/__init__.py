"""Drawn pictures with captions, for `make demo`, int8 calibration, and training of the demo model.

`queries` defines the meaning of captions, and so which captions match which pictures. Does not need torch.

Not public: docs/design.md lists what is.
"""
