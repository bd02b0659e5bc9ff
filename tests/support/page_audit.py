"""What a page has to have for everyone who reads it, found in its markup: an axe in small."""

from __future__ import annotations

import html.parser
import re
from collections import Counter
from dataclasses import dataclass, field

EMPTY = {"meta", "link", "img", "br", "input", "hr", "path", "line", "rect", "circle", "polyline"}


@dataclass(eq=False)
class Node:
    """An element: its tag, attributes, parts (elements and texts), and what it lies in."""

    tag: str
    given: dict[str, str]
    parent: Node | None = None
    parts: list[Node | str] = field(default_factory=list)

    def walk(self):
        yield self
        for part in self.parts:
            if isinstance(part, Node):
                yield from part.walk()

    def find(self, *tags):
        return [node for node in self.walk() if node.tag in tags]

    def above(self):
        node = self.parent
        while node is not None:
            yield node
            node = node.parent

    @property
    def text(self):
        texts = [part.text if isinstance(part, Node) else part for part in self.parts]
        return re.sub(r"\s+", " ", "".join(texts)).strip()

    @property
    def name(self):
        """What a reader that speaks calls it."""
        alts = [n.given.get("alt", "") for n in self.find("img")]
        return self.given.get("aria-label", "").strip() or self.text or " ".join(alts).strip()

    def __repr__(self):
        return f"<{self.tag} {self.given} {self.text[:40]!r}>"


class _Tree(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.root = self.at = Node("", {})
        self.broken = []
        self.feed(text)
        if self.at is not self.root:
            self.broken.append(f"{self.at} is not closed")

    def handle_starttag(self, tag, attrs):
        node = Node(tag, {k: v or "" for k, v in attrs}, self.at)
        self.at.parts.append(node)
        if tag not in EMPTY:
            self.at = node

    def handle_startendtag(self, tag, attrs):
        self.at.parts.append(Node(tag, {k: v or "" for k, v in attrs}, self.at))

    def handle_endtag(self, tag):
        if tag in EMPTY:
            return
        if self.at.tag != tag:
            self.broken.append(f"</{tag}> in {self.at}")
            return
        self.at = self.at.parent or self.root

    def handle_data(self, data):
        self.at.parts.append(data)


def parse(text):
    """A page as a tree."""
    return _Tree(text).root


def read_table(text, mark):
    """The texts of a table's cells, row by row: the table whose opening tag has `mark`."""
    (table,) = [
        node
        for node in parse(text).find("table")
        if re.search(mark, " ".join(f'{k}="{v}"' for k, v in node.given.items()))
    ]
    return [[cell.text for cell in row.find("td", "th")] for row in table.find("tr")]


def audit(text):
    """What is wrong with a page, as sentences; none for a sound one."""
    tree = _Tree(text)
    root = tree.root
    return [
        *tree.broken,
        *_audit_document(root),
        *_audit_headings(root),
        *_audit_links(root),
        *_audit_pictures(root),
        *_audit_tables(root),
        *_audit_controls(root),
    ]


def _audit_document(root):
    if not any(node.given.get("lang") for node in root.find("html")):
        yield "no language"
    if not any(node.text for node in root.find("head") for node in node.find("title")):
        yield "no title"
    if len(root.find("main")) != 1:
        yield f"{len(root.find('main'))} main parts"
    for node in root.find("nav"):
        if not node.given.get("aria-label"):
            yield f"{node} has no name"
    for node in root.find("meta"):
        if re.search("user-scalable=no|maximum-scale", node.given.get("content", "")):
            yield "a page that cannot be enlarged"
    ids = Counter(node.given["id"] for node in root.walk() if "id" in node.given)
    yield from (f"id {key!r} {n} times" for key, n in ids.items() if n > 1)
    for node in root.find("ul", "ol"):
        if any(isinstance(part, Node) and part.tag != "li" for part in node.parts):
            yield f"{node} holds more than entries"
    for node in root.find("li"):
        if node.parent.tag not in ("ul", "ol"):
            yield f"{node} is an entry of no list"
    for node in root.find("dt", "dd"):
        if node.parent.tag != "dl":
            yield f"{node} is an entry of no list"
    for body in root.find("body"):
        inside = {"main", "nav"}
        yield from (
            f"{part} lies in no part of the page"
            for part in body.parts
            if (isinstance(part, Node) and part.tag not in inside and part.text)
            or (isinstance(part, str) and part.strip())
        )


def _audit_headings(root):
    level = 0
    for node in root.find("h1", "h2", "h3", "h4", "h5", "h6"):
        own = int(node.tag[1])
        if own > level + 1:
            yield f"{node} after a heading of level {level}"
        if not node.text:
            yield f"{node} is empty"
        level = own
    if len(root.find("h1")) != 1:
        yield f"{len(root.find('h1'))} headings of level 1"


def _audit_links(root):
    ids = {node.given.get("id") for node in root.walk()}
    for node in root.find("a"):
        if not node.name:
            yield f"{node} has no text"
        address = node.given.get("href", "")
        if address.startswith("#") and address[1:] not in ids:
            yield f"{node} leads nowhere"


def _audit_pictures(root):
    for node in root.find("img"):
        if not node.given.get("alt", "").strip():
            yield f"{node} has no text"
    for node in root.walk():
        hidden = any(n.given.get("aria-hidden") == "true" for n in (node, *node.above()))
        outer = node.tag == "svg" and not any(n.tag == "svg" for n in node.above())
        if (outer or node.given.get("role") == "img") and not hidden:
            if node.given.get("role") != "img":
                yield f"{node} is not said to be a picture"
            if not node.given.get("aria-label", "").strip():
                yield f"{node} has no text"


def _audit_tables(root):
    names = []
    for node in root.find("table"):
        heads = node.find("th")
        if not heads:
            yield f"{node} has no headings"
        yield from (f"{th} has no scope" for th in heads if th.given.get("scope") not in SCOPES)
        yield from (f"an empty heading in {node}" for th in heads if not th.name)
        for row in node.find("tbody"):
            for tr in row.find("tr"):
                if not tr.find("th"):
                    yield f"{tr} has no heading"
        box = next((n for n in node.above() if n.given.get("role") == "region"), None)
        if box is None or box.given.get("tabindex") != "0" or not box.given.get("aria-label"):
            yield f"{node} cannot be scrolled by keyboard, or has no name"
        else:
            names.append(box.given["aria-label"])
    yield from (f"{n} tables are called {key!r}" for key, n in Counter(names).items() if n > 1)


SCOPES = ("col", "row", "colgroup", "rowgroup")


def _audit_controls(root):
    for node in root.find("input", "select", "textarea", "button"):
        labels = [n for n in node.above() if n.tag == "label" and n.text]
        if not (labels or node.given.get("aria-label") or node.text):
            yield f"{node} has no label"
    for node in root.find("fieldset"):
        if not any(n.text for n in node.find("legend")):
            yield f"{node} has no legend"
    for node in root.find("details"):
        if not any(isinstance(p, Node) and p.tag == "summary" and p.text for p in node.parts):
            yield f"{node} has no summary"
