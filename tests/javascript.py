"""Run the scripts of pages outside of a page: in Node, or else in a headless Chromium."""

import html
import json
import re
import shutil
import subprocess
from importlib.resources import files

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def browser():
    """Return the path of a Chromium on this machine, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def evaluate(scripts, expression, data, folder):
    """Return what a JavaScript expression gives, after these scripts of nnjax.page, with DATA."""
    code = "".join(files("nnjax.page").joinpath(name).read_text("utf-8") for name in scripts)
    code = f"const DATA = {json.dumps(data)};\n{code}\nconst RESULT = JSON.stringify({expression});"
    if node := shutil.which("node"):
        path = folder / "script.js"
        path.write_text(f'"use strict";\n{code}\nconsole.log(RESULT);', encoding="utf-8")
        done = subprocess.run([node, path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
    if chromium := browser():
        path = folder / "script.html"
        code = code.replace("</", "<\\/") + "\ndocument.body.textContent = RESULT;"
        path.write_text(f"<body><script>{code}</script>", encoding="utf-8")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        done = subprocess.run(
            [chromium, *options, path.as_uri()], capture_output=True, text=True, check=True
        )
        return json.loads(html.unescape(re.findall(r"<body>(.*)</body>", done.stdout, re.S)[0]))
    pytest.skip("neither Node nor Chromium is on this machine to run JavaScript")
