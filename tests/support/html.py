"""Reads pages as strictly as they are to be written: what browsers forgive is an error here."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import NamedTuple, Self

_VOID = {"meta", "link", "input", "br", "hr", "img"}
_IN_SVG_ALONE = {"path", "circle", "rect"}
_EVENTS = "on"
_ADDRESSES = ("href", "src", "action", "data-events", "srcset", "poster")


class Element(NamedTuple):
    """An element as it begins."""

    tag: str
    attributes: dict[str, str]
    inside: tuple[str, ...]
    """The tags around it, the outermost first."""


class Form(NamedTuple):
    """A form."""

    method: str
    action: str
    fields: dict[str, str]


class Document(HTMLParser):
    """A page, or a part of one. What is wrong with it stands in `mistakes`."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self.forms: list[Form] = []
        self.mistakes: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self._labelled: set[str] = set()

    @classmethod
    def of(cls, html: str) -> Self:
        """Read it whole."""
        document = cls()
        document.feed(html)
        document.close()
        document._check()
        return document

    def all(self, tag: str) -> list[Element]:
        """Every element of that tag."""
        return [one for one in self.elements if one.tag == tag]

    @property
    def ids(self) -> list[str]:
        """The ids in their order."""
        return [one.attributes["id"] for one in self.elements if "id" in one.attributes]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._begin(tag, attrs)
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._begin(tag, attrs)
        if tag not in _IN_SVG_ALONE:
            self.mistakes.append(f"<{tag}/>")

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1] != tag:
            self.mistakes.append(f"</{tag}> within {self._open[-3:]}")
            return
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if "script" in self._open[-1:] or "style" in self._open[-1:]:
            self.mistakes.append("inline script or style")
        self.text += data

    def _begin(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        attributes = {name: value or "" for name, value in attrs}
        if len(names) != len(attributes):
            self.mistakes.append(f"<{tag}> has an attribute twice")
        self.elements.append(Element(tag, attributes, tuple(self._open)))
        if tag == "style" or "style" in attributes:
            self.mistakes.append(f"inline style at <{tag}>")
        self.mistakes += [f"inline script: {name}" for name in names if name.startswith(_EVENTS)]
        for name in _ADDRESSES:
            if name in attributes and not (attributes[name].startswith(("/", "#")) and attributes[name][:2] != "//"):
                self.mistakes.append(f"an address elsewhere: {attributes[name]}")
        if tag == "form":
            if "form" in self._open:
                self.mistakes.append("a form in a form")
            self.forms.append(Form(attributes.get("method", "get"), attributes["action"], {}))
        elif tag in ("input", "select") and self._open.count("form") and "name" in attributes:
            self.forms[-1].fields[attributes["name"]] = attributes.get("value", "")
        elif tag == "label":
            self._labelled.add(attributes.get("for", ""))

    def _check(self) -> None:
        if self._open:
            self.mistakes.append(f"not ended: {self._open}")
        twice = {one for one in self.ids if self.ids.count(one) > 1}
        self.mistakes += [f"id twice: {one}" for one in sorted(twice)]
        for one in self.elements:
            seen = one.tag in ("input", "select") and one.attributes.get("type") != "hidden"
            if seen and one.attributes.get("id") not in self._labelled and "aria-label" not in one.attributes:
                self.mistakes.append(f"no label: {one.attributes}")
            for name in ("aria-labelledby", "aria-describedby"):
                if name in one.attributes and one.attributes[name] not in self.ids:
                    self.mistakes.append(f"{name} names nothing: {one.attributes[name]}")
            if one.tag in ("button", "summary") and "id" not in one.attributes:
                self.mistakes.append(f"without an id it loses the focus: {one}")
            if one.tag == "th" and "scope" not in one.attributes:
                self.mistakes.append("a th without scope")
        if len(self.all("caption")) != len(self.all("table")):
            self.mistakes.append("a table without a caption")
