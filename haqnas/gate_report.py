"""What a gate found, for the pages of CI: JUnit's XML and a table in Markdown."""

import re
from xml.etree import ElementTree

from haqnas.gate import Verdict

_NOT_XML = re.compile(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SIGNS = {"ok": "ok", "regression": "**regression**", "not checked": "not checked"}


def to_junit(verdict: Verdict, name: str) -> bytes:
    """One test case a finding; `name` is that of the class: the artefact."""
    missed = [finding for finding in verdict.findings if verdict.is_missed(finding)]
    skipped = [f for f in verdict.findings if f.result == "not checked" and not verdict.is_missed(f)]
    counts = {"tests": len(verdict.findings), "failures": len(missed), "errors": 0, "skipped": len(skipped)}
    attributes = {"name": "haqnas check", **{key: str(value) for key, value in counts.items()}}
    suite = ElementTree.Element("testsuite", attributes)
    for finding in verdict.findings:
        case = ElementTree.SubElement(suite, "testcase", {"classname": _clean(name), "name": finding.name})
        detail = _clean(finding.detail)
        if finding in missed:
            ElementTree.SubElement(case, "failure", {"type": finding.result, "message": detail})
        elif finding in skipped:
            ElementTree.SubElement(case, "skipped", {"message": detail})
        else:
            ElementTree.SubElement(case, "system-out").text = detail
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    text: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def to_markdown(verdict: Verdict, names: tuple[str, str]) -> str:
    """A heading and a table; `names` are those of the artefact and of the baseline."""
    ours, baseline = names
    rows = [f"| {f.name} | {_SIGNS[f.result]} | {_cell(f.detail)} |" for f in verdict.findings]
    head = [
        f"### haqnas check: {'passed' if verdict.ok else 'failed'}",
        "",
        f"`{ours}` against `{baseline}`",
        "",
    ]
    return "\n".join([*head, "| figure | result | |", "|---|---|---|", *rows, ""])


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _clean(text: str) -> str:
    """Without what XML cannot hold."""
    return _NOT_XML.sub("?", text)
