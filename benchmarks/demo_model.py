"""The demo model on 1,000 held-out pictures, through a real Triton: recall, precision, and what goes wrong.

    .venv/bin/python benchmarks/demo_model.py [--json]

Its figures are in docs/demo-model.md.
"""

import sys
from pathlib import Path

from clipdex_server import LocalTriton
from demo_training.evaluate import main

REPOSITORY = Path(__file__).resolve().parent.parent / "model_repository"

if __name__ == "__main__":
    with LocalTriton(REPOSITORY) as server:
        print(f"Triton {server.version}", file=sys.stderr)
        status = main(["--server", server.address, *sys.argv[1:]])
    sys.exit(status)
