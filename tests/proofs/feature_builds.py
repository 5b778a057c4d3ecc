"""Builds of local features and of their neighbours: what they must leave, whatever ends them."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from functools import partial
from pathlib import Path
from random import Random

from proofs.kills import kill_after
from proofs.workload import Shared
from scenes import scene

import clipdex
from clipdex.features.store import FeatureStore
from clipdex.index import Index, verify_index
from clipdex.index.side.feature_file import FeatureFile
from clipdex.index.side.neighbour_footer import NEIGHBOURS_FILE
from clipdex.looks.local_features import Recipe, extract
from clipdex.pipeline import build_features as build_module
from clipdex.wire import FakeTransport

RECIPE = Recipe("sift", 20, 96)
PHASES = ("starting", "making features", "making neighbours")


def draw_index(directory: Path, pictures: int) -> tuple[Path, dict[bytes, bytes]]:
    """Draw pictures and index them -> the index, without features; those that belong to each path, encoded."""
    folder, index, wanted = directory / "pictures", directory / "sound.clipdex", {}
    folder.mkdir()
    for i in range(pictures):
        file, picture = folder / f"{i:05d}.png", scene(i, (96, 72))
        picture.save(file)
        wanted[os.fsencode(file)] = extract(picture, most=RECIPE.most, side=RECIPE.side).to_bytes()
    with clipdex.Client(FakeTransport()) as client:
        clipdex.index_pictures(client, folder, index, workers=1)
    return index, wanted


def commit_each_and_note_it(shared: Shared) -> None:
    """Let this process's builds commit each picture, and note how many have features after each commit."""
    build_module._COMMIT_BYTES = 1
    add = FeatureFile.add

    def noted(file: FeatureFile, *features: object) -> None:
        add(file, *features)  # type: ignore[arg-type]
        shared.set("acknowledged", file.count()[0])
        shared.turn()

    FeatureFile.add = noted  # type: ignore[method-assign, assignment]


def build_for_ever(index: Path, shared: Shared) -> None:
    """Make features and neighbours, then all of them anew, until somebody ends it."""
    # FAISS has threads: in the child alone.
    from clipdex.features.build_neighbours import build_neighbours

    commit_each_and_note_it(shared)
    rebuild = False
    while True:
        shared.set("phase", PHASES.index("making features"))
        build_module.build_features(
            index, kind=RECIPE.kind, most=RECIPE.most, side=RECIPE.side, workers=1, rebuild=rebuild
        )
        shared.set("phase", PHASES.index("making neighbours"))
        assert build_neighbours(index, fewest=1).file_bytes
        shared.set("compactions", 1)  # from here on there is such a file
        rebuild = True
        shared.set("acknowledged", 0)  # before: whoever sees this build begun asks for none of the last one
        shared.set("begun", shared.get("begun") + 1)


def check_built(index: Path, wanted: dict[bytes, bytes], acknowledged: int, *, neighbours: bool) -> int:
    """Compare the features of an index with those of its pictures -> how many have some.

    At least as many as acknowledged, each those of its picture, whole, and nothing for `verify` to find.
    neighbours: whether there must be such a file.
    """
    found = 0
    with Index.open(index) as opened:
        assert [path for _, path in opened.live_paths()] == list(wanted), "the rows are not those that were there"
        if FeatureFile.exists(index):
            with FeatureStore.open(opened) as store:
                found = len(store.rows)
                for row in store.rows:
                    path, features = opened.picture(int(row)).path, store.of(int(row))
                    assert features is not None and features.to_bytes() == wanted[path], f"{path!r} has others"
    assert found >= acknowledged, f"{acknowledged} pictures had features, {found} have"
    assert not neighbours or (index / NEIGHBOURS_FILE).exists(), "the file of neighbours is lost"
    report = verify_index(index)
    assert not report.damages, [damage.what for damage in report.damages]
    return found


def kill_builds(directory: Path, kills: int, pictures: int, rng: Random) -> tuple[Counter[str], int]:
    """SIGKILLs of builds -> (how many kills fell into which phase, how often a build was whole meanwhile)."""
    sound, wanted = draw_index(directory, pictures)
    index, shared = directory / "killed.clipdex", Shared()
    phases: Counter[str] = Counter()
    for kill in range(kills):
        if kill % 25 == 0:  # the next is made, so that kills fall into the making of the files as well
            shutil.rmtree(index, ignore_errors=True)
            shutil.copytree(sound, index)
            shared.set("acknowledged", 0)
            shared.set("compactions", 0)
        shared.set("phase", 0)
        # All pictures, then the neighbours, then anew.
        ready = shared.after(rng.randrange(pictures + 8))
        kill_after(rng.uniform(0, 0.3), partial(build_for_ever, index, shared), ready)
        phases[PHASES[shared.get("phase")]] += 1
        held = check_built(index, wanted, shared.get("acknowledged"), neighbours=bool(shared.get("compactions")))
        shared.set("acknowledged", held)
    return phases, shared.get("begun")
