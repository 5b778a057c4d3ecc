"""A Triton server on this machine: started, awaited and stopped."""
