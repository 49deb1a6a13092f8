"""The figures of the documentation are those of its data."""

import json
import re

import pytest

from benchmarks.drawing import demo_picture, figures


@pytest.mark.parametrize("figure", figures.FIGURES, ids=lambda figure: figure.name)
def test_a_figure_is_the_one_that_its_data_give(figure, tmp_path):
    rows = json.loads((figures.DOCS / "data" / figure.data).read_text())
    figures.draw(figure, rows, tmp_path / "drawn.svg")
    kept = figures.DOCS / "images" / f"{figure.name}.svg"
    assert (tmp_path / "drawn.svg").read_bytes() == kept.read_bytes(), "run `make docs`"


def test_every_line_that_is_drawn_was_measured():
    for figure in figures.FIGURES:
        rows = json.loads((figures.DOCS / "data" / figure.data).read_text())
        assert set(figure.lines) <= set(figures.lines(rows)), figure.name


def test_every_figure_is_shown_by_a_page():
    root = figures.DOCS.parent
    pages = [*root.glob("*.md"), *figures.DOCS.rglob("*.md")]
    shown = {name for page in pages for name in re.findall(r"images/([\w.-]+)", page.read_text())}
    assert {path.name for path in (figures.DOCS / "images").iterdir()} <= shown


def test_the_picture_of_the_demo_is_the_one_that_its_data_give():
    if figures.DEMO.exists():
        kept = (figures.DOCS / "images" / "demo.svg").read_text()
        assert demo_picture.picture(json.loads(figures.DEMO.read_text())) == kept, "run `make docs`"
