"""Labelled tasks: where they come from, what they must hold, how classifiers are scored on them."""

from cka_tools.tasks.task import Example, Task, read_task

__all__ = ["Example", "Task", "read_task"]
