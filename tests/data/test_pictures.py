"""Folders of pictures by class: their sizes, colours and parts, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from nnjax.data import load, pictures


def draw(path, size=(10, 8), color=255, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)


def test_parts_that_are_apart(tmp_path):
    for part, count in (("train", 4), ("val", 2), ("test", 3)):
        for name, color in (("dark", 90), ("light", 250)):
            for i in range(count):
                draw(tmp_path / part / name / f"{i}.png", (8 + 4 * i, 6), color)
    data = load(tmp_path)
    assert data.classes == ("dark", "light")
    assert [part[0].shape for part in data] == [(n, 6, 14, 1) for n in (8, 4, 6)]  # the median
    for x, y in data:
        assert (x.dtype, y.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(x.max(axis=(1, 2, 3)), np.where(y, 250, 90))


def test_colours_and_large_pictures(tmp_path):
    for i in range(20):
        draw(tmp_path / "grey" / f"{i}.png", (600, 300), 200)
        draw(tmp_path / "red" / f"{i}.png", (600, 300), (255, 0, 0), "RGB")
    data = load(tmp_path)
    x, y = data.train
    assert x.shape == (28, 32, 64, 3)
    assert x[y == 0][0, 0, 0].tolist() == [200, 200, 200]
    assert x[y == 1][0, 0, 0].tolist() == [255, 0, 0]
    assert (data.pictures, data._replace(test=None).pictures) == (True, True)


def test_what_is_no_folder_of_pictures(tmp_path, monkeypatch):
    draw(tmp_path / "one" / "1.png")
    with pytest.raises(ValueError, match="holds 1 class; expected several"):
        load(tmp_path)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match=r"notes\.txt: not an image, or in a format"):
        load(tmp_path)
    (tmp_path / "two" / "notes.txt").unlink()
    for i in range(20):
        draw(tmp_path / "two" / f"{i}.png")
        draw(tmp_path / "one" / f"{i}.png")
    monkeypatch.setattr(pictures, "_MOST", 1000)
    with pytest.raises(ValueError, match="the pictures take 3,200 bytes at 10x8 pixels, and"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="missing train-images-idx3-ubyte"):
        load(tmp_path / "one")
    for part, name in (("train", "a"), ("train", "b"), ("test", "c")):
        draw(tmp_path / "apart" / part / name / "1.png")
    with pytest.raises(ValueError, match="c: is not the folder of one of the classes a, b"):
        load(tmp_path / "apart")
    draw(tmp_path / "twice" / "val" / "a" / "1.png")
    for part in ("train", "valid"):
        draw(tmp_path / "twice" / part / "a" / "1.png")
    with pytest.raises(ValueError, match="has several folders for one part: train, val, valid"):
        load(tmp_path / "twice")


def test_a_class_without_pictures_is_refused(tmp_path):
    for name in ("bird", "dog"):
        for i in range(20):
            draw(tmp_path / "pets" / name / f"{i}.png")
            draw(tmp_path / "apart" / "train" / name / f"{i}.png")
    (tmp_path / "apart" / "test" / "bird").mkdir(parents=True)
    draw(tmp_path / "apart" / "test" / "dog" / "1.png")
    assert load(tmp_path / "apart").test[1].tolist() == [1]
    for folder in (tmp_path / "pets", tmp_path / "apart" / "train"):
        (folder / "cat").mkdir()
        (folder / "cat" / ".hidden").touch()
    sentence = r"cat: holds no pictures, and each sub-folder is a class; put some in, or remove it"
    for name in ("pets", "apart"):
        with pytest.raises(ValueError, match=sentence):
            load(tmp_path / name)
