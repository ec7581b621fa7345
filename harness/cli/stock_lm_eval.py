"""The scripts ``lm_eval`` and ``lm-eval``: lm-eval's own, which has no plug-ins, with model ``dllm`` known.

The installer puts them in the place of lm-eval's scripts. Any other model goes to lm-eval untouched.
"""

from __future__ import annotations

import sys


def ours(arguments: list[str]) -> bool:
    """Whether a command line asks for model ``dllm``."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    return any(flag in ("--model", "-M") and value == "dllm" for flag, value in pairs) or any(
        argument in ("--model=dllm", "-M=dllm") for argument in arguments
    )


def main() -> None:
    """``bench lm-eval`` for model dllm, lm-eval's own command for every other."""
    if ours(sys.argv[1:]):
        from harness.cli import main as bench

        sys.argv = ["bench", "lm-eval", *sys.argv[1:]]
        bench()
        return
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
