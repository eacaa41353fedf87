"""The reasons of differences: each begins with the words in bold type that begin a bullet of docs/differences-from-envoy.md."""

import pathlib
import re

import yaml

DOCUMENT = pathlib.Path(__file__).parents[2] / "docs/differences-from-envoy.md"


def untold(files):
    """The reasons in these files for which there is no bullet, each with its file."""
    bullets = re.findall(r"^- \*\*(.+?)\*\*", DOCUMENT.read_text(), re.M | re.S)
    told = tuple(plain(bullet) for bullet in bullets)
    named = ((file, reason) for file in files for reason in reasons(yaml.safe_load(file.read_text())))
    return [f"{file.parent.name}/{file.name}: {reason}" for file, reason in named if not plain(reason).startswith(told)]


def reasons(value):
    """All that stands under `why`."""
    if isinstance(value, dict):
        if "why" in value:
            yield value["why"]
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from reasons(inner)


def plain(text):
    """Without marks, capitals, line ends, and the full stop or colon at the end."""
    return " ".join(re.sub(r"[`*]", "", text).lower().split()).rstrip(".:,")
