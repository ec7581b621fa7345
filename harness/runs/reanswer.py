"""The answers of a stored run held against what ships with this package: the suite's documents and prompts,
the model's tokenizer, and new grades.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from harness.model.catalog import shipped_folder
from harness.model.checkpoint import configuration_hash, model_hash, spec_of
from harness.model.text import answer_of_blocks
from harness.model.tokenizer import load_tokenizer, tokenizer_hash
from harness.records.files import digest
from harness.records.schema import Sample
from harness.runs.recheck import RUN, SAMPLES, Skipped, Stored, compare, same_keys
from harness.runs.suite import Suite


def against_suite(stored: Stored, suite: Suite) -> str:
    """Which documents were answered, and to which prompts."""
    plan, documents = stored.run.plan, suite.docs(stored.run.plan.limit)
    same_keys(stored, [number for number, _ in documents])
    if plan.chat_template:
        return f"{len(documents)} documents of {suite.name}; prompts take the model's chat template"
    prompts = {number: suite.prompt(document) for number, document in documents}
    compare(RUN, "plan.prompts_hash", plan.prompts_hash, digest(list(prompts.values())))
    hashes = {number: digest(prompt) for number, prompt in prompts.items()}
    for sample in stored.samples:
        compare(place(sample), "prompt_hash", sample.prompt_hash, hashes[sample.doc_id])
    return f"{len(documents)} documents of {suite.name}, prompts rendered again"


def against_ids(stored: Stored, suite: Suite) -> str:
    """Text and useful tokens of every answer, made again from its ids; Skipped where the
    tokenizer is not here.
    """
    plan = stored.run.plan
    folder = shipped_folder(plan.checkpoint)
    if folder is None:
        raise Skipped(f"{plan.checkpoint} does not ship with this package, so its tokenizer is not here")
    compare(RUN, "plan.weights_hash", plan.weights_hash, model_hash(plan.checkpoint))
    compare(RUN, "plan.tokenizer_hash", plan.tokenizer_hash, tokenizer_hash(folder))
    if plan.adapter is None:
        compare(RUN, "plan.config_hash", plan.config_hash, configuration_hash(plan.checkpoint))
    tokenizer, ends = load_tokenizer(folder), spec_of(plan.checkpoint, folder).eos_ids
    for sample in stored.samples:
        if sample.text is None:
            continue
        ids, spans = sample.output_ids, sample.blocks or [(0, len(sample.output_ids))]
        useful, text = answer_of_blocks(
            tokenizer, ids, sample.step_map, spans, ends, suite.stop, bool(plan.blocks)
        )
        compare(place(sample), "text", sample.text, text)
        compare(place(sample), "useful", sample.useful, sum(useful))
        if sample.block_useful:
            compare(place(sample), "block_useful", sample.block_useful, useful)
    return f"text and useful tokens of {len(stored.samples)} answers made again from their ids"


Grades = Callable[[], Iterable[tuple[bool | None, str]]]
"""(correct, a few words on it) of the samples that have a text, in their order."""


def against_grades(stored: Stored, grades: Grades) -> str:
    """Stored verdicts against new ones."""
    told = [sample for sample in stored.samples if sample.text is not None]
    for sample in stored.samples:
        if sample.text is None:
            compare(place(sample), "correct", sample.correct, False, " (it has no text)")
    for sample, (correct, detail) in zip(told, grades(), strict=True):
        more = f" ({detail})" if detail else ""
        compare(place(sample), "correct", sample.correct, correct, more)
        compare(place(sample), "grading", sample.grading == "passed", correct is True, more)
    return f"{len(told)} answers graded again"


def place(sample: Sample) -> str:
    return f"{SAMPLES} document {sample.doc_id}, repeat {sample.repeat}"
