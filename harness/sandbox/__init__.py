"""The jail: runs model-written programs without letting them touch the machine or the verdict.

with open_jail() as jail:
    verdict = jail.run(Check(program="def add(a, b):\\n    return a + b", names=("add",), tests="assert add(2,
    3) == 5"))
"""

from harness.sandbox.check import Cases, Check, Grading, JailError, Judgement, Limits
from harness.sandbox.jail import Jail, open_jail

__all__ = ["Cases", "Check", "Grading", "Jail", "JailError", "Judgement", "Limits", "open_jail"]
