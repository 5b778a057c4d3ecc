"""Read-only inspection of a Triton server."""
