"""What the live scenes saw, as a table for people, JSON for programs, and histograms."""

from __future__ import annotations

import json
import statistics
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from bench.live import CatchUp, Idle, Live, Pushes, quantile
from bench.report import GRID, INK, QUIET

RATIO_MAX = 2.0
SOCKET_KB_MAX = 20.0
ANSWERED, DELIVERED, FAR = "#9ca3af", "#2563eb", "#0d9488"


class Results:
    """All that one run saw."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.live: list[Live] = []
        self.idle: Idle | None = None
        self.catch_up: CatchUp | None = None
        self.pushes: list[Pushes] = []


class Kind(NamedTuple):
    """Rounds of the live scene under the same conditions."""

    name: str
    rounds: list[Live]

    def median(self, *path: str | float) -> float:
        """Over the rounds, of a field, or of a quantile of a list."""
        field, *share = path
        values = (getattr(each, str(field)) for each in self.rounds)
        return statistics.median(quantile(value, float(share[0])) if share else value for value in values)


def kinds(results: Results) -> list[Kind]:
    """The live scenes, those of one kind together."""
    return [Kind(name, list(rounds)) for name, rounds in groupby(results.live, key=lambda each: each.name)]


def live_tables(results: Results) -> list[str]:
    """Times of writes, and what they cost."""
    lines = [
        "| | writes /s | answered ms | delivered ms | ratio of p50 | target | same worker ms | another worker ms |",
        "| --- | ---: | ---: | ---: | ---: | --- | ---: | ---: |",
    ]
    costs = ["| | Roost µs | PostgreSQL µs | devices µs |", "| --- | ---: | ---: | ---: |"]
    for kind in kinds(results):
        times = [
            f"{kind.median(field, 0.5):.2f} · {kind.median(field, 0.99):.1f}"
            for field in ("answered", "delivered", "near", "far")
        ]
        if not any(each.far for each in kind.rounds):
            times[3] = "–"
        ratio = kind.median("ratio")
        verdict = "reached" if ratio <= RATIO_MAX else "missed"
        target = f"{RATIO_MAX:g} {verdict}" if kind.rounds[0].notify else "–"
        lines.append(
            f"| {kind.name} | {kind.median('rate'):,.0f} | {times[0]} | {times[1]} | **{ratio:.2f}** | {target} "
            f"| {times[2]} | {times[3]} |"
        )
        cells = " | ".join(f"{kind.median(field):.0f}" for field in ("server_us", "postgres_us", "load_us"))
        costs.append(f"| {kind.name} | {cells} |")
    return [
        *("Times are p50 · p99.", ""),
        *lines,
        *("", "Processor time a write, with its answer and two deliveries:", ""),
        *costs,
    ]


def idle_lines(idle: Idle) -> list[str]:
    """What a WebSocket takes."""
    rss, pss = idle.kb
    verdict = "reached" if rss < SOCKET_KB_MAX else "missed"
    worker = f"{idle.before.rss:.0f} → {idle.after.rss:.0f}"
    rate = idle.sockets / idle.seconds
    return [
        "| idle WebSockets | RSS each, kB | PSS each, kB | target | worker before → with them, MB | connected /s |",
        "| ---: | ---: | ---: | --- | ---: | ---: |",
        f"| {idle.sockets:,} | **{rss:.1f}** | {pss:.1f} | < {SOCKET_KB_MAX:g} {verdict} | {worker} | {rate:,.0f} |",
    ]


def catch_up_lines(catch_up: CatchUp) -> list[str]:
    """How fast a device reads what it missed."""
    most = catch_up.rates["SELECT"]
    lines = [f"| {catch_up.events:,} events behind, by | events /s | of SELECT |", "| --- | ---: | ---: |"]
    lines += [f"| {way} | {rate:,.0f} | {rate / most:.2f} |" for way, rate in catch_up.rates.items()]
    return lines


def pushes_lines(pushes: list[Pushes]) -> list[str]:
    """How fast mutations come through."""
    lines = ["| mutations a push | mutations /s | p50 · p99 of a push, ms |", "| ---: | ---: | ---: |"]
    return lines + [f"| {it.batch} | {it.rate:,.0f} | {it.p50_ms:.1f} · {it.p99_ms:.1f} |" for it in pushes]


def write(folder: Path, results: Results) -> str:
    """Write live.md, live.json and live.png to `folder`; returns the text of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    assert results.idle
    assert results.catch_up
    parts = [
        [f"- {note}" for note in results.notes],
        live_tables(results),
        idle_lines(results.idle),
        catch_up_lines(results.catch_up),
        pushes_lines(results.pushes),
    ]
    text = "# Live\n\n" + "\n\n".join("\n".join(part) for part in parts) + "\n"
    (folder / "live.md").write_text(text)
    everything: dict[str, Any] = {
        "notes": results.notes,
        "live": [_figures(each) for each in results.live],
        "idle": results.idle._asdict(),
        "catch_up": results.catch_up._asdict(),
        "pushes": [each._asdict() for each in results.pushes],
    }
    (folder / "live.json").write_text(json.dumps(everything, indent=1))
    plot(folder / "live.png", kinds(results))
    return text


def _figures(scene: Live) -> dict[str, Any]:
    """Lists of thousands of times as quantiles."""
    times = {
        name: {str(share): round(quantile(values, share), 3) for share in (0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 1)}
        for name, values in (
            ("answered", scene.answered),
            ("delivered", scene.delivered),
            ("near", scene.near),
            ("far", scene.far),
        )
    }
    return {**scene._asdict(), **times}


def plot(path: Path, scenes: list[Kind]) -> None:
    """For each kind of scene a histogram of times: answered, delivered by the same worker, and by another."""
    import matplotlib as mpl  # noqa: PLC0415 - so that a failing bench needs no plotting

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    plt.rcParams.update({"font.size": 9, "axes.edgecolor": QUIET, "text.color": INK, "axes.labelcolor": INK})
    figure, axes = plt.subplots(1, len(scenes), figsize=(13, 3.8), layout="constrained", squeeze=False)
    for axis, kind in zip(axes[0], scenes, strict=True):
        times = {
            field: [time for each in kind.rounds for time in getattr(each, field)]
            for field in ("answered", "near", "far", "delivered")
        }
        most = quantile(sorted(times["delivered"]), 0.995) * 1.05
        shape: dict[str, Any] = {"bins": 80, "range": (0, most)}
        axis.hist(times["answered"], **shape, color=ANSWERED, alpha=0.55, label="answered")
        label = "delivered" if not times["far"] else "delivered, same worker"
        axis.hist(times["near"], **shape, histtype="step", linewidth=1.6, color=DELIVERED, label=label)
        if times["far"]:
            label = "delivered, another worker"
            axis.hist(times["far"], **shape, histtype="step", linewidth=1.6, color=FAR, label=label)
        for field, colour, line in (("answered", QUIET, ":"), ("delivered", INK, ":"), ("delivered", INK, "--")):
            share = 0.99 if line == "--" else 0.5
            at = kind.median(field, share)
            axis.axvline(at, color=colour, linestyle=line, linewidth=1)
        axis.set_title(
            f"{kind.name}: p50 {kind.median('answered', 0.5):.1f} → {kind.median('delivered', 0.5):.1f} ms "
            f"(× {kind.median('ratio'):.2f}), p99 {kind.median('delivered', 0.99):.0f} ms",
            loc="left",
            fontsize=9,
        )
        axis.set_xlabel("ms since a write was sent (dotted: p50; dashed: p99 of delivered)")
        axis.set_yticks([])
        axis.set_xlim(0, most)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.grid(axis="x", color=GRID)
        axis.set_axisbelow(True)
        axis.legend(frameon=False, loc="upper right")
    figure.savefig(path, dpi=150)
    plt.close(figure)
