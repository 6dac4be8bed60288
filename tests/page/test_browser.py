"""Pages in a headless Chromium: drawn on with the mouse, used by keyboard, at three widths."""

import io
import re

import jax
import numpy as np
import pytest
from javascript import browser

import nnjax
from nnjax.data import load
from nnjax.data.image_format import ImageFormat
from nnjax.page import RunPage, working_page

try:
    from playwright.sync_api import sync_playwright
except ImportError:
    sync_playwright = None

pytestmark = [
    pytest.mark.skipif(browser() is None, reason="Chromium is not on this machine"),
    pytest.mark.skipif(sync_playwright is None, reason="playwright is not installed"),
]
WIDTHS = (1280, 768, 390)


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=browser(), args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(chromium, tmp_path):
    """Open a page from a file; what it says on the console fails the test."""
    tab, said = chromium.new_page(viewport={"width": 1280, "height": 900}), []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: said.append(request.url) if "http" in request.url else None)

    def show(content):
        (tmp_path / "page.html").write_text(content, encoding="utf-8")
        tab.goto((tmp_path / "page.html").as_uri())
        return tab

    yield show
    tab.close()
    assert said == []


@pytest.fixture(scope="module")
def run():
    x, y = (v[:60] for v in load("digits").test)
    net = nnjax.architecture.parse("conv4k3 pool2 dense12", (8, 8, 1), 10, nnjax.relu)
    params = nnjax.init(net, jax.random.key(0))
    history = {"train_loss": [0.5, 0.25, 0.2]}
    form = ImageFormat.of(x)
    return RunPage("Digits", net, params, history=history, examples=(x, y), images=form)


def test_a_digit_is_drawn_read_and_taught(opened, run):
    tab = opened(run.html())
    pad = tab.locator("#pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    points = [(box["x"] + a * box["width"], box["y"] + b * box["height"]) for a, b in
              [(0.3, 0.2), (0.7, 0.2), (0.6, 0.5), (0.5, 0.85)]]  # fmt: skip
    tab.mouse.move(*points[0])
    tab.mouse.down()
    for point in points[1:]:
        tab.mouse.move(*point, steps=5)
    tab.mouse.up()
    tab.wait_for_function("document.getElementById('answer').textContent.includes('%')")

    # What it says is what the network says of the picture that it shows.
    script = "c => Array.from(c.getContext('2d').getImageData(0, 0, 8, 8).data)"
    seen = np.array(tab.locator("#seen").evaluate(script)).reshape(8, 8, 4)[..., :1]
    assert seen.max() == 255
    x = run.images.converted(seen.astype(np.uint8))[None]
    outputs = np.asarray(nnjax.feedforward(run.net, run.params, x))[0]
    best, second = np.argsort(-outputs)[:2]
    expected = (
        f"{best} ({100 * outputs[best]:.1f} %), then {second} ({100 * outputs[second]:.1f} %)"
    )
    assert tab.inner_text("#answer").replace("\xa0", " ") == expected

    # The errors flow back, and a step makes the loss smaller.
    assert tab.locator("#step").is_disabled()
    tab.select_option("#target", "7")
    label = tab.locator("canvas[aria-label^='errors of layer 1']").get_attribute("aria-label")
    delta = nnjax.backprop(run.net, run.params, x, np.array([7])).errors[0]
    norm = float(re.search(r"norm (.*)$", label)[1].replace("−", "-"))
    assert norm == pytest.approx(float(np.linalg.norm(np.asarray(delta))), rel=0.01)
    tab.click("#step")
    after, before = map(float, re.findall(r"[\d.]+(?:e−?\d+)?", tab.inner_text("#loss"))[:2])
    assert after < before
    tab.click("#reset")
    assert tab.inner_text("#answer").replace("\xa0", " ") == expected
    tab.click("#clear")
    assert tab.inner_text("#answer") == "Nothing drawn yet"


def test_everything_is_reached_by_keyboard(opened, run):
    tab = opened(run.html())
    tab.focus("#pad")
    for key in [" ", *["ArrowDown"] * 8]:
        tab.keyboard.press(key)
    assert "Pen down" in tab.inner_text("#pen")
    tab.wait_for_function("document.getElementById('answer').textContent.includes('%')")
    tab.select_option("#example", index=1)
    assert "%" in tab.inner_text("#answer")
    slider = tab.locator("input[type=range]").first
    slider.focus()
    tab.keyboard.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") == "epoch 2: train 0.25"
    unnamed = """() => [...document.querySelectorAll('button, input, select, canvas, svg, img')]
      .filter((e) => !e.closest('[aria-hidden]') && !e.closest('[hidden]'))
      .filter((e) => !(e.getAttribute('aria-label') || e.alt || e.textContent.trim() ||
                       e.closest('label')?.textContent.trim()))
      .map((e) => e.outerHTML)"""
    assert tab.evaluate(unnamed) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_at_three_widths_and_on_paper(opened, run, scheme):
    from PIL import Image

    tab = opened(run.html())
    tab.emulate_media(color_scheme=scheme)
    for width in WIDTHS:
        tab.set_viewport_size({"width": width, "height": 900})
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        corner = Image.open(io.BytesIO(tab.screenshot())).convert("L").getpixel((2, 2))
        assert (corner > 200) == (scheme == "light")
    tab.emulate_media(media="print", color_scheme=scheme)
    assert not tab.locator("#pad").is_visible()
    assert tab.locator("svg").first.is_visible()
    corner = Image.open(io.BytesIO(tab.screenshot())).convert("L").getpixel((2, 2))
    assert corner > 200


def test_numbers_are_typed_in(opened):
    x, y = np.eye(4, dtype=np.float32), np.arange(4) % 2
    net = nnjax.mlp([4, 3, 1])
    params = nnjax.init(net, jax.random.key(0))
    tab = opened(RunPage("Table", net, params, examples=(x, y), classes=("no", "yes")).html())
    tab.locator("#fields input").first.fill("-2.5")
    a = float(nnjax.feedforward(net, params, np.array([[-2.5, 0, 0, 0]], np.float32))[0, 0])
    shares = {"yes": a, "no": 1 - a}
    first = max(shares, key=shares.get)
    assert tab.inner_text("#answer").startswith(f"{first} ({100 * shares[first]:.1f}")
    tab.locator("#fields input").first.fill("")
    assert tab.inner_text("#answer") == "Every field takes a number"


def test_a_number_is_in_the_units_of_the_targets(opened):
    x, y = np.eye(4, 3, dtype=np.float32), np.array([1.5, -2.0, 0.25, 7.0], np.float32)
    net = nnjax.mlp([3, 1], output=nnjax.identity, loss=nnjax.quadratic)
    params = nnjax.init(net, jax.random.key(0))
    scale = (100.0, 10.0)
    page = RunPage("Numbers", net, params, examples=(x, y), target_standardization=scale)
    tab = opened(page.html())
    tab.locator("#fields input").first.fill("3")
    a = float(nnjax.feedforward(net, params, np.array([[3, 0, 0]], np.float32))[0, 0])
    assert float(tab.inner_text("#answer")) == pytest.approx(100 + 10 * a, rel=1e-3)


def test_a_working_is_stepped_through_by_keyboard(opened):
    net = nnjax.mlp([2, 2, 1], loss=nnjax.quadratic)
    params = nnjax.init(net, jax.random.key(0))
    working = nnjax.explain(net, params, [0.4, 0.5], [1.0])
    tab = opened(working_page(working))
    said = tab.locator("#said")
    assert said.inner_text() == f"{len(working.lines)} numbers"
    for key, number in [("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1),
                        ("End", len(working.lines))]:  # fmt: skip
        tab.keyboard.press(key)
        line = working.lines[number - 1]
        expected = f"{number} of {len(working.lines)}: {line.symbol} = {line.steps[-1]}"
        assert said.inner_text() == expected
        assert tab.locator(".working .now").get_attribute("data-value") in expected
    assert tab.locator("[data-at].now").get_attribute("data-at") == "2-0"
