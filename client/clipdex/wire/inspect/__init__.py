"""What a Triton server tells of itself, asked without changing anything."""
