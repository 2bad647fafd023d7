# SPDX-License-Identifier: MIT
"""The contact sheet of a rollout: its camera images, and the base action beside the executed one."""

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
    """Draw the contact sheet as PNG.

    Raises:
        BankCorruptionError: The payload is damaged.
    """
    content, arrays, record = rollout.content(), rollout.arrays, rollout.record
    cameras, size = rollout.cameras(), arrays.executed.shape[2]
    frames = np.unique(np.linspace(0, len(arrays.steps) - 1, FRAMES).round().astype(int))
    plots = -(-size // PLOTS_A_ROW)
    heights = [1.6] * len(cameras) + [1.5] * plots
    figure = plt.figure(figsize=(13, sum(heights) + 0.7), constrained_layout=True)
    grid = figure.add_gridspec(len(heights), FRAMES * PLOTS_A_ROW, height_ratios=heights)
    for line, camera in enumerate(cameras):
        for column, row in enumerate(frames):
            axis = figure.add_subplot(grid[line, column * PLOTS_A_ROW : (column + 1) * PLOTS_A_ROW])
            axis.imshow(decode_image(content, int(row), camera))
            axis.set_axis_off()
            axis.set_title(f"{camera}, {arrays.steps[row]}" if column == 0 else str(arrays.steps[row]), fontsize=8)
    for dimension in range(size):
        line, column = divmod(dimension, PLOTS_A_ROW)
        axis = figure.add_subplot(grid[len(cameras) + line, column * FRAMES : (column + 1) * FRAMES])
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
        f"{record.decisions} decisions in {record.length} control steps; the first action of each decision",
        fontsize=9,
    )
    save(figure, path)
