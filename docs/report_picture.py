"""The picture of a report: python docs/report_picture.py RUN [docs/pictures/report.png].

RUN/report.html as a browser shows it at desk width, from its head to the plots, in few enough colours to stay below
200 kB. Needs playwright and a Chromium; CHROMIUM names its program.
"""

from __future__ import annotations

import os
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH, SCALE = 1120, 1.5  # CSS pixels, and dots for each
LAST = "What accuracy costs"  # the heading of the last section in the picture
MOST_BYTES = 200_000
PROGRAM = os.environ.get("CHROMIUM", "/usr/bin/chromium")


def picture(report: Path) -> Image.Image:
    """The top of the page as it is, to the end of the section ``LAST``."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": WIDTH, "height": 900}, device_scale_factor=SCALE, color_scheme="light"
        )
        page.goto(report.resolve().as_uri())
        last = page.locator("section", has=page.get_by_role("heading", name=LAST)).bounding_box()
        if last is None:
            raise SystemExit(f"The report has no section {LAST!r}.")
        height = last["y"] + last["height"] + 16
        taken = page.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": height})
        browser.close()
    return Image.open(BytesIO(taken)).convert("RGB")


def main(run: Path, output: Path) -> None:
    whole = picture(run / "report.html")
    output.parent.mkdir(parents=True, exist_ok=True)
    for colours in (256, 128, 64, 32):
        whole.quantize(colours, dither=Image.Dither.NONE).save(output, optimize=True)
        if output.stat().st_size < MOST_BYTES:
            break
    else:
        raise SystemExit(f"{output} has {output.stat().st_size:,} bytes, and {MOST_BYTES:,} are allowed.")
    print(f"{output}: {whole.width}x{whole.height}, {colours} colours, {output.stat().st_size:,} bytes")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) == 3 else "docs/pictures/report.png"))
