"""Tables and figures of the study."""
import re

import matplotlib
import numpy as np
from PIL import Image

import zero

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

COLUMNS = {
    "digits": {"new_loss": "loss on the new look", "new_distance": "distance to the new look", "new_agrees": "right digit",
               "new_look": "in the new look", "old_loss": "loss on the old look"},
    "shapes": {"new_loss": "loss on the new look", "new_distance": "distance to the new look",
               "new_agrees": "colour and shape as the caption says", "new_look": "in the new look", "old_loss": "loss on the old look",
               "old_distance": "distance to the old look", "old_agrees": "old captions: colour and shape right",
               "old_look": "old captions: in the old look"},
}
SHARES = ("new_agrees", "new_look", "old_agrees", "old_look")
T_975 = 2.776   # of Student's distribution with four degrees of freedom: five seeds
DRAWN = {"sara": "#d62728", "full": "#222222", "lora": "#1f77b4", "lora-all": "#17becf", "random": "#2ca02c", "largest": "#9467bd",
         "layers": "#ff7f0e"}
SHOWN = ("base", "sara", "lora", "lora-all", "random", "largest", "full")


def keep(rows, task, method, pictures):
    """A row of pictures, for the grid."""
    if pictures:
        row = np.concatenate([np.pad(p, ((1, 1), (1, 1), (0, 0)), constant_values=1) for p in pictures], axis=1)
        rows.mkdir(parents=True, exist_ok=True)
        Image.fromarray((row * 255).round().astype(np.uint8)).save(rows / f"{task}-{method}.png")


def grid(kept, task, titles, path):
    """The kept rows below each other, each with its title."""
    rows = [(title, kept / f"{task}-{name}.png") for name, title in titles.items()]
    rows = [(title, Image.open(row)) for title, row in rows if row.exists()]
    if not rows:
        return
    height = 0.62 * len(rows)
    figure, axes = plt.subplots(len(rows), 1, figsize=(9, height * (1 if task == "shapes" else 1.35)))
    for (title, image), axis in zip(rows, np.atleast_1d(axes)):
        axis.imshow(image, interpolation="nearest")
        axis.set_axis_off()
        axis.text(-6, image.height / 2, title, ha="right", va="center", fontsize=8)
    figure.subplots_adjust(left=0.16, right=1, top=1, bottom=0, hspace=0.04)
    figure.savefig(path, dpi=140, metadata={"Software": None})
    plt.close(figure)


def of(rows, task, method, trial, column):
    """Values by seed."""
    return {r["seed"]: r[column] for r in rows if (r["task"], r["method"]) == (task, method) and r["seed"] != trial and column in r}


def written(values, share):
    values = 100 * np.array(list(values)) if share else np.array(list(values))
    if not len(values):
        return "–"
    spread = values.std(ddof=1) if len(values) > 1 else 0
    return f"{values.mean():.0f} ± {spread:.0f} %" if share else f"{values.mean():.4f} ± {spread:.4f}"


def table(rows, methods, trial, task):
    columns = COLUMNS[task]
    lines = ["| method | values that train | learning rate | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 3) + "|"]
    for name in ("base", *methods):
        one = next((r for r in rows if (r["task"], r["method"]) == (task, name) and r["seed"] != trial), None)
        if one:
            title = "before" if name == "base" else methods[name].title
            cells = [written(of(rows, task, name, trial, c).values(), c in SHARES) for c in columns]
            lines.append(" | ".join([f"| {title}", f"{one['trained']:_}".replace("_", " "), f"{one['rate']:g}", *cells]) + " |")
    return "\n".join(lines)


def against(rows, methods, trial):
    """Differences to SaRA by seed, with their 95 % confidence intervals."""
    columns = {"digits": ("new_loss", "new_agrees", "old_loss"), "shapes": ("new_loss", "new_agrees", "old_loss", "old_agrees")}
    heads = [f"{t}: {COLUMNS[t][c]}" for t in columns for c in columns[t]]
    lines = ["| method less SaRA | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name in (m for m in methods if m != "sara"):
        cells = []
        for task in columns:
            for column in columns[task]:
                ours, theirs = (of(rows, task, m, trial, column) for m in ("sara", name))
                d = np.array([theirs[s] - ours[s] for s in ours if s in theirs])
                if len(d) < 2:
                    cells.append("–")
                    continue
                scale, form = (100, "{:+.0f} ± {:.0f} %") if column in SHARES else (1, "{:+.4f} ± {:.4f}")
                cells.append(form.format(scale * d.mean(), scale * T_975 * d.std(ddof=1) / len(d) ** 0.5))
        lines.append(f"| {methods[name].title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def zeroing(rows):
    """What is left of the models when weights are set to zero."""
    heads = ["digits: loss", "digits: right digit", "shapes: loss", "shapes: colour and shape right"]
    lines = ["| set to zero | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    kinds = [("base", 0.0)] + [(f"zeroed-{which}", share) for which in ("smallest", "random") for share in zero.SHARES]
    for kind, share in kinds:
        found = {r["task"]: r for r in rows if (r["method"], r["rate"], r["seed"]) == (kind, share, 1)}
        if len(found) == 2:
            title = "nothing" if kind == "base" else f"{kind.removeprefix('zeroed-')} {100 * share:g} %"
            digits, shapes = found["digits"], found["shapes"]
            lines.append(f"| {title} | {digits['old_loss']:.4f} | {100 * digits['new_agrees']:.0f} % | {shapes['old_loss']:.4f} | "
                         f"{100 * shapes['old_agrees']:.0f} % |")
    return "\n".join(lines)


def trade(rows, methods, trial, path):
    """What is learned against what is forgotten, at each learning rate that was tried."""
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.6))
    for axis, task in zip(axes, COLUMNS):
        for name, colour in DRAWN.items():
            tried = sorted((r for r in rows if (r["task"], r["method"], r["seed"]) == (task, name, trial)), key=lambda r: r["rate"])
            axis.plot([r["new_loss"] for r in tried], [r["old_loss"] for r in tried], "o-", color=colour, label=methods[name].title,
                      markersize=4, linewidth=1)
        axis.set_xlabel("loss on the new look")
        axis.set_ylabel("loss on the old look")
        axis.set_title(task)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncol=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    plt.rcParams["svg.hashsalt"] = "study"
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def tell(rows, methods, trial, kept, out):
    """Writes the figures, and the tables between the marks of study.md."""
    page = out / "study.md"
    text = page.read_text() if page.exists() else "".join(f"<!-- {n} -->\n<!-- end -->\n\n" for n in (*COLUMNS, "against", "zeroing"))
    tables = {task: table(rows, methods, trial, task) for task in COLUMNS}
    tables |= {"against": against(rows, methods, trial), "zeroing": zeroing(rows)}
    for name, content in tables.items():
        text = re.sub(rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}\n{content}\n\n{m[2]}", text, flags=re.S)
    page.write_text(text)
    trade(rows, methods, trial, out / "study" / "trade.svg")
    for task in COLUMNS:
        grid(kept, task, {m: "before" if m == "base" else methods[m].title for m in SHOWN}, out / "study" / f"{task}.png")
        titles = {f"zeroed-{which}-{share:g}": f"{which} {100 * share:g} %" for which in ("smallest", "random") for share in zero.SHARES}
        grid(kept, task, {"base": "none"} | titles, out / "study" / f"{task}-zeroed.png")
