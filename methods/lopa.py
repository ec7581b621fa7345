"""LoPA (Lookahead Parallel Decoding, arXiv 2512.16229): D2F that tries several next tokens and keeps the
best.

Every round runs a base branch, which is D2F's own state, and up to ``branching_factor`` lookahead branches:
the base with one more token, at its 1st, 2nd, ... most confident open position. The branch that leaves the
model most confident about what is still open wins, is filled by D2F's rule, and is the next base. All
branches start from one shared cache and only the winner's keys stay in it. Branches are forward passes of
their own, each counted: a round of k branches costs k forwards, whether or not an implementation could run
them side by side.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from harness.decoding.forward import Forward
from harness.decoding.masks import FULL, BlockCausal, Mask
from harness.decoding.row import Row
from harness.model import ModelSpec
from methods import d2f
from methods.base import Candidates, Fraction, Program, RowDecoder, ask


@dataclass(frozen=True)
class Config(d2f.Config):
    sampling_strategy: Annotated[
        Literal["default", "neg_entropy", "margin_confidence"],
        Field(description="confidence that ranks positions and branches"),
    ] = "neg_entropy"
    branching_factor: Annotated[
        int, Field(ge=0, description="lookahead branches besides the base; 0 and 1 mean none")
    ] = 3
    full_attention: Annotated[
        bool, Field(description="no block-causal mask inside the window (the cache is then approximate)")
    ] = True
    branch_topp: Annotated[
        float,
        Field(gt=0.0, le=1.0, description="share of the least confident open positions that scores a branch"),
    ] = 1.0
    selection_conf_alpha: Annotated[
        Fraction, Field(description="weight of the guessed token's own confidence in the score")
    ] = 0.0
    branch_verification_mode: Annotated[
        bool, Field(description="run the base branch beside its lookahead branches")
    ] = True
    base_branch_competition: Annotated[bool, Field(description="the base branch may win")] = True
    verification_force_base_winner: Annotated[
        bool, Field(description="the base branch always wins (control: D2F at LoPA's cost)")
    ] = False
    max_branches_kept: Annotated[
        int, Field(ge=1, le=1, description="branches that survive a round; only 1 is implemented")
    ] = 1


@dataclass
class Branch(d2f.Pipeline):
    """D2F's pipeline plus at most one guessed token, which is on the canvas only once the branch has won."""

    mask: Mask = FULL
    guess: tuple[int, int] | None = None
    confidence: float = 1.0
    probability: float = 1.0

    def masked(self) -> list[int]:
        guessed = self.guess[0] if self.guess else -1
        return [position for position in super().masked() if position != guessed]

    def request(self) -> Forward:
        return super().request().but(mask=self.mask, assume=dict([self.guess]) if self.guess else None)

    def fork(self, guess: tuple[int, int] | None, confidence: float, probability: float) -> Branch:
        """A branch with the same state and one more token taken for granted (None: none)."""
        branch = copy(self)
        branch.blocks = [replace(block) for block in self.blocks]
        branch.guess, branch.confidence, branch.probability = guess, confidence, probability
        if guess is not None:
            position, token = guess
            next(block for block in branch.active if block.start <= position < block.stop).left -= 1
            branch.ended = self.ended or self.row.ends_answer(position, token)
        return branch

    def win(self, at: list[int], candidates: Candidates | None) -> None:
        """Write the guess, fill by D2F's rule from the logits that were just seen, retire finished blocks."""
        if self.guess is not None:
            self.row.commit([self.guess[0]], [self.guess[1]], [self.probability])
            self.guess = None
        if candidates is not None:
            self.fill(at, candidates)
        self.retire()


@dataclass
class Outlook:
    """What one branch's forward said about its open positions (candidates None: it has none)."""

    branch: Branch
    at: list[int]
    candidates: Candidates | None

    def score(self, config: Config) -> float:
        """Higher is better; a branch without open positions counts as certain."""
        certainty = 1.0
        if self.candidates is not None:
            lowest = self.candidates.score.sort().values[: max(1, int(len(self.at) * config.branch_topp))]
            certainty = float(lowest.mean())
        return (
            config.selection_conf_alpha * self.branch.confidence
            + (1 - config.selection_conf_alpha) * certainty
        )


class LoPA(RowDecoder):
    name = "lopa"
    summary = "D2F with lookahead branches over one shared cache (needs a D2F-distilled model)"
    Config = Config
    requires: ClassVar[frozenset[str]] = d2f.D2F.requires

    def uses_cache(self, config: Config) -> bool:
        return True

    def decode_row(self, row: Row, spec: ModelSpec, config: Config) -> Program:
        score = d2f.SCORES[config.sampling_strategy]
        base = Branch(row, config, mask=FULL if config.full_attention else BlockCausal(config.block_size))
        branches, adopt = [base], None
        while live := _grown(branches):
            seen: list[Outlook] = []
            for branch in live:
                request = branch.request().but(trial=len(live) > 1, adopt=None if seen else adopt)
                found = yield from ask(request, row, spec, config, score)
                seen.append(Outlook(branch, list(request.at), found if request.at else None))
            best = choose(seen, config)
            adopt = best if len(live) > 1 else None
            base = seen[best].branch
            base.win(seen[best].at, seen[best].candidates)
            branches = _spawn(seen[best], config)
        row.close(base.blocks[-1].stop)


def _grown(branches: list[Branch]) -> list[Branch]:
    for branch in branches:
        branch.grow()
    return [branch for branch in branches if branch.active]


def choose(seen: list[Outlook], config: Config) -> int:
    """Index of the winning branch; the base, if it was run, is the last one."""
    last = len(seen) - 1
    has_base = seen[last].branch.guess is None
    if has_base and config.verification_force_base_winner:
        return last
    rivals = range(last) if has_base and last and not config.base_branch_competition else range(len(seen))
    return max(rivals, key=lambda index: seen[index].score(config))


def _spawn(winner: Outlook, config: Config) -> list[Branch]:
    """Lookahead branches of the new base, then the base itself."""
    base, found = winner.branch, winner.candidates
    if config.branching_factor <= 1:
        return [base]
    left = set(base.masked())
    still_open = [index for index, position in enumerate(winner.at) if position in left]
    if found is None or not still_open:
        # As published: a base with nothing to guess is run twice.
        return [base.fork(None, 1.0, 1.0), base]
    scores, probabilities, ids = found.score.tolist(), found.probability.tolist(), found.ids.tolist()
    ranked = sorted(still_open, key=scores.__getitem__, reverse=True)[: config.branching_factor]
    ahead = [base.fork((winner.at[k], ids[k]), scores[k], probabilities[k]) for k in ranked]
    return [*ahead, base] if config.branch_verification_mode else ahead


METHOD = LoPA()
