"""`clipdex bench`: measure a server, an indexing run, the feeding of a GPU or a search, and what limits it."""
