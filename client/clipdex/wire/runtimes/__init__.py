"""Transports that run models in this process."""
