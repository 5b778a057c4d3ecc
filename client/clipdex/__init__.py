"""Find pictures by describing them."""
