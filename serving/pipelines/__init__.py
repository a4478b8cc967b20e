"""Several models for one answer, by one YAML: detect, crop, embed, match. docs/pipelines.md."""

from __future__ import annotations

from serving.pipelines.model import PipelineModel
from serving.pipelines.plan import Part, Plan

__all__ = ["Part", "PipelineModel", "Plan"]
