"""`python -m clipdex` is `clipdex`."""

from clipdex.cli import main

main()
