"""Profilers: engines that run a model, the loop that times them, and what the platform tells of itself."""

from codesign.profilers.base import Engine, LayerProfiler, LoadedModel, Point, Task, TimingSettings

__all__ = ["Engine", "LayerProfiler", "LoadedModel", "Point", "Task", "TimingSettings"]
