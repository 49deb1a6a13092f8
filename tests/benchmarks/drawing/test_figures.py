"""The figures of the documentation are those of its data."""

import json

import pytest

from benchmarks.drawing import figures


@pytest.mark.parametrize("figure", figures.FIGURES, ids=lambda figure: figure.name)
def test_a_figure_is_the_one_that_its_data_give(figure, tmp_path):
    rows = json.loads((figures.DOCS / "data" / figure.data).read_text())
    figures.draw(figure, rows, tmp_path / "drawn.svg")
    kept = figures.DOCS / "images" / f"{figure.name}.svg"
    assert (tmp_path / "drawn.svg").read_bytes() == kept.read_bytes(), "run `make docs`"


def test_every_measured_line_has_a_name_and_is_drawn():
    for data in {figure.data for figure in figures.FIGURES}:
        rows = json.loads((figures.DOCS / "data" / data).read_text())
        drawn = {line for figure in figures.FIGURES if figure.data == data for line in figure.lines}
        assert set(figures.lines(rows)) == drawn | {"unedited"}
