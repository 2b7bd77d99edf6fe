"""A fact in a long document: whether the frozen encoders of the bundled family tell that it is there.

    python figures/needle.py [MODEL ...] [--corpus C] [--documents N] [--lengths L,L] [--results DIR] [--out DIR]

Draws the run that is recorded in `--results`, or makes and records it there. With no argument: the baseline, the
detour and their start on what is recorded, or on the bundled corpus, and beside them an encoder that is set by hand
to match words (`word_matcher.py`): the control that the probes find what is there.
"""

from __future__ import annotations

from pathlib import Path

import torch
from figure_files import RESULTS, parser, write
from interventions import recorded
from word_matcher import word_matcher

from cka_tools import needle
from cka_tools.bundled import bundled_data
from cka_tools.comparison.readout_results import Needle
from cka_tools.comparison.results import RunResult

MODELS = ["demo:mlm-baseline", "demo:clm-detour", "demo:theta0"]


def main() -> None:
    made = parser(__doc__, __file__)
    made.set_defaults(out=Path(__file__).parent)
    made.add_argument("models", nargs="*")
    made.add_argument("--corpus", default="sample")
    made.add_argument("--documents", type=int, default=2000)
    made.add_argument("--lengths", default="512,1024")
    made.add_argument("--examples", type=int, default=2000)
    made.add_argument("--training", type=int, default=1050)
    made.add_argument("--dtype", default="float32")
    made.add_argument("--results", type=Path, default=RESULTS)
    options = made.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    def run() -> RunResult:
        models = options.models
        if not models:
            matcher, tokenizer = word_matcher(str(bundled_data() / "models" / "theta0"))
            models = [*MODELS, (matcher.to(getattr(torch, options.dtype)), tokenizer)]
        return needle(
            models,
            options.corpus,
            lengths=[int(one) for one in options.lengths.split(",")],
            examples=options.examples,
            training=options.training,
            label_shuffle=True,
            documents=options.documents,
            dtype=options.dtype,
        )

    write(recorded(options.results / "needle", Needle, run).figure(), options.out / "needle")


if __name__ == "__main__":
    main()
