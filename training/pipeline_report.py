"""What came of a version, as a page for people."""

from __future__ import annotations

from collections.abc import Iterator

from toolenv.training.gate import GateReport
from toolenv.training.registry import Version


def report_of(version: Version, gate: GateReport) -> str:
    """The page in Markdown."""
    return "\n".join(_lines(version, gate)) + "\n"


def _lines(version: Version, gate: GateReport) -> Iterator[str]:
    counts = version.counts
    yield f"# Version {version.name}: {version.verdict}"
    yield ""
    yield f"Trained from {version.parent}, and compared with it."
    yield ""
    yield from (f"- {reason}" for reason in version.reasons)
    yield from ("", "## Success on the gate's tasks", "", "| model | success [95% CI] | tasks |", "|---|---|---|")
    for name, metric in gate.success.items():
        yield f"| {name} | {metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}] | {metric.n} |"
    ingested, filtered = counts["ingest"], counts["filter"]
    yield from ("", "## Logs", "")
    yield f"{ingested['episodes']} episodes of {ingested['files']} files; not read: {ingested['unread']}."
    yield f"Kept {filtered['kept']}, quarantined {filtered['quarantined']}."
    yield from ("", *(f"- quarantined by {name}: {n}" for name, n in filtered["quarantined_by"].items()))
    yield from (f"- replaced: {n} {kind}" for kind, n in counts["redact"]["counts"].items() if kind != "changed")
    yield from (f"- names in {name}: {n}" for name, n in counts["redact"]["name_fields"].items())
    yield from (f"- could not be read: {problem}" for problem in ingested["problems"])
    yield from ("", "## Mix", "", "| source | episodes | tokens | wanted |", "|---|---|---|---|")
    for name, part in counts["mix"].items():
        yield f"| {name} | {part['episodes']} | {part['tokens']} | {part['wanted']} |"
    training = counts["retrain"]
    yield ""
    yield f"Trained on {training['tokens']} tokens in {training['steps']} steps."
    yield from ("", "## Data", "", *(f"- {name}: `{digest}`" for name, digest in version.data.items()))
