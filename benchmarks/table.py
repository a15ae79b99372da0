"""Writes the tables of benchmarks/README.md from the JSON files that ``benchmarks.ops`` left.

python -m benchmarks.table
"""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- tables: python -m benchmarks.table -->", "<!-- end of tables -->"


def milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def fastest(case: dict) -> tuple[str, dict] | None:
    """The peer with the lowest median."""
    return min(case["peers"].items(), key=lambda peer: peer[1]["median_ms"], default=None)


def row(case: dict) -> str:
    ours, peer = case["ours"], fastest(case)
    cells = [case["op"], case["variant"], case["input"], milliseconds(ours["median_ms"])]
    cells.append(f"{milliseconds(ours['q25_ms'])} to {milliseconds(ours['q75_ms'])}")
    if peer:
        name, theirs = peer
        ratio = theirs["median_ms"] / ours["median_ms"]
        cells += [f"**{ratio:.1f}**", f"{name}, {milliseconds(theirs['median_ms'])}"]
        cells.append(f"{ours['peak_mib']:.0f} / {min(p['peak_mib'] for p in case['peers'].values()):.0f}")
    else:
        cells += ["", "", f"{ours['peak_mib']:.0f}"]
    cells.append(f"{ours['median_ms'] / case['floor_ms']:.1f}" if case["floor_ms"] else "")
    return f"| {' | '.join(cells)} |"


def table(result: dict) -> str:
    head = (
        "op | case | input | ms | quartiles | times faster | than (fastest peer, ms) | peak MiB, ours / least of peers"
    )
    lines = [
        f"### {result['machine']}, {result['device']}, {result['threads']} thread{'s' if result['threads'] > 1 else ''}"
        + (f", instruction set capped at {result['isa']}" if result["isa"] != "best" else ""),
        "",
        f"| {head} | times the floor |",
        "|" + "---|" * 9,
    ]
    lines += [row(case) for case in sorted(result["cases"], key=lambda case: case["op"])]
    return "\n".join(lines)


def write_between(document: Path, begin: str, end: str, body: str) -> None:
    """Replace what stands between two markers of a document."""
    before, _, rest = document.read_text().partition(begin)
    _, _, after = rest.partition(end)
    document.write_text(before + begin + body + end + after)


def main() -> None:
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("ops_*.json"), reverse=True)]
    body = "\n\n".join(table(result) for result in results)
    write_between(README, BEGIN, END, f"\n\n{body}\n\n")


if __name__ == "__main__":
    main()
