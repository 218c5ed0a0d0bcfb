"""The README's pictures, from the page of a study on the embedded benchmark.

    python -m tests.report.pictures runs/mini_glue/report/report.html

writes docs/report.png, the page's first screen on a laptop, and docs/conflict.png, its first two
figures. It needs Chromium.
"""

import pathlib
import sys

from tests.report import browser

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"


def main(path: str | pathlib.Path) -> None:
    """Takes the pictures of a page, and says where they are."""
    with browser.tab() as tab:
        tab.show(pathlib.Path(path), 1366, 768, "light")
        pictures = {
            "report.png": tab.picture(),
            "conflict.png": tab.picture("#why figure", "#why figure:nth-child(2)"),
        }
    for name, picture in pictures.items():
        (DOCS / name).write_bytes(picture)
        print(DOCS / name)


if __name__ == "__main__":
    main(sys.argv[1])
