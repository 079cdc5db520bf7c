"""Models as TFLite: conversion, and an interpreter that keeps all cores busy."""

from tfkit.lite.convert import to_tflite
from tfkit.lite.interpreter import ParallelInterpreter

__all__ = ["ParallelInterpreter", "to_tflite"]
