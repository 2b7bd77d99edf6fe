"""Labelled tasks: where they come from, what they must hold, how classifiers are scored on them."""

from cka_tools.tasks.read_task import read_task
from cka_tools.tasks.task import Example, Task

__all__ = ["Example", "Task", "read_task"]
