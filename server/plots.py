"""The plots of a release, and of a forecast: files that follow from their figures, byte for byte.

Drawn with matplotlib's objects, never with pyplot, whose figures are state of the whole process.
Text stays text in a generic family, so that a reader's own fonts and search work. Colours are Okabe
and Ito's, which people with any colour vision tell apart; lines differ in their dashes too.
`COLOURS` names them, so that `server/report.py` can replace them with those of a dark page.
"""

from __future__ import annotations

import functools
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from server.card import rounded_up

__all__ = ["COLOURS", "draw_costs", "draw_plots"]

COLOURS: Mapping[str, str] = {
    "ink": "#1f2a37",
    "quiet": "#5b6776",
    "rule": "#d5dbe3",
    "first": "#0072b2",
    "second": "#d55e00",
}
"""Every colour that a plot uses, by what it is for."""

_Dashes = str | tuple[int, tuple[int, int]]

_SALT = "discreet"
_STYLE: Mapping[Any, Any] = {
    "svg.hashsalt": _SALT,  # identifiers follow from content, not from a random number
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the layout is the same everywhere
    "font.size": 9,
    "axes.edgecolor": COLOURS["rule"],
    "axes.labelcolor": COLOURS["quiet"],
    "axes.titlecolor": COLOURS["ink"],
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlepad": 24,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": COLOURS["rule"],
    "grid.linewidth": 0.6,
    "xtick.color": COLOURS["quiet"],
    "ytick.color": COLOURS["quiet"],
    "ytick.left": False,
    "text.color": COLOURS["ink"],
    "legend.frameon": False,
    "legend.labelcolor": COLOURS["quiet"],
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "text.parse_math": False,  # a dollar sign is a dollar sign
}
_SIZE = (6.6, 3.3)
_METADATA = {
    "svg": ("Date", "Creator", "Format", "Type"),
    "png": ("Software",),
}  # left out: equal figures, equal bytes
_DASHED: _Dashes = (0, (5, 2))
_MOST_POINTS = 400  # more cannot be told apart at this width, and a file of a million is no use

History = Sequence[Mapping[str, Any]]
Summary = Mapping[str, Any]
Numbers = npt.NDArray[np.float64]
_Draw = Callable[[Axes, History, Summary], None]


class _Series(NamedTuple):
    rounds: Numbers
    values: Numbers


def draw_plots(history: History, summary: Summary, directory: Path) -> list[Path]:
    """Write the plots of one run as SVG files and return their paths, the most telling first.

    **Guarantees.** Equal arguments give equal bytes. Nothing is written but these files.

    | plot          | shows                                             | left out when           |
    |---------------|---------------------------------------------------|-------------------------|
    | `loss.svg`    | the training signal: every round, and smoothed    | never                   |
    | `metric.svg`  | accuracy and F1, or R², of the simulator          | never                   |
    | `epsilon.svg` | what so many declared rounds cost, and the total  | trust is `unsafe`       |
    | `sites.svg`   | sites that answered                               | nobody was ever missing |

    A plot without a single value says so.

    Arguments:
        history: the lines of `history.jsonl`.
        summary: the content of `summary.json`.
        directory: made if it does not exist; files of these names are replaced.
    """
    plots: dict[str, _Draw] = {
        "loss": _draw_loss,
        "metric": _draw_metric,
    }
    if summary.get("trust") != "unsafe":
        plots["epsilon"] = _draw_epsilon
    if any(line.get("missing") or line.get("abandoned") for line in history):
        plots["sites"] = _draw_sites
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, draw in plots.items():
        path = directory / f"{name}.svg"
        path.write_text(_svg(draw, history, summary), encoding="utf-8", newline="\n")
        paths.append(path)
    return paths


def draw_costs(costs: Sequence[float | None], total: float, path: Path) -> None:
    """Write one plot: what so many declared rounds would cost, and the total. SVG, or PNG if the path ends so.

    Arguments:
        costs: epsilon of 1, 2, ... rounds; None where there is no bound.
        total: epsilon of the whole study.
        path: replaced if it exists.
    """
    history = [{"round": number, "epsilon": cost} for number, cost in enumerate(costs, start=1)]
    summary = {"epsilon": total, "rounds_declared": len(costs)}
    if path.suffix.lower() == ".png":
        path.write_bytes(_rendered(_draw_epsilon, history, summary, "png"))
    else:
        path.write_text(_svg(_draw_epsilon, history, summary), encoding="utf-8", newline="\n")


def _rendered(
    draw: _Draw, history: History, summary: Summary, kind: Literal["svg", "png"]
) -> bytes:
    with mpl.rc_context():
        mpl.rcdefaults()  # not the reader's own matplotlibrc
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=_SIZE, layout="constrained")
        draw(figure.add_subplot(), history, summary)
        out = io.BytesIO()
        none = dict.fromkeys(_METADATA[kind])
        clear = kind == "svg"  # on any page's ground; a PNG brings its own
        figure.savefig(out, format=kind, metadata=none, dpi=200, transparent=clear)
    return out.getvalue()


def _svg(draw: _Draw, history: History, summary: Summary) -> str:
    text = _rendered(draw, history, summary, "svg").decode()
    text = re.sub(r"<!DOCTYPE.*?>\s*", "", text, count=1, flags=re.DOTALL)  # an address
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    return text.replace("'DejaVu Sans'", "system-ui").replace("DejaVu Sans", "system-ui")


def _draw_loss(axes: Axes, history: History, summary: Summary) -> None:
    loss = _series(history, lambda line: line.get("loss"))
    exact = summary.get("trust") == "unsafe"
    axes.set_title("Training loss" if exact else "Training loss: private, therefore noisy")
    if not loss.values.size:
        _say_nothing(axes, "No training loss was learnt in this run.")
        return
    if exact:
        _line(axes, loss, label="exact, no privacy")
        _use_logarithm(axes, loss.values)
    else:
        smooth = _Series(loss.rounds, _smoothed(loss.values))
        outside = _focus(axes, loss.values, smooth.values)
        note = f"; {outside} beyond the frame" if outside else ""
        _dots(axes, loss, label=f"each round, as the noise left it{note}")
        _line(axes, smooth, label="smoothed")
    _finish(axes, "mean loss")


def _draw_metric(axes: Axes, history: History, summary: Summary) -> None:
    names = _metric_names(history)
    axes.set_title("Quality, measured by the simulator")
    if not names:
        _say_nothing(axes, "No metrics were measured during this run.")
        return
    looks = (("first", "-", "o"), ("second", _DASHED, "s"))
    for (name, label), (colour, dashes, marker) in zip(names.items(), looks, strict=False):
        values = _series(history, functools.partial(_metric, name))
        few = len(values.rounds) <= 30
        _line(axes, values, label=label, colour=colour, dashes=dashes, marker=marker if few else "")
        _clip_below(axes, values.values)
    _finish(axes, str(summary.get("metrics_on") or ""))


def _draw_epsilon(axes: Axes, history: History, summary: Summary) -> None:
    cost = _series(history, lambda line: line.get("epsilon"))
    total, declared = _number(summary.get("epsilon")), _number(summary.get("rounds_declared"))
    axes.set_title("Privacy cost ε")
    if not cost.values.size and total is None:
        _say_nothing(axes, "There is no bound on ε in this run.")
        return
    if cost.values.size:
        exact = np.append(np.diff(cost.values) > 0, True)  # of an upper step, its right end
        drawn = _Series(cost.rounds[exact], cost.values[exact])
        _line(axes, drawn, label="had only so many rounds been declared")
    if total is not None:
        axes.axhline(
            total, color=COLOURS["second"], linestyle=_DASHED, linewidth=1.6,
            label=f"the guarantee: {rounded_up(total)}",
        )  # fmt: skip
    if declared:
        axes.set_xlim(0, declared * 1.02)
    axes.set_ylim(bottom=0)
    _finish(axes, "ε")


def _draw_sites(axes: Axes, history: History, summary: Summary) -> None:
    answered = _series(history, lambda line: line.get("survivors"))
    gone = _series(history, lambda line: line.get("survivors") if line.get("abandoned") else None)
    sites = _number(summary.get("sites"))
    axes.set_title("Sites that answered")
    if not answered.values.size:
        _say_nothing(axes, "It was not recorded who answered.")
        return
    axes.step(
        answered.rounds, answered.values, where="mid", color=COLOURS["first"], label="answered"
    )
    if sites:
        axes.axhline(sites, color=COLOURS["quiet"], linestyle=":", linewidth=1.2, label="all sites")
    if gone.values.size:
        axes.plot(
            gone.rounds, gone.values, "X", color=COLOURS["second"], markersize=7, label="abandoned"
        )
    axes.set_ylim(0, max(sites or 0, float(answered.values.max())) * 1.12)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    _finish(axes, "sites")


def _series(history: History, value: Callable[[Mapping[str, Any]], Any]) -> _Series:
    """Collect what `value` finds in each line, and its round, where it is a finite number."""
    pairs = [
        (float(line.get("round", line.get("query", index))), number)
        for index, line in enumerate(history)
        if (number := _number(value(line))) is not None
    ]
    rounds, values = zip(*pairs, strict=True) if pairs else ((), ())
    return _Series(np.asarray(rounds, dtype=np.float64), np.asarray(values, dtype=np.float64))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _metric(name: str, line: Mapping[str, Any]) -> object:
    return (line.get("metrics") or {}).get(name)


def _metric_names(history: History) -> dict[str, str]:
    found = {name for line in history for name in (line.get("metrics") or {})}
    if "accuracy" in found:
        names = {"accuracy": "accuracy", "f1": "F1"}
    else:
        names = {"r2": "R²"} if "r2" in found else {"mse": "mean squared error"}
    return {name: label for name, label in names.items() if name in found}


def _smoothed(values: Numbers) -> Numbers:
    """Average over a tenth of the rounds: centred, narrow at the start, one-sided at the end."""
    half = max(2, len(values) // 20)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    reach = np.minimum(half, at)
    end = np.minimum(at + reach + 1, len(values))
    averages: Numbers = (sums[end] - sums[at - reach]) / (end - (at - reach))
    return averages


def _focus(axes: Axes, raw: Numbers, smooth: Numbers) -> int:
    """Frame what matters, so that no wild dot flattens the rest; return how many lie beyond."""
    low, high = np.percentile(raw, [2, 98])
    low, high = min(low, smooth.min()), max(high, smooth.max())
    margin = 0.15 * (high - low) or 0.1 * abs(high) or 1.0
    axes.set_ylim(low - margin, high + margin)
    return int(np.count_nonzero((raw < low - margin) | (raw > high + margin)))


def _use_logarithm(axes: Axes, values: Numbers) -> None:
    if values.min() > 0 and values.max() / values.min() > 50:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())


def _clip_below(axes: Axes, values: Numbers) -> None:
    """R² falls without limit before training; nothing is to be learnt from it below -1."""
    if values.size and values.min() < -1 < values.max():
        axes.set_ylim(bottom=-1.05)


def _thinned(series: _Series) -> _Series:
    if not len(series.rounds):
        return series
    step = max(1, -(-len(series.rounds) // _MOST_POINTS))
    last = len(series.rounds) - 1
    keep = np.unique(np.append(np.arange(0, last + 1, step), last))
    return _Series(series.rounds[keep], series.values[keep])


def _dots(axes: Axes, series: _Series, *, label: str) -> None:
    few = _thinned(series)
    axes.plot(
        few.rounds, few.values, "o", color=COLOURS["first"], alpha=0.5, markersize=4,
        markeredgewidth=0, label=label,
    )  # fmt: skip


def _line(
    axes: Axes,
    series: _Series,
    *,
    label: str,
    colour: str = "first",
    dashes: _Dashes = "-",
    marker: str = "",
) -> None:
    few = _thinned(series)
    lonely = "o" if len(few.rounds) == 1 else marker
    axes.plot(
        few.rounds, few.values, color=COLOURS[colour], linestyle=dashes, marker=lonely,
        markersize=3.5, label=label,
    )  # fmt: skip


def _finish(axes: Axes, ylabel: str) -> None:
    axes.set_xlabel("round")
    axes.set_ylabel(ylabel)
    axes.tick_params(length=3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))
    legend = axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, borderaxespad=0.3, columnspacing=1.4,
        handlelength=1.8, borderpad=0,
    )  # fmt: skip
    legend.set_in_layout(False)  # the title has left it room; a long one must not narrow the plot


def _say_nothing(axes: Axes, words: str) -> None:
    axes.set_axis_off()
    axes.text(
        0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=COLOURS["quiet"]
    )
