"""What mkdocs calls while it builds the site: the first page is the README, the reference pages are made from the
code (reference.py), and links from pages to files of the repository become plain names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import reference
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((\.\./[^)#]+)\)")


def on_files(files: Any, config: Any) -> Any:
    files.append(File.generated(config, "index.md", content=first_page((ROOT / "README.md").read_text())))
    for name, page in reference.PAGES.items():
        files.append(File.generated(config, name, content=page()))
    return files


def first_page(readme: str) -> str:
    """Its links are from the repository's root; pages are beside each other. Other files are named alone."""
    outside = re.sub(r"(?<!!)\[([^\]]*)\]\((?!docs/|https?:|#)[^)]+\)", r"\1", readme)
    return outside.replace("](docs/", "](")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The site has pages, not the repository's files: a link to one, which has to exist, is its name alone."""

    def name(link: re.Match[str]) -> str:
        if not (ROOT / "docs" / link[2]).exists():
            raise FileNotFoundError(f"docs/{page.file.src_uri} links to {link[2]}, which is not there")
        return link[1]

    return LINK.sub(name, markdown)
