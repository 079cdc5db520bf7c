"""LiteRT: what makes a .tflite file of a function, and an interpreter that keeps all cores busy."""

from tfkit.litert.converter import to_tflite
from tfkit.litert.interpreter import ParallelInterpreter

__all__ = ["ParallelInterpreter", "to_tflite"]
