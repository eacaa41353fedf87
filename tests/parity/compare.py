"""What was seen of a case, made comparable: run-dependent values masked, everything flat under dotted names."""

import fnmatch
import hashlib
import re


class Mask:
    """Takes out of a text what differs from run to run: ports, folders, times, identifiers."""

    def __init__(self, names, patterns=()):
        self.plain = sorted(((str(value), name) for name, value in names.items()), key=lambda pair: -len(pair[0]))
        self.patterns = [re.compile(pattern) for pattern in patterns]

    def text(self, text):
        for value, name in self.plain:
            text = re.sub(rf"(?<!\d){re.escape(value)}(?!\d)", name, text)
        text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:<port>", text)
        text = re.sub(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "<uuid>", text)
        for pattern in self.patterns:
            text = pattern.sub(lambda match: match.group().replace(match.group(match.lastindex or 0), "<masked>"), text)
        return text

    def header(self, name, value, index):
        if name.lower() == "date":
            return "<date>"
        if name.lower() == "x-envoy-upstream-service-time":
            return "<ms>"
        if name.lower() == "x-envoy-expected-rq-timeout-ms" and index > 0:
            return "<what is left>"
        return self.text(value)


def flat(observed, mask, ordered=False):
    """{"client.0.status": "200", "upstream.0.headers.host": "a", "log.0": "...", "stats.http.http.rq_total": "1"}"""
    facts = {}
    for side in ("client", "admin", "upstream"):
        for index, item in enumerate(observed[side]):
            flatten(f"{side}.{index}", item, mask, ordered, facts, index)
        facts[f"{side}.count"] = str(len(observed[side]))
    for index, line in enumerate(observed["log"]):
        facts[f"log.{index}"] = mask.text(line)
    for name, change in observed["stats"].items():
        facts["stats." + mask.text(name)] = str(change)
    return facts


def flatten(path, value, mask, ordered, facts, index=0):
    leaf = path.rpartition(".")[2]
    if leaf in ("headers", "trailers") and isinstance(value, list):
        names = {}
        for name, text in value:
            names.setdefault(name.lower(), []).append(mask.header(name, text, index))
        for name, texts in names.items():
            facts[f"{path}.{name}"] = " | ".join(texts)
        if ordered:
            facts[f"{path}:order"] = " ".join(name for name, _ in value)
    elif isinstance(value, dict):
        for key, inner in value.items():
            flatten(f"{path}.{key}", inner, mask, ordered, facts, index)
    elif isinstance(value, bytes):
        text = value.decode("latin-1")
        facts[path] = mask.text(text) if len(value) < 2000 else f"{len(value)} bytes, {hashlib.sha256(value).hexdigest()[:12]}"
    elif isinstance(value, list):
        for part, inner in enumerate(value):
            flatten(f"{path}.{part}", inner, mask, ordered, facts, index)
    elif value is not None:
        facts[path] = mask.text(str(value))


def differences(envoy, ours):
    """Names whose values differ, with both; absent is None."""
    names = sorted(envoy.keys() | ours.keys())
    return {name: (envoy.get(name), ours.get(name)) for name in names if envoy.get(name) != ours.get(name)}


def covers(patterns, name):
    """Whether one of `client.*.headers.x-y`, `stats`, ... stands for this name or a part of the tree that it is in."""
    return any(fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, pattern + ".*") for pattern in patterns)
