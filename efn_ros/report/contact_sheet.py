"""One rollout on one page: what its cameras saw, and what the policy said beside what was executed."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from efn_ros.bank.format.codec import decode_image
from efn_ros.bank.store.filters import date_of
from efn_ros.bank.store.rollout import StoredRollout
from efn_ros.report.figures import BASE_COLOR, MEMORY_COLOR, save

FRAMES = 8  # of each camera
PLOTS_A_ROW = 4


def contact_sheet(rollout: StoredRollout, path: Path) -> None:
    """Write it as PNG. Raises BankCorruptionError for a payload that is not what was written."""
    content, arrays, record = rollout.content(), rollout.arrays, rollout.record
    cameras, size = rollout.cameras(), arrays.executed.shape[2]
    shown = np.unique(np.linspace(0, len(arrays.steps) - 1, FRAMES).round().astype(int))
    plots = -(-size // PLOTS_A_ROW)
    heights = [1.6] * len(cameras) + [1.5] * plots
    figure = plt.figure(figsize=(13, sum(heights) + 0.7), constrained_layout=True)
    grid = figure.add_gridspec(len(heights), FRAMES * PLOTS_A_ROW, height_ratios=heights)
    for line, camera in enumerate(cameras):
        for place, row in enumerate(shown):
            axis = figure.add_subplot(grid[line, place * PLOTS_A_ROW : (place + 1) * PLOTS_A_ROW])
            axis.imshow(decode_image(content, int(row), camera))
            axis.set_axis_off()
            axis.set_title(f"{camera}, {arrays.steps[row]}" if place == 0 else str(arrays.steps[row]), fontsize=8)
    for dimension in range(size):
        line, place = divmod(dimension, PLOTS_A_ROW)
        axis = figure.add_subplot(grid[len(cameras) + line, place * FRAMES : (place + 1) * FRAMES])
        axis.plot(arrays.steps, arrays.base[:, 0, dimension], color=BASE_COLOR, label="base")
        axis.plot(arrays.steps, arrays.executed[:, 0, dimension], color=MEMORY_COLOR, lw=1, label="executed")
        axis.set_title(f"action {dimension}", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.ticklabel_format(useOffset=False)
        if dimension == 0:
            axis.legend(frameon=False, fontsize=7)
    outcome = record.outcome.name.lower()
    figure.suptitle(
        f"{record.id}: {record.instruction} ({record.task}, {outcome})\n{record.robot}, {date_of(record)} UTC, "
        f"{record.decisions} decisions in {record.length} control steps, of each the first action",
        fontsize=9,
    )
    save(figure, path)
