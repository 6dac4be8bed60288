"""`nnjax predict`: pictures are read in whatever form the training images had."""

import json

import numpy as np
import pytest
from PIL import Image

from nnjax.cli import main
from nnjax.data import load
from nnjax.data.images import prepare

FORMS = {
    "grey levels": lambda x: np.rint(255 * x).astype(np.uint8),
    "0 to 16": lambda x: 16 * x,
    "dark on light": lambda x: 1 - x,
    "dark on light, whole": lambda x: np.rint(255 - 255 * x).astype(np.uint8),
    "standardised": lambda x: (x - 0.3) / 0.4,
    "-1 to 1": lambda x: 2 * x - 1,
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Files with digits, dark on light and light on dark, and what they show."""
    folder = tmp_path_factory.mktemp("pictures")
    x, y = load("digits").test
    files = []
    for i in range(40):
        light = Image.new("L", (150, 120), 0)
        light.paste(Image.fromarray(np.uint8(255 * x[i, :, :, 0])).resize((90, 90)), (40, 10))
        paper = Image.eval(light, lambda level: 255 - level) if i % 2 else light
        paper.save(folder / f"{i:02}.png")
        files.append(str(folder / f"{i:02}.png"))
    return files, y[:40]


def write(path, form):
    arrays = {}
    for part, (x, y) in load("digits")._asdict().items():
        arrays |= {f"x_{part}": form(x), f"y_{part}": y}
    np.savez(path, **arrays)


@pytest.mark.parametrize("form", FORMS)
def test_pictures_are_read_in_the_form_of_the_training_images(tmp_path, pictures, capsys, form):
    write(tmp_path / "digits.npz", FORMS[form])
    run = str(tmp_path / "run")
    rate = "0.0005" if form == "0 to 16" else "0.02"
    options = ["--hidden", "64", "--epochs", "15", "--rate", rate, "--out", run]
    assert main(["train", "--data", str(tmp_path / "digits.npz"), *options]) == 0
    capsys.readouterr()
    files, classes = pictures
    assert main(["predict", run, *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert np.mean([int(line.split(": ")[1][0]) for line in lines] == classes) >= 0.85


def test_forms_that_pictures_cannot_have(tmp_path, pictures, capsys):
    x = load("digits").train[0]
    mean, deviation = x.mean(0), x.std(0) + 1e-3
    write(tmp_path / "digits.npz", lambda x: (x - mean) / deviation)
    run = str(tmp_path / "run")
    options = ["--hidden", "8", "--epochs", "1", "--out", run]
    assert main(["train", "--data", str(tmp_path / "digits.npz"), *options]) == 0
    capsys.readouterr()
    assert main(["predict", run, pictures[0][0]]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "a picture cannot be brought to the form of the training images" in err

    config = tmp_path / "run" / "config.json"
    content = json.loads(config.read_text())
    for images, message in [
        (None, "has no record of the form of its training images; train it again"),
        ({"dtype": "object", "paper": 0, "ink": 1}, "the form of the images is damaged"),
        ({"dtype": "uint8", "paper": "0", "ink": 1}, "the form of the images is damaged"),
        ({"colour": "red"}, "damaged, or not the configuration of a training run"),
    ]:
        content["config"]["images"] = images
        config.write_text(json.dumps(content))
        assert main(["predict", run, pictures[0][0]]) == 2
        assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = str(tmp_path_factory.mktemp("runs") / "digits")
    assert main(["train", "--hidden", "16", "--epochs", "2", "--out", run]) == 0
    return run


def test_one_bad_picture_does_not_hide_the_others(tmp_path, trained, pictures, capsys):
    (tmp_path / "text.png").write_text("seven")
    capsys.readouterr()
    good, bad = pictures[0][:2], [str(tmp_path / "missing.png"), str(tmp_path / "text.png")]
    assert main(["predict", trained, good[0], *bad, good[1], good[0]]) == 2
    out, err = capsys.readouterr()
    assert [line.split(": ")[0] for line in out.splitlines()] == [good[0], good[1], good[0]]
    assert [line.split(": ")[1] for line in err.splitlines()] == bad


def test_mnist_form_is_what_prepare_returns(pictures):
    from nnjax.data.image_format import ImageFormat

    prepared = prepare(pictures[0][0])
    np.testing.assert_array_equal(ImageFormat("uint8", 0.0, 255.0).converted(prepared), prepared)
