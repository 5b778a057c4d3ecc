"""One module or package a use case: what the command line, and any other face, calls."""
