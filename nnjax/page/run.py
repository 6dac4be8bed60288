"""The page of a run: how it went, and a desk where its network reads a drawing and learns."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnjax.architecture import summary
from nnjax.backprop import backprop
from nnjax.data.image_format import ImageFormat
from nnjax.evaluation import ClassEvaluation, evaluate, evaluate_classes
from nnjax.layers import Affine
from nnjax.network import Network, Params, feedforward
from nnjax.notation import number
from nnjax.page.charts import chart
from nnjax.page.html import Html, document, element, table
from nnjax.page.network import described
from nnjax.page.pictures import diverging, grey, picture, tiled
from nnjax.tasks import METRICS, Classification, Regression, Task, task_of

__all__ = ["RunPage"]

MISREAD, NEURONS, FIELDS, GRADIENT = 40, 100, 64, 1000
"""The most misclassified images, neurons, input fields; examples that norms of gradients are of."""

_PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class RunPage:
    """What the page of a run shows; `html()` is the page, one file that needs no other.

    Args:
        title: of the run.
        net: its network.
        params: its parameters.
        settings: what it was asked for, by name.
        history: what was measured, arrays by name, one value per epoch.
        examples: (x, y) that the network is measured on; None: it is not.
        part: what they are called, such as "test".
        classes: the names of the classes; empty for their numbers.
        images: the form of the training images, for drawings; None without.
        standardization: mean and deviation that the inputs were standardised by, or None.
        target_standardization: mean and deviation that the targets were standardised by, or None.
        features: the names of the columns of a table; empty for their numbers.

    Example:
        >>> import jax, numpy as np, nnjax
        >>> from nnjax.page import RunPage
        >>> net = nnjax.mlp([2, 3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> page = RunPage("First", net, params, history={"train_loss": [0.7, 0.5]}).html()
        >>> page.startswith("<!DOCTYPE html>"), "<title>First</title>" in page
        (True, True)
    """

    title: str
    net: Network
    params: Params
    settings: Mapping[str, str] = field(default_factory=dict)
    history: Mapping[str, Any] = field(default_factory=dict)
    examples: tuple[Any, Any] | None = None
    part: str = "test"
    classes: Sequence[str] = ()
    images: ImageFormat | None = None
    standardization: tuple[Any, Any] | None = None
    target_standardization: tuple[Any, Any] | None = None
    features: Sequence[str] = ()

    def html(self) -> str:
        """Return the page.

        Raises:
            ValueError, TypeError: if the examples or the parameters do not fit the network.
        """
        result, measured = self._measured()
        misread = [] if result is None else self._misread(result)
        body = [
            element("h1", self.title),
            self._facts(measured),
            *self._desk(),
            *self._curves(),
            *([] if result is None else self._classes_section(result)),
            *self._misread_section(misread, result),
            *self._weights(),
            *self._norms(),
            *self._what(),
        ]
        return document(self.title, body, *self._scripts(misread))

    # ------------------------------------------------------------ how it went

    def _measured(self) -> tuple[ClassEvaluation | None, dict[str, float]]:
        """Return what there is to say class by class, if there are classes, and the metrics."""
        if self.examples is None:
            return None, {}
        x, y = self.examples
        task = self._task()
        if isinstance(task, Classification):
            result = evaluate_classes(self.net, self.params, x, y)
            return result, {"accuracy": result.accuracy, "loss": result.loss}
        if isinstance(task, Regression):
            task = Regression.standardized(self.target_standardization)
        found = evaluate(self.net, self.params, x, y, task)._asdict()
        return None, {name: float(found[name]) for name in (*tuple(found)[1:], "loss")}

    def _facts(self, measured: Mapping[str, float]) -> Html:
        facts = []
        for i, (name, value) in enumerate(measured.items()):
            text = _percent(value) if METRICS[name].unit == "%" else number(f"{value:.4g}")
            count = "the" if i or self.examples is None else f"{len(self.examples[0]):,}"
            facts.append((text, f"{METRICS[name].label} on {count} {self.part} examples"))
        epochs = len(next(iter(self.history.values()), ()))
        if epochs:
            facts.append((f"{epochs}", "epoch" if epochs == 1 else "epochs"))
        if "seconds" in self.history:
            facts.append((f"{np.sum(self.history['seconds']):.3g} s", "training time"))
        facts.append((f"{summary(self.net).parameters:,}", "parameters"))
        return element(
            "ul",
            *(element("li", element("b", value), name) for value, name in facts),
            class_="facts",
        )

    def _curves(self) -> list[Html]:
        charts = []
        shown = [(name, metric) for name, metric in METRICS.items() if metric.unit is not None]
        for name, metric in shown:
            kind, label, scale = f"_{name}", metric.axis, 100 if metric.unit == "%" else 1
            series = {
                part: [scale * float(v) for v in self.history[part + kind]]
                for part in _PARTS
                if part + kind in self.history
            }
            if series:
                charts.append(chart(_epochs(next(iter(series.values()))), series, label))
        return (
            _section("Learning curves", element("div", *charts, class_="charts")) if charts else []
        )

    def _classes_section(self, result: ClassEvaluation) -> list[Html]:
        names = self._names(len(result.confusion))
        rows = [
            [names[j], f"{row.sum():,}", _percent(result.precision[j]), _percent(result.recall[j])]
            for j, row in enumerate(result.confusion)
        ]
        wrong = result.confusion / np.maximum(result.confusion.sum(axis=1, keepdims=True), 1)
        np.fill_diagonal(wrong, 0)
        shares = wrong / (wrong.max() or 1)
        matrix = [
            [
                names[j],
                *(
                    element("td", f"{count:,}", class_="correct")
                    if j == k
                    else element("td", f"{count:,}" if count else "·", class_="share",
                                 style=f"--share: {shares[j, k]:.3f}")
                    for k, count in enumerate(row)
                ),
            ]
            for j, row in enumerate(result.confusion)
        ]  # fmt: skip
        confusion = table(
            ["true", *names],
            matrix,
            "Confusion matrix (rows: true class, columns: predicted class)",
        )
        header = ["class", "examples", "precision", "recall"]
        by_class = table(header, rows, f"Class by class, on the {self.part} examples")
        return _section("How well it tells the classes apart", confusion, by_class)

    # ------------------------------------------------------------ misclassified images

    def _misread(self, result: ClassEvaluation) -> list[dict[str, Any]]:
        """Return the misclassified images, those first that the network was surest of."""
        assert self.examples is not None
        x, y = (np.asarray(v) for v in self.examples)
        wrong = np.flatnonzero(result.predictions != y)
        if x.ndim != 4 or not len(wrong):
            return []
        outputs = np.asarray(feedforward(self.net, self.params, x[wrong]))
        sure = np.argsort(-outputs.max(axis=1), kind="stable")[:MISREAD]
        names = self._names(len(result.confusion))
        chances = outputs if outputs.shape[1] > 1 else np.concatenate([1 - outputs, outputs], 1)
        return [
            {
                "x": x[wrong[i]],
                "true": names[y[wrong[i]]],
                "outputs": [(names[k], float(chances[i, k])) for k in np.argsort(-chances[i])[:2]],
                "of_true": float(chances[i, y[wrong[i]]]),
            }
            for i in sure
        ]

    def _misread_section(
        self, misread: list[dict[str, Any]], result: ClassEvaluation | None
    ) -> list[Html]:
        if not misread or result is None:
            return []
        count = int(result.confusion.sum() - np.trace(result.confusion))
        items = []
        for image in misread:
            (best, share), (second, next_share) = image["outputs"]
            parts = [f"true {image['true']} ({_percent(image['of_true'])})"]
            parts.append(f"predicted {best} ({_percent(share)})")
            if second != image["true"]:
                parts.append(f"then {second} ({_percent(next_share)})")
            drawing = picture(grey(image["x"]), f"an image of class {image['true']}", scale=3)
            lines = itertools.chain(*((part, element("br")) for part in parts))
            items.append(element("li", drawing, *lines))
        note = (
            f"{count:,} of {int(result.confusion.sum()):,} {self.part} examples are misclassified"
        )
        note += f"; these are the {len(items)} with the strongest wrong output." * (
            count > len(items)
        )
        note += "." * (count <= len(items))
        listed = element("ul", *items, class_="pictures")
        return _section("Misclassified images", element("p", note, class_="note"), listed)

    # ------------------------------------------------------------ weights and norms

    def _weights(self) -> list[Html]:
        first = next((p for p in self.params if isinstance(p, Affine)), None)
        if first is None:
            return []
        w = np.asarray(first.w, np.float32)
        shape = w.shape[1:] if w.ndim > 2 else self._example_shape()
        if len(shape) != 3 or w[0].size != np.prod(shape):
            return []
        pictures = w.reshape(len(w), *shape).sum(axis=-1)[:NEURONS]
        largest = float(np.quantile(np.abs(pictures), 0.995))
        whole = tiled(diverging(pictures, largest))
        scale = max(1, min(8, 700 // whole.shape[1]))
        kind = "filter" if w.ndim > 2 else "neuron"
        note = f"Blue: positive, red: negative, white: 0; one scale for all, up to ±{largest:.3g}."
        note += f" The first {NEURONS} of {len(w)}." * (len(w) > NEURONS)
        drawing = picture(
            whole,
            f"the weights of each {kind} of the first layer, as images of {shape[0]} x {shape[1]}",
            scale,
        )
        return _section(
            f"Weights of the first layer, {kind} by {kind}",
            element("p", note, class_="note"),
            drawing,
        )

    def _norms(self) -> list[Html]:
        affine = [l for l, p in enumerate(self.params) if isinstance(p, Affine)]
        header, bp = ["layer", "‖w‖", "‖b‖"], None
        caption = "Norms by layer, at the end of the run"
        if self.examples is not None and self._learns():
            x, y = (np.asarray(v)[:GRADIENT] for v in self.examples)
            bp = backprop(self.net, self.params, x, y)
            header += ["‖∂C/∂w‖", "‖∂C/∂b‖", "mean ‖δ‖"]
            caption += f"; errors and gradients of {len(x):,} {self.part} examples"
        rows = []
        for l in affine:
            values = [_norm(self.params[l].w), _norm(self.params[l].b)]
            if bp is not None:
                errors = np.asarray(bp.errors[l], float).reshape(len(bp.errors[l]), -1)
                values += [_norm(bp.grads[l].w), _norm(bp.grads[l].b)]
                values.append(float(np.linalg.norm(errors, axis=1).mean()))
            word = self.net.layers[l].word()
            rows.append([f"{l + 1}: {word}", *(f"{value:.3g}" for value in values)])
        charts = [
            _by_layer(name, np.asarray(values, float), [f"layer {l + 1}" for l in affine])
            for name, values in self.history.items()
            if np.ndim(values) > 1
        ]
        content = [table(header, rows, caption)] if rows else []
        content += [element("div", *charts, class_="charts")] if charts else []
        return _section("Layer by layer", *content) if content else []

    # ------------------------------------------------------------ what was trained

    def _what(self) -> list[Html]:
        content = summary(self.net)
        rows = [("input", _by(content.input_shape), "")]
        rows += [(row.layer, _by(row.out_shape), f"{row.parameters:,}") for row in content.layers]
        rows.append(("total", "", f"{content.parameters:,}"))
        parts = [table(["layer", "output", "parameters"], rows, "The network, layer by layer")]
        if self.settings:
            listed = table(
                ["setting", "value"], self.settings.items(), "What the run was asked for"
            )
            parts.append(Html(listed.replace("<table>", '<table class="settings">', 1)))
        return _section("What was trained", *parts)

    # ------------------------------------------------------------ the desk

    def _desk(self) -> list[Html]:
        reason = self._no_desk()
        if reason is not None:
            return [element("p", reason, class_="note")] if reason else []
        if self._picture_shape():
            heading, source = "Draw a digit", _PAD
        else:
            heading, source = "Try your own numbers", self._fields()
        off = element("noscript", element("p", _SCRIPTS_OFF, class_="note"))
        teach = _TEACH if isinstance(self._task(), Classification) else ""
        desk = element("div", source, element("div", *_ANSWER, teach), id="desk", class_="desk")
        back = ", errors and gradients" if teach else ""
        words = element("summary", f"Every layer: activations{back}")
        layers = element("ol", id="layers", class_="layers")
        inside = element("details", words, layers, open="")
        section = element("section", element("h2", heading), off, desk, inside, class_="screen")
        return [section]

    def _no_desk(self) -> str | None:
        """Return why there is no desk, "" where nobody would miss it; None where there is one."""
        try:
            described(self.net, self.params)
        except TypeError as error:
            return f"This page has no input to try: {error}."
        shape = self._example_shape()
        if len(shape) == 1:
            return None if shape[0] <= FIELDS else ""
        return None if self._picture_shape() else _NO_CANVAS

    def _example_shape(self) -> tuple[int, ...]:
        return self.net.input_shape if self.examples is None else np.shape(self.examples[0])[1:]

    def _picture_shape(self) -> tuple[int, int] | None:
        shape = self._example_shape()
        plain = self.images is not None and self.images.paper is not None
        fits = len(shape) == 3 and shape[2] == 1 and min(shape[:2]) >= 4
        return (shape[0], shape[1]) if plain and fits else None

    def _fields(self) -> Html:
        n = self._example_shape()[0]
        start = np.zeros(n) if self.examples is None else np.asarray(self.examples[0][0], float)
        if self.standardization is not None:
            mean, deviation = (np.asarray(v, float) for v in self.standardization)
            start = start * deviation + mean
        kind = {"type": "number", "step": "any"}
        names = self.features or [f"input {k + 1}" for k in range(n)]
        fields = [
            element("label", names[k], element("input", value=f"{v:.6g}", **kind))
            for k, v in enumerate(start)
        ]
        return element(
            "div", element("h3", "Inputs"), element("div", *fields, id="fields", class_="fields")
        )

    def _scripts(self, misread: list[dict[str, Any]]) -> tuple[list[str], Any]:
        if self._no_desk() is not None:
            return ["charts.js"], None
        data: dict[str, Any] = {
            "network": described(self.net, self.params),
            "classes": list(self.classes),
            "picture": None,
            "examples": [],
            "standardization": None,
            "task": self._task().name,
            "targets": None,
        }
        if self.target_standardization is not None:
            data["targets"] = _lists(self.target_standardization, self.net.n_out)
        scripts = ["charts.js", "network.js", "picture.js", "draw.js"]
        if shape := self._picture_shape():
            assert self.images is not None
            data["picture"] = {"shape": shape, **self.images._asdict()}
            data["examples"] = [
                self._example(image) for image in misread[:10]
            ] + self._first_examples()
        elif self.standardization is not None:
            data["standardization"] = _lists(self.standardization, self._example_shape()[0])
        return scripts, data

    def _first_examples(self) -> list[dict[str, str]]:
        """Return the first example of each class."""
        if self.examples is None or not isinstance(self._task(), Classification):
            return []
        x, y = (np.asarray(v) for v in self.examples)
        classes, first = np.unique(y, return_index=True)
        names = self._names(1 + int(classes.max()))
        return [
            {"label": f"{names[k]} ({self.part} example {i + 1})", "x": _float32(x[i])}
            for k, i in zip(classes.tolist(), first.tolist(), strict=True)
        ]

    def _example(self, image: dict[str, Any]) -> dict[str, str]:
        predicted = image["outputs"][0][0]
        return {
            "label": f"{image['true']}, misclassified as {predicted}",
            "x": _float32(image["x"]),
        }

    def _names(self, count: int) -> list[str]:
        return list(self.classes) or [str(k) for k in range(count)]

    def _task(self) -> Task:
        return task_of(self.net, None if self.examples is None else self.examples[1])

    def _learns(self) -> bool:
        return all(layer.activation.name not in ("step", "sign") for layer in self.net.layers)


def _section(heading: str, *content: Html) -> list[Html]:
    return [element("section", element("h2", heading), *content)]


def _by_layer(name: str, values: np.ndarray, layers: list[str]) -> Html:
    """Return the curves of a monitor: (epochs, layers), or (epochs, times per epoch, layers)."""
    times = values.shape[1] if values.ndim == 3 else 1
    epochs = (1 + np.arange(len(values) * times)) / times
    values = values.reshape(-1, values.shape[-1])
    if values.shape[1] != len(layers):  # of some layers only
        layers = [f"layer {k + 1}" for k in range(values.shape[1])]
    series = {layer: values[:, k].tolist() for k, layer in enumerate(layers)}
    logarithmic = name.endswith("norms") and bool((values > 0).all())
    return chart(epochs.tolist(), series, name.replace("_", " "), logarithmic)


def _epochs(values: Sequence[float]) -> list[float]:
    return [float(k + 1) for k in range(len(values))]


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{100 * share:.2f}\N{NO-BREAK SPACE}%"


def _norm(values: Any) -> float:
    return float(np.linalg.norm(np.asarray(values, float)))


def _lists(scale: tuple[Any, Any], n: int) -> dict[str, list[float]]:
    """Return mean and deviation, one of each for n numbers."""
    values = (np.broadcast_to(np.asarray(v, float), (n,)).tolist() for v in scale)
    return dict(zip(("mean", "deviation"), values, strict=True))


def _by(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _float32(x: np.ndarray) -> str:
    """Return an example as the network takes it, grey levels between 0 and 1."""
    scaled = x.astype("<f4") / np.float32(255) if x.dtype == np.uint8 else x.astype("<f4")
    return base64.b64encode(scaled.tobytes()).decode()


_SCRIPTS_OFF = "This part needs JavaScript; everything below can be read without it."
_NO_CANVAS = (
    "This page has no canvas to draw on: the network was not trained on grey pictures with a "
    "plain background."
)


def _button(text: str, name: str, **attributes: str) -> Html:
    return element("button", text, id=name, type="button", **attributes)


def _choice(text: str, name: str, **attributes: str) -> Html:
    return element("select", element("option", text, value=""), id=name, **attributes)


def _in_a_row(*content: Html) -> Html:
    return element("div", *content, class_="bar-of-buttons")


_KEYS = "Drawing area. Arrow keys move the pen, the space bar lowers and lifts it."
_PAD = element(
    "div",
    element("canvas", id="pad", width=512, height=512, tabindex=0, role="application",
            aria_label=_KEYS, aria_describedby="pen"),
    element("p", id="pen", class_="note", aria_live="polite"),
    _in_a_row(
        _button("Clear", "clear"),
        _choice("Or take an image …", "example", aria_label="An image of the data"),
    ),
    element("p", "As the network sees it:", class_="note"),
    element("canvas", id="seen", class_="pixels seen", role="img",
            aria_label="the drawing as it was prepared for the network"),
)  # fmt: skip

_RATE = {"type": "number", "value": "0.1", "min": "0", "step": "any", "class_": "rate"}
_TEACH = element(
    "div",
    element("h3", "Teach it"),
    _in_a_row(
        element("label", "Right class ", _choice("choose …", "target")),
        element("label", "Learning rate η ", element("input", id="eta", **_RATE)),
    ),
    _in_a_row(
        _button("Take a step", "step", class_="main", disabled=""),
        _button("Forget the steps", "reset", disabled=""),
    ),
    element("p", id="loss", aria_live="polite"),
    element(
        "p",
        "The errors δ and the gradients flow back through the layers below, by BP1 to BP4. A step "
        "subtracts η times the gradient; the mark on each bar is where it was before.",
        class_="note",
    ),
    id="teach",
)

_ANSWER = (
    element("h3", "The network's answer"),
    element("p", id="answer", class_="answer", aria_live="polite", tabindex=-1),
    element("ul", id="bars", class_="bars"),
)
