"""A chat template is a program of a checkpoint: it may not keep the harness busy, fill its memory or end
it.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import pytest

from harness.model import rendering
from harness.model.spec import CheckpointError
from harness.model.text import chat_text
from harness.model.tokenizer import load_tokenizer
from tests.tokenizers_tiny import with_tokenizer

PLAIN = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)
MESSAGES = [{"role": "user", "content": "größer 😀 \u2028 {{ 1 }}"}, {"role": "assistant", "content": "5"}]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="rendered in this process elsewhere")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(
        with_tokenizer(tmp_path_factory.mktemp("checkpoint") / "own", {190: "<|endoftext|>"})
    )


def refused(tokenizer: Any, template: str) -> str:
    tokenizer.chat_template = template
    with pytest.raises(CheckpointError) as caught:
        chat_text(tokenizer, MESSAGES)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("chat_template of ")
    assert "/own cannot be used (" in text
    assert "leave --apply_chat_template out" in text
    return text


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("answered", [True, False])
def test_the_text_is_the_tokenizers_own(tokenizer: Any, answered: bool) -> None:
    tokenizer.chat_template = PLAIN
    own = tokenizer.apply_chat_template(
        MESSAGES, tokenize=False, add_generation_prompt=answered, continue_final_message=not answered
    )
    assert chat_text(tokenizer, MESSAGES, answered) == own
    (first,) = rendering._current
    assert chat_text(tokenizer, MESSAGES, answered) == own
    assert rendering._current == [first], "one process for all prompts of a run"


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 9 ** (9 ** (9 ** 9)) }}",
        "{% macro m() %}{% for a in range(99999) %}{{ m2() }}{% endfor %}{% endmacro %}"
        "{% macro m2() %}{% for a in range(99999) %}x{% endfor %}{% endmacro %}{{ m() }}",
    ],
)
def test_a_template_without_an_end(tokenizer: Any, template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "SECONDS", 0.3)
    made: list[int] = []
    fork = os.fork
    monkeypatch.setattr(rendering.os, "fork", lambda: made.append(fork()) or made[-1])
    assert "it does not end within 0.3 s" in refused(tokenizer, template)
    assert [alive(process) for process in made] == [False]


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ raise_exception('no system\nrole here') }}", "no system role here"),
        ("{% for m in messages %}", "Unexpected end of template"),
        ("{{ 'x' * 200000000 }}", "MemoryError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
    ],
)
def test_a_template_that_raises(
    tokenizer: Any, template: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "MEMORY", 1 << 26)
    assert told in refused(tokenizer, template)
    tokenizer.chat_template = PLAIN
    assert chat_text(tokenizer, MESSAGES[:1]).endswith("</s><a>"), "the next one is not spoiled"


def test_a_process_that_dies_is_an_error_and_replaced(tokenizer: Any) -> None:
    tokenizer.chat_template = PLAIN
    text = chat_text(tokenizer, MESSAGES)
    os.kill(rendering._current[0]._process, signal.SIGKILL)
    with pytest.raises(CheckpointError, match="its process ended without an answer"):
        chat_text(tokenizer, MESSAGES)
    assert chat_text(tokenizer, MESSAGES) == text
