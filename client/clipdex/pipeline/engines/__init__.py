"""Engines that spread the parts of an index over machines: the loop that drives one, and Ray.

Everything in here may change from one version to the next.
"""
