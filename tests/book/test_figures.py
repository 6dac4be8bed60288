"""The figures of the book: saved runs that say where they come from, and drawings of all kinds."""

import io
import json
import re

import numpy as np
import pytest
from thinning import thinned

from nnjax import book
from nnjax.book import chapter4, chapter6
from nnjax.cli import main

SAVED = [number for number, figure in book.FIGURES.items() if figure.saved]
# Computed in a moment; the documentation computes and draws them all.
QUICK = ["1.1", "1.3", "3.13", "3.14", "4.1", "5.5"]


def test_numbers_name_a_chapter_and_count_within_it():
    numbers = [tuple(map(int, number.split("."))) for number in book.FIGURES]
    assert numbers == sorted(numbers)
    for chapter in range(1, 7):
        own = [figure for of, figure in numbers if of == chapter]
        assert own == list(range(1, 1 + len(own)))


@pytest.mark.parametrize("number", thinned([*QUICK, *SAVED], str, 8))
def test_a_figure_is_drawn_with_its_title_and_its_origin(number):
    result = book.result(number)
    figure = result.draw()
    assert figure.get_suptitle().replace("\n", " ") == f"Figure {number}: {result.figure.title}"
    assert f"seed {result.seed}" in figure.get_supxlabel()
    assert {"nnjax", "jax"} <= set(result.versions)
    figure.savefig(io.BytesIO(), dpi=30)


@pytest.mark.slow
@pytest.mark.parametrize("number", sorted(set(book.FIGURES) - {*QUICK, *SAVED}))
def test_every_other_figure_is_drawn(number):
    book.figure(number).savefig(io.BytesIO(), dpi=30)


def test_a_result_is_saved_and_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr("nnjax.book.figures.SAVED", tmp_path)
    figure = book.BookFigure("1.9", "t", lambda seed: {"a": np.float64(seed) / 3}, None, saved=True)
    with pytest.raises(FileNotFoundError, match=r"scripts/book_runs\.py 1\.9` makes it, in about"):
        figure.result()
    computed = figure.result(seed=7)
    assert computed.save().parent == tmp_path
    read = figure.result()
    assert (read.numbers, read.seed) == ({"a": 2.33333}, 7)
    assert read.to_dict() == computed.to_dict()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: book.result("9.1"), "there is no figure '9.1'; expected one of 1.1, 1.2"),
        (lambda: book.result("1.1", seed=-1), "seed is -1; expected"),
    ],
)
def test_what_is_not_there_is_said(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_towers_stand_where_they_belong():
    """Independent of the function: the value of each square, in its own place."""
    heights = np.arange(9.0).reshape(3, 3)
    x, y = np.meshgrid([0.2, 0.5, 0.8], [0.2, 0.5, 0.8])
    np.testing.assert_allclose(
        chapter4._outputs(chapter4.towers(heights), x, y), heights, atol=1e-3
    )


def test_the_vote_is_of_classes_and_ties_go_to_the_larger_sum():
    outputs = np.zeros((4, 3, 3))
    for member, classes in enumerate([(0, 1, 2), (0, 1, 2), (1, 0, 2), (1, 0, 0)]):
        outputs[member, range(3), classes] = 0.6
    outputs[0, 0, 0] = 0.9
    outputs[3, 1, 0] = 0.9
    assert chapter6.vote(outputs).tolist() == [0, 0, 2]


# ---------------------------------------------------------------- the command


def test_the_command_lists_draws_and_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["book"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {number:5}{f.title}" in listed for number, f in book.FIGURES.items())
    assert max(map(len, listed.splitlines())) <= 80
    assert main(["book", "--json"]) == 0
    assert [f["number"] for f in json.loads(capsys.readouterr().out)] == list(book.FIGURES)
    assert main(["book", "5.5"]) == 0
    assert "nnjax.book.chapter5.exploding: seed 0" in capsys.readouterr().out
    assert (tmp_path / "figure-5.5.png").read_bytes().startswith(b"\x89PNG")
    assert main(["book", "5.5", "--json", "--seed", "3"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["seed"], printed["numbers"]["factors"]) == (3, [25.0, 25.0, 25.0])


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["5.51"], r"there is no figure 5\.51 \(did you mean '5\.\d'\?\)"),
        (["5.5", "--save", "x.txt"], "--save is x.txt; expected a file that ends in .png"),
        (["--seed", "1"], "no figure to draw: give its number"),
    ],
)
def test_the_command_refuses_in_one_sentence(argv, sentence, capsys):
    assert main(["book", *argv]) == 2
    assert re.search(sentence, capsys.readouterr().err)
