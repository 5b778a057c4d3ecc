"""The page over a million rows: its first answer, a search to its first thumbnails, and the bytes of the page.

    .venv-dev/bin/python benchmarks/web_page.py [--rows N] [--index X.clipdex]

The server is a process of its own, and runs as `clipdex web` does; one client asks. Of the drawn rows, the hits of the
first query are given files, so that 24 thumbnails of it are drawn ("cold") and then read from the cache ("cached").
Other searches are by other rows. Medians; figures: docs/performance.md.
"""
