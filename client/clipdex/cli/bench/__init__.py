"""`clipdex bench`: measure a server, an indexing run or a search, and what limits it."""
