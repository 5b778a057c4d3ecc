"""Drawn pictures with captions, for `make demo`, for int8 calibration, and to train the demo model.

`queries` says what a caption means, so that it is known which captions fit which pictures. Needs no torch.
"""
