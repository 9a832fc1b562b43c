"""report.html: one page with plots that opens without a network."""

import html
import json
import math

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 520, 280, 56, 40, 10

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Self-play fine-tuning: quickstart report</title>
<style>
:root {{ color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --grid: #d8dde3;
  --a: #0b62c4; --b: #c2410c; --c: #15803d; --soft: #f4f6f8; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e6eaee; --paper: #14171a; --grid: #3a4149;
  --a: #6cb2ff; --b: #ff9d66; --c: #6fd694; --soft: #1e2327; }} }}
body {{ font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.2rem; margin-top: 2.2rem; }}
.plots {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
figure {{ margin: 0; background: var(--soft); border-radius: 8px; padding: .8rem; }}
figcaption {{ font-weight: 600; margin-bottom: .3rem; }}
.legend span {{ margin-right: 1.2rem; font-size: .85rem; }}
.legend i {{ display: inline-block; width: 14px; height: 4px; margin-right: .4rem;
  vertical-align: middle; }}
svg {{ max-width: 100%; height: auto; }} svg text {{ fill: var(--ink); font-size: 12px; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .5rem; font-size: .9rem; border-bottom: 1px solid var(--grid); text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
.wide {{ overflow-x: auto; }} code {{ font-size: .85em; }}
pre {{ background: var(--soft); padding: .8rem; border-radius: 8px; overflow-x: auto; }}
</style></head><body>
<h1>Self-play fine-tuning: quickstart report</h1>
<p>{intro}</p>
<h2>Exact match</h2><div class="plots">{match_plots}</div>
<h2>Iterations</h2><div class="wide">{table}</div>
<h2>Training</h2><div class="plots">{train_plots}</div>
<h2>Pairs of the last iteration</h2><p>Human answer beside the opponent's, with their
log-probabilities under the opponent.</p><div class="wide">{pairs}</div>
<h2>Settings</h2><pre>{settings}</pre>
<h2>Digests</h2><p>The same seed gives the same digests, whatever the number of generators and
whoever died on the way.</p><div class="wide">{digests}</div>
</body></html>
"""


def ticks(low, high, count=5):
    """Round numbers from low to high, about `count` of them."""
    rough = (high - low) / count or 1.0
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def label(value):
    return f"{value:.3g}"


class Plot:
    """Axes with a title, drawn as SVG."""

    def __init__(self, title, x_label, y_label, x_range, y_range, percent=False):
        self.title, self.x_label, self.y_label = title, x_label, y_label
        self.x_range, self.y_range, self.percent = x_range, y_range, percent
        self.marks, self.legend = [], []

    def x(self, value):
        low, high = self.x_range
        return LEFT + (value - low) / ((high - low) or 1) * (WIDTH - LEFT - 12)

    def y(self, value):
        low, high = self.y_range
        share = (value - low) / ((high - low) or 1)
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    def line(self, points, colour, name, dots=False):
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self.marks.append(
            f'<polyline points="{path}" fill="none" stroke="var(--{colour})" stroke-width="2"/>'
        )
        if dots:
            for x, y in points:
                self.marks.append(
                    f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="3.5" '
                    f'fill="var(--{colour})"/>'
                )
        self.legend.append((colour, name))

    def interval(self, x, low, high, colour):
        self.marks.append(
            f'<line x1="{self.x(x):.1f}" x2="{self.x(x):.1f}" y1="{self.y(low):.1f}" '
            f'y2="{self.y(high):.1f}" stroke="var(--{colour})" stroke-width="2"/>'
        )

    def level(self, y, colour, name):
        self.marks.append(
            f'<line x1="{LEFT}" x2="{WIDTH - 12}" y1="{self.y(y):.1f}" y2="{self.y(y):.1f}" '
            f'stroke="var(--{colour})" stroke-width="1.5" stroke-dasharray="6 4"/>'
        )
        self.legend.append((colour, name))

    def axes(self):
        parts = []
        for value in ticks(*self.y_range):
            text = f"{100 * value:.0f} %" if self.percent else label(value)
            parts.append(
                f'<line x1="{LEFT}" x2="{WIDTH - 12}" y1="{self.y(value):.1f}" '
                f'y2="{self.y(value):.1f}" stroke="var(--grid)"/>'
                f'<text x="{LEFT - 6}" y="{self.y(value) + 4:.1f}" text-anchor="end">{text}</text>'
            )
        for value in ticks(*self.x_range, count=min(6, max(1, self.x_range[1] - self.x_range[0]))):
            parts.append(
                f'<text x="{self.x(value):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">'
                f"{label(value)}</text>"
            )
        parts.append(
            f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
            f"{html.escape(self.x_label)}</text>"
            f'<text x="14" y="{HEIGHT / 2}" text-anchor="middle" '
            f'transform="rotate(-90 14 {HEIGHT / 2})">{html.escape(self.y_label)}</text>'
        )
        return parts

    def svg(self):
        legend = "".join(
            f'<span><i style="background: var(--{colour})"></i>{html.escape(name)}</span>'
            for colour, name in self.legend
        )
        return (
            f"<figure><figcaption>{html.escape(self.title)}</figcaption>"
            f'<div class="legend">{legend}</div>'
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" '
            f'aria-label="{html.escape(self.title)}">{"".join(self.axes() + self.marks)}</svg>'
            "</figure>"
        )


def table(headers, rows):
    head = "".join(f"<th>{html.escape(h)}</th>" for h in headers)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def number(value, form):
    return "-" if value is None else format(value, form)


def match_plot(summary, key, title, wilson):
    n = summary["eval_n"]
    values = [summary["base"][key]] + [row[key] for row in summary["iterations"]]
    if None in values:
        return ""
    baseline = summary["sft_continued"][key]
    low = max(0.0, min(values + [baseline]) - 0.1)
    high = min(1.0, max(values + [baseline]) + 0.1)
    plot = Plot(title, "iterations of self-play (0: base)", "exact match", (0, len(values) - 1),
                (low, high), percent=True)
    plot.line(list(enumerate(values)), "a", "self-play, 95 % interval", dots=True)
    for i, value in enumerate(values):
        plot.interval(i, *wilson(value, n), "a")
    plot.level(baseline, "b", "continued SFT, as many trained tokens")
    return plot.svg()


def step_plot(steps, key, title, y_label):
    points = [(i + 1, step[key]) for i, step in enumerate(steps) if step.get(key) is not None]
    if len(points) < 2:
        return ""
    ys = [y for _, y in points]
    low, high = min(ys), max(ys)
    pad = (high - low) * 0.08 or 0.1
    plot = Plot(title, "optimizer step, iterations one after the other", y_label,
                (1, points[-1][0]), (low - pad, high + pad))
    plot.line(points, "a", y_label)
    return plot.svg()


def rewards_plot(steps):
    rows = [s for s in steps if s.get("reward_real") is not None]
    if len(rows) < 2:
        return ""
    ys = [s["reward_real"] for s in rows] + [s["reward_generated"] for s in rows]
    plot = Plot("Rewards", "optimizer step, iterations one after the other",
                "β × change of log-probability", (1, len(rows)), (min(ys), max(ys)))
    plot.line([(i + 1, s["reward_real"]) for i, s in enumerate(rows)], "c", "human answer")
    plot.line([(i + 1, s["reward_generated"]) for i, s in enumerate(rows)], "b", "opponent's answer")
    return plot.svg()


def all_steps(cluster, summary):
    steps = []
    for row in summary["iterations"]:
        for line in cluster.spinctl("steps", "spin", "--iteration", row["iteration"])["steps"]:
            steps.append(line)
    return steps


def write(path, cluster, summary):
    from main import wilson

    steps = all_steps(cluster, summary)
    iterations = summary["iterations"]
    pairs = cluster.spinctl_lines(
        "pairs", "spin", "--iteration", iterations[-1]["iteration"], "--jsonl", "--limit", 5
    )
    settings = cluster.spinctl("settings", "spin")["settings"]
    n = summary["eval_n"]
    rows = [
        (
            row["iteration"],
            number(row["exact_match"], ".1%"),
            number(row["sampled_exact_match"], ".1%"),
            number(row["loss_first_step"], ".6f"),
            number(row["margin_abs_max_first_step"], ".1e"),
            number(row["loss_last_step"], ".4f"),
            number(row["margin_last"], ".3f"),
            number(row["holdout_accuracy"], ".3f"),
            number(row["identical_share"], ".1%"),
            row["pairs"],
            row["train_tokens"],
            row["generated_tokens"],
            number(row["seconds"], ".1f"),
            row["verdict"],
        )
        for row in iterations
    ]
    base, sft = summary["base"], summary["sft_continued"]
    intro = (
        f"Seed {summary['seed']}, {summary['generators']} generators, {summary['seconds']:.0f} s in "
        f"all. Greedy exact match on {n} problems: base {base['exact_match']:.1%}, self-play "
        f"{iterations[-1]['exact_match']:.1%}, continued SFT with as many trained tokens "
        f"{sft['exact_match']:.1%}."
    )
    page = PAGE.format(
        intro=html.escape(intro),
        match_plots=match_plot(summary, "exact_match", "Greedy", wilson)
        + match_plot(summary, "sampled_exact_match", "Sampled, temperature 1", wilson),
        table=table(
            "iteration|greedy|sampled|first loss|largest first margin|last loss|last margin|"
            "held-out accuracy|identical pairs|pairs|trained tokens|generated tokens|seconds|"
            "verdict".split("|"),
            rows,
        ),
        train_plots=step_plot(steps, "loss", "Loss", "loss")
        + step_plot(steps, "margin", "Margin", "mean margin")
        + rewards_plot(steps)
        + step_plot(steps, "logp_real_change", "Human answers",
                    "change of log-probability, nats"),
        pairs=table(
            ["prompt", "human", "generated", "log p human", "log p generated"],
            [
                (p.get("prompt_text"), p.get("real_text"), p.get("generated_text"),
                 number(p.get("ref_real"), ".3f"), number(p.get("ref_generated"), ".3f"))
                for p in pairs
            ],
        ),
        settings=html.escape(json.dumps(settings, indent=1, sort_keys=True)),
        digests=table(
            ["iteration", "checkpoint", "pairs"],
            [(r["iteration"], r["checkpoint_sha256"], r["pairs_sha256"]) for r in iterations],
        ),
    )
    path.write_text(page, encoding="utf-8")
