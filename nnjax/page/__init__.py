"""Pages: one HTML file each, which opens without a server and without a network.

`RunPage` is the page of a run: how it went, and a desk where its network reads what is drawn and
learns from it. `working_page` shows a training step worked by hand, line by line.
"""

from nnjax.page.run import RunPage
from nnjax.page.working import working_page

__all__ = ["RunPage", "working_page"]
