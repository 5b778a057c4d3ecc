"""Files beside the vectors that make a search faster, and can be made again from them."""
