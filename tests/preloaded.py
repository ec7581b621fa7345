"""What the commands that tests start as processes import sooner or later: the server of ``tests.commands``
loads it once, and its forks have it.
"""

from __future__ import annotations

import datasets  # noqa: F401
import lm_eval.tasks  # noqa: F401
import torch
import transformers

import harness.cli.running  # noqa: F401
import methods.training.cli.data
import methods.training.cli.train
import methods.training.data.answers
import methods.training.nano_long
import methods.training.students.trainers  # noqa: F401

torch.set_num_threads(1)
torch.empty_like(torch.empty(1, device="meta"))  # imports what describes tensors without values
assert transformers.PreTrainedTokenizerFast  # imported at its first use
