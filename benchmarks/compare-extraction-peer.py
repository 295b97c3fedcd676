"""The Python side of compare-extraction: a pipeline of common libraries that prints one line of JSON.

    compare-extraction-peer.py pages lxml|resiliparse|extractor LIST.json OUT.jsonl
    compare-extraction-peer.py images pillow|draft LIST.json OUT.jsonl

Pages are extracted from the tree of lxml or Resiliparse, or by Resiliparse's own extractor (in C++), with placeholders
for images. Filters and fingerprints are the same for all: Gopher's, and MinHash of 14 bands of 8 by NumPy.
`draft` lets libjpeg and Pillow scale images down roughly first.

It repeats the rules of packages/data-extraction that take time, and omits other features of our side: the encodings of
browsers, ids generated from headings, formulas and alternative texts within sentences, and substitutes of lazy-loaded
images. Use it to compare speed, not quality, which compare-extraction-quality measures.
"""
import hashlib
import io
import json
import os
import re
import resource
import sys
import time
import unicodedata
import warnings
from collections import Counter
from urllib.parse import parse_qsl, quote, urlencode, urljoin, urlsplit

import numpy as np

# --- elements and names -------------------------------------------------------------------------------------------------

SKIPPED = frozenset(
    "script style template iframe frame object embed svg canvas audio video map head title link meta button select option "
    "optgroup input textarea datalist progress meter rp rt applet".split()
)
BLOCKS = frozenset(
    "address article aside blockquote body center dd details dialog dir div dl dt fieldset figcaption figure footer form "
    "h1 h2 h3 h4 h5 h6 header hgroup hr html legend li main menu nav ol p pre section summary table tbody td tfoot th "
    "thead tr ul caption".split()
)
NEVER_DROPPED = frozenset("html body main article h1 img picture br".split())
TAG_REASONS = {
    "nav": "navigation",
    "menu": "navigation",
    "footer": "footer",
    "aside": "sidebar",
    "dialog": "dialog",
    "form": "form",
}
ROLE_REASONS = {
    "navigation": "navigation",
    "menu": "navigation",
    "menubar": "navigation",
    "banner": "header",
    "contentinfo": "footer",
    "complementary": "sidebar",
    "search": "form",
    "dialog": "dialog",
    "alertdialog": "dialog",
}
NAMES = {
    "navigation": "nav navbar navbox navigation navheader navfooter navmenu menubar menu submenu breadcrumb breadcrumbs "
    "sidenav pagination pager toc skiplink editsection catlinks jumplink "
    "docnav skip-link",
    "footer": "footer printfooter colophon",
    "sidebar": "sidebar",
    "cookie banner": "cookie cookies cookiebanner cookieconsent gdpr consent ccpa cookie-law",
    "advertisement": "ad ads advert adverts advertisement adsbygoogle sponsor sponsored promo dfp",
    "sharing": "share sharing sharebar sharedaddy social addthis newsletter subscribe signup",
    "related pages": "related recommended recommendations",
    "dialog": "modal popup lightbox overlay",
    "hidden": "sronly sr-only screenreader screen-reader visuallyhidden visually-hidden noprint",
}
NAME_REASONS = {name: reason for reason, names in NAMES.items() for name in names.split()}
NAME = re.compile(
    r"(?:^|[^a-z\d])("
    + "|".join(sorted(map(re.escape, NAME_REASONS), key=len, reverse=True))
    + r")(?:\d[\dx]*)?(?![a-z\d])",
    re.I,
)
HIDDEN = re.compile(r"(?:^|[;\s])(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.I)
CONSENT = re.compile(
    r"(?:we|site|website|page) (?:also )?uses? (?:\w+ )?cookies|(?:accept|allow|manage|decline) (?:all |the |our )?cookies"
    r"|cookie (?:policy|settings|preferences|notice)",
    re.I,
)
BOILERPLATE = re.compile(
    r"(?:(?:©|\(c\)|copyright\b).{0,160}|all rights reserved\.?|(?:read|learn|show|see|view|load) more\.{0,3}"
    r"|skip to (?:main )?content|advertisement|share(?: this)?(?: (?:page|article|post|on .{1,20}))?|back to top"
    r"|click here(?: to .{1,40})?|print this page|(?:leave|add|post) a (?:comment|reply)|sign (?:in|up)|log ?in|subscribe"
    r"|table of contents|contents|(?:prev(?:ious)?|next|home|up)(?: (?:page|post|article))?|\d+ comments?"
    r"|[«»‹›<>←→↑|•·\s]+)",
    re.I,
)
FIGURES = re.compile(
    r"(?:^|\s)(?:figure|informalfigure|mediaobject|screenshot|thumb|wp-caption|image-container)(?:\s|$)", re.I
)
CAPTIONS = re.compile(r"(?:^|[\s_-])(?:caption|captiontext|thumbcaption|wp-caption-text)(?:\s|$)", re.I)
PERMALINK = re.compile(r"\s*[¶#§∞⚓🔗][\ufe0e\ufe0f]?\s*$")
FOOTNOTE = re.compile(r"\breference\b|\bfootnote")
HEADINGS = {f"h{level}": level for level in range(1, 7)}
LAYOUT = ("table", "img", "picture", "ul", "ol", "dl", "pre", "h1", "h2", "h3", "h4", "h5", "h6", "figure")
NO_CAPTION = ("table", "pre", "ul", "ol", "dl", "h1", "h2", "h3", "h4", "h5", "h6")
SENTENCE_ENDS = tuple(".!?…。؟")

SPACES = re.compile(r"\s+")
INVISIBLE = re.compile(
    "[\u00ad\u200b\u200e\u200f\u2060\ufeff\u202a-\u202e\u2066-\u2069\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]"
)
NO_LETTERS = re.compile(r"[\W_]+")


def clean(text):
    return text if text.isascii() else unicodedata.normalize("NFC", INVISIBLE.sub("", text))


def collapse(text):
    return " ".join(clean(text).split())


def comparable(text):
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return NO_LETTERS.sub(" ", text.lower()).strip()


# --- images of a page -------------------------------------------------------------------------------------------------

LAZY = ("data-src", "data-original", "data-lazy-src", "data-lazy", "data-url", "data-image", "data-hi-res-src")
SETS = ("srcset", "data-srcset", "data-lazy-srcset", "data-original-set")
CANDIDATE = re.compile(r"[\s,]*([^\s,]\S*)(?:\s+([\d.]+)([wx]))?[^,]*")
PIXELS = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:px)?\s*")
STYLES = {key: re.compile(rf"(?:^|[;\s]){key}\s*:\s*(\d+(?:\.\d+)?)px", re.I) for key in ("width", "height")}


def sources_of(get, img, variants, base):
    sets = []
    for element in (*variants, img):
        for key in SETS:
            for url, number, unit in CANDIDATE.findall(get(element, key) or ""):
                sets.append((float(number) * (640 if unit == "x" else 1) if number else 640, url.rstrip(",")))
    if sets:
        sets.sort(key=lambda pair: -pair[0])
    found = [url for _, url in sets]
    lazy = [value.strip() for key in LAZY if (value := get(img, key))]
    src = get(img, "src")
    found += lazy if lazy or not src else [src.strip()]
    sources = []
    for url in found:
        if url[:5].lower() == "data:":
            if url[:11].lower() != "data:image/" or len(url) < 400:
                continue
        else:
            try:
                url = urljoin(base, url).partition("#")[0]
            except ValueError:
                continue
            if not url.startswith(("http:", "https:", "file:")):
                continue
        if url not in sources:
            sources.append(url)
    return sources


def declared(get, img, key):
    style = get(img, "style")
    found = STYLES[key].search(style) if style else None
    if not found:
        value = get(img, key)
        found = PIXELS.fullmatch(value) if value else None
    return float(found[1]) if found else 1e9


# --- extraction ---------------------------------------------------------------------------------------------------------


class Block:
    __slots__ = ("kind", "level", "prefix", "tight", "pieces", "linked")

    def __init__(self, kind="text", level=0, prefix="", tight=False):
        self.kind, self.level, self.prefix, self.tight = kind, level, prefix, tight
        self.pieces = []
        self.linked = 0


class Walk:
    """Extracts a page in one pass. A list of links is removed when its element ends."""

    def __init__(self, root, base):
        self.root, self.base = root, base
        self.blocks, self.block = [], None
        self.dropped = Counter()
        self.seen = set()
        self.in_link = self.in_pre = self.in_content = 0
        self.lists = []
        self.text_size = self.link_size = self.links = 0

    def run(self):
        self.title = collapse(self.text_of(title)) if (title := self.first("title")) is not None else ""
        base = self.first("base")
        if base is not None and self.get(base, "href"):
            self.base = urljoin(self.base, self.get(base, "href"))
        whole = self.text_of(self.root)
        self.page_size = len(whole)
        self.cookies = "cookie" in whole.lower()
        self.children(self.root)
        self.end_block()
        return self.join(self.kept())

    def add(self, text):
        size = len(text.strip())
        self.text_size += size
        if not text.isascii():
            text = clean(text)
        block = self.block
        if block is None:
            if not size:
                return
            self.block = block = Block(prefix="  " * min(len(self.lists), 8))
        if not size and not block.pieces:
            return
        block.pieces.append(text if self.in_pre else SPACES.sub(" ", text))
        if self.in_link:
            self.link_size += size
            block.linked += size

    def reason(self, element, tag):
        if tag in NEVER_DROPPED:
            return None
        reason = TAG_REASONS.get(tag)
        if reason is None and tag == "header" and not self.in_content:
            reason = "header"
        if reason is None and self.has_attributes(element):
            get = self.get
            style = get(element, "style")
            if get(element, "hidden") is not None or get(element, "aria-hidden") == "true":
                reason = "hidden"
            elif style and HIDDEN.search(style):
                reason = "hidden"
            else:
                role = get(element, "role")
                reason = ROLE_REASONS.get(role.lower()) if role else None
                if reason is None and (names := f"{get(element, 'class') or ''} {get(element, 'id') or ''}") != " ":
                    found = NAME.search(names)
                    reason = NAME_REASONS[found[1].lower()] if found else None
        if reason and len(self.text_of(element)) <= 0.4 * self.page_size:
            return reason
        return None

    def element(self, element, tag):
        if tag in SKIPPED:
            return
        is_block = tag in BLOCKS
        reason = self.reason(element, tag)
        if reason:
            self.dropped[f"block: {reason}"] += 1
            if is_block:
                self.end_block()
            elif self.block is not None:
                self.add(" ")
            return
        if not is_block:
            if tag == "a":
                if self.get(element, "href") is None:
                    return self.children(element)
                if self.is_permalink(element, tag):
                    return
                self.in_link += 1
                self.links += 1
                self.children(element)
                self.in_link -= 1
            elif tag == "br":
                if self.block is not None:
                    self.block.pieces.append("\n")
            elif tag in ("img", "picture", "noscript"):
                self.images(element, tag)
            elif tag == "sup" and FOOTNOTE.search(self.get(element, "class") or ""):
                pass
            elif (CAPTIONS.search(names) if (names := self.get(element, "class")) else False) and self.caption(element):
                pass
            elif names and FIGURES.search(names) and self.figure(element):
                pass
            else:
                self.children(element)
            return
        start = len(self.blocks)
        text, linked, links = self.text_size, self.link_size, self.links
        self.in_block(element, tag)
        links = self.links - links
        if links >= 3 and tag not in NEVER_DROPPED:
            text, linked = self.text_size - text, self.link_size - linked
            if linked > 0.5 * text:
                plain = max((self.plain(block) for block in self.blocks[start:]), default=0)
                if plain < 80:
                    self.dropped["block: link farm"] += 1
                    del self.blocks[start:]
        if self.cookies and links and self.text_size - text < 1200 and tag not in NEVER_DROPPED:
            if CONSENT.search(self.text_of(element)):
                self.dropped["block: cookie banner"] += 1
                del self.blocks[start:]

    def is_permalink(self, element, tag):
        return tag == "a" and "#" in (self.get(element, "href") or "") and PERMALINK.match(self.text_of(element))

    @staticmethod
    def plain(block):
        return sum(len(piece) for piece in block.pieces if isinstance(piece, str)) - block.linked

    def in_block(self, element, tag):
        names = self.get(element, "class")
        if (tag == "figure" or (names and FIGURES.search(names))) and self.figure(element):
            return
        if tag == "pre":
            self.start_block("pre")
            self.in_pre += 1
            self.children(element)
            self.in_pre -= 1
        elif tag in ("ul", "ol", "dir"):
            self.end_block()
            start = self.get(element, "start") or "1"
            self.lists.append([int(start) if start.isdigit() else 1] if tag == "ol" else None)
            self.children(element)
            self.end_block()
            self.lists.pop()
        elif tag == "li":
            numbers = self.lists[-1] if self.lists else None
            bullet = "- "
            if numbers:
                bullet = f"{numbers[0]}. "
                numbers[0] += 1
            self.end_block()
            depth = max(1, len(self.lists))
            tight = depth > 1 or bool(self.blocks and self.blocks[-1].prefix)
            self.block = Block(prefix="  " * (min(depth, 8) - 1) + bullet, tight=tight)
            self.children(element)
        elif tag == "table":
            self.table(element)
        elif tag in HEADINGS:
            self.start_block("heading", HEADINGS[tag])
            self.children(element)
        elif (tag == "figcaption" or (names and tag != "caption" and CAPTIONS.search(names))) and self.caption(element):
            return
        else:
            content = tag in ("main", "article")
            self.in_content += content
            self.start_block(tight=tag == "dd")
            self.children(element)
            self.in_content -= content
        self.end_block()

    def start_block(self, kind="text", level=0, tight=False):
        waiting = self.block if self.block is not None and not self.block.pieces else None
        self.end_block()
        prefix = (waiting.prefix if waiting else "") or "  " * min(len(self.lists), 8)
        self.block = Block(kind, level, prefix, tight or bool(self.lists) or (waiting is not None and waiting.tight))

    def end_block(self):
        block, self.block = self.block, None
        if block is None or not block.pieces:
            return
        merged = []
        for piece in block.pieces:
            if isinstance(piece, str) and merged and isinstance(merged[-1], str):
                merged[-1] += piece
            else:
                merged.append(piece)
        for i, piece in enumerate(merged):
            if not isinstance(piece, str):
                continue
            if block.kind != "pre":
                if "\n" in piece:
                    piece = re.sub(r"\n{3,}", "\n\n", re.sub(r" *\n *", "\n", piece))
                if "  " in piece:
                    piece = re.sub(r" {2,}", " ", piece)
                if i == 0:
                    piece = piece.lstrip()
            else:
                piece = re.sub(r"[^\S\n]+$", "", piece.replace("\r\n", "\n"), flags=re.M)
                if i == 0:
                    piece = re.sub(r"\A\s*\n", "", piece)
            merged[i] = piece.rstrip() if i == len(merged) - 1 else piece
        block.pieces = [piece for piece in merged if piece != ""]
        if any(not isinstance(piece, str) or piece.strip() for piece in block.pieces):
            self.blocks.append(block)

    def image(self, img, variants=()):
        get = self.get
        sources = sources_of(get, img, variants, self.base)
        if not sources:
            self.dropped["image: no URL"] += 1
        elif declared(get, img, "width") < 64 or declared(get, img, "height") < 64:
            self.dropped["image: icon"] += 1
        elif not self.seen.isdisjoint(sources):
            self.dropped["image: duplicate on the page"] += 1
        else:
            self.seen.update(sources)
            return {"sources": sources, "alt": collapse(get(img, "alt") or ""), "caption": ""}
        return None

    def images(self, element, tag):
        images = [element] if tag == "img" else self.all(element, "img")
        variants = self.all(element, "source") if tag == "picture" else ()
        for img in images:
            image = self.image(img, variants)
            if image:
                if self.block is None:
                    self.block = Block()
                self.block.pieces.append(image)

    def figure(self, element):
        size = len(self.text_of(element))
        if size > 1000 or (size > 200 and size > 0.5 * self.page_size) or self.holds(element, NO_CAPTION):
            return False
        images = self.all(element, "img")
        if not images:
            return False
        self.end_block()
        self.text_size += size
        links = self.all(element, "a")
        self.links += len(links)
        self.link_size += size if self.in_link else sum(len(self.text_of(link)) for link in links)
        found, words = [], []
        for item in self.flat(element):
            if isinstance(item, str):
                (found[-1][1] if found else words).append(item)
            else:
                image = self.image(item)
                if image:
                    found.append((image, words))
                    words = []
        self.block = Block()
        for image, around in found:
            image["caption"] = collapse("".join(around))
            self.block.pieces.append(image)
        if not found:
            self.block.pieces.append(collapse("".join(words)))
        self.end_block()
        return True

    def caption(self, element):
        self.end_block()
        last = self.blocks[-1].pieces[-1] if self.blocks else None
        if not isinstance(last, dict) or last["caption"]:
            return False
        text = collapse(self.text_of(element))
        if len(text) > 1000:
            return False
        last["caption"] = text
        return True

    def table(self, element):
        self.end_block()
        rows = [self.cells(row) for row in self.all(element, "tr")]
        data = len(rows) >= 2 and max(map(len, rows)) >= 2 and self.get(element, "role") != "presentation"
        if not data or self.holds_within(element, LAYOUT):
            return self.children(element)
        tight = False
        for cells in rows:
            text = collapse(" | ".join([self.text_of(cell) for cell in cells]))
            self.text_size += len(text)
            if not text.strip("| "):
                continue
            block = Block("row", tight=tight)
            block.pieces.append(text)
            self.blocks.append(block)
            tight = True

    def kept(self):
        seen, before, kept = set(), "", []
        for block in self.blocks:
            if not all(isinstance(piece, str) for piece in block.pieces):
                kept.append(block)
                continue
            text = "".join(block.pieces)
            reason, before = text_reason(text, block.kind, block.linked, seen, before)
            if reason:
                self.dropped[f"block: {reason}"] += 1
            else:
                kept.append(block)
        followed, result = 7, []
        for block in reversed(kept):
            bare = block.kind == "heading" and all(isinstance(piece, str) for piece in block.pieces)
            if bare and (followed <= block.level or followed == 7):
                self.dropped["block: heading without content"] += 1
            else:
                followed = block.level if bare else 8
                result.append(block)
        result.reverse()
        return result

    @staticmethod
    def join(blocks):
        parts, text = [], []
        for i, block in enumerate(blocks):
            if i > 0:
                text.append("\n" if block.tight and block.kind != "heading" else "\n\n")
            prefix = block.prefix
            for piece in block.pieces:
                if isinstance(piece, str):
                    text.append(prefix + piece)
                    prefix = ""
                else:
                    if (before := "".join(text)).strip():
                        parts.append({"text": before.strip("\n")})
                    text = []
                    parts.append({"image": piece})
        if (before := "".join(text)).strip():
            parts.append({"text": before.strip("\n")})
        return parts


def text_reason(text, kind, linked, seen, before):
    """Returns why a block is dropped, and the key that the next block is compared with."""
    stripped = text.strip()
    key = comparable(text)
    if len(stripped) < 200 and BOILERPLATE.fullmatch(stripped):
        return "boilerplate", key
    if linked and kind == "text" and not text.endswith(SENTENCE_ENDS):
        words = text.split()
        if len(words) <= 12 and linked > 0.75 * sum(map(len, words)):
            return "link", key
    if key and key == before:
        return "duplicate on the page", key
    if len(key) >= 25:
        if key in seen:
            return "duplicate on the page", key
        seen.add(key)
    return None, key


def make_lxml():
    from lxml import etree

    parsers = {}

    class LxmlWalk(Walk):
        get = staticmethod(etree._Element.get)
        has_attributes = staticmethod(etree._Element.keys)

        def first(self, tag):
            return next(self.root.iter(tag), None)

        def all(self, element, tag):
            return list(element.iter(tag))

        def text_of(self, element):
            return "".join(element.itertext())

        def holds(self, element, tags):
            return next(element.iter(*tags), None) is not None

        def holds_within(self, element, tags):
            return next(element.iterdescendants(*tags), None) is not None

        def cells(self, row):
            return [cell for cell in row if cell.tag in ("td", "th")]

        def children(self, element):
            if element.text:
                self.add(element.text)
            for child in element:
                self.element(child, child.tag)
                if child.tail:
                    self.add(child.tail)

        def flat(self, element):
            if element.text:
                yield element.text
            for child in element:
                tag = child.tag
                if tag == "img":
                    yield child
                elif tag not in SKIPPED and not self.is_permalink(child, tag):
                    block = tag in BLOCKS or tag == "br"
                    if block:
                        yield " "
                    yield from self.flat(child)
                    if block:
                        yield " "
                if child.tail:
                    yield child.tail

    def extract(data, url):
        encoding, _ = decode(data)
        parser = parsers.get(encoding)
        if parser is None:
            options = dict(remove_comments=True, remove_pis=True, huge_tree=True)
            parsers[encoding] = parser = etree.HTMLParser(encoding=encoding, **options)
        root = etree.fromstring(data, parser)
        # Strip them here, so that text_of does not return their text: C does it faster than the walk.
        title = root.findtext(".//title") or ""
        etree.strip_elements(root, "script", "style", "template", "svg", "noscript", with_tail=False)
        walk = LxmlWalk(root, url)
        parts = walk.run()
        return walk.title or collapse(title), parts, walk.dropped

    return extract


def make_resiliparse():
    from resiliparse.parse.html import DOMNode, HTMLTree

    class ResiliparseWalk(Walk):
        get = staticmethod(DOMNode.getattr)

        def has_attributes(self, element):
            return element.attrs

        def first(self, tag):
            return self.root.query_selector(tag)

        def all(self, element, tag):
            found = element.get_elements_by_tag_name(tag)
            return list(found)

        def text_of(self, element):
            return element.text

        def holds(self, element, tags):
            return element.query_selector(",".join(tags)) is not None

        def holds_within(self, element, tags):
            return element.query_selector(",".join(tags)) is not None

        def cells(self, row):
            return [cell for cell in row.child_nodes if cell.tag in ("td", "th")]

        def children(self, element):
            child = element.first_child
            while child is not None:
                tag = child.tag
                if tag == "#text":
                    self.add(child.value)
                elif tag != "#comment":
                    self.element(child, tag)
                child = child.next

        def flat(self, element):
            for child in element.child_nodes:
                tag = child.tag
                if tag == "#text":
                    yield child.value
                elif tag == "img":
                    yield child
                elif tag not in SKIPPED and tag != "#comment" and not self.is_permalink(child, tag):
                    block = tag in BLOCKS or tag == "br"
                    if block:
                        yield " "
                    yield from self.flat(child)
                    if block:
                        yield " "

    def extract(data, url):
        _, html = decode(data)
        tree = HTMLTree.parse(html)
        title = collapse(tree.title or "")
        for node in list(tree.document.query_selector_all("script,style,template,svg,noscript")):
            node.decompose()
        walk = ResiliparseWalk(tree.document.query_selector("html"), url)
        parts = walk.run()
        return title, parts, walk.dropped

    return extract


PLACEHOLDER = re.compile("\ue000(\\d+)\ue001")


def make_extractor():
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import DOMNode, HTMLTree

    get = DOMNode.getattr

    def extract(data, url):
        _, html = decode(data)
        tree = HTMLTree.parse(html)
        title = collapse(tree.title or "")
        dropped = Counter()
        walk = Walk(None, url)
        walk.get = get
        base = tree.document.query_selector("base")
        if base is not None and get(base, "href"):
            walk.base = urljoin(url, get(base, "href"))
        images = []
        for img in list(tree.document.get_elements_by_tag_name("img")):
            around = img.parent
            image = walk.image(img)
            if image is None:
                continue
            placeholder = tree.create_text_node(f"\ue000{len(images)}\ue001")
            images.append(image)
            around.insert_before(placeholder, img)
            for _ in range(4):
                if around is None or around.tag == "body":
                    break
                if around.tag == "figure" or FIGURES.search(around.class_name or ""):
                    caption = around.query_selector("figcaption,.caption") or around
                    image["caption"] = collapse(PLACEHOLDER.sub("", caption.text))[:1000]
                    for child in list(around.child_nodes):
                        if child.tag == "figcaption":
                            around.remove_child(child)
                    break
                around = around.parent
        text = extract_plain_text(tree, preserve_formatting=True, main_content=True, alt_texts=False, links=False)
        seen, before, kept = set(), "", []
        for block in text.split("\n\n"):
            if "\ue000" not in block:
                reason, before = text_reason(block, "text", 0, seen, before)
                if reason:
                    dropped[f"block: {reason}"] += 1
                    continue
            kept.append(clean(block))
        parts = []
        for i, piece in enumerate(PLACEHOLDER.split("\n\n".join(kept))):
            if i % 2:
                parts.append({"image": images[int(piece)]})
            elif piece.strip():
                parts.append({"text": piece.strip("\n")})
        return title, parts, dropped + walk.dropped

    return extract


CHARSET = re.compile(rb"charset\s*=\s*[\"']?\s*([\w:.-]{2,40})", re.I)


def decode(data):
    found = CHARSET.search(data, 0, 4096)
    encoding = found[1].decode("ascii", "replace").lower() if found else ""
    if data.startswith(b"\xef\xbb\xbf"):
        encoding, data = "utf-8", data[3:]
    if encoding in ("iso-8859-1", "latin1", "us-ascii"):
        encoding = "cp1252"
    for name in (encoding, "utf-8"):
        try:
            if name:
                return name, data.decode(name)
        except (LookupError, UnicodeDecodeError):
            pass
    return "cp1252", data.decode("cp1252", "replace")


# --- filters and fingerprints -------------------------------------------------------------------------------------------

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
SYMBOLS = re.compile(r"#|\.\.\.|…")
BULLET = re.compile(r"\s*[-*•‣·]")
LETTER = re.compile(r"[^\W\d_]")
PARAGRAPHS = re.compile(r"\n{2,}")
TOP = {2: 0.2, 3: 0.18, 4: 0.16}
REPEATED = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1}


def gopher_quality(text):
    words = text.split()
    if len(words) < 50:
        return "fewer than 50 words"
    if len(words) > 100_000:
        return "more than 100000 words"
    if not 3 <= sum(map(len, words)) / len(words) <= 10:
        return "mean word length not 3 to 10"
    if len(SYMBOLS.findall(text)) > 0.1 * len(words):
        return "too many symbols"
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    if sum(1 for line in lines if BULLET.match(line)) > 0.9 * len(lines):
        return "mostly bullet points"
    if sum(1 for line in lines if line.rstrip().endswith(("...", "…"))) > 0.3 * len(lines):
        return "truncated lines"
    search = LETTER.search
    if sum(1 for word in words if word.isalpha() or search(word)) < 0.8 * len(words):
        return "words without letters"
    if len(STOP_WORDS.intersection([word.lower() for word in words])) < 2:
        return "too few stop words"
    return None


def repeats(pieces):
    pieces = [piece for piece in map(str.strip, pieces) if piece]
    unique = set(pieces)
    if len(unique) == len(pieces):
        return False
    total = sum(map(len, pieces))
    again = total - sum(map(len, unique))
    return len(pieces) - len(unique) > 0.3 * len(pieces) or again > 0.2 * total


def gopher_repetition(text):
    if repeats(text.split("\n")):
        return "repeated lines"
    if repeats(PARAGRAPHS.split(text)):
        return "repeated paragraphs"
    words = text.lower().split()
    number = {}
    numbers = np.array([number.setdefault(word, len(number)) for word in words], dtype=np.int64)
    lengths = np.array(list(map(len, words)), dtype=np.int64)
    ends = np.concatenate(([0], np.cumsum(lengths)))
    total = ends[-1]
    # An n-gram is numbered by that of its first n-1 words and its last word.
    grams = numbers
    for n in range(2, 11):
        if len(words) < n:
            break
        keys = grams[:-1] * len(number) + numbers[n - 1 :]
        _, first, grams, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        if len(first) == len(keys):
            break  # Longer ones do not repeat either.
        if n in TOP:
            sizes = (counts * (ends[first + n] - ends[first]))[counts > 1]
            if sizes.max() > TOP[n] * total:
                return f"one {n}-gram too frequent"
        if n in REPEATED:
            again = np.ones(len(keys), dtype=np.int8)
            again[first] = 0
            covered = np.convolve(again, np.ones(n, dtype=np.int8)) > 0
            if lengths[covered].sum() > REPEATED[n] * total:
                return f"repeated {n}-grams"
    return None


RUN, BANDS, ROWS = 5, 14, 8
MULTIPLIERS = np.random.default_rng(1).integers(1, 2**63, (BANDS * ROWS, 1), dtype=np.uint64) | np.uint64(1)
SHIFTS = np.random.default_rng(2).integers(0, 2**63, (BANDS * ROWS, 1), dtype=np.uint64)
POWERS = np.array([0x100000001B3**k % 2**64 for k in range(RUN)], dtype=np.uint64)


def make_min_hash():
    from xxhash import xxh3_64_intdigest

    def min_hash(words):
        if len(words) < RUN:
            return []
        known = {word: xxh3_64_intdigest(word.encode("utf-8", "surrogatepass")) for word in set(words)}
        hashes = np.array([known[word] for word in words], dtype=np.uint64)
        runs = np.lib.stride_tricks.sliding_window_view(hashes, RUN) @ POWERS
        runs = np.unique(runs ^ (runs >> np.uint64(29)))
        least = (MULTIPLIERS * runs + SHIFTS).min(axis=1).reshape(BANDS, ROWS)
        return [xxh3_64_intdigest(band.tobytes(), band_number) for band_number, band in enumerate(least)]

    return min_hash


CAMPAIGN = re.compile(r"(?:utm_\w+|fbclid|gclid|msclkid)")


def key_of(text):
    return int(hashlib.sha1(text.encode("utf-8", "surrogatepass")).hexdigest()[:13], 16)


def url_key(url):
    parsed = urlsplit(url)
    query = sorted((k, v) for k, v in parse_qsl(parsed.query, True) if not CAMPAIGN.fullmatch(k)) if parsed.query else []
    return key_of(parsed.netloc.removeprefix("www.") + parsed.path.removesuffix("/") + urlencode(query))


def pages(variant, root, names, out):
    from resiliparse.parse.lang import detect_fast

    min_hash = make_min_hash()
    extract = {"lxml": make_lxml, "resiliparse": make_resiliparse, "extractor": make_extractor}[variant]()
    passed = words = images = failed = 0
    for name in names:
        url = f"https://folder.invalid/{quote(name)}"
        with open(os.path.join(root, name), "rb") as file:
            data = file.read()
        try:
            title, parts, dropped = extract(data, url)
        except RecursionError:
            failed += 1
            continue
        text = "\n\n".join([part["text"] for part in parts if "text" in part])
        language, _ = detect_fast(text[:4000])
        reasons = [language != "en", gopher_quality(text), gopher_repetition(text)]
        key = comparable(text)
        keys = {"url": url_key(url), "text": key_of(key), "bands": min_hash(key.split(" "))}
        passed += not any(reasons)
        words += len(text.split())
        images += sum(1 for part in parts if "image" in part)
        line = {"page": {"url": url, "title": title, "parts": parts}, "keys": keys, "dropped": dropped}
        out.write(json.dumps(line, ensure_ascii=False) + "\n")
    return {"passed": passed, "words": words, "images": images, "failed": failed}


# --- image files ------------------------------------------------------------------------------------------------------

SIDE, KEPT = 32, 8
COSINES = np.cos(np.pi / SIDE * (np.arange(SIDE) + 0.5) * np.arange(KEPT)[:, None])
FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "AVIF": "avif"}
LUMA = np.array([0.299, 0.587, 0.114])


def examine(Image, data, draft):
    if len(data) > 32 * 2**20:
        return "file too large"
    try:
        image = Image.open(io.BytesIO(data), formats=list(FORMATS))
        width, height = image.size
        if width * height > 2**26 or max(width, height) > 20_000:
            return "too many pixels"
        if min(width, height) < 64:
            return "too small"
        if max(width, height) > 3 * min(width, height):
            return "aspect ratio"
        if image.getexif().get(0x0112, 1) >= 5:
            width, height = height, width
        ending = FORMATS[image.format]
        alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
        if draft:
            # Scale roughly first, in the decoder if it can, and put the small image on white.
            image.draft("RGB", (SIDE * 2, SIDE * 2))
            image = image.convert("RGBA" if alpha else "RGB").resize((SIDE, SIDE), reducing_gap=2.0)
        if alpha:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        if image.mode != "RGB":
            image = image.convert("RGB")
        if not draft:
            image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return "unreadable"
    if (np.ptp(pixels, axis=(0, 1)) <= 8).all():
        return "single color"
    low = (COSINES @ (pixels @ LUMA) @ COSINES.T).ravel()
    look = np.packbits(low > np.median(low[1:])).tobytes().hex()
    return {"file": f"{hashlib.sha256(data).hexdigest()[:40]}.{ending}", "width": width, "height": height, "look": look}


def images(variant, root, names, out):
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = 2**26
    warnings.simplefilter("ignore")
    passed = 0
    reasons = Counter()
    for name in names:
        with open(os.path.join(root, name), "rb") as file:
            data = file.read()
        found = examine(Image, data, variant == "draft")
        if isinstance(found, str):
            reasons[found] += 1
        else:
            passed += 1
        out.write(json.dumps([name, found]) + "\n")
    return {"passed": passed, "dropped": reasons}


def main(work, variant, file, out):
    with open(file) as given:
        task = json.load(given)
    sys.setrecursionlimit(5000)
    do = {"pages": pages, "images": images}[work]
    with open(os.devnull, "w") as nowhere:
        do(variant, task["root"], task["files"][: task["warm"]], nowhere)
    with open(out, "w", encoding="utf-8", errors="surrogatepass") as lines:
        before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        report = do(variant, task["root"], task["files"], lines)
        lines.flush()
        seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    report["wall"] = seconds
    report["cpu"] = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    report["mib"] = after.ru_maxrss / 1024
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
