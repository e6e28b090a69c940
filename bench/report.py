"""What the bench saw, as a table for people, JSON for programs, and a plot."""

from __future__ import annotations

import json
import os
import platform
import statistics
from pathlib import Path
from typing import NamedTuple

from bench.drivers import Measure
from bench.processes import Memory

TARGETS = {"put": 1.0, "get": 0.4}
NAMES = {"put": "PUT", "get": "strong GET", "-N": "pgbench -N", "-S": "pgbench -S"}
YARDSTICK = {"put": "-N", "get": "-S"}
INK, QUIET, GRID = "#1f2937", "#9ca3af", "#e5e7eb"
COLOURS = {"put": "#2563eb", "get": "#0d9488"}


class Round(NamedTuple):
    """One turn: each of put, get, -N and -S once, one after the other."""

    measures: dict[str, Measure]


class Scene(NamedTuple):
    """Rounds under the same conditions, and the memory of each worker after them."""

    documents: int
    workers: int
    rounds: list[Round]
    memory: list[Memory]

    def median(self, kind: str, field: str) -> float:
        """Over the rounds."""
        return statistics.median(float(getattr(each.measures[kind], field)) for each in self.rounds)

    def ratio(self, action: str) -> float:
        """Median, over the rounds, of Roost's rate to that of its yardstick in the same round."""
        return statistics.median(
            each.measures[action].rate / each.measures[YARDSTICK[action]].rate for each in self.rounds
        )


def machine() -> str:
    """One line on what this ran on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = (
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        )
        model = next(named, model)
    return f"{os.cpu_count()} × {model}, {platform.system()} {platform.release()}, Python {platform.python_version()}"


def table(scenes: list[Scene]) -> list[str]:
    """Rates, ratios and times, as Markdown."""
    lines = [
        "| documents | workers | | Roost /s | pgbench /s | ratio | target | p50 · p99 ms | pgbench's |",
        "| ---: | ---: | --- | ---: | ---: | ---: | --- | ---: | ---: |",
    ]
    for scene in scenes:
        for action, target in TARGETS.items():
            other = YARDSTICK[action]
            ratio = scene.ratio(action)
            lines.append(
                f"| {scene.documents:,} | {scene.workers} | {NAMES[action]} | {scene.median(action, 'rate'):,.0f} "
                f"| {scene.median(other, 'rate'):,.0f} ({other}) | **{ratio:.2f}** "
                f"| {target} {'reached' if ratio >= target else 'missed'} "
                f"| {scene.median(action, 'p50_ms'):.1f} · {scene.median(action, 'p99_ms'):.1f} "
                f"| {scene.median(other, 'p50_ms'):.2f} · {scene.median(other, 'p99_ms'):.2f} |"
            )
    return lines


def cost_table(scenes: list[Scene]) -> list[str]:
    """Processor time of a request or transaction, by who spends it: what a busy machine disturbs least."""
    lines = [
        "| documents | workers | | Roost µs | PostgreSQL µs | load generator µs | together |",
        "| ---: | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for scene in scenes:
        for kind in ("put", "-N", "get", "-S"):
            costs = [scene.median(kind, field) for field in ("server_us", "postgres_us", "load_us")]
            cells = " | ".join(f"{cost:.0f}" for cost in (*costs, sum(costs)))
            lines.append(f"| {scene.documents:,} | {scene.workers} | {NAMES[kind]} | {cells} |")
    return lines


def memory_table(scenes: list[Scene]) -> list[str]:
    """Memory of each worker, as Markdown."""
    lines = ["| documents | workers | RSS of each, MB | PSS of each, MB |", "| ---: | ---: | --- | --- |"]
    for scene in scenes:
        rss, pss = (", ".join(f"{size:.0f}" for size in sizes) for sizes in zip(*scene.memory, strict=True))
        lines.append(f"| {scene.documents:,} | {scene.workers} | {rss} | {pss} |")
    return lines


def write(folder: Path, scenes: list[Scene], notes: list[str]) -> str:
    """Write latest.md, latest.json and latest.png to `folder`; returns the text of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(["# Roost beside pgbench", "", *(f"- {note}" for note in notes), "", *table(scenes), ""])
    text += "\n".join(["", *cost_table(scenes), "", *memory_table(scenes), ""])
    (folder / "latest.md").write_text(text)
    everything = [
        {
            "documents": scene.documents,
            "workers": scene.workers,
            "rounds": [{kind: m._asdict() for kind, m in each.measures.items()} for each in scene.rounds],
            "memory": [each._asdict() for each in scene.memory],
        }
        for scene in scenes
    ]
    (folder / "latest.json").write_text(json.dumps({"notes": notes, "scenes": everything}, indent=1))
    plot(folder / "latest.png", scenes)
    return text


def plot(path: Path, scenes: list[Scene]) -> None:
    """Left: ratio to pgbench, each round a dot, with the targets. Then rate and processor time by size."""
    import matplotlib as mpl  # noqa: PLC0415 - so that a failing bench needs no plotting

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    plt.rcParams.update({"font.size": 9, "axes.edgecolor": QUIET, "text.color": INK, "axes.labelcolor": INK})
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    most = max(scene.documents for scene in scenes if scene.workers > 1) if any(s.workers > 1 for s in scenes) else None
    compared = [scene for scene in scenes if most is None or scene.documents == most]
    for offset, action in enumerate(TARGETS):
        for place, scene in enumerate(compared):
            x = place + (offset - 0.5) * 0.38
            left.bar(
                x,
                scene.ratio(action),
                0.34,
                color=COLOURS[action],
                label=None if place else f"{NAMES[action]} ÷ {NAMES[YARDSTICK[action]]}",
            )
            left.text(
                x, scene.ratio(action) / 2, f"{scene.ratio(action):.2f}", ha="center", color="white", weight="bold"
            )
            for each in scene.rounds:
                dot = each.measures[action].rate / each.measures[YARDSTICK[action]].rate
                left.plot(x, dot, "o", color="white", markeredgecolor=INK, markersize=4)
        left.axhline(TARGETS[action], color=COLOURS[action], linestyle="--", linewidth=1)
    left.set_xticks(range(len(compared)), [f"{s.workers} worker{'s' * (s.workers > 1)}" for s in compared])
    left.set_title("Rate, as a share of pgbench's (dashed: target)", loc="left")
    left.legend(frameon=False, loc="upper right")

    flat = [scene for scene in scenes if scene.workers == 1]
    panels = (
        (middle, "rate", "Requests a second, 1 worker"),
        (right, "cost_us", "Processor time a request, µs, 1 worker"),
    )
    for axis, field, title in panels:
        for action in TARGETS:
            xs, ys = [s.documents for s in flat], [s.median(action, field) for s in flat]
            axis.plot(xs, ys, "o-", color=COLOURS[action])
            axis.annotate(
                NAMES[action],
                (xs[-1], ys[-1]),
                xytext=(0, 6),
                textcoords="offset points",
                ha="right",
                color=COLOURS[action],
            )
        axis.set_xscale("log")
        axis.set_ylim(0, None)
        axis.set_xlabel("documents")
        axis.set_title(title, loc="left")
    for axis in (left, middle, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color=GRID)
        axis.set_axisbelow(True)
        axis.margins(y=0.15)
    figure.savefig(path, dpi=150)
    plt.close(figure)
