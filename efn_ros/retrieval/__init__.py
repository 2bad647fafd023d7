# SPDX-License-Identifier: MIT
"""Retrieval of stored steps: instruction filter (17), similarity (32) (35) (37) (38), ranking (18), sampling (19)."""

from efn_ros.retrieval.config import RetrievalConfig
from efn_ros.retrieval.retriever import Retriever

__all__ = ["RetrievalConfig", "Retriever"]
