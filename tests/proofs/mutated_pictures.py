"""Mutated pictures through the decoder, in one process bounded as a worker is: a picture or an ImageError, always.

    python tests/proofs/mutated_pictures.py 2000

Prints what became of them; ends with status 1 at the first other exception, and with a signal at a crash. The
mutation is then in the file named on the last line. Seeded: the same count gives the same files.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hazards import hazards

from clipdex.base.errors import ImageError
from clipdex.base.limits import Limits
from clipdex.model.formats.decoders import use_one_thread
from clipdex.model.images import open_image, to_pixels
from clipdex.wire import FakeTransport


def mutated(data: bytes, random: Random) -> bytes:
    """A few bytes changed, taken out, put in or written twice; early ones rather, where the headers are,
    but behind the magic number: else most would be no picture at once."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        at = 12 + int((len(changed) - 12) * random.random() ** random.choice((1, 2, 4)))
        kind = random.randrange(6)
        if kind == 0:
            changed[at : at + 1] = bytes([random.randrange(256)])
        elif kind == 1:
            changed[at : at + 1] = random.choice((b"\0", b"\xff", b"\x7f", b"\x80"))
        elif kind == 2:
            changed[at : at + 4] = random.choice(
                (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\xff\xff")
            )
        elif kind == 3:
            del changed[at : at + random.randrange(1, 40)]
        elif kind == 4:
            changed[at:at] = random.randbytes(random.randrange(1, 40))
        else:
            changed[at:at] = changed[at : at + random.randrange(1, 200)]
    return bytes(changed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("count", type=int, nargs="?", default=2000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    use_one_thread()
    whole = [hazard for hazard in hazards() if not hazard.reason and 60 < len(hazard.data) < 20_000]
    spec = FakeTransport().card.image
    limits = Limits(max_pixels=1_000_000)
    limits.apply_to_this_process()
    random, counts, slowest = Random(20261123), Counter[str](), (0.0, "")
    seen = Path(tempfile.mkdtemp(prefix="clipdex-mutated-")) / "picture"
    for i in range(options.count):
        hazard = whole[i % len(whole)]
        data = mutated(hazard.data, random)
        seen.write_bytes(data)
        started = time.monotonic()
        try:
            to_pixels(open_image(data, max_pixels=limits.max_pixels), spec)
            counts["indexed"] += 1
        except ImageError as exc:
            counts[exc.reason] += 1
        except BaseException:
            print(f"{hazard.name}, mutation {i}: {seen}", file=sys.stderr)
            raise
        slowest = max(slowest, (time.monotonic() - started, hazard.name))
    seen.unlink()
    seen.parent.rmdir()
    if options.json:
        print(json.dumps(counts))
    else:
        print(f"{options.count:,} mutations of {len(whole)} pictures: {dict(counts.most_common())}")
        print(f"slowest: {slowest[0]:.2f} s, of {slowest[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
