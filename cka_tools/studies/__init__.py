"""One file that names models, corpora and analyses → a folder of runs, each made once."""

from cka_tools.studies.run_study import Outcome, StudyRun, study

__all__ = ["Outcome", "StudyRun", "study"]
