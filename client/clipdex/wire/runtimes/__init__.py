"""Models run in this process, behind the same interface as a server."""
