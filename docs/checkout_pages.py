"""Hooks of MkDocs: pages that lie outside `docs/`, links to files that are no pages, and tabs.

Pages link to each other and to source files as they lie in the checkout, which is how a reader of
the repository follows them. In the site a link to a page leads to that page. A link to a source
file leads below VIREO_DOCS_REPOSITORY, for example https://git.example/vireo/blob/main; without
that it becomes the file's path. A link to nothing fails the build. Blocks of code after each other,
each below a comment `<!-- tab: NAME -->`, are tabs of one.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
from pathlib import Path
from textwrap import indent

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
HOME, HOME_URI = "README.md", "index.md"
OUTSIDE = (
    HOME,
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "bench/README.md",
    "clients/README.md",
    *(f"clients/{language}/README.md" for language in ("python", "go", "java", "typescript")),
)
"""Files outside `docs/` that the site has, where they lie in the checkout."""

log = logging.getLogger("mkdocs.hooks")
_CODE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_TABS = re.compile(r"(?:^<!-- tab: .*? -->\n```.*?^```\n\n?)+", re.MULTILINE | re.DOTALL)
_TAB = re.compile(r"^<!-- tab: (.*?) -->\n(```.*?^```\n)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the runbooks to the navigation, after their list."""
    pages = sorted(page.stem for page in (ROOT / "docs" / "runbooks").glob("Vireo*.md"))
    for section in config.nav or ():
        for entries in section.values():
            for entry in entries if isinstance(entries, list) else ():
                if isinstance(entry, dict) and "Runbooks" in entry:
                    entry["Runbooks"] += [{name: f"runbooks/{name}.md"} for name in pages]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside `docs/`."""
    for path in OUTSIDE:
        uri = HOME_URI if path == HOME else path
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, files: Files, **_: object) -> str:
    """Have each link outside of code lead to a page of the site, or name a file."""
    own = page.file.src_uri

    def linked(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if re.match(r"\w+:", target):
            return match[0]
        folder = posixpath.dirname(_place(own))
        path = posixpath.normpath(posixpath.join(folder, target))
        uri = HOME_URI if path == HOME else path.removeprefix("docs/")
        if uri in files.src_uris:
            return f"[{text}]({posixpath.relpath(uri, posixpath.dirname(own) or '.')}{anchor})"
        if not (ROOT / path).exists():
            log.warning("%s links to %s, which does not exist", _place(own), target)
        if host := os.environ.get("VIREO_DOCS_REPOSITORY"):
            return f"[{text}]({host.rstrip('/')}/{path}{anchor})"
        return text if text.strip("`") in path else f"{text} (`{path}`)"

    parts = _CODE.split(markdown)
    text = "".join(part if part.startswith("```") else _LINK.sub(linked, part) for part in parts)
    return _TABS.sub(_tabbed, text)


def _tabbed(match: re.Match[str]) -> str:
    """Return blocks that say which tab they are as the tabs of one."""
    return "".join(
        f'=== "{name}"\n\n{indent(block, "    ")}\n' for name, block in _TAB.findall(match[0])
    )


def _place(uri: str) -> str:
    """Return where a page lies in the checkout."""
    if uri == HOME_URI:
        return HOME
    return uri if uri in OUTSIDE else f"docs/{uri}"
