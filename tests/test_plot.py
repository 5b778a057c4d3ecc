"""The plot of a server's throughput: what can be read on it."""

import os
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

import clipdex
from clipdex.apps.bench.load import Latency
from clipdex.apps.bench.measure_server import Point
from clipdex.apps.bench.plot import figure_of, plot_points

colors = pytest.importorskip("matplotlib.colors")
style = pytest.importorskip("matplotlib.style")

TITLE = "demo at localhost:8001, triton 2.51.0, on 1 GPU"
MADE_ON = "from 2 cores of AMD EPYC, 8 GiB, 2026-11-28T12:00:00+00:00"


def point(ms, rate=100.0, *, part="image", transfer="wire", batch=1, concurrency=1):
    return Point(part, transfer, batch, concurrency, rate, 5.0, 99, Latency(ms, ms, ms, ms), None)


def drawn(*points, title=TITLE, made_on=MADE_ON):
    figure = figure_of(points, title, made_on)
    figure.draw_without_rendering()
    return figure


def labels(axis):
    low, high = sorted(axis.get_view_interval())
    return [tick.label1.get_text() for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]


@pytest.mark.parametrize(
    ("least", "most", "expected"),
    [
        (0.9, 120, ["1", "2", "5", "10", "20", "50", "100"]),
        (900, 21_000, ["1,000", "2,000", "5,000", "10,000", "20,000"]),
        (0.009, 0.06, ["0.01", "0.02", "0.05"]),
        (0.9, 120_000, ["1", "10", "100", "1,000", "10,000", "100,000"]),
    ],
)
def test_latencies_are_labelled_with_plain_numbers(least, most, expected):
    (axes,) = drawn(point(least), point(most, concurrency=2)).axes
    assert [label for label in labels(axes.xaxis) if label in expected] == expected
    assert not [text.get_text() for text in axes.get_xticklabels(minor=True) if text.get_text()]
    assert not any(set("^$e{\u00d7") & set(label) for label in labels(axes.xaxis))


@pytest.mark.parametrize(("least", "most"), [(11, 11), (11, 11.5), (11, 13), (18, 55), (11, 40)])
def test_latencies_that_are_close_have_labels_too(least, most):
    (axes,) = drawn(point(least), point(most, concurrency=2)).axes
    assert len(labels(axes.xaxis)) >= 3


def test_throughput_is_labelled_with_plain_numbers_from_nothing_up():
    (axes,) = drawn(point(1, 1_600_000.0), point(9, 200_000.0)).axes
    assert labels(axes.yaxis)[0] == "0"
    assert "1,000,000" in labels(axes.yaxis)


def test_both_axes_say_what_they_measure_and_in_what():
    (pictures, texts) = drawn(point(1), point(2, part="text")).axes
    assert "median latency of a request, ms" in pictures.get_xlabel()
    assert pictures.get_ylabel() == "throughput, pictures per second"
    assert texts.get_ylabel() == "throughput, texts per second"


def test_the_plot_says_what_was_measured_and_the_machine_and_the_date():
    figure = drawn(point(1))
    assert figure.get_suptitle() == TITLE
    assert figure.get_supxlabel() == MADE_ON


def test_the_legend_names_each_line_and_covers_none():
    figure = drawn(point(1), point(2, batch=8), point(3, batch=8, transfer="shared"))
    (axes,) = figure.axes
    legend = axes.get_legend()
    assert legend.get_title().get_text() == "pictures per request, transfer"
    assert [text.get_text() for text in legend.get_texts()] == [
        "1, wire",
        "8, wire",
        "8, shared",
    ]
    assert legend.get_window_extent().x0 >= axes.get_window_extent().x1
    assert legend.get_window_extent().x1 <= figure.bbox.x1


def test_a_dozen_batch_sizes_have_a_dozen_colours():
    (axes,) = drawn(*(point(1 + i, batch=2**i) for i in range(12))).axes
    assert len({colors.to_hex(line.get_color()) for line in axes.get_lines()}) == 12


def test_names_are_text_not_formulas():
    figure = drawn(point(1), title="$\\frac{a$ at b\udcff\n", made_on="a $5 cpu, $x$")
    assert figure.get_suptitle() == "$\\frac{a$ at b\\xff\\n"
    assert figure.get_supxlabel() == "a $5 cpu, $x$"


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_ground_is_white_whatever_the_users_style(tmp_path, suffix):
    file = tmp_path / f"x{suffix}"
    with style.context("dark_background"):
        plot_points(file, [point(1)], "日本", MADE_ON)
    if suffix == ".png":
        image = Image.open(file).convert("RGB")
        assert image.getpixel((0, 0)) == (255, 255, 255)
        assert image.width >= 1600
        dark = (np.asarray(image).max(axis=2) < 40).sum()
        assert dark > 5_000  # the words and numbers
    elif suffix == ".svg":
        assert ET.parse(file).getroot().tag.endswith("svg")
    else:
        assert file.read_bytes().startswith(b"%PDF")


def test_a_plot_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    file = tmp_path / "x.png"
    file.write_text("old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(clipdex.ClipdexError, match=r"x\.png: the plot cannot be written: No space left"):
        plot_points(file, [point(1)], TITLE, MADE_ON)
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.png"]
